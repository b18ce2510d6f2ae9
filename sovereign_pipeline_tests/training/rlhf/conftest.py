"""The tiny model after SFT, an adapter to continue from; a reward model on the same base; and trainings by TRL's
algorithms. Each is made once."""

import json
from pathlib import Path

import pytest

from sovereign_pipeline.training.job import TrainerHooks, TrainingJob
from sovereign_pipeline.training.methods import train
from sovereign_pipeline_tests.training.conftest import letters
from sovereign_pipeline_tests.training.rlhf.tiny_reward import REWARD_MODEL_SECTION, pairs_for_a_reward_model
from sovereign_pipeline_tests.training.rlhf.trl_runs import JobMaker, Whole, whole_training
from sovereign_pipeline_tests.training.trainings import run


@pytest.fixture(scope="session")
def parent(tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker) -> Path:
    """It has learned half of what there is to learn, so that a reward has something left to teach."""
    job = make_session_job(tmp_path_factory.mktemp("parent"), "sft", letters(16), sft={"epochs": 3})
    run(job)
    return job.output / "adapter"


@pytest.fixture(scope="session")
def reward_model(tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker) -> TrainingJob:
    """The job of a reward model that tells replies of the institution from plainly bad ones; it has run."""
    directory = tmp_path_factory.mktemp("reward_model")
    held_out = directory / "held_out.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in pairs_for_a_reward_model(16, 20)))
    job = make_session_job(
        directory,
        "reward",
        pairs_for_a_reward_model(0, 16),
        method="reward",
        reward_model=REWARD_MODEL_SECTION,
        held_out=held_out,
    )
    train(job, TrainerHooks(on_step=lambda step: None, progress=lambda message: None))
    return job


@pytest.fixture(scope="session")
def rloo(tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker, parent: Path) -> Whole:
    directory = tmp_path_factory.mktemp("rloo")
    return whole_training(lambda *given: make_session_job(directory, *given), parent, "rloo")


@pytest.fixture(scope="session")
def grpo(tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker, parent: Path) -> Whole:
    directory = tmp_path_factory.mktemp("grpo")
    return whole_training(lambda *given: make_session_job(directory, *given), parent, "grpo")
