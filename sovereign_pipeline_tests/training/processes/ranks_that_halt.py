"""The launcher of several trainers as it is, but for the trainers, which are `worker_that_halts.py`."""

import argparse
import sys
from pathlib import Path

from accelerate.commands import launch

from sovereign_pipeline.training import ranks

launch_command = launch.launch_command


def launch_halting(arguments: argparse.Namespace) -> None:
    arguments.training_script = "sovereign_pipeline_tests.training.processes.worker_that_halts"
    launch_command(arguments)


if __name__ == "__main__":
    launch.launch_command = launch_halting
    ranks.main(Path(sys.argv[1]))
