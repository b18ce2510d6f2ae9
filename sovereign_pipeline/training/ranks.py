"""Start one trainer process for each device: `python -m sovereign_pipeline.training.ranks JOB.json`.

This process locks the line and the devices, and forwards the trainers' progress. torchrun puts each trainer into its
own session, so a signal to this process's group would not reach the trainers. The trainers therefore get this process's
id (`PARENT_VARIABLE`), and end when this process ends.
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

from sovereign_pipeline.base.processes import die_with_parent, keep_private
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.training.devices import MEETING_VARIABLE
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.launcher import PARENT_VARIABLE, SECONDS_FOR_A_CHECKPOINT
from sovereign_pipeline.training.worker import LAUNCHER_VARIABLE, locks, open_progress


def main(job_file: Path) -> None:
    """Run the job on all its devices. The exit status is 0 if every trainer succeeded. The job's result file states any
    failure."""
    keep_private()
    expected = os.environ.get(PARENT_VARIABLE)
    die_with_parent(int(expected) if expected is not None else None)
    go_offline()
    job = TrainingJob.read(job_file)
    with open_progress() as progress, locks(job, progress), trainers_progress(progress) as socket_path:
        os.environ |= {
            LAUNCHER_VARIABLE: socket_path,
            PARENT_VARIABLE: str(os.getpid()),
            MEETING_VARIABLE: str(Path(socket_path).with_name("meeting")),
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(SECONDS_FOR_A_CHECKPOINT),
            # The devices of one machine communicate over loopback.
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
        }
        from accelerate.commands.launch import launch_command, launch_command_parser

        launch_command(
            launch_command_parser().parse_args(
                [
                    "--multi_gpu",  # accelerate's name for torchrun on one machine, including CPUs
                    *("--num_machines", "1", "--num_processes", str(job.devices.count)),
                    *("--mixed_precision", "no", "--dynamo_backend", "no"),
                    # Torchrun and the trainers each use a file as meeting point, so that nothing is shared over TCP.
                    *("--rdzv_backend", "c10d", "--rdzv_conf", "store_type=file"),
                    *("--module", "sovereign_pipeline.training.worker", str(job_file)),
                ]
            )
        )


@contextmanager
def trainers_progress(progress: Callable[[str, dict[str, object]], None]) -> Iterator[str]:
    """Forward the trainers' progress messages to `progress`. Yields the path of the socket, to which the trainers send
    each message as one datagram."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        path = f"{directory}/progress"
        receiver.bind(path)

        def forward() -> None:
            while datagram := receiver.recv(2**16):
                with suppress(OSError):  # keep receiving: otherwise a trainer would block on a full socket
                    progress(*json.loads(datagram))

        forwarding = threading.Thread(target=forward, daemon=True)
        forwarding.start()
        try:
            yield path
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"", path)  # an empty datagram ends the thread
            forwarding.join()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
