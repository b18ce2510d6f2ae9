"""Having the trainer halt at a step, so that a test acts at that step however busy the machine is.

The steps of a tiny model are over in moments: what a test does when it is told of one may come after the last.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sovereign_pipeline.training import launcher
from sovereign_pipeline.training.job import TrainingJob

STEP, UNTIL = "SOVEREIGN_TEST_HALT_AT_STEP", "SOVEREIGN_TEST_HALT_UNTIL_THERE_IS"


@contextmanager
def halt_at(step: int, go_on: Path) -> Iterator[dict[str, str]]:
    """Have trainers halt once they have told of the step, until the file `go_on` is there.

    Yields the environment that they need for it.
    """

    def command(python: str, job: Path) -> list[str]:
        module = "worker_that_halts" if TrainingJob.read(job).devices.count == 1 else "ranks_that_halt"
        return [python, "-m", f"sovereign_pipeline_tests.training.processes.{module}", str(job)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "worker_command", command)
        yield {STEP: str(step), UNTIL: str(go_on)}
