"""A tiny random Llama with a tokenizer trained on invented words, and jobs that train it."""

import json
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.policy.training import Preference, Sft
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline_tests.tiny_model import EOS_ID, TEMPLATE, save_tiny_model

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


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [json.dumps(row) for row in letters(40)]
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", texts)


JobMaker = Callable[..., TrainingJob]


@pytest.fixture
def make_job(tmp_path: Path, make_session_job: JobMaker) -> JobMaker:
    """`make_job(name, rows, sft={…}, preference={…}, start_adapter=…)`: a job in a directory of its own."""
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
