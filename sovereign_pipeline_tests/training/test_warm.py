"""Trials: a trainer that keeps base model and rows writes what a cold one writes, and a training pauses at a rung."""

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import TrainingDiverged
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.text import silent
from sovereign_pipeline.training.job import TrainingJob, read_result
from sovereign_pipeline.training.warm import KeptParts, WarmTrainer
from sovereign_pipeline_tests.training.conftest import JobMaker, letters
from sovereign_pipeline_tests.training.trainings import files, learn, load, log, report, run
from sovereign_pipeline_tests.waiting import processes_of

pytestmark = pytest.mark.slow

KEY = "0" * 64
TRAINER = "sovereign_pipeline.training.warm"
SETTINGS: list[dict[str, Any]] = [
    {"rank": 4, "precision": "bfloat16", "dropout": 0.1},
    {"rank": 8, "precision": "bfloat16"},
    {"rank": 4},
    {"rank": 2, "alpha": 4, "dora": True, "target_modules": ("q_proj", "down_proj")},
    {"rank": 2, "adapter": "qlora"},
]


def on_selection(make_job: JobMaker, name: str, sft: dict[str, Any], **changes: Any) -> TrainingJob:
    """With a selection side, and the digests of the files it reads, as every job of a trial has them."""
    job = make_job(name, letters(12), sft={"max_steps": 4, "epochs": 9, **sft}, **changes)
    selection = job.dataset.with_name("selection.jsonl")
    rows = [
        {
            "id": row["id"],
            "messages": [{"role": "user", "content": row["input"]}, {"role": "assistant", "content": row["output"]}],
        }
        for row in letters(20)[12:]
    ]
    selection.write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = [job.dataset, selection, *job.base_model.iterdir()]
    return job.model_copy(update={"selection": (selection,), "files": {path: file_sha256(path) for path in read}})


def written(job: TrainingJob) -> Path:
    return job.write_named(job.result.parent)


def test_a_warm_trainer_writes_the_bytes_of_cold_ones_and_outlives_a_training_that_diverged(
    make_job: JobMaker, tmp_path: Path
) -> None:
    cold = [on_selection(make_job, f"cold-{number}", sft) for number, sft in enumerate(SETTINGS)]
    warm = [on_selection(make_job, f"warm-{number}", sft) for number, sft in enumerate(SETTINGS)]
    wild = on_selection(make_job, "wild", {**SETTINGS[1], "learning_rate": 1e30, "warmup_steps": 0})
    told: list[str] = []
    with WarmTrainer(tmp_path, told.append) as trainer:
        trainer.run(written(warm[0]), KEY)
        (process,) = processes_of(TRAINER)
        with pytest.raises(TrainingDiverged):
            trainer.run(written(wild), KEY)
        for job in warm[1:]:
            trainer.run(written(job), KEY)
            assert read_result(job.result).measured["peak_memory_bytes"] > 0
        assert processes_of(TRAINER) == [process]
    assert not process.is_running()
    assert sum("still in memory" in each for each in told) == 3  # wild, and the second of each of two precisions
    for job in cold:
        run(job)
    for one, other in zip(cold, warm, strict=True):
        assert files(one.output) == files(other.output)
    assert len({(job.output / "adapter" / "adapter_model.safetensors").read_bytes() for job in cold}) == len(SETTINGS)


@pytest.mark.security_case(
    "The base model in a warm trainer's memory is changed between two trials", "loaded again from the verified files"
)
def test_a_kept_base_that_changed_is_loaded_again(make_job: JobMaker) -> None:
    import torch

    job, kept, loads = on_selection(make_job, "kept", {}), KeptParts(), list[Any]()

    def loading() -> Any:
        loads.append(load(job.base_model))
        return loads[-1]

    base = kept.base(job, loading, silent)
    assert kept.base(job, loading, silent) is base and len(loads) == 1
    with torch.no_grad():
        next(base.parameters()).view(-1)[0] += 1
    assert kept.base(job, loading, silent) is loads[1]
    of_other_files = job.model_copy(update={"files": {path: "0" * 64 for path in job.files or ()}})
    assert kept.base(of_other_files, loading, silent) is loads[2]
    full = job.model_copy(update={"sft": job.sft.model_copy(update={"adapter": "none"})})
    assert kept.base(full, loading, silent) is loads[3] and kept.base(full, loading, silent) is loads[4]


def test_a_training_pauses_at_a_rung_and_trains_on_to_the_bytes_of_a_whole_one(make_job: JobMaker) -> None:
    whole = on_selection(make_job, "whole", {"dropout": 0.1})
    run(whole)
    paused = on_selection(make_job, "paused", {"dropout": 0.1})
    first = paused.model_copy(update={"until_step": 2, "output": paused.output.with_name("first")})
    run(first)
    assert (report(first)["steps"], len(log(first))) == (2, 2)
    assert report(first)["tokens_trained"] < report(whole)["tokens_trained"]
    losses = [json.loads(line) for line in (first.output / "selection_losses.jsonl").read_text().splitlines()]
    assert [row["id"] for row in losses] == [f"R-{number}" for number in range(12, 20)]
    assert "resuming from step-00000002" in learn(paused)
    assert files(paused.output) == files(whole.output)
    repeated = first.model_copy(update={"output": paused.output.with_name("repeated")})
    run(repeated)  # as after a kill between the checkpoint and the artifact
    assert files(repeated.output) == files(first.output)
