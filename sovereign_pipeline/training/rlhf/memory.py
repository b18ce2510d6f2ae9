"""Whether a training by reward fits into free memory, checked before the model is loaded; and giving memory back.

It holds what SFT holds, the reference, the best adapter so far, a reward model's where one judges and, while it
samples, keys and values of a batch. What does not belong here: the arithmetic of a training's passes
(`sizing/sizing.py`), and the free memory (`sizing/preflight.py`).
"""

import ctypes
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base_models.shapes import read_shape
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.sizing.preflight import available_memory
from sovereign_pipeline.training.sizing.sizing import FLOAT32, Device, Forward, estimate

FURTHER_LOGITS = 1
"""Tensors of the replies' logits beside those of SFT: the logits at the temperature, before they are normalised."""
CACHE_COPIES = 2
"""Each token's keys and values are appended to a new tensor while the old one is there, layer by layer at most; and the
allocator keeps what the shorter one leaves."""
GIB = 1 << 30


def check_memory(job: TrainingJob, prompts: Sequence[Sequence[int]]) -> None:
    """Raise TrainingFailed when the training needs more than is free. prompts: token ids."""
    available, device = available_memory()
    needed = peak_bytes(job, [len(prompt) for prompt in prompts], device)
    if needed > available:
        raise TrainingFailed(
            f"{job.base_model}: this training by reward needs about {needed / GIB:.1f} GiB, and "
            f"{available / GIB:.1f} GiB are free.",
            "Lower training.rlhf.prompts, group or max_new_tokens, or training.sft.max_length, or set "
            "gradient_checkpointing: true or adapter: qlora in training.sft.",
        )


def give_memory_back() -> None:
    """Return to the system what was freed and is still held by the allocator (glibc's; another has no such call).

    Tensors of the passes have many sizes. Of SmolLM2-135M 1.3 GB stayed held behind an update; sampling came on top.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_bytes(job: TrainingJob, prompts: Sequence[int], device: Device) -> int:
    """Of the larger of sampling and updating. prompts: tokens of each."""
    assert job.reward is not None
    rlhf, shape = job.reward.rlhf, read_shape(str(job.base_model))
    forward = largest_pass(job, prompts)
    # PPO's own optimizer is AdamW, whatever SFT's is.
    sft = job.sft if job.is_trls else job.sft.model_copy(update={"optimizer": "adamw"})
    update = estimate(shape, sft, device=device, forward=forward)
    held = 2 if job.sft.precision == "bfloat16" else FLOAT32
    # The reference, the best one so far and, of the same shape, the reward model's. Its passes hold one row and no
    # logits: less than either phase.
    adapters = (2 + rlhf.uses_reward_model) * update.adapter
    logits = FURTHER_LOGITS * forward.supervised * shape.vocabulary * FLOAT32
    steady = update.weights + update.adapter + update.optimizer + update.framework
    row = max(prompts) + rlhf.max_new_tokens
    cache = CACHE_COPIES * rlhf.replies * row * _key_value_width(job) * held
    return adapters + max(update.total + logits, steady + cache)


def largest_pass(job: TrainingJob, prompts: Sequence[int]) -> Forward:
    """As many tokens, and as many of replies, as a pass can hold. prompts: tokens of each.

    A pass is of replies of one minibatch with their prompts, in max_length together; a prompt stands once before all of
    its replies. Replies fill most of it where their prompts are the shortest; their logits are the larger part of its
    memory.
    """
    assert job.reward is not None
    rlhf, most = job.reward.rlhf, job.sft.max_length
    if job.is_trls:  # padded, and with logits for the prompts' positions too
        row = max(prompts) + rlhf.max_new_tokens
        tokens = max(row, min(most, rlhf.replies // rlhf.minibatches * row))
        return Forward(tokens, tokens)
    rows = -(-rlhf.replies // rlhf.minibatches) if job.tuning.packing else 1
    lengths = sorted(prompts)
    supervised = max(
        min(different * rlhf.group * rlhf.max_new_tokens, most - asked)
        for different, asked in enumerate(accumulate(lengths[: -(-rows // rlhf.group)]), start=1)
    )
    return Forward(min(most, sum(lengths[-rows:]) + rows * rlhf.max_new_tokens), supervised)


def rows_a_pass(job: TrainingJob, prompts: Sequence[int]) -> int:
    """Replies that TRL puts through the model at once. prompts: tokens of each.

    As many as fit into max_length when all are as long as can be, and as make a step of the optimizer without a rest.
    """
    assert job.reward is not None
    rlhf = job.reward.rlhf
    a_step = rlhf.replies // rlhf.minibatches
    fitting = max(1, job.sft.max_length // (max(prompts) + rlhf.max_new_tokens))
    return next(rows for rows in range(min(fitting, a_step), 0, -1) if a_step % rows == 0)


def _key_value_width(job: TrainingJob) -> int:
    """Elements of all layers' keys and values, for a token."""
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(job.base_model).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(size)
