"""What a training goes on from: the newest whole checkpoint of the same training, to the same bytes, or nothing. That a
process may be killed at any step: `test_worker.py`."""

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from sovereign_pipeline.base import text
from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.files import canonical_json, file_sha256, keyed_digest
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob
from sovereign_pipeline.training.methods import train
from sovereign_pipeline_tests.training.conftest import JobMaker, labels, letters, pairs
from sovereign_pipeline_tests.training.trainings import files, learn, run, stopped

pytestmark = pytest.mark.slow

EVERY_STEP = {"every_steps": 1, "keep": 2}
SFT = {"dropout": 0.1, "max_steps": 5, "epochs": 5}


def checkpoints(job: TrainingJob) -> list[str]:
    return sorted(path.name for path in job.checkpoint_directory.iterdir())


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker) -> dict[str, bytes]:
    """The output of a training that nothing interrupted."""
    job = make_session_job(tmp_path_factory.mktemp("whole"), "whole", letters(12), sft=SFT)
    run(job)
    return files(job.output)


def test_the_newest_are_kept_and_the_last_step_needs_none(make_job: JobMaker, whole: dict[str, bytes]) -> None:
    job = make_job("rotates", letters(12), sft=SFT, checkpoints=EVERY_STEP)
    run(job)
    assert checkpoints(job) == ["step-00000003", "step-00000004"]
    assert files(job.output) == whole


def test_a_training_in_bfloat16_resumes_to_the_same_bytes(make_job: JobMaker) -> None:
    """The fixtures of the others are in float32."""
    narrow = {**SFT, "precision": "bfloat16"}
    never, once = (make_job(name, letters(12), sft=narrow, checkpoints=EVERY_STEP) for name in ("never", "once"))
    run(never)
    assert "resuming from step-00000003" in learn(stopped(once, after=3))
    assert files(once.output) == files(never.output)


def cut_short(checkpoint: Path) -> None:
    weights = checkpoint / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def one_bit_flipped(checkpoint: Path) -> None:
    state = bytearray((checkpoint / "optimizer.pt").read_bytes())
    state[len(state) // 2] ^= 1
    (checkpoint / "optimizer.pt").write_bytes(state)


def one_file_gone(checkpoint: Path) -> None:
    (checkpoint / "rng_state.pth").unlink()


def without_its_record(checkpoint: Path) -> None:
    (checkpoint / "checkpoint.json").write_bytes(b'{"identity"')


def one_file_more(checkpoint: Path) -> None:
    (checkpoint / "adapter_model.bin").write_bytes(b"weights")


def with_other_weights(checkpoint: Path) -> None:
    """As by somebody who may write the home, and has no key: all digests are right."""
    weights = checkpoint / "adapter_model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights)
    record = json.loads((checkpoint / "checkpoint.json").read_bytes())
    record["files"][weights.name] = file_sha256(weights)
    of_no_key = keyed_digest(b"", "checkpoint", canonical_json(["1" * 64, checkpoint.name, record["files"]]))
    (checkpoint / "checkpoint.json").write_bytes(canonical_json({**record, "mark": of_no_key.hex()}))


@pytest.mark.security_case(
    "Weights in a checkpoint are replaced, with all digests, while a training is interrupted",
    "the checkpoint is skipped, and the training ends in the bytes of an uninterrupted one",
)
@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (one_bit_flipped, "optimizer.pt is damaged"),
        (one_file_gone, "rng_state.pth is damaged"),
        (one_file_more, "adapter_model.bin is damaged"),
        (without_its_record, "checkpoint.json is damaged, or was not written by this training"),
        (with_other_weights, "checkpoint.json is damaged, or was not written by this training"),
    ],
)
def test_the_checkpoint_before_a_damaged_one_serves(
    make_job: JobMaker, whole: dict[str, bytes], damage: Callable[[Path], None], named: str
) -> None:
    job = stopped(make_job("damaged", letters(12), sft=SFT, checkpoints=EVERY_STEP), after=3)
    damage(job.checkpoint_directory / "step-00000003")
    told = learn(job)
    assert f"skipping step-00000003: {named}" in told
    assert "resuming from step-00000002" in told
    assert files(job.output) == whole


def test_when_all_are_damaged_the_training_starts_anew(make_job: JobMaker, whole: dict[str, bytes]) -> None:
    job = stopped(make_job("damaged", letters(12), sft=SFT, checkpoints=EVERY_STEP), after=3)
    for checkpoint in job.checkpoint_directory.iterdir():
        cut_short(checkpoint)
    told = learn(job)
    assert sum("is damaged" in message for message in told) == 2
    assert not any("resuming" in message for message in told)
    assert files(job.output) == whole


def test_what_is_written_outlives_a_damaged_one_of_a_later_step(make_job: JobMaker, whole: dict[str, bytes]) -> None:
    job = stopped(make_job("damaged", letters(12), sft=SFT, checkpoints={"every_steps": 1, "keep": 1}), after=4)
    cut_short(job.checkpoint_directory / "step-00000004")
    stopped(job, after=2)
    assert checkpoints(job) == ["step-00000002"]
    assert "resuming from step-00000002" in learn(job)
    assert files(job.output) == whole


def test_a_stop_is_heard_before_the_first_step(make_job: JobMaker, whole: dict[str, bytes]) -> None:
    job = make_job("stopped", letters(12), sft=SFT)
    with pytest.raises(TrainingFailed, match="stopped, as requested, before its first step"):
        train(job, TrainerHooks(lambda step: None, lambda message: None, should_stop=lambda: True))
    assert not job.checkpoint_directory.exists() and not job.output.exists()
    run(job)
    assert files(job.output) == whole


def test_a_stop_request_ends_the_computing_of_references(make_job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "SECONDS_BETWEEN_MESSAGES", 0.0)
    first = make_job("sft", letters(12), sft={"epochs": 1})
    run(first)
    job = make_job("dpo", pairs(60), preference={"epochs": 1}, parent_adapter=first.output / "adapter")
    told: list[str] = []
    with pytest.raises(TrainingFailed, match="stopped, as requested, before its first step"):
        train(job, TrainerHooks(lambda step: None, told.append, should_stop=lambda: len(computing(told)) > 0))
    assert len(computing(told)) == 1 and not job.references.exists()


def computing(messages: list[str]) -> list[str]:
    return [each for each in messages if each.startswith("reference log-probabilities: reply ")]


def test_nothing_goes_on_from_another_training(make_job: JobMaker, whole: dict[str, bytes]) -> None:
    job = stopped(make_job("first", letters(12), sft=SFT, checkpoints=EVERY_STEP), after=2)
    told = learn(job.model_copy(update={"identity": "2" * 64}))
    assert not any("resuming" in message for message in told)
    assert files(job.output)["training_log.jsonl"] == whole["training_log.jsonl"]


def test_a_disk_that_fills_stops_with_what_stands_and_the_next_run_goes_on(
    make_job: JobMaker, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def full(state: Any, path: Any, *arguments: Any, **named: Any) -> None:
        if "unfinished" in str(path) and Path(path).name == "optimizer.pt" and len(checkpoints(job)) > 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(state, path, *arguments, **named)

    save = torch.save
    job = make_job("full", letters(12), sft=SFT, checkpoints=EVERY_STEP)
    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        with pytest.raises(
            TrainingFailed, match=r"of step 3 was not written \(No space left.*resumes from step-00000002"
        ):
            run(job)
    assert checkpoints(job) == ["step-00000001", "step-00000002"] and not job.output.exists()
    assert "resuming from step-00000002" in learn(job)
    assert files(job.output) == whole


def test_preferences_go_on_to_the_same_bytes_with_the_kept_references(make_job: JobMaker) -> None:
    first = make_job("sft", letters(12), sft={"epochs": 1})
    run(first)
    preference = {"method": "kto", "max_steps": 4, "epochs": 2, "gradient_accumulation": 2, "batch_size": 2}
    one, two = (
        make_job(
            name,
            labels(12),
            sft={"dropout": 0.1},
            preference=preference,
            parent_adapter=first.output / "adapter",
            checkpoints={"every_steps": 1, "keep": 1},
        )
        for name in ("one", "two")
    )
    run(one)
    told = learn(stopped(two, after=2))
    assert "resuming from step-00000002" in told and any("cached" in message for message in told)
    assert files(one.output) == files(two.output)
