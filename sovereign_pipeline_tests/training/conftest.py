"""A tiny random Llama with a tokenizer trained on invented words, jobs that train it, and a recipe for it."""

import json
import shutil
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base_models.stages import read_descriptor
from sovereign_pipeline.policy.training import Preference, Sft
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.report import TrainingReport
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.tiny_model import EOS_ID, TEMPLATE, save_tiny_model, write_card

WORDS = ("harbour lamp mooring permit fee officer pier chain buoy net boat rope tide").split()  # noqa: SIM905


def letters(count: int) -> list[dict[str, str]]:
    return [
        {
            "id": f"R-{number}",
            "instruction": "Reply.",
            "input": f"{WORDS[number % 13]} {WORDS[(3 * number + 1) % 13]}\n\nplease " + WORDS[number % 7],
            "output": "the officer replies: "
            + " ".join(WORDS[(number + place) % 13] for place in range(number % 5 + 3)),
        }
        for number in range(count)
    ]


def pairs(count: int) -> list[dict[str, str]]:
    return [
        {
            "id": row["id"],
            "prompt": f"{row['instruction']}\n\n{row['input']}",
            "chosen": row["output"],
            "rejected": "rope rope " + row["input"],
        }
        for row in letters(count)
    ]


def labels(count: int) -> list[dict[str, Any]]:
    """Every second reply is the right one and found good, the others are babble and found bad."""
    return [
        {
            "id": pair["id"],
            "prompt": pair["prompt"],
            "completion": pair["chosen"] if number % 2 == 0 else pair["rejected"],
            "label": number % 2 == 0,
        }
        for number, pair in enumerate(pairs(count))
    ]


def a_report(base_model: Artifact) -> str:
    """`report.json` of a training on this base model, for adapters that are trained by hand."""
    stored = json.loads(Path(__file__).with_name("report.json").read_bytes())
    descriptor = read_descriptor(base_model)
    of_base = {key: descriptor[key] for key in ("name", "digest", "chat_template_sha256")}
    return TrainingReport.model_validate({**stored, "method": "sft", "base_model": of_base}).model_dump_json()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [json.dumps(row) for row in letters(40)]
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", texts)


JobMaker = Callable[..., TrainingJob]


@pytest.fixture
def make_job(tmp_path: Path, make_session_job: JobMaker) -> JobMaker:
    """`make_job(name, rows, sft={…}, preference={…}, parent_adapter=…)`: a job in a directory of its own."""
    return partial(make_session_job, tmp_path)


@pytest.fixture(scope="session")
def make_session_job(tiny_model: Path) -> JobMaker:
    """As `make_job`, in a directory that is given: for what many tests go on from."""

    def make(
        directory: Path,
        name: str,
        rows: list[dict[str, Any]],
        sft: dict[str, Any] | None = None,
        preference: dict[str, Any] | None = None,
        **changes: Any,
    ) -> TrainingJob:
        root = directory / name
        root.mkdir()
        dataset = root / "rows.jsonl"
        dataset.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        settings = {
            "rank": 4,
            "alpha": 8,
            "learning_rate": 1e-2,
            "epochs": 4,
            "gradient_accumulation": 1,
            "max_length": 128,
            "precision": "float32",
            **(sft or {}),
        }
        method = "sft" if preference is None else preference.get("method", "dpo")
        if preference is not None:
            preference = {"learning_rate": 5e-3, **preference}
        job = {
            "method": method,
            "base_model": tiny_model,
            "base_model_name": "tiny",
            "base_model_digest": "0" * 64,
            "chat_template_sha256": sha256(TEMPLATE.encode()).hexdigest(),
            "eos_ids": (EOS_ID,),
            "dataset": dataset,
            "output": root / "output",
            "result": root / "result.json",
            "locks": directory / "locks",
            "identity": "1" * 64,
            "checkpoint_directory": root / "checkpoints",
            "references": directory / "references",
            "seed": 7,
            "sft": Sft.model_validate(settings),
            "preference": None if preference is None else Preference.model_validate(preference),
        }
        return TrainingJob.model_validate({**job, **changes})

    return make


TWO = {"launcher": "accelerate", "count": 2}


@pytest.fixture
def make_for_two(make_job: JobMaker, tmp_path: Path) -> JobMaker:
    """`make_for_two(name, …)`: SFT by two processes, whose checkpoints are apart from its files, as a stage's are."""
    of_two = {"sft": {"epochs": 2}, "devices": TWO}
    return lambda name, **changes: make_job(
        name, letters(24), **{**of_two, "checkpoint_directory": tmp_path / "kept" / name / "1", **changes}
    )


@pytest.fixture
def make_for_one(make_for_two: JobMaker) -> JobMaker:
    """`make_for_two` with one process: for what does not depend on how many there are."""
    return partial(make_for_two, devices={})


@pytest.fixture(scope="session")
def alone(make_session_job: JobMaker, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """The job of `make_for_one`, which this process has run."""
    from sovereign_pipeline_tests.training.trainings import run

    job = make_session_job(tmp_path_factory.mktemp("alone"), "alone", letters(24), sft={"epochs": 2})
    run(job)
    return job


@pytest.fixture(scope="session")
def on_one_machine(make_session_job: JobMaker, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    """The job of `make_for_two`, which two processes of this machine have run."""
    from sovereign_pipeline.training.launcher import run_trainer
    from sovereign_pipeline_tests.training.processes.launching import KEY, written

    job = make_session_job(tmp_path_factory.mktemp("one"), "machine", letters(24), sft={"epochs": 2}, devices=TWO)
    run_trainer(written(job), lambda line: None, KEY)
    return job


@pytest.fixture
def directory(institution: DemoInstitution, tiny_model: Path) -> Path:
    """A copy of the tiny model, with its card, and a recipe that trains on it."""
    directory = Path(shutil.copytree(tiny_model, institution.root / "mirror" / "tiny"))
    write_card(institution.settings.data, "tiny", directory)
    sft = {
        "rank": 4,
        "alpha": 8,
        "gradient_accumulation": 1,
        "learning_rate": 1e-2,
        "epochs": 12,
        "max_length": 128,
        "precision": "float32",
    }
    institution.recipe["training"]["sft"] = sft
    return directory


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Outputs of trainings that chains share; see `Chain`."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker) -> Callable[..., TrainingJob]:
    """`trained({…})`: the job of an SFT on sixteen letters with these settings, which has run once a session."""
    from sovereign_pipeline_tests.training.trainings import run

    jobs: dict[str, TrainingJob] = {}

    def train_once(sft: dict[str, Any] | None = None) -> TrainingJob:
        key = json.dumps(sft, sort_keys=True)
        if key not in jobs:
            jobs[key] = make_session_job(tmp_path_factory.mktemp("trained"), "sft", letters(16), sft=sft)
            run(jobs[key])
        return jobs[key]

    return train_once


@pytest.fixture(scope="session")
def parent(tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker) -> Path:
    """An SFT adapter that learned half of what there is to learn, so that a reward has something left to teach."""
    from sovereign_pipeline_tests.training.trainings import run

    job = make_session_job(tmp_path_factory.mktemp("parent"), "sft", letters(16), sft={"epochs": 3})
    run(job)
    return job.output / "adapter"


@pytest.fixture(scope="session")
def reward_model(tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker) -> TrainingJob:
    """The job of a reward model that tells replies of the institution from plainly bad ones; it has run."""
    from sovereign_pipeline_tests.training.tiny_reward import REWARD_MODEL_SECTION, pairs_for_a_reward_model
    from sovereign_pipeline_tests.training.trainings import run

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
    run(job)
    return job
