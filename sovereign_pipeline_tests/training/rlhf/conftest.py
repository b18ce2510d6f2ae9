"""The tiny model after SFT: an adapter to continue from, made once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline_tests.training.conftest import letters
from sovereign_pipeline_tests.training.trainings import run


@pytest.fixture(scope="session")
def parent(tmp_path_factory: pytest.TempPathFactory, make_session_job: Callable[..., TrainingJob]) -> Path:
    """It has learned half of what there is to learn, so that a reward has something left to teach."""
    job = make_session_job(tmp_path_factory.mktemp("parent"), "sft", letters(16), sft={"epochs": 3})
    run(job)
    return job.output / "adapter"
