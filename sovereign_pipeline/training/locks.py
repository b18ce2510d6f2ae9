"""Paths of the locks that keep trainers apart: one for a line's checkpoints, one for a device.

What does not belong here: holding a lock (`sovereign_pipeline/base/files.py`).
"""

import os
from pathlib import Path


def lock_of_line(checkpoint_directory: Path) -> Path:
    """Held while a line is trained by one method, and while its checkpoints are removed."""
    directory = checkpoint_directory.parent
    return directory.with_name(f"{directory.name}.lock")


def lock_of_device(directory: Path) -> Path:
    """Held while the devices that this process sees are in use."""
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(",", "-") or "default"
    return directory / f"trainer-{device}.lock"
