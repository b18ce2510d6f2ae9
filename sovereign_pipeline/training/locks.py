"""Where the locks lie that keep trainers apart: one of a line's checkpoints, one of a device.

What belongs here: those two places. What does not: holding one (`locks.py` of the package), and who takes which.
"""

import os
from pathlib import Path


def lock_of_line(checkpoint_directory: Path) -> Path:
    """What whoever trains a line by one method holds, and whoever removes checkpoints of it."""
    of_the_line = checkpoint_directory.parent
    return of_the_line.with_name(f"{of_the_line.name}.lock")


def lock_of_device(directory: Path) -> Path:
    """What whoever uses the devices that this process sees holds."""
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(",", "-") or "default"
    return directory / f"trainer-{device}.lock"
