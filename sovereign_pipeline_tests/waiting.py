"""Waiting in tests: until something is so, however long a busy machine takes over it.

What belongs here: that alone. The limit keeps a broken test from hanging; no test may pass or fail by a time.
"""

import time
from collections.abc import Callable, Sequence

import psutil

SECONDS = 540
"""Longer than whatever a test waits for takes on a busy machine, and shorter than the time limit of a test."""


def wait_until(is_so: Callable[[], bool], else_say: Callable[[], str]) -> None:
    """Fails with what `else_say` returns."""
    deadline = time.monotonic() + SECONDS
    while not is_so():
        assert time.monotonic() < deadline, else_say()
        time.sleep(0.02)


def wait_until_ended(processes: Sequence[psutil.Process]) -> None:
    """Fails when one still runs. A process that ended and that nobody collected is no longer running."""
    wait_until(lambda: all(map(_has_ended, processes)), lambda: f"still running: {processes}")


def _has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
