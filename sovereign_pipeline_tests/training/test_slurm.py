"""The trainer as a job of Slurm on two nodes: it trains what one machine does, resumes by itself, and can be cancelled.

Slurm is Debian's; see `slurm_cluster.py`.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.policy.institution import Slurm
from sovereign_pipeline.training import slurm
from sovereign_pipeline.training.job import KEY_VARIABLE, TrainingJob, read_result
from sovereign_pipeline.training.launcher import run_trainer
from sovereign_pipeline.training.slurm import SlurmLauncher
from sovereign_pipeline_tests.slurm_cluster import INTERFACE, Cluster, running
from sovereign_pipeline_tests.training.conftest import JobMaker, letters
from sovereign_pipeline_tests.training.processes.launching import KEY
from sovereign_pipeline_tests.training.trainings import files, log

pytestmark = pytest.mark.slow

TWO = {"launcher": "accelerate", "count": 2}
ROWS, SFT = letters(24), {"epochs": 2}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running(tmp_path_factory.mktemp("cluster")) as started, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{started.bin}:{os.environ['PATH']}")
        patch.setattr(slurm, "SECONDS_BETWEEN_POLLS", 0.2)
        yield started


@pytest.fixture
def python(tmp_path: Path) -> str:
    """The interpreter with the code under test."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nexport PYTHONPATH={PROJECT_ROOT}\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


def place(python: str, **changes: Any) -> Slurm:
    return Slurm.model_validate(
        {"where": "slurm", "interface": INTERFACE, "gpu_resource": None, "python": python, **changes}
    )


def written(job: TrainingJob) -> Path:
    path = job.result.with_name("job.json")
    job.write(path)
    return path


def run(
    job: TrainingJob, where: Slurm, cluster: Cluster, progress: Callable[[str], None] = lambda line: None
) -> SlurmLauncher:
    directory = job.locks.parent / "slurm"
    launcher = SlurmLauncher(where, directory, {"SOVEREIGN_VAULT": cluster.private / "vault"}, progress)
    launcher.run(written(job), KEY[KEY_VARIABLE])
    return launcher


@pytest.fixture
def make(make_job: JobMaker, tmp_path: Path) -> JobMaker:
    """`make(name, …)`: a job on two nodes, whose checkpoints are apart from its files, as a stage's are."""
    return lambda name, **changes: make_job(
        name, ROWS, **{"sft": SFT, "devices": TWO, "checkpoint_directory": tmp_path / "kept" / name / "1", **changes}
    )


@pytest.fixture(scope="module")
def on_one_machine(make_session_job: JobMaker, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """SFT by two processes of this machine."""
    job = make_session_job(tmp_path_factory.mktemp("one"), "machine", ROWS, sft=SFT, devices=TWO)
    run_trainer(written(job), lambda line: None, KEY)
    return job


def test_two_nodes_train_what_two_processes_of_one_machine_do(
    cluster: Cluster, on_one_machine: TrainingJob, make: JobMaker, python: str
) -> None:
    job = make("nodes")
    lines: list[str] = []
    run(job, place(python), cluster, lines.append)
    assert files(job.output) == files(on_one_machine.output)
    assert read_result(job.result).measured["tokens_per_second"] > 0
    assert len([line for line in lines if line.startswith("step ")]) == len(log(job))
