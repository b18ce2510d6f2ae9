"""What `torch.nn.functional.linear` reaches on this machine, as the limit that trainings are compared with.

    python linear.py ANSWER.json

The largest of several square sizes, in each precision, with all of torch's threads: FLOP/s.
"""

import json
import sys
import time
from pathlib import Path

SIZES = (1024, 2048, 4096)
SECONDS = 3.0
"""For each size and precision."""


def main(answer: Path) -> None:
    import torch

    reached = {
        name: max(flops_per_second(size, getattr(torch, name)) for size in SIZES) for name in ("float32", "bfloat16")
    }
    answer.write_text(json.dumps({"flops_per_second": reached, "threads": torch.get_num_threads()}), encoding="utf-8")


def flops_per_second(size: int, precision: object) -> float:
    """Return that of the fastest product of two matrices of this size."""
    import torch

    inputs, weights = (torch.randn(size, size).to(precision) for _ in range(2))  # type: ignore[call-overload]
    best = float("inf")
    ends = time.monotonic() + SECONDS
    while time.monotonic() < ends:
        started = time.perf_counter()
        torch.nn.functional.linear(inputs, weights)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


if __name__ == "__main__":
    main(Path(sys.argv[1]))
