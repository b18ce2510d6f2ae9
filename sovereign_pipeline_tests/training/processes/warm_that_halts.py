"""The warm trainer's process as it is, but for its second job, which halts; see `worker_that_halts.py`."""

import sys
from unittest.mock import patch

from sovereign_pipeline.training import warm, worker
from sovereign_pipeline.training.methods import train
from sovereign_pipeline_tests.training.processes.worker_that_halts import train_and_halt

if __name__ == "__main__":
    ways = iter((train, train_and_halt))
    with patch.object(worker, "train", lambda job, hooks: next(ways, train)(job, hooks)):
        sys.exit(warm.main())
