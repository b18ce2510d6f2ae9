"""Locks that keep trainers apart: one of a line's checkpoints, one of a device.

What belongs here: where they lie, and holding one. A lock belongs to the open file, so the kernel frees it however its
holder ends. What does not: who takes which (`worker.py`, `checkpoints.py`, `gates.py`).
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sovereign_pipeline.errors import TrainingFailed

SECONDS_BETWEEN_TRIES = 1.0
TRIES_BETWEEN_MESSAGES = 15


def lock_of_line(checkpoint_directory: Path) -> Path:
    """What whoever trains a line by one method holds, and whoever removes checkpoints of it."""
    of_the_line = checkpoint_directory.parent
    return of_the_line.with_name(f"{of_the_line.name}.lock")


def lock_of_device(directory: Path) -> Path:
    """What whoever uses the devices that this process sees holds."""
    device = os.environ.get("CUDA_VISIBLE_DEVICES", "").replace(",", "-") or "default"
    return directory / f"trainer-{device}.lock"


@contextmanager
def held(path: Path, tell: Callable[[str], None], stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold a lock; wait for it while a trainer has it, and say so. Raises TrainingFailed when asked to stop."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lock:
        tries = 0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if tries % TRIES_BETWEEN_MESSAGES == 0:
                    tell(f"waiting: another trainer holds {path.name}")
                if stop():
                    raise TrainingFailed(
                        f"Stopped while another trainer held {path.name}, as was asked. Run again; a checkpoint, if "
                        f"any, is kept."
                    ) from None
                tries += 1
                time.sleep(SECONDS_BETWEEN_TRIES)
        yield
