"""Running several jobs one after another in the same two processes; see `worker_of_many.py`."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from sovereign_pipeline.training import launcher
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline_tests.training.processes.worker_of_many import JOBS


def run_many(jobs: Sequence[tuple[TrainingJob, str | None]]) -> None:
    """Each with the name of its fault, or None. Raises TrainingFailed as `run_trainer` does."""
    named = []
    for job, fault in jobs:
        path = job.result.with_name("job.json")
        job.write(path)
        named.append((str(path), fault))
    module = "sovereign_pipeline_tests.training.processes.ranks_of_many"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "worker_command", lambda python, path: [python, "-m", module, str(path)])
        launcher.run_trainer(Path(named[0][0]), lambda line: None, {JOBS: json.dumps(named)})
