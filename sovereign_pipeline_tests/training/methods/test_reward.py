"""A reward model learns to tell pairs apart, resumes to the same bytes, and scores alike on every path."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.intervals import measured_share
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.dataset.jsonl import PreferenceRow
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.reward_model import (
    PairScore,
    accuracy_by_case,
    calibration,
    held_out_accuracy,
    read_scorer,
)
from sovereign_pipeline.training.worker import run_job
from sovereign_pipeline_tests.training.conftest import JobMaker, pairs
from sovereign_pipeline_tests.training.trainings import files, log, losses, refused, report, run, stopped

STEPS = {"gradient_accumulation": 1, "batch_size": 4, "warmup_steps": 0, "epochs": 4, "learning_rate": 1e-2}


@pytest.fixture
def reward_job(make_job: JobMaker) -> JobMaker:
    def make(name: str, **changes: Any) -> TrainingJob:
        section = {**STEPS, **changes.pop("section", {})}
        held_out = changes.pop("held_out_pairs", pairs(20)[12:])
        job = make_job(name, pairs(12), method="reward", reward_model=section, held_out=Path("none"), **changes)
        file = job.output.with_name("held_out.jsonl")
        file.write_text("".join(json.dumps(row) + "\n" for row in held_out), encoding="utf-8")
        return job.model_copy(update={"held_out": file})

    return make


@pytest.mark.slow
def test_it_learns_resumes_to_the_same_bytes_and_is_read_as_it_was_trained(
    reward_job: JobMaker, tiny_model: Path
) -> None:
    whole, broken = (reward_job(name, checkpoints={"every_steps": 1}) for name in ("whole", "broken"))
    told: list[str] = []
    result = run_job(whole, lambda message, values: told.append(message), [])
    assert result.failure is None and result.measured["resumed_at_step"] == 0
    assert not any(word in message for message in told for word in ("officer", "mooring"))
    curve, said = losses(whole), report(whole)
    assert len(curve) == 12 and curve[-1] < 0.5 * curve[0]
    assert said["accuracy"]["accuracy"]["hits"] == said["accuracy"]["accuracy"]["of"] == said["held_out"] == 8
    assert [step.step for step in run(stopped(broken, after=5))] == list(range(6, 13))
    assert files(broken.output) == files(whole.output)

    assert sorted(files(whole.output)) == [
        "held_out_scores.jsonl",
        "report.json",
        "reward/adapter_config.json",
        "reward/adapter_model.safetensors",
        "training_log.jsonl",
    ]
    recorded = log(whole, "held_out_scores")
    ours = _on_a_base_for_text(whole, tiny_model)
    theirs = _as_peft_reads_it(whole, tiny_model)
    assert [row["chosen"] for row in recorded] == pytest.approx(ours, abs=1e-4)
    assert theirs == pytest.approx(ours, abs=1e-4)


def _held_out_replies(job: TrainingJob) -> list[Any]:
    from transformers import AutoTokenizer

    from sovereign_pipeline.training.rows import encode

    assert job.held_out is not None
    tokenizer = AutoTokenizer.from_pretrained(job.base_model)
    return [encode(tokenizer, "reward", row, job.eos_ids).completions[0] for row in read_jsonl(job.held_out)]


def _on_a_base_for_text(job: TrainingJob, base: Path) -> list[float]:
    """On a model that writes, with the head beside it: no second copy of the base for a score."""
    return read_scorer(base, job.output / "reward", job.sft).scores(_held_out_replies(job))


def _as_peft_reads_it(job: TrainingJob, base: Path) -> list[float]:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype="float32", pad_token_id=0)
    adapted: Any = PeftModel.from_pretrained(model, job.output / "reward").eval()
    with torch.no_grad():
        return [float(adapted(input_ids=torch.tensor([each.ids])).logits) for each in _held_out_replies(job)]


@pytest.mark.slow
def test_the_end_of_turn_is_what_is_scored(reward_job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the end of turn as padding, transformers scores the token before it."""
    from sovereign_pipeline.training.methods import reward as reward_trainer

    monkeypatch.setattr(reward_trainer, "_padding", lambda tokenizer, job: job.eos_ids[0])
    refused(reward_job("before"), "not learn from the score at the end of turn")


@pytest.mark.slow
def test_a_reward_model_that_does_not_move_or_is_measured_on_no_pair_is_refused(reward_job: JobMaker) -> None:
    refused(reward_job("none", held_out_pairs=[]), "None of 0 held-out pairs")
    refused(
        reward_job("still", section={"learning_rate": 1e-30, "max_steps": 1}), "head of the reward model did not change"
    )


def pair(chosen: str, rejected: str) -> PreferenceRow:
    return PreferenceRow(id="R", prompt="Answer.", chosen=chosen, rejected=rejected)


def scored(*margins: float) -> list[PairScore]:
    return [PairScore(id=f"R{place}", chosen=margin, rejected=0.0) for place, margin in enumerate(margins)]


TRAINING = [pair("the fee is due now", "go away"), pair("the fee is five", "no"), pair("fee", "the pier is closed")]
"""Chosen is the longer one in two of three; `fee` and `due` stand for it, `pier` against it."""


def test_shares_and_baselines_are_those_counted_by_hand() -> None:
    held_out = [
        pair("fee paid in full", "pier"),  # longer, and `fee` against `pier`: both baselines are right
        pair("fee", "pier closed today"),  # shorter: the length is wrong, the words are right
        pair("pier", "fee and more"),  # both are wrong
        pair("lamp", "buoy"),  # same length, unknown words: neither says anything, which counts as wrong
    ]
    found = held_out_accuracy(scored(1.0, 2.0, -1.0, 0.0), held_out, TRAINING)
    assert (found.accuracy.hits, found.accuracy.of) == (2, 4)
    assert (found.length_only.hits, found.words_only.hits) == (1, 2)
    assert (found.where_length_is_wrong.hits, found.where_length_is_wrong.of) == (1, 3)
    assert found.mean_margin == 0.5


def test_pairs_of_a_case_file_do_not_count_as_independent() -> None:
    """By case, 6 of 8 are told apart, which chance may give; 24 of 32 independent pairs would show more."""
    scores = scored(*[1.0] * 24, *[-1.0] * 8)
    alone = accuracy_by_case(scores, [str(number) for number in range(32)])
    assert alone == measured_share(24, 32) and alone.low > 0.5
    by_case = accuracy_by_case(scores, [str(number // 4) for number in range(32)])
    assert (by_case.hits, by_case.of, by_case.share) == (24, 32, 0.75)
    assert by_case.low < 0.5


def test_the_shorter_reply_is_the_guess_where_training_chose_the_shorter_ones() -> None:
    found = held_out_accuracy(scored(1.0), [pair("no", "a long reply")], [pair("no", "never"), pair("yes", "perhaps")])
    assert found.length_only.hits == 1


def test_a_calibration_compares_the_stated_probability_with_what_was_right() -> None:
    small, large = math.log(3), math.log(9)  # probabilities .75 and .9
    bins = calibration([small, small, small, -small, large, large, large, large])
    assert [each.expected for each in bins] == pytest.approx([0.75, 0.9])
    assert [each.right.share for each in bins] == [0.75, 1.0]
    assert [each.right.of for each in calibration([1.0, -2.0, 3.0])] == [3]
    assert calibration([]) == ()
