"""A node's process as it is, but for its trainers, which halt; see `node_task_that_halts.py`."""

import sys
from pathlib import Path
from unittest.mock import patch

from sovereign_pipeline.training import node

if __name__ == "__main__":
    with patch.object(node, "TRAINER", "sovereign_pipeline_tests.training.processes.node_task_that_halts"):
        sys.exit(node.main(Path(sys.argv[1])))
