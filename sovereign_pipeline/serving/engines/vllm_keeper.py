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
from functools import partial

from sovereign_pipeline.processes import die_with_parent, keep_private


def main() -> None:
    """Arguments: the number of a pipe that closes when the gateway is gone, the directory, and the server's command."""
    pipe, directory, command = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    keep_private()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env=environment,
        preexec_fn=partial(die_with_parent, os.getpid()),  # this process has one thread
        start_new_session=True,
    )
    select.select([pipe, os.pidfd_open(server.pid)], [], [])
    os.killpg(server.pid, signal.SIGKILL)  # still its own: nobody has waited for it
    server.wait()
    shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
