"""Start one trainer for each device of this machine, and wait: `python -m sovereign_pipeline.training.ranks FILE`.

FILE is a job file or, on a cluster, an order file. Ray and Kubernetes run this program once on each node. Slurm does
not use it, because Slurm starts the trainers itself.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.base.processes import die_with_parent, keep_private
from sovereign_pipeline.training.devices import MEETING_VARIABLE
from sovereign_pipeline.training.job import Failure, TrainingJob, TrainingResult
from sovereign_pipeline.training.launcher import PARENT_VARIABLE, SECONDS_FOR_A_CHECKPOINT, Log
from sovereign_pipeline.training.worker import collect_sigterm, locks, open_progress

WORKER, NODE_TASK = "sovereign_pipeline.training.worker", "sovereign_pipeline.training.node_task"
NODE_RANK_VARIABLE = "NODE_RANK"
"""Environment variable with the number of this node, from 0; set only on a cluster."""
SECONDS_BETWEEN_LOOKS = 0.2


def main(file: Path) -> int:
    """Run the trainers and wait. Returns exit status 0 if all trainers succeeded, otherwise 1. The result file of the
    job states any failure."""
    keep_private()
    if PARENT_VARIABLE in os.environ:
        die_with_parent(int(os.environ[PARENT_VARIABLE]))
    stop_requests = collect_sigterm()
    node = os.environ.get(NODE_RANK_VARIABLE)
    if node is not None:
        count = int(os.environ["LOCAL_WORLD_SIZE"])
        return _run(NODE_TASK, file, range(int(node) * count, (int(node) + 1) * count), stop_requests)
    job = TrainingJob.read(file)
    log = Log(file.with_name("log"))
    log.skip()
    with open_progress() as progress, tempfile.TemporaryDirectory() as directory:
        environment = {
            "WORLD_SIZE": str(job.devices.count),
            "LOCAL_WORLD_SIZE": str(job.devices.count),
            MEETING_VARIABLE: f"{directory}/meeting",
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),  # as torchrun sets it
            # The devices of one machine communicate over loopback.
            "GLOO_SOCKET_IFNAME": "lo",
            "NCCL_SOCKET_IFNAME": "lo",
            # With several processes accelerate requires an address, although the processes are already connected.
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "0",
        }

        def forward() -> None:
            for message, values in log.added():
                with suppress(OSError):  # a full disk of the Pipes session must not end the training
                    progress(message, values)

        try:
            with locks(job, progress, lambda: bool(stop_requests)):
                return _run(WORKER, file, range(job.devices.count), stop_requests, environment, forward)
        except SovereignError as error:
            TrainingResult(failure=Failure.of(error)).write(job.result)
            return 1


def _run(
    module: str,
    file: Path,
    ranks: range,
    stop_requests: list[int],
    environment: Mapping[str, str] | None = None,
    forward: Callable[[], None] = lambda: None,
) -> int:
    """Run a trainer for each rank, and call `forward` again and again until all have ended. Returns 0 if all trainers
    succeeded, otherwise 1. Trainers append their output to the file `log` in the directory of `file`. If a trainer
    fails or this process gets SIGTERM, all trainers get SIGTERM, save a checkpoint and end. After
    `SECONDS_FOR_A_CHECKPOINT`, the remaining trainers are killed."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER_")}
    with file.with_name("log").open("ab") as log:
        trainers = [
            subprocess.Popen(
                [sys.executable, "-m", module, str(file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.DEVNULL,  # warnings of libraries quote their input
                cwd=file.parent,
                env={
                    **inherited,
                    **(environment or {}),
                    PARENT_VARIABLE: str(os.getpid()),
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank - ranks.start),
                },
            )
            for rank in ranks
        ]
    until = None
    while any(each.poll() is None for each in trainers):
        if until is None and (stop_requests or any(each.poll() for each in trainers)):
            until = time.monotonic() + SECONDS_FOR_A_CHECKPOINT
            for each in trainers:
                each.terminate()
        if until is not None and time.monotonic() > until:
            for each in trainers:
                each.kill()
        forward()
        time.sleep(SECONDS_BETWEEN_LOOKS)
    forward()
    return int(any(each.returncode for each in trainers))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
