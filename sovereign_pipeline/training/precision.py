"""Decide what `precision: auto` is on this machine.

The recipe is read with the decision in place, so that it is part of an adapter's and of a score's identity.
"""

from pathlib import Path
from typing import Literal, TypeVar

from sovereign_pipeline.policy.evaluation import Evaluation
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.training.training import Sft

BFLOAT16_UNITS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags in /proc/cpuinfo: Intel's and AMD's vector and matrix units, and ARM's.

Without them bfloat16 is emulated, and slower than float32. Nothing is timed: on a busy machine two timings can say two
things, and each would be another adapter.
"""
PROCESSORS, DEVICES = Path("/proc/cpuinfo"), Path("/dev")
GPU_FILES = ("nvidia*", "nvhost*", "nvmap", "kfd", "dxg")
"""Names under /dev, of which a machine with a GPU has one: NVIDIA's, those of its boards, AMD's, and Windows'."""


def with_decided_precision(line: Line, processors: Path = PROCESSORS, devices: Path = DEVICES) -> Line:
    """The line with bfloat16 or float32 in place of `auto`; any other line unchanged."""
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
    """By the device that would train: the GPU if there is one, else the processor.

    Every command that opens a line comes here, so torch is imported only where there may be a GPU.
    """
    has_units = processors_have_bfloat16(processors)
    if any(found for name in GPU_FILES for found in devices.glob(name)):
        import torch

        if torch.cuda.is_available():
            has_units = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bfloat16" if has_units else "float32"


def processors_have_bfloat16(processors: Path) -> bool:
    """Whether every processor that the file lists has such units; not where it lists none."""
    if not processors.is_file():
        return False
    lines = processors.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = [set(line.partition(":")[2].split()) for line in lines if line.lower().startswith(("flags", "features"))]
    return bool(flags) and all(each & BFLOAT16_UNITS for each in flags)
