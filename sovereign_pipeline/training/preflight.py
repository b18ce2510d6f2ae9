"""Read the machine's bfloat16 units and free memory, check whether a training run fits, and explain why it ran out of
memory."""

import ctypes
import math
import os
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal, TypeVar

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base_models.shapes import Shape, read_shape
from sovereign_pipeline.policy.evaluation import Evaluation
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.training import Preference, Sft
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.sizing import FLOAT32, Device, Forward, Memory, estimate, has_kernels, host_bytes

BFLOAT16_UNITS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags in /proc/cpuinfo that show bfloat16 units: AMD's vector units, Intel's matrix units, and ARM's units.

Intel's vector units alone do not count. On two cores of a Xeon whose matrix units are hidden by the virtual machine,
`linear` reaches 170 GFLOP/s in bfloat16 and 320 in float32. Without bfloat16 units, bfloat16 is emulated, which is
slower still. Flags decide the precision instead of a timing, because a timing would vary on a busy machine, and each
precision gives a different adapter.
"""
PROCESSORS, DEVICES = Path("/proc/cpuinfo"), Path("/dev")
GPU_FILES = ("nvidia*", "nvhost*", "nvmap", "kfd", "dxg")
"""Glob patterns of names under /dev that show a GPU: NVIDIA, NVIDIA Jetson (nvhost, nvmap), AMD (kfd), WSL (dxg)."""


def with_decided_precision(line: Line, processors: Path = PROCESSORS, devices: Path = DEVICES) -> Line:
    """Return the line with each precision `auto` replaced by bfloat16 or float32."""
    sft, evaluation = line.training.sft, line.evaluation
    if sft.precision != "auto" and (evaluation is None or evaluation.precision != "auto"):
        return line
    decided = decided_precision(processors, devices)
    training = line.training.model_copy(update={"sft": _named(sft, decided)})
    scored = evaluation if evaluation is None else _named(evaluation, decided)
    return line.model_copy(update={"training": training, "evaluation": scored})


_Section = TypeVar("_Section", Sft, Evaluation)


def _named(section: _Section, decided: str) -> _Section:
    return section.model_copy(update={"precision": decided}) if section.precision == "auto" else section


def decided_precision(processors: Path = PROCESSORS, devices: Path = DEVICES) -> Literal["float32", "bfloat16"]:
    """Choose the precision for the device that would train: the GPU if there is one, otherwise the processor.

    Every command that opens a line calls this function. Importing torch is slow, so this function imports torch only if
    there may be a GPU.
    """
    has_units = processors_have_bfloat16(processors)
    if any(found for name in GPU_FILES for found in devices.glob(name)):
        import torch

        if torch.cuda.is_available():
            has_units = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_units else "float32"


def processors_have_bfloat16(processors: Path) -> bool:
    """Return True if the file lists processors, and every one of them has fast bfloat16 units."""
    if not processors.is_file():
        return False
    text = processors.read_text(encoding="utf-8", errors="replace")
    counted = BFLOAT16_UNITS - ({"avx512_bf16"} if "GenuineIntel" in text else set())
    lines = [line.lower().partition(":") for line in text.splitlines()]
    flags = [set(values.split()) for name, _, values in lines if name.startswith(("flags", "features"))]
    return bool(flags) and all(each & counted for each in flags)


def available_memory(root: Path = Path("/")) -> tuple[int, Device]:
    """Return the bytes available to a training run on its device, and the device. Memory that this process already uses
    counts as available.

    On CUDA: the free memory of the card, and PyTorch's reserved memory. LOCAL_RANK is the number of this
    process's card. The card is selected here, before anything is allocated. On CPUs: MemAvailable of /proc/meminfo, or
    the unused part of a control group's limit (version 1 or 2), whichever is less. MemAvailable includes files that
    this process has mapped, such as its rows; a control group counts them as used. root: parent of /proc and /sys.
    """
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        free, _ = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved(), "cuda"
    resident, mapped = (_kibibytes(root / "proc/self/status", name) for name in ("VmRSS", "RssFile"))
    free = _kibibytes(root / "proc/meminfo", "MemAvailable") - mapped
    free = min([free, *(limit - used for limit, used in _control_groups(root))])
    return free + resident, "cpu"


def host_memory(root: Path = Path("/")) -> int:
    """Return the memory of this host in bytes, or the smallest control group limit of this process if that is less.

    The total is used instead of the free memory, because other processes of the same training run may already be
    loading the model.
    """
    return min([_kibibytes(root / "proc/meminfo", "MemTotal"), *(limit for limit, _ in _control_groups(root))])


def _kibibytes(file: Path, name: str) -> int:
    """Return a value of /proc, converted from KiB to bytes."""
    line = next(
        line for line in file.read_text(encoding="ascii", errors="replace").splitlines() if line.startswith(name)
    )
    return int(line.split()[1]) << 10


def _control_groups(root: Path) -> Iterator[tuple[int, int]]:
    """Yield the limit and the used bytes of each control group of this process that limits memory. Used bytes exclude
    file cache that the kernel can drop at once."""
    names = {"": ("memory.max", "memory.current"), "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes")}
    listing = root / "proc/self/cgroup"
    for line in listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers not in names:
            continue
        mounted = root / "sys/fs/cgroup" / controllers
        group = mounted / path.lstrip("/")
        for directory in (group, *group.parents):
            limit, used = (directory / name for name in names[controllers])
            if limit.is_file() and limit.read_text().strip() != "max":
                statistics = dict(entry.split() for entry in (directory / "memory.stat").read_text().splitlines())
                yield int(limit.read_text()), int(used.read_text()) - int(statistics["inactive_file"])
            if directory == mounted:
                break


SHORTEST_LENGTH = 128
"""Smallest max_length that a hint proposes."""

LargestForward = Callable[[Sft, Preference | None], Forward | None]
"""Type of a function that returns the largest forward pass of a training run with the given recipe sections. The
function returns None if the rows would be rejected with these sections."""


def check_host(model: Path, sft: Sft, devices: int, memory: int) -> None:
    """Raise TrainingFailed if the host has too little memory for all processes to load the model. memory: bytes."""
    needed = host_bytes(read_shape(str(model)), sft, devices)
    if needed > memory:
        raise TrainingFailed(
            f"{model}: {devices} processes each load the whole base model before sharding it. They need "
            f"{_gib(needed)} together, but this host has {_gib(memory)}.",
            "Lower training.devices.count, or use a host with more memory.",
        )


def preflight(
    model: Path,
    sft: Sft,
    preference: Preference | None = None,
    *,
    available_bytes: int,
    device: Device,
    devices: int = 1,
    largest: LargestForward = Forward.largest,
) -> None:
    """Raise TrainingFailed if the training cannot fit into `available_bytes` of each device.

    largest: function that returns the largest forward pass for given recipe sections. `preflight` calls it with the
        recipe's sections, and with changed sections for the hint.
    """
    shape = read_shape(str(model))
    needed = estimate(shape, sft, preference, device=device, devices=devices, forward=largest(sft, preference))
    if needed.total <= available_bytes:
        return
    fitting, smallest = _remedies(shape, sft, preference, device, devices, largest, available_bytes)
    if fitting:
        hint = f"In the recipe, {' or '.join(fitting)} would fit."
    else:
        hint = (
            f"No single change of the recipe is enough; all changes together need {_gib(smallest)}. Use a device with "
            f"more memory, or a smaller base model."
        )
    raise TrainingFailed(
        f"{model}: this training needs about {_gib(needed.total)} on {_each(device, devices)} ({_parts(needed)}), and "
        f"{_gib(available_bytes)} are free.",
        hint,
        act="size_training",
        model=str(model),
    )


def out_of_memory(
    model: Path,
    sft: Sft,
    preference: Preference | None = None,
    *,
    device: Device,
    devices: int = 1,
) -> TrainingFailed:
    """Return the error for a training run that ran out of memory although the preflight passed."""
    shape = read_shape(str(model))
    needed = estimate(shape, sft, preference, device=device, devices=devices)
    lower, _ = _remedies(shape, sft, preference, device, devices, Forward.largest, needed.total - 1)
    return TrainingFailed(
        f"{model}: memory ran out during the training. The estimate is {_gib(needed.total)} on "
        f"{_each(device, devices)} ({_parts(needed)}). Another program may use memory of the same device.",
        f"In the recipe, use {' or '.join(lower)}." if lower else "Use a smaller base model.",
        act="size_training",
        model=str(model),
    )


def _remedies(
    shape: Shape,
    sft: Sft,
    preference: Preference | None,
    device: Device,
    devices: int,
    largest: LargestForward,
    limit: int,
) -> tuple[list[str], int]:
    """Return two values: the recipe changes that each alone reduce the memory to at most `limit` bytes, and the bytes
    needed with all possible changes together."""

    def total(forward: Forward | None, sft: Sft, preference: Preference | None) -> int:
        return estimate(shape, sft, preference, device=device, devices=devices, forward=forward).total

    def possible() -> Iterator[tuple[str, int, Sft, Preference | None]]:
        for text, sft_less, preference_less in _changes(sft, preference, devices):
            forward = largest(sft_less, preference_less)
            if forward is not None:
                yield text, total(forward, sft_less, preference_less), sft_less, preference_less

    fitting = [f"{text} ({_gib(needed)})" for text, needed, _, _ in possible() if needed <= limit]
    while (change := next(possible(), None)) is not None:
        _, _, sft, preference = change
    return fitting, total(largest(sft, preference), sft, preference)


def _changes(sft: Sft, preference: Preference | None, devices: int) -> Iterator[tuple[str, Sft, Preference | None]]:
    """Yield recipe changes that reduce the memory, the least harmful first. Each change is a text for the hint and the
    two changed recipe sections."""
    hyper: Sft | Preference = preference or sft
    section = "training.sft" if preference is None else "training.preference"
    smallest_batch = 2 if preference is not None and preference.method == "kto" else 1
    if hyper.batch_size > smallest_batch:
        text = f"{section}.batch_size: {smallest_batch} (with gradient_accumulation raised to match)"
        raised = math.ceil(hyper.gradient_accumulation * hyper.batch_size / smallest_batch)
        yield text, *_with(sft, preference, batch_size=smallest_batch, gradient_accumulation=raised)
    if not sft.gradient_checkpointing:
        yield "training.sft.gradient_checkpointing: true", _changed(sft, gradient_checkpointing=True), preference
    if sft.adapter == "none" or (sft.adapter == "lora" and devices == 1):
        less = _changed(sft, adapter="lora" if sft.adapter == "none" else "qlora")
        yield f"training.sft.adapter: {less.adapter}", less, preference
    if hyper.max_length // 2 >= SHORTEST_LENGTH:
        half = hyper.max_length // 2
        yield f"{section}.max_length: {half}", *_with(sft, preference, max_length=half)
    if sft.adapter != "none" and sft.rank > 8:
        yield "training.sft.rank: 8", _changed(sft, rank=8), preference


def _with(sft: Sft, preference: Preference | None, **values: int) -> tuple[Sft, Preference | None]:
    """Return both recipe sections, with `values` set in the section that applies to the training."""
    if preference is None:
        return _changed(sft, **values), None
    return sft, preference.model_copy(update=values)


def _changed(sft: Sft, **values: object) -> Sft:
    return sft.model_copy(update=values)


def _parts(memory: Memory) -> str:
    largest_first = sorted(memory.parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{name} {_gib(size)}" for name, size in largest_first if size)


def _each(device: Device, devices: int) -> str:
    name = "the CPU" if device == "cpu" else "the GPU"
    return name if devices == 1 else f"each of {devices} devices"


def _gib(size: int) -> str:
    return f"{size / (1 << 30):.1f} GiB" if size >= 1 << 30 else f"{size / (1 << 20):.0f} MiB"


FURTHER_LOGITS = 1
"""Number of logits tensors that RLHF needs in addition to SFT's if logits are stored: the temperature-scaled logits
before normalisation."""
CACHE_COPIES = 2
"""Number of copies of the key-value cache in memory. For each token, every layer copies its keys and values into a
longer tensor while the old tensor still exists. The allocator keeps the old tensor's memory."""
GIB = 1 << 30


def check_memory(job: TrainingJob, prompts: Sequence[Sequence[int]]) -> None:
    """Raise TrainingFailed if an RLHF job needs more than the free memory. prompts: token ids of each prompt."""
    available, device = available_memory()
    needed = peak_bytes(job, [len(prompt) for prompt in prompts], device)
    if needed > available:
        raise TrainingFailed(
            f"{job.base_model}: this RLHF training needs about {needed / GIB:.1f} GiB, and "
            f"{available / GIB:.1f} GiB are free.",
            "Lower training.rlhf.prompts, group or max_new_tokens, or training.sft.max_length, or set "
            "gradient_checkpointing: true or adapter: qlora in training.sft.",
        )


def give_memory_back() -> None:
    """Make glibc's allocator return freed memory to the system; other allocators have no such call. Without this call,
    sampling could not reuse all memory that an update freed, because tensors have many sizes. With SmolLM2-135M the
    allocator kept 1.3 GB after an update, and sampling allocated its own memory in addition."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_bytes(job: TrainingJob, prompts: Sequence[int], device: Device) -> int:
    """Return the peak memory of an RLHF job in bytes: that of sampling or that of updating, whichever is higher.
    prompts: number of tokens of each prompt."""
    assert job.reward is not None
    rlhf, shape = job.reward.rlhf, read_shape(str(job.base_model))
    forward = largest_pass(job, prompts)
    # PPO's own optimizer is always AdamW, even if SFT uses a different optimizer.
    sft = job.sft if job.is_trls else job.sft.model_copy(update={"optimizer": "adamw"})
    update = estimate(shape, sft, device=device, forward=forward, under_mask=job.is_trls)
    held = 2 if job.sft.precision == "bfloat16" else FLOAT32
    # The adapters of the reference, the best iteration and the reward model have the same shape. The reward model's
    # passes have one row and no logits, so they need less memory than sampling or updating.
    adapters = (2 + rlhf.uses_reward_model) * update.adapter
    further = FURTHER_LOGITS * forward.supervised * shape.vocabulary * FLOAT32
    if not job.is_trls and has_kernels(sft, device) and shape.returns_output_layer:
        further = 0  # logits are not stored
    steady = update.weights + update.adapter + update.optimizer + update.framework
    row = max(prompts) + rlhf.max_new_tokens
    if device == "cpu" and rlhf.group > 1 and job.tuning.packing and not job.is_trls:
        # Replies to one prompt share a row. For each reply, the pass keeps a mask, and the keys and values of prompt
        # and reply, repeated for the heads that share them.
        a_reply = 2 * shape.query * row - 2 * shape.key * rlhf.max_new_tokens + rlhf.max_new_tokens * row
        layers = 1 if job.sft.gradient_checkpointing else shape.layers
        further += layers * -(-forward.supervised // rlhf.max_new_tokens) * a_reply * FLOAT32
    cache = CACHE_COPIES * rlhf.replies * row * _key_value_width(job) * held
    return adapters + max(update.total + further, steady + cache)


def largest_pass(job: TrainingJob, prompts: Sequence[int]) -> Forward:
    """Return the largest possible number of tokens in a pass, and the largest possible number of tokens with logits.
    prompts: number of tokens of each prompt.

    A pass contains replies of one minibatch and their prompts, up to max_length tokens in total. In PPO, only reply
    tokens have logits, and replies can share one copy of their prompt. The shortest prompts then leave the most room
    for replies. In TRL's passes, each reply has its own prompt, rows are padded, and all tokens have logits.
    """
    assert job.reward is not None
    rlhf, most = job.reward.rlhf, job.sft.max_length
    if job.is_trls:  # TRL pads the rows of a pass, and computes logits for the prompts' positions too
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
    """Return the number of replies in one pass of TRL: the largest divisor of the number of replies in an optimizer
    step for which full-length replies with the longest prompt fit into max_length; at least 1. prompts: number of
    tokens of each prompt."""
    assert job.reward is not None
    rlhf = job.reward.rlhf
    a_step = rlhf.replies // rlhf.minibatches
    fitting = max(1, job.sft.max_length // (max(prompts) + rlhf.max_new_tokens))
    return next(rows for rows in range(min(fitting, a_step), 0, -1) if a_step % rows == 0)


def _key_value_width(job: TrainingJob) -> int:
    """Return the number of elements that one token adds to the key-value cache, over all layers."""
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(job.base_model).get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * int(config.num_hidden_layers) * int(heads) * int(size)
