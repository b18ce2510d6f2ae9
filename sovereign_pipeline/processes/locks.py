"""Locks between processes, one file each.

A lock belongs to the open file, so the kernel frees it however its holder ends. What belongs here: holding one, in a
form that waits and a form that does not. What does not: where a lock lies and who takes it.
"""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sovereign_pipeline.errors import ConflictError

SECONDS_BETWEEN_TRIES = 1.0
SECONDS_BETWEEN_SHORT_TRIES = 0.005
TRIES_BETWEEN_MESSAGES = 15


def _never() -> bool:
    return False


def _no_progress(message: str) -> None:
    """For locks that are held for moments."""


@contextmanager
def held(
    path: Path, progress: Callable[[str], None] = _no_progress, stopped: Callable[[], bool] = _never
) -> Iterator[None]:
    """Hold a lock; wait while another process has it, and say so every quarter of a minute.

    Raises ConflictError once `stopped` is true.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lock:
        tries = 0
        while not _taken(lock.fileno()):
            if tries % TRIES_BETWEEN_MESSAGES == 0:
                progress(f"waiting: another process holds {path.name}")
            if stopped():
                raise ConflictError(
                    f"Stopped, as asked, while another process held {path.name}.", "Run again; a checkpoint is kept."
                )
            tries += 1
            time.sleep(SECONDS_BETWEEN_TRIES)
        yield


@contextmanager
def held_within(path: Path, seconds: float) -> Iterator[None]:
    """Hold a lock that others hold for moments. Raises ConflictError when it is not free within this time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + seconds
    with path.open("a", encoding="utf-8") as lock:
        while not _taken(lock.fileno()):
            if time.monotonic() > until:
                raise ConflictError(
                    f"{path}: another process has held this lock for {seconds:.0f} seconds.", "Try again later."
                )
            time.sleep(SECONDS_BETWEEN_SHORT_TRIES)
        yield


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Hold a lock if nobody has it. Yields whether it is held; never waits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lock:
        yield _taken(lock.fileno())


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
