"""Trainers that halt at a step, that run several jobs one after another, or that run on nodes of a cluster."""

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.training import launcher
from sovereign_pipeline.training.job import KEY_VARIABLE, TrainingJob
from sovereign_pipeline.training.launcher import run_trainer

STEP, UNTIL = "SOVEREIGN_TEST_HALT_AT_STEP", "SOVEREIGN_TEST_HALT_UNTIL_THERE_IS"
JOBS = "SOVEREIGN_TEST_JOBS"
"""JSON: pairs of a job's file and the name of its fault, or null."""
KEY = {KEY_VARIABLE: "0" * 64}
PACKAGE = "sovereign_pipeline_tests.training.processes"


def written(job: TrainingJob) -> Path:
    """Write the job's file."""
    path = job.result.with_name("job.json")
    job.write(path)
    return path


def _command(python: str, job: Path, worker: str) -> list[str]:
    if TrainingJob.read(job).devices.count == 1:
        return [python, "-m", f"{PACKAGE}.{worker}", str(job)]
    return [python, "-m", f"{PACKAGE}.ranks_with", worker, str(job)]


@contextmanager
def halt_at(step: int, go_on: Path) -> Iterator[dict[str, str]]:
    """Have trainers halt once they have told of the step, until they are asked to stop or the file `go_on` is there.

    So a test acts at that step however busy the machine is: the steps of a tiny model are over in moments. Yields the
    environment that the trainers need.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "worker_command", lambda python, job: _command(python, job, "worker_that_halts"))
        yield {STEP: str(step), UNTIL: str(go_on), **KEY}


def run_many(jobs: Sequence[tuple[TrainingJob, str | None]]) -> None:
    """Run jobs one after another in the same two processes, each with the name of its fault or None; see
    `worker_of_many.py`. Raises TrainingFailed as `run_trainer` does."""
    named = [(str(written(job)), fault) for job, fault in jobs]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "worker_command", lambda python, job: _command(python, job, "worker_of_many"))
        run_trainer(Path(named[0][0]), lambda line: None, {JOBS: json.dumps(named), **KEY})


def interpreter(directory: Path, module: str, before: str = "") -> str:
    """An interpreter for nodes, which runs this module of the code under test. before: of the shell."""
    text = f'export PYTHONPATH={PROJECT_ROOT}\n{before}\nshift 2\nexec {sys.executable} -m {module} "$@"'
    return program(directory / "python", text)


def halting_interpreter(directory: Path, module: str, before: str = "") -> str:
    """An interpreter whose trainers halt once they have told of the third step, until they are asked to stop or there
    is a file `go on` in the directory. module: of this package. before: of the shell."""
    halts = f"export OMP_NUM_THREADS=1 {STEP}=3 {UNTIL}='{directory / 'go on'}'"
    return interpreter(directory, f"{PACKAGE}.{module}", f"{before}\n{halts}")


def chatty(directory: Path) -> str:
    """The environment, for a shell, of an interpreter in which a library prints a document while it is loaded."""
    site = directory / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import os, sys\n"
        "class Chatty:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch':\n"
        "            sys.stderr.write('PLANTED TEXT\\n'); print('PLANTED TEXT')\n"
        "            os.write(1, b'PLANTED TEXT\\n'); os.write(2, b'PLANTED TEXT\\n')\n"
        "sys.meta_path.insert(0, Chatty())\n"
    )
    return f"export OMP_NUM_THREADS=1 PYTHONPATH='{PROJECT_ROOT}:{site}'"


def program(path: Path, text: str) -> str:
    """An executable of the shell, to be named as `python`."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def killed(does: Callable[[], None]) -> None:
    """Do something in a child process that ends at once with status 9."""
    child = os.fork()
    if child == 0:
        does()
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
