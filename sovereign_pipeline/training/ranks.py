"""`accelerate launch` of one trainer process for each device of this machine:
`python -m sovereign_pipeline.training.ranks JOB.json`.

It holds the lock on the devices and dies with its parent, and its trainers die with it: torchrun gives each a session
of its own, so neither a signal to the group nor the end of the launcher would reach them.
"""

import os
import socket
import sys
from pathlib import Path

from sovereign_pipeline.processes import die_with_parent
from sovereign_pipeline.settings import go_offline
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.launcher import PARENT_VARIABLE, SECONDS_FOR_A_CHECKPOINT
from sovereign_pipeline.training.worker import device_lock, open_progress


def main(job_file: Path) -> None:
    """Exit status: 0 when every trainer ended well; the job's result file says what there is to say."""
    expected = os.environ.get(PARENT_VARIABLE)
    die_with_parent(int(expected) if expected is not None else None)
    go_offline()
    job = TrainingJob.read(job_file)
    with open_progress() as progress, device_lock(job.locks, progress):
        os.environ |= {
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
                    *("--module", "sovereign_pipeline.training.worker", str(job_file)),
                ]
            )
        )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


if __name__ == "__main__":
    main(Path(sys.argv[1]))
