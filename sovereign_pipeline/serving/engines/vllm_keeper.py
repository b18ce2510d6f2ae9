"""The process between the gateway and its vLLM server: when either is gone, it kills the server with all its processes.

A vLLM server is several processes, and one that is killed leaves the others behind. They are one process group here.
What belongs here: that alone, with no library that this process would keep in memory.
"""

import os
import select
import signal
import subprocess
import sys
from functools import partial

from sovereign_pipeline.processes import die_with_parent, keep_private


def main() -> None:
    """Arguments: the number of a pipe that closes when the gateway is gone, and the server's command."""
    pipe, command = int(sys.argv[1]), sys.argv[2:]
    keep_private()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env=environment,
        preexec_fn=partial(die_with_parent, os.getpid()),  # this process has one thread
    )
    select.select([pipe, os.pidfd_open(server.pid)], [], [])
    os.killpg(0, signal.SIGKILL)  # this process too


if __name__ == "__main__":
    main()
