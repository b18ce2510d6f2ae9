"""A task of a Slurm job as it is, but for its halt at a step, until it is asked to stop or a file is there."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from sovereign_pipeline.training import node_task, worker
from sovereign_pipeline.training.job import Step, TrainerHooks, TrainingJob
from sovereign_pipeline.training.methods import train
from sovereign_pipeline_tests.training.processes.launching import STEP, UNTIL


def train_and_halt(job: TrainingJob, hooks: TrainerHooks) -> dict[str, float]:
    def on_step(step: Step) -> None:
        hooks.on_step(step)
        while step.step == int(os.environ[STEP]) and not Path(os.environ[UNTIL]).exists() and not hooks.should_stop():
            time.sleep(0.02)

    return train(job, replace(hooks, on_step=on_step))


if __name__ == "__main__":
    with patch.object(worker, "train", train_and_halt):
        sys.exit(node_task.main(Path(sys.argv[1])))
