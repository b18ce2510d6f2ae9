"""A task of a Slurm job as it is, but for its halt; see `worker_that_halts.py`."""

import sys
from pathlib import Path

from sovereign_pipeline.training import node_task
from sovereign_pipeline_tests.training.processes.worker_that_halts import halting

if __name__ == "__main__":
    with halting():
        sys.exit(node_task.main(Path(sys.argv[1])))
