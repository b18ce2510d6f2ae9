"""The launcher of several trainers as it is, but for the trainers, whose module of this package is the first
argument."""

import argparse
import sys
from pathlib import Path

from accelerate.commands import launch

from sovereign_pipeline.training import ranks

launch_command = launch.launch_command


def launch_others(arguments: argparse.Namespace) -> None:
    arguments.training_script = f"sovereign_pipeline_tests.training.processes.{sys.argv[1]}"
    launch_command(arguments)


if __name__ == "__main__":
    launch.launch_command = launch_others
    ranks.main(Path(sys.argv[2]))
