"""The program that starts several trainers as it is, but for the trainers, whose module of this package is the first
argument."""

import os
import sys
from pathlib import Path
from unittest.mock import patch

from sovereign_pipeline.training import ranks
from sovereign_pipeline_tests.training.processes.launching import PACKAGE

if __name__ == "__main__":
    name = "NODE_TASK" if ranks.NODE_RANK_VARIABLE in os.environ else "WORKER"
    with patch.object(ranks, name, f"{PACKAGE}.{sys.argv[1]}"):
        sys.exit(ranks.main(Path(sys.argv[2])))
