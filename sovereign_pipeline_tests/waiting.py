"""Processes in tests: finding those of a test, and waiting until something is so, however long a busy machine takes.

The limit keeps a broken test from hanging; no test may pass or fail by a time.
"""

import os
import secrets
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

SECONDS = 540
"""Longer than whatever a test waits for takes on a busy machine, and shorter than the time limit of a test."""


def free_port() -> int:
    """Return a port for a server that is started later.

    It is below the ports that the kernel hands out, so that no connection or server of another test gets it meanwhile.
    """
    handed_out_from = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = handed_out_from - 1 - secrets.randbelow(handed_out_from // 2)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def processes_of(name: str, under: int | None = None) -> list[psutil.Process]:
    """Return the running processes below `under` (this process, if None) whose command line holds `name`.

    An earlier test's server may be a child of this process too, so a test takes its own by name.
    """
    return [each for each in psutil.Process(under or os.getpid()).children(recursive=True) if name in _command(each)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except (psutil.NoSuchProcess, psutil.ZombieProcess):  # it ended since it was listed
        return ""


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
