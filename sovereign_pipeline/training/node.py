"""Start one trainer for each device of this node: `python -m sovereign_pipeline.training.node ORDER.json`.

Ray and Kubernetes run this program once on each node. Slurm does not use it, because Slurm starts the trainers itself.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from sovereign_pipeline.base.processes import die_with_parent, keep_private
from sovereign_pipeline.training.launcher import PARENT_VARIABLE, SECONDS_FOR_A_CHECKPOINT
from sovereign_pipeline.training.worker import collect_sigterm

TRAINER = "sovereign_pipeline.training.node_task"
NODE_RANK_VARIABLE = "NODE_RANK"
SECONDS_BETWEEN_LOOKS = 0.2


def main(order_file: Path) -> int:
    """Run the trainers and wait. Returns exit status 0 if all trainers succeeded, otherwise 1. Trainers append their
    output to the file `log` in the directory of the order file. If a trainer fails or this process gets SIGTERM, all
    trainers get SIGTERM, save a checkpoint and end. After `SECONDS_FOR_A_CHECKPOINT`, the remaining trainers are
    killed."""
    keep_private()
    if PARENT_VARIABLE in os.environ:
        die_with_parent(int(os.environ[PARENT_VARIABLE]))
    stop_requests = collect_sigterm()
    count, node = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ[NODE_RANK_VARIABLE])
    with order_file.with_name("log").open("ab") as log:
        trainers = [
            subprocess.Popen(
                [sys.executable, "-m", TRAINER, str(order_file)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.DEVNULL,  # warnings of libraries quote their input
                cwd=order_file.parent,
                env={
                    **os.environ,
                    PARENT_VARIABLE: str(os.getpid()),
                    "RANK": str(node * count + local),
                    "LOCAL_RANK": str(local),
                },
            )
            for local in range(count)
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
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return int(any(each.returncode for each in trainers))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
