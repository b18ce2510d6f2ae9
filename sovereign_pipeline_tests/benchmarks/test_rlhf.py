"""What the RLHF benchmark reckons: how many steps fit the time, and what an arm has gained over seeds and prompts; and
what it takes for no result of an arm."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import trainer_job
from benchmarks.harness import Cells
from benchmarks.rlhf import jobs
from benchmarks.rlhf import run as benchmark
from benchmarks.rlhf.run import PAIRS, PARENT, STOCK, as_markdown, pace, steps_within, summary
from benchmarks.rlhf.task import Prepared
from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.training.job import Failure, TrainingResult


@pytest.mark.parametrize(
    ("arm", "pace", "steps"),
    [
        # 10 s an iteration, 5 s a measurement: twelve take 12 · 10 + 3 · 5 = 135 s, thirteen 145 s.
        ("ppo", {"step_seconds": [10.0, 15.0]}, 12),
        ("ppo", {"step_seconds": [10.0, 9.0]}, 14),  # what is faster than nothing costs nothing
        ("ppo", {"step_seconds": [900.0, 900.0]}, 1),
        (STOCK, {"step_seconds": [90.0, 19.0, 21.0]}, 7),  # the first step warms up
        (PAIRS, {"sampling_seconds": 16.0, "learning_seconds": 8.0, "prompts": 8, "pairs": 5}, 46),
    ],
)
def test_so_many_steps_fit_the_time(arm: str, pace: dict[str, Any], steps: int) -> None:
    assert steps_within(arm, pace, 140.0, 5) == steps


def judged(*rewards: float | None, divergence: float = 1.0) -> dict[str, Any]:
    prompts = {f"P-{place}": {"case": f"C-{place}", "reward": reward} for place, reward in enumerate(rewards)}
    return {"prompts": prompts, "divergence": divergence}


def run(seconds: float, found: dict[str, Any], failed: str | None = None) -> dict[str, Any]:
    measured = {"steps": 9, "loop_seconds": seconds, "whole_seconds": 2 * seconds, "peak_bytes": 1e9}
    return {**measured, "failed": failed, "judged": found}


@pytest.mark.parametrize(
    ("arm", "untimed"), [("ppo", {"step_seconds": [1.0]}), (PAIRS, {"pairs": 0}), (PAIRS, {"pairs": 3, "steps": 0})]
)
def test_a_short_training_that_could_not_be_timed_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arm: str, untimed: dict[str, Any]
) -> None:
    timed = {"step_seconds": [1.0, 2.0], "pairs": 3, "steps": 1, "failed": None}
    answers = [{**untimed, "failed": "no memory"}, timed]

    def script(name: str, task: Path, answer: Path) -> dict[str, float]:
        answer.write_text(json.dumps(answers.pop(0)))
        return {"peak_bytes": 1.0}

    monkeypatch.setattr(benchmark, "script", script)
    cells = Cells(tmp_path, [], {})
    with pytest.raises(SystemExit, match=f"{arm}: no memory"):
        pace(arm, Prepared(tmp_path), "", cells)
    assert pace(arm, Prepared(tmp_path), "", cells) == {**timed, "peak_bytes": 1.0}


def test_a_trainer_that_was_killed_is_no_algorithm_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job: Any = SimpleNamespace(output=tmp_path / "output", result=tmp_path / "result.json", write=lambda path: None)

    def fails(*given: Any) -> None:
        raise TrainingFailed("it ended")

    monkeypatch.setattr(trainer_job, "run_trainer", fails)
    with pytest.raises(TrainingFailed, match="it ended"):
        jobs.timed(job)
    TrainingResult(failure=Failure(message="it ended")).write(job.result)
    assert jobs.timed(job)["failed"] == "it ended"


def test_the_gain_is_paired_by_prompt_over_the_mean_of_the_seeds() -> None:
    parent = judged(0.0, 0.5, 1.0, 0.2)
    found = summary(parent, [run(180, judged(0.2, 0.9, 1.0, None)), run(180, judged(0.4, 0.7, 1.0, 0.9))])
    assert (found["prompts"], found["cases"]) == (3, 3)  # what one seed's tools abstained from is compared for none
    assert found["difference"] == pytest.approx(0.2)
    assert found["rewards"] == pytest.approx([0.7, 0.7]) and found["between_seeds"] == pytest.approx(0)
    assert found["interval"][0] < 0.2 < found["interval"][1]


def test_an_arm_that_failed_counts_with_the_parents_reward_and_is_named() -> None:
    parent = judged(0.0, 0.5, 1.0)
    measured = summary(parent, [run(170, parent, failed="nothing is worth keeping")])
    assert measured["difference"] == 0 and measured["between_seeds"] is None
    machine = {"processor": "P", "cores": 2, "load_before": 0.0, "python": "3.11"}
    result = {
        "machine": machine,
        "libraries": {"trl": "1"},
        "minutes": 3.0,
        "precision": "bfloat16",
        PARENT: parent,
        "arms": {"ppo": measured},
    }
    text = as_markdown(result)
    assert "| ppo | 1 | 0.500 | +0.000 (+0.000 to +0.000) |" in text
    assert "ppo, seed 1, kept the parent: nothing is worth keeping" in text
