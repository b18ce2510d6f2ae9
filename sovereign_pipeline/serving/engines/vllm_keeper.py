"""The process between the gateway and its vLLM server: when either is gone, it kills the server with all its processes,
and removes the directory with the copies of adapters.

A vLLM server is several processes, and one that is killed leaves the others behind. They are one process group here.
What belongs here: that alone, with no library that this process would keep in memory.
"""

import os
import select
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

from sovereign_pipeline.processes import die_with_parent, keep_private


def main() -> None:
    """Arguments: the number of a pipe that closes when the gateway is gone, the directory, and the server's command."""
    keep_private()
    pipe, directory, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env=environment,
        preexec_fn=partial(die_with_parent, os.getpid()),  # this process has one thread
        start_new_session=True,
    )
    select.select([pipe, os.pidfd_open(server.pid)], [], [])
    shared = _shared_memory(server.pid)  # before nobody tells of it any more: it holds what callers wrote
    os.killpg(server.pid, signal.SIGKILL)  # still its own: nobody has waited for it
    server.wait()
    for path in shared:
        with suppress(OSError):
            path.unlink()
    shutil.rmtree(directory, ignore_errors=True)


def _shared_memory(group: int) -> set[Path]:
    """The files in memory that a group of processes has mapped; their own tracker is killed with them."""
    found: set[Path] = set()
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it is gone meanwhile
            if os.getpgid(int(each.name)) == group:
                maps = (each / "maps").read_text(encoding="utf-8", errors="replace").splitlines()
                found |= {Path(line.split(maxsplit=5)[5]) for line in maps if " /dev/shm/" in line}
    return found


if __name__ == "__main__":
    main()
