"""What `precision: auto` is on this machine.

What belongs here: the decision. What does not: computing in a precision (`loop/`). Everything after the recipe was read
sees the decision alone, so that it is part of an adapter's identity, and a recipe that names it gives the same adapter.
"""

from pathlib import Path

from sovereign_pipeline.policy.line import Line

BFLOAT16_UNITS = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
"""Flags in /proc/cpuinfo: Intel's and AMD's vector and matrix units, and ARM's.

Without them bfloat16 is emulated, and slower than float32.
"""


def with_decided_precision(line: Line, processors: Path = Path("/proc/cpuinfo")) -> Line:
    """The line with bfloat16 or float32 in place of `auto`; any other line unchanged."""
    sft = line.training.sft
    if sft.precision != "auto":
        return line
    decided = sft.model_copy(update={"precision": "bfloat16" if _computes_in_bfloat16(processors) else "float32"})
    return line.model_copy(update={"training": line.training.model_copy(update={"sft": decided})})


def _computes_in_bfloat16(processors: Path) -> bool:
    """On the device that would train: the GPU if there is one, else the processor."""
    import torch

    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return processors_have_bfloat16(processors)


def processors_have_bfloat16(processors: Path) -> bool:
    """Whether every processor that the file lists has such units; not where it lists none."""
    if not processors.is_file():
        return False
    lines = processors.read_text(encoding="utf-8", errors="replace").splitlines()
    flags = [set(line.partition(":")[2].split()) for line in lines if line.lower().startswith(("flags", "features"))]
    return bool(flags) and all(each & BFLOAT16_UNITS for each in flags)
