"""The launcher of several trainers as it is, but for the trainers, which are `worker_of_many.py`."""

import argparse
import sys
from pathlib import Path

from accelerate.commands import launch

from sovereign_pipeline.training import ranks

launch_command = launch.launch_command


def launch_many(arguments: argparse.Namespace) -> None:
    arguments.training_script = "sovereign_pipeline_tests.training.processes.worker_of_many"
    launch_command(arguments)


if __name__ == "__main__":
    launch.launch_command = launch_many
    ranks.main(Path(sys.argv[1]))
