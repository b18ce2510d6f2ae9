"""`accelerate launch` of one trainer process for each device of this machine:
`python -m sovereign_pipeline.training.processes.ranks JOB.json`.

It holds the locks on the line and the devices, and hands on what its trainers tell. It dies with its parent, and they
die with it: torchrun gives each a session of its own, so neither a signal to the group nor the end of the launcher
would reach them.
"""

import json
import os
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sovereign_pipeline.processes import die_with_parent
from sovereign_pipeline.settings import go_offline
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.processes.launcher import PARENT_VARIABLE, SECONDS_FOR_A_CHECKPOINT
from sovereign_pipeline.training.processes.worker import LAUNCHER_VARIABLE, locks, open_progress


def main(job_file: Path) -> None:
    """Exit status: 0 when every trainer ended well; the job's result file says what there is to say."""
    expected = os.environ.get(PARENT_VARIABLE)
    die_with_parent(int(expected) if expected is not None else None)
    go_offline()
    job = TrainingJob.read(job_file)
    with open_progress() as progress, locks(job, progress), hear_trainers(progress) as ear:
        os.environ |= {
            LAUNCHER_VARIABLE: ear,
            PARENT_VARIABLE: str(os.getpid()),
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SECONDS_FOR_A_CHECKPOINT),
            # The devices of one machine speak to each other over loopback.
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
        }
        from accelerate.commands.launch import launch_command, launch_command_parser

        launch_command(
            launch_command_parser().parse_args(
                [
                    "--multi_gpu",  # accelerate's name for torchrun on one machine, CPUs too
                    *("--num_machines", "1", "--num_processes", str(job.devices.count)),
                    *("--mixed_precision", "no", "--dynamo_backend", "no"),
                    *("--main_process_port", str(_free_port())),
                    *("--module", "sovereign_pipeline.training.processes.worker", str(job_file)),
                ]
            )
        )


@contextmanager
def hear_trainers(progress: Callable[[str, dict[str, object]], None]) -> Iterator[str]:
    """Hand on what the trainers tell, a datagram each; the socket's path."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ear:
        path = f"{directory}/progress"
        ear.bind(path)

        def listen() -> None:
            while heard := ear.recv(2**16):
                with suppress(OSError):  # a trainer that is not heard out would wait
                    progress(*json.loads(heard))

        listening = threading.Thread(target=listen, daemon=True)
        listening.start()
        try:
            yield path
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
                last.sendto(b"", path)
            listening.join()


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


if __name__ == "__main__":
    main(Path(sys.argv[1]))
