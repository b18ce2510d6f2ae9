"""The trainer's process as it is, but for its halt at the step that `launching.py` names."""

import os
import sys
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sovereign_pipeline.training import worker
from sovereign_pipeline.training.job import Step, TrainerHooks, TrainingJob
from sovereign_pipeline.training.methods import train
from sovereign_pipeline_tests.training.processes.launching import STEP, UNTIL


def train_and_halt(job: TrainingJob, hooks: TrainerHooks) -> dict[str, float]:
    def on_step(step: Step) -> None:
        hooks.on_step(step)
        while step.step == int(os.environ[STEP]) and not Path(os.environ[UNTIL]).exists() and not hooks.should_stop():
            time.sleep(0.02)

    return train(job, replace(hooks, on_step=on_step))


def halting() -> AbstractContextManager[Any]:
    return patch.object(worker, "train", train_and_halt)


if __name__ == "__main__":
    with halting():
        sys.exit(worker.main(Path(sys.argv[1])))
