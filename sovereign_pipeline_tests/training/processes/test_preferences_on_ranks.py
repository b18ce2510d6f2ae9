"""Preferences and a reward model are learned on two processes as on one."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from safetensors.torch import load_file

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob, read_result
from sovereign_pipeline.training.methods import train
from sovereign_pipeline_tests.training.conftest import labels, letters, pairs
from sovereign_pipeline_tests.training.processes.many import run_many
from sovereign_pipeline_tests.training.trainings import files

pytestmark = pytest.mark.slow

JobMaker = Callable[..., TrainingJob]
TWO = {"launcher": "accelerate", "count": 2}
STEPS = {"warmup_steps": 0, "epochs": 1, "gradient_accumulation": 1, "learning_rate": 5e-3}
NEAR = 1e-4
"""Relative, of the losses of two processes and one in float32."""

# The last rows are fewer than two batches: in dpo one process has none of them, in ipo and kto one has half a batch.
ALONE: dict[str, dict[str, Any]] = {
    "dpo": {"batch_size": 1, "gradient_accumulation": 2},
    "ipo": {"batch_size": 2, "gradient_accumulation": 2, "packing": False},
    "kto": {"batch_size": 4},
    "reward": {"batch_size": 4, "max_steps": 4},
}
TOGETHER: dict[str, dict[str, Any]] = {
    "dpo": {"batch_size": 1},
    "ipo": {"batch_size": 2, "packing": False},
    "kto": {"batch_size": 2},
    "reward": {"batch_size": 2, "max_steps": None},
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "dpo": [*pairs(9)],
    "ipo": [*pairs(15)],
    "kto": [*labels(19)],
    "reward": [*pairs(18)],
}


@dataclass(frozen=True)
class Trained:
    """Jobs that have run, by name; a job that failed has a result that says why, and no output."""

    alone: dict[str, TrainingJob]
    together: dict[str, TrainingJob]
    references: dict[str, bytes]
    """Files of reference log-probabilities that two processes wrote."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker) -> Trained:
    first = make_session_job(tmp_path_factory.mktemp("sft"), "sft", letters(12), {"epochs": 1})
    hooks = TrainerHooks(on_step=lambda step: None, progress=lambda message: None)
    train(first, hooks)
    root = {name: tmp_path_factory.mktemp(name) for name in ("alone", "together")}

    def job(where: str, name: str, method: str, section: dict[str, Any], **changes: Any) -> TrainingJob:
        section = {**STEPS, **section}
        if method != "reward":
            parent = first.output / "adapter"
            preference = {"method": method, **section}
            return make_session_job(
                root[where], name, ROWS[method], preference=preference, parent_adapter=parent, **changes
            )
        held_out = root[where] / f"{name}.jsonl"
        held_out.write_text("".join(json.dumps(row) + "\n" for row in pairs(23)[18:]), encoding="utf-8")
        own = {"method": "reward", "reward_model": section, "held_out": held_out}
        return make_session_job(root[where], name, ROWS[method], **own, **changes)

    alone = {method: job("alone", method, method, section) for method, section in ALONE.items()}
    for each in alone.values():
        train(each, hooks)
    checkpoints = {"every_steps": 2, "keep": 1}
    two = {
        name: job("together", name.replace(" ", "-"), method, TOGETHER[method], devices=TWO, checkpoints=checkpoints)
        for name, method in [
            *zip(TOGETHER, TOGETHER, strict=True),
            ("other rows", "dpo"),
            ("own replies", "kto"),
            ("stopped", "reward"),
            ("killed", "dpo"),
            ("not a mean", "dpo"),
        ]
    }
    faulty = list(two)[len(TOGETHER) : -1]
    _run([*((two[method], None) for method in TOGETHER), *((two[name], name) for name in faulty)])
    references = files(root["together"] / "references")
    for name in references:  # the killed one computes its own again, before it loads its checkpoint
        (root["together"] / "references" / name).unlink()
    for name in ("stopped", "killed"):
        two[name].result.unlink()
    _run([(two["stopped"], None), (two["killed"], None), (two["not a mean"], "not a mean")])
    return Trained(alone, two, references)


def _run(jobs: list[tuple[TrainingJob, str | None]]) -> None:
    """In two processes, which end with the last job, whose fault ends them."""
    with pytest.raises(TrainingFailed):
        run_many(jobs)


def rows(job: TrainingJob, name: str = "training_log") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.output / f"{name}.jsonl").read_text().splitlines()]


def losses(job: TrainingJob) -> list[float]:
    return [row["loss"] for row in rows(job)]


@pytest.mark.parametrize("method", TOGETHER)
def test_two_processes_learn_what_one_does(trained: Trained, method: str) -> None:
    alone, together = trained.alone[method], trained.together[method]
    assert len(losses(together)) == len(losses(alone)) >= 4
    assert losses(together) == pytest.approx(losses(alone), rel=NEAR)
    for one, two in zip(rows(alone), rows(together), strict=True):  # gradients, rewards and kto's divergence too
        assert two == pytest.approx(one, rel=20 * NEAR, abs=1e-5)
    (made,) = alone.output.rglob("*.safetensors")
    ours, theirs = load_file(together.output / made.relative_to(alone.output)), load_file(made)
    assert {name: each.shape for name, each in ours.items()} == {name: each.shape for name, each in theirs.items()}
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 50 * NEAR
    assert files(alone.output).keys() == files(together.output).keys()
    report = json.loads((together.output / "report.json").read_bytes())
    assert report["devices"] == 2
    assert report["data_order_sha256"] == json.loads((alone.output / "report.json").read_bytes())["data_order_sha256"]


def test_references_of_two_processes_are_the_file_of_one(trained: Trained) -> None:
    one = files(trained.alone["dpo"].references)
    assert len(one) == 3  # of dpo, ipo and kto
    assert {name: trained.references[name] for name in one} == one
    assert len(trained.references) == 4  # and of kto's planted fault


def test_held_out_pairs_are_scored_as_by_one(trained: Trained) -> None:
    one, two = (rows(jobs["reward"], "held_out_scores") for jobs in (trained.alone, trained.together))
    assert [row["id"] for row in two] == [row["id"] for row in one] and len(one) == 5
    for side in ("chosen", "rejected"):
        assert [row[side] for row in two] == pytest.approx([row[side] for row in one], abs=1e-3)
    report = json.loads((trained.together["reward"].output / "report.json").read_bytes())
    assert (report["rows"], report["rows_left_out"]) == (18, 2)


@pytest.mark.parametrize(("interrupted", "whole"), [("killed", "dpo"), ("stopped", "reward")])
def test_two_processes_resume_to_the_same_bytes(trained: Trained, interrupted: str, whole: str) -> None:
    resumed, uninterrupted = trained.together[interrupted], trained.together[whole]
    assert read_result(resumed.result).measured["resumed_at_step"] > 0
    assert files(resumed.output) == files(uninterrupted.output)


@pytest.mark.parametrize(("fault", "method"), [("other rows", "dpo"), ("own replies", "kto")])
def test_a_process_with_other_rows_learns_something_else(trained: Trained, fault: str, method: str) -> None:
    assert losses(trained.together[fault]) != pytest.approx(losses(trained.alone[method]), rel=10 * NEAR)


def test_a_loss_that_is_no_mean_over_both_is_refused(trained: Trained) -> None:
    with pytest.raises(TrainingFailed, match="Gradients are not accumulated as a mean"):
        read_result(trained.together["not a mean"].result)
    assert not trained.together["not a mean"].output.exists()
