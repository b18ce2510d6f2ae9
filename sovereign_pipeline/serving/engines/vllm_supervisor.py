"""Supervise a vLLM server: kill it when the gateway or the supervisor has ended, and remove its files.

A killed vLLM server leaves processes behind. If the gateway and the supervisor were both killed, the server's directory
is no longer locked. The next start removes such a directory, and kills the processes whose environment names it. This
module imports no heavy library.
"""

import fcntl
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Self

from sovereign_pipeline.base.processes import die_with_parent, keep_private

PREFIX = "sovereign-vllm-"
LOCK = "lock"
VARIABLE = "VLLM_RPC_BASE_PATH"
"""Name of the environment variable with the server's directory. Every process of the server has this variable."""


@dataclass(frozen=True)
class HeldDirectory:
    """A server's directory, which is locked as long as any process has the descriptor `lock` open."""

    path: Path
    lock: int

    @classmethod
    def make(cls) -> Self:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        lock = os.open(path / f"{LOCK}.new", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX)
        (path / f"{LOCK}.new").rename(path / LOCK)  # locked before any other process can find it
        return cls(path, lock)

    def let_go(self) -> None:
        os.close(self.lock)


def remove_left_behind() -> None:
    """Remove the directories of servers whose gateway and supervisor have ended, and kill the servers' processes."""
    for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if path.is_symlink() or path.stat().st_uid != os.geteuid():
                continue
            lock = os.open(path / LOCK, os.O_RDWR | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises an error if another process has the lock
                _remove(path, _processes_of(path))
            finally:
                os.close(lock)


def main() -> None:
    """Run the supervisor. Arguments: the number of a pipe that closes when the gateway is gone, the directory, and the
    server's command."""
    keep_private()
    pipe, directory, command = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env=environment,
        preexec_fn=partial(die_with_parent, os.getpid()),  # safe, because this process has one thread
        start_new_session=True,
    )
    select.select([pipe, os.pidfd_open(server.pid)], [], [])
    shared = _shared_memory(_group(server.pid))  # first: a kill hides these files of callers' texts
    os.killpg(server.pid, signal.SIGKILL)  # the id is still the server's, because nobody has waited for it
    server.wait()
    _unlink(shared)
    shutil.rmtree(directory, ignore_errors=True)


def _remove(directory: Path, processes: Iterable[int]) -> None:
    shared: set[Path] = set()
    for process in processes:
        with suppress(OSError):  # the process is gone meanwhile
            held = os.pidfd_open(process)
            try:
                if process in _processes_of(directory):  # still the process that was found
                    shared |= _shared_memory([process])
                    signal.pidfd_send_signal(held, signal.SIGKILL)
            finally:
                os.close(held)
    _unlink(shared)
    shutil.rmtree(directory, ignore_errors=True)


def _processes_of(directory: Path) -> list[int]:
    """List this account's processes whose environment names the directory."""
    named = f"{VARIABLE}={directory}".encode()
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # a process of another account, or gone meanwhile
            if named in (each / "environ").read_bytes().split(b"\0"):
                found.append(int(each.name))
    return found


def _group(leader: int) -> list[int]:
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # the process is gone meanwhile
            if os.getpgid(int(each.name)) == leader:
                found.append(int(each.name))
    return found


def _shared_memory(processes: Iterable[int]) -> set[Path]:
    """List the shared-memory files that processes have mapped. The processes' resource tracker is killed with them, so
    it cannot remove these files."""
    found: set[Path] = set()
    for process in processes:
        with suppress(OSError):  # the process is gone meanwhile
            maps = Path(f"/proc/{process}/maps").read_text(encoding="utf-8", errors="replace").splitlines()
            found |= {Path(line.split(maxsplit=5)[5]) for line in maps if " /dev/shm/" in line}
    return found


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            path.unlink()


if __name__ == "__main__":
    main()
