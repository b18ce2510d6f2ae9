"""Processes in tests: finding those of a test, and waiting until something is so, however long a busy machine takes.

The limit keeps a broken test from hanging; no test may pass or fail by a time.
"""

import itertools
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

    It is below the ports that the kernel hands out. Each worker of a test run has its own range, and gives no port
    twice: a server may need long until it listens, and another that took its port would answer in its place.
    """
    ports = _own_ports()
    while True:
        port = ports[next(_drawn) % len(ports)]
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


_drawn = itertools.count(secrets.randbelow(2**16))
"""Starts anywhere, so that two test runs on one machine rarely meet."""


def _own_ports() -> range:
    """Return the ports of this worker of the test run."""
    end = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    worker, workers = (os.environ.get(f"PYTEST_XDIST_WORKER{what}") for what in ("", "_COUNT"))
    number, count = (int(worker.removeprefix("gw")) % int(workers), int(workers)) if worker and workers else (0, 1)
    size = end // 2 // count
    return range(end - (number + 1) * size, end - number * size)


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
