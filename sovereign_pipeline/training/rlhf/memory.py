"""Whether a training by reward fits into free memory, checked before the model is loaded.

It holds what SFT holds, a second adapter, the best one so far and, while it samples, keys and values of a batch. What
does not belong here: the arithmetic of a training's passes (`sizing/sizing.py`), and the free memory
(`sizing/preflight.py`).
"""

from collections.abc import Sequence
from typing import Any

from sovereign_pipeline.base_models.shapes import read_shape
from sovereign_pipeline.errors import TrainingFailed
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
    needed = peak_bytes(job, max(map(len, prompts)), device)
    if needed > available:
        raise TrainingFailed(
            f"{job.base_model}: this training by reward needs about {needed / GIB:.1f} GiB, and "
            f"{available / GIB:.1f} GiB are free.",
            "Lower training.rlhf.prompts or max_new_tokens, or training.sft.max_length, or set gradient_checkpointing: "
            "true or adapter: qlora in training.sft.",
        )


def peak_bytes(job: TrainingJob, longest_prompt: int, device: Device) -> int:
    """Of the larger of sampling and updating."""
    assert job.reward is not None
    rlhf, shape = job.reward.rlhf, read_shape(str(job.base_model))
    # A pass of the update holds as many whole replies with their prompts as fit into max_length.
    row = longest_prompt + rlhf.max_new_tokens
    rows = max(1, job.sft.max_length // row) if job.tuning.packing else 1
    supervised = rows * rlhf.max_new_tokens
    update = estimate(shape, job.sft, device=device, forward=Forward(min(rows, rlhf.prompts) * row, supervised))
    held = 2 if job.sft.precision == "bfloat16" else FLOAT32
    adapters = 2 * update.adapter  # the reference, and the best one so far
    logits = FURTHER_LOGITS * supervised * shape.vocabulary * FLOAT32
    steady = update.weights + update.adapter + update.optimizer + update.framework
    cache = CACHE_COPIES * rlhf.prompts * row * _key_value_width(job) * held
    return adapters + max(update.total + logits, steady + cache)


def _key_value_width(job: TrainingJob) -> int:
    """Elements of all layers' keys and values, for a token."""
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(job.base_model).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(size)
