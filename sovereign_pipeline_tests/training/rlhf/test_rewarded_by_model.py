"""A training whose reward is a reward model and whose gold is a tool: it rises, and a kill changes no byte."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.dagster.plots import reward_curves_png
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob
from sovereign_pipeline.training.methods import train
from sovereign_pipeline.training.reward_model import REWARD_DIRECTORY
from sovereign_pipeline.training.rlhf.rewards import RewardAdapter
from sovereign_pipeline_tests.training.rlhf.tiny_reward import (
    LEARNED,
    learn,
    learn_until_killed,
    log,
    reward,
    reward_job,
)
from sovereign_pipeline_tests.training.rlhf.trl_runs import GROUPS, RATES
from sovereign_pipeline_tests.training.trainings import files

pytestmark = pytest.mark.slow

JobMaker = Callable[..., TrainingJob]
SECTION = {"reward": [LEARNED], "gold": [reward("likeness")], "iterations": 5}


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker, parent: Path, reward_model: TrainingJob
) -> TrainingJob:
    """A job that nothing interrupted."""
    directory = tmp_path_factory.mktemp("whole")
    job = reward_job(
        lambda *given: make_session_job(directory, *given),
        "whole",
        parent,
        SECTION,
        reward_model=reward_model.output / REWARD_DIRECTORY,
    )
    learn(job)
    return job


def test_the_policy_learns_what_the_reward_model_prefers_and_a_tool_measures(whole: TrainingJob) -> None:
    rows, report = log(whole), json.loads((whole.output / "rlhf.json").read_bytes())
    assert rows[-1]["reward/preferred"] > rows[0]["reward/preferred"] + 0.05
    assert rows[-1]["reward_raw/preferred"] > rows[0]["reward_raw/preferred"]
    assert all(0 <= row["reward/preferred"] <= 1 for row in rows)
    assert report["gold_of_best"] > report["gold_of_parent"], "the tool agrees, on held-out prompts"
    assert report["reward"]["preferred"]["identity"] == "2" * 64
    assert "gold/likeness" in rows[-1] and "gold_raw/likeness" not in rows[-1]
    assert reward_curves_png(whole.output / "training_log.jsonl").startswith(b"\x89PNG")


def test_the_adapter_is_the_policys_alone(whole: TrainingJob, parent: Path) -> None:
    from safetensors.torch import load_file

    ours, before = (load_file(path / "adapter_model.safetensors") for path in (whole.output / "adapter", parent))
    assert ours.keys() == before.keys()


def test_a_kill_while_the_reward_model_scores_changes_no_byte(
    make_job: JobMaker, parent: Path, whole: TrainingJob, reward_model: TrainingJob
) -> None:
    """In the third iteration, of a child process that shares nothing with this one afterwards."""
    job = reward_job(
        make_job,
        "killed",
        parent,
        SECTION,
        reward_model=reward_model.output / REWARD_DIRECTORY,
        checkpoints={"every_steps": 1, "keep": 1},
    )
    judge, calls = RewardAdapter._scores, [0]

    def counted(self: RewardAdapter, completions: list[object]) -> list[float]:
        calls[0] += 1
        if calls[0] == 6 + 1 + 3:  # six kinds of replies are tried before, and samples
            os.kill(os.getpid(), signal.SIGKILL)
        return judge(self, completions)  # type: ignore[arg-type]

    left = learn_until_killed(job, lambda patch: patch.setattr(RewardAdapter, "_scores", counted))
    assert left == "step-00000002"
    assert "resuming from step-00000002" in learn(job)
    assert files(job.output) == files(whole.output)


def test_trl_s_trainers_resume_with_a_reward_model_beside_their_reference(
    make_job: JobMaker, parent: Path, reward_model: TrainingJob
) -> None:
    """The checkpoint holds all three adapters, and the result the policy's alone."""
    rloo = {**SECTION, **GROUPS, "algorithm": "rloo", "learning_rate": RATES["rloo"], "iterations": 2}

    def job(name: str) -> TrainingJob:
        return reward_job(make_job, name, parent, rloo, reward_model=reward_model.output / REWARD_DIRECTORY)

    unbroken, stopped, done = job("unbroken"), job("stopped"), list[int]()
    learn(unbroken)
    hooks = TrainerHooks(lambda step: done.append(step.step), lambda message: None, should_stop=lambda: len(done) == 1)
    with pytest.raises(TrainingFailed, match="stopped, as requested, at step 1 of 2"):
        train(stopped, hooks)
    (checkpoint,) = stopped.checkpoint_directory.glob("step-*")
    assert {each.parent.name for each in checkpoint.glob("*/adapter_config.json")} == {"ref", "reward"}
    learn(stopped)
    assert files(stopped.output) == files(unbroken.output)
    assert {each.parent.name for each in unbroken.output.rglob("adapter_config.json")} == {"adapter"}


@pytest.mark.security_case(
    "A policy games its reward", "a reward model that prefers stuffed replies is refused before training"
)
def test_a_reward_model_that_never_saw_stuffed_replies_is_refused(
    make_job: JobMaker, parent: Path, reward_model: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: one that prefers whatever the other rejects."""
    scores = RewardAdapter._scores
    monkeypatch.setattr(RewardAdapter, "_scores", lambda *given: [-each for each in scores(*given)])
    job = reward_job(make_job, "stuffed", parent, SECTION, reward_model=reward_model.output / REWARD_DIRECTORY)
    with pytest.raises(TrainingFailed, match="can be had without a good reply"):
        learn(job)
