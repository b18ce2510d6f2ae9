"""Read the machine's properties: bfloat16 units, which decide `precision: auto`, and free memory."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, TypeVar

from sovereign_pipeline.policy.evaluation import Evaluation
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.training import Sft
from sovereign_pipeline.training.sizing import Device

BFLOAT16_UNITS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags in /proc/cpuinfo of bfloat16 units: AMD's vector units, Intel's matrix units, and ARM's.

Intel's vector units alone do not count: on two cores of a Xeon whose matrix units are hidden by the virtual machine,
`linear` reaches 170 GFLOP/s in bfloat16 and 320 in float32. Without bfloat16 units, bfloat16 is emulated, which is
slower still. The flags decide, not a timing: timings vary on a busy machine, and each precision gives another adapter.
"""
PROCESSORS, DEVICES = Path("/proc/cpuinfo"), Path("/dev")
GPU_FILES = ("nvidia*", "nvhost*", "nvmap", "kfd", "dxg")
"""Glob patterns of names under /dev that show a GPU: NVIDIA, NVIDIA Jetson (nvhost, nvmap), AMD (kfd), WSL (dxg)."""


def with_decided_precision(line: Line, processors: Path = PROCESSORS, devices: Path = DEVICES) -> Line:
    """Return the line with the precision `auto` replaced by bfloat16 or float32. A line with another precision is
    returned unchanged."""
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
    """Choose the precision for the device that would train: the GPU if there is one, else the processor.

    Every command that opens a line calls this function, so torch is imported only if there may be a GPU.
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
    """Return the bytes available to a training on its device, and the device. Memory that this process already uses
    counts as available.

    On CUDA: the free memory of the card, and PyTorch's reserved memory. torchrun assigns the card to this process
    (LOCAL_RANK). The card is selected here, before anything is allocated. On CPUs: MemAvailable of /proc/meminfo, or
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

    The total is used instead of the free memory, because other processes of the same training may already be loading
    the model.
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
