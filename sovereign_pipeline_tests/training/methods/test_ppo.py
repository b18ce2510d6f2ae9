"""A whole training by PPO on the tiny model: what it learns, records and refuses, and that a kill changes no
byte."""

import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob
from sovereign_pipeline.training.launcher import run_trainer
from sovereign_pipeline.training.methods import ppo as ppo_run
from sovereign_pipeline.training.methods import train
from sovereign_pipeline.training.methods.ppo import Learner
from sovereign_pipeline.training.models import load_trainable
from sovereign_pipeline.training.rlhf import rewards, run, sampling
from sovereign_pipeline.training.rlhf import rewards as tools
from sovereign_pipeline.training.rlhf.policy import Policy
from sovereign_pipeline.training.rlhf.sampling import Rollout
from sovereign_pipeline.training.rows import Completion
from sovereign_pipeline_tests.training.conftest import JobMaker
from sovereign_pipeline_tests.training.tiny_reward import (
    BY_LENGTH,
    LIKE_THE_REPLY,
    learn,
    learn_until_killed,
    log,
    reward,
    reward_job,
)
from sovereign_pipeline_tests.training.trainings import files

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker, parent: Path) -> TrainingJob:
    """A job that nothing interrupted."""
    directory = tmp_path_factory.mktemp("whole")
    job = reward_job(lambda *given: make_session_job(directory, *given), "whole", parent)
    learn(job)
    return job


def test_it_learns_and_records_what_it_learned_from(whole: TrainingJob) -> None:
    rows, report = log(whole), json.loads((whole.output / "rlhf.json").read_bytes())
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(row["first_ratio_off"] == 0 for row in rows), "the first ratio is 1 to the bit"
    assert max(row["sampler_gap"] for row in rows) < 1e-5
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5), "the policy starts as its reference"
    assert rows[-1]["kl"] > 0.01
    assert {"reward/likeness", "gold/likeness", "entropy", "value_loss", "clip_share", "repetition"} <= rows[-1].keys()
    assert report["gold_of_best"] > report["gold_of_parent"]
    assert report["gold_of_best"] == max(row["gold"] for row in rows)
    assert report["comparison"]["prompts"] == len(report["held_out_adapter"]) == 6
    assert report["comparison"]["low"] <= report["comparison"]["difference"] <= report["comparison"]["high"]
    assert list(report["reward"]) == ["likeness"] and len(report["reward"]["likeness"]["identity"]) == 64
    assert files(whole.output).keys() == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "report.json",
        "rlhf.json",
        "samples.jsonl",
        "training_log.jsonl",
    }


def test_held_out_prompts_are_measured_and_never_sampled_for_learning(whole: TrainingJob) -> None:
    report = json.loads((whole.output / "rlhf.json").read_bytes())
    samples = [json.loads(line) for line in (whole.output / "samples.jsonl").read_text().splitlines()]
    learned = {f"R-{number}" for number in range(16)}
    assert not report["held_out_parent"].keys() & learned
    assert {sample["id"] for sample in samples} <= learned
    assert [sample["when"] for sample in samples] == ["start", "start", "middle", "middle", "end", "end"]


def test_nothing_that_is_told_or_logged_holds_a_word_of_a_letter(make_job: JobMaker, parent: Path) -> None:
    job = reward_job(make_job, "told", parent, {"iterations": 1, "measured_prompts": 4})
    try:
        told = learn(job)
    except TrainingFailed as failed:  # one iteration may not be enough to be better
        told = [str(failed)]
    assert told and not any("officer" in message or "harbour" in message for message in told)


def test_the_adapter_is_the_best_one_and_an_ordinary_one(whole: TrainingJob, parent: Path) -> None:
    """Loaded by PEFT on the base, it gives the held-out rewards that the report states."""
    from safetensors.torch import load_file

    ours, before = (load_file(path / "adapter_model.safetensors") for path in (whole.output / "adapter", parent))
    assert ours.keys() == before.keys()
    assert any(not bool((ours[name] == before[name]).all()) for name in ours)
    assert not any("reference" in name or "value" in name for name in ours)


@pytest.mark.parametrize("phase", ["generation", "scoring", "update"])
def test_a_kill_in_any_phase_changes_no_byte(make_job: JobMaker, parent: Path, whole: TrainingJob, phase: str) -> None:
    """In the third iteration, of a child process that shares nothing with this one afterwards."""
    job = reward_job(make_job, "killed", parent, checkpoints={"every_steps": 1, "keep": 1})
    assert learn_until_killed(job, lambda patch: _kill_in(patch, phase)) == "step-00000002"
    assert "resuming from step-00000002" in learn(job)
    assert files(job.output) == files(whole.output)


def _kill_in(patch: pytest.MonkeyPatch, phase: str) -> None:
    """Have this process kill itself in this phase of the third iteration."""
    holder: Any
    holder, name, first = {
        "generation": (run.RewardedMethod, "_sample", 1 + 2 + 1),  # the guard's one comes before
        "scoring": (Policy, "numbers_without_gradient", 2 * 4 + 3),
        "update": (ppo_run.Learner, "_step", 2 * 4 + 3),
    }[phase]
    whole_function, calls = getattr(holder, name), [0]

    def counted(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == first:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole_function(*given, **named)

    patch.setattr(holder, name, counted)


def test_a_request_to_stop_ends_behind_an_iteration_and_is_resumed(
    make_job: JobMaker, parent: Path, whole: TrainingJob
) -> None:
    job = reward_job(make_job, "stopped", parent)
    done: list[int] = []
    hooks = TrainerHooks(lambda step: done.append(step.step), lambda message: None, should_stop=lambda: len(done) == 2)
    with pytest.raises(TrainingFailed, match="stopped, as requested, at step 2 of 4"):
        train(job, hooks)
    learn(job)
    assert files(job.output) == files(whole.output)


def test_in_bfloat16_and_groups_too_an_interrupted_training_resumes_to_the_same_bytes(
    make_job: JobMaker, parent: Path
) -> None:
    section = {"prompts": 4, "group": 4, "samples": 0}
    never, once = (reward_job(make_job, name, parent, section) for name in ("never", "once"))
    narrow = {"sft": never.sft.model_copy(update={"precision": "bfloat16"})}
    never, once = never.model_copy(update=narrow), once.model_copy(update=narrow)
    learn(never)
    done: list[int] = []
    hooks = TrainerHooks(lambda step: done.append(step.step), lambda message: None, should_stop=lambda: len(done) == 2)
    with pytest.raises(TrainingFailed, match="stopped, as requested, at step 2 of 4"):
        train(once, hooks)
    assert "resuming from step-00000002" in learn(once)
    assert files(once.output) == files(never.output)
    # Each of the sixteen prompts was in one of the four iterations, and went through the model once for its replies.
    report = json.loads((once.output / "report.json").read_bytes())
    replies = sum(row["reply_tokens"] for row in log(once)) * 16
    assert report["supervised_share"] == pytest.approx(replies / (replies + report["tokens"]), abs=1e-6)
    assert report["tokens_trained"] == round(2 * (replies + report["tokens"]))


@pytest.mark.security_case("a policy games its reward", "the held-out gold reward falls, and the training ends")
def test_a_reward_that_is_gamed_is_caught_and_the_best_adapter_kept_or_none(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reward pays for length, which the guard before training is kept from seeing; the gold is likeness."""
    monkeypatch.setattr(run, "check_reward", lambda *given: None)
    job = reward_job(
        make_job,
        "gamed",
        parent,
        {
            "reward": [reward("length", "length.py")],
            "gold": [reward("likeness")],
            "iterations": 30,
            "missing_end_penalty": 0.0,
            "patience": 2,
            "learning_rate": 2e-2,
            "kl": {"coefficient": 0.0, "target": None, "budget": 500.0},
        },
        {"length.py": BY_LENGTH},
    )
    try:
        told = learn(job)
    except TrainingFailed as failed:
        told = [str(failed)]
    reasons = ("held-out one fell", "replies went from", "repeated runs", "without end of turn", "same reward")
    assert any(reason in message for message in told for reason in reasons), told[-1]


def test_a_reward_for_length_is_refused_before_anything_is_learned(make_job: JobMaker, parent: Path) -> None:
    job = reward_job(make_job, "length", parent, {"reward": [reward("length", "length.py")]}, {"length.py": BY_LENGTH})
    with pytest.raises(TrainingFailed, match="can be had without a good reply"):
        learn(job)
    assert not job.output.exists()


def test_a_sampler_of_another_distribution_is_caught(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if generation had filled in a temperature of its own."""
    sample = sampling.sample

    def hotter(*given: Any, **named: Any) -> Any:
        return sample(*given, **{**named, "temperature": 1.5 * named["temperature"]})

    monkeypatch.setattr(run, "sample", hotter)
    with pytest.raises(TrainingFailed, match="between the sampler and the update"):
        learn(reward_job(make_job, "hotter", parent))


def test_a_policy_that_moved_before_the_update_is_caught(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = ppo_run.Learner.update

    def moved(self: Any, scored: Any, *given: Any) -> Any:
        import torch

        with torch.no_grad():
            next(iter(self._policy.adapter.values())).mul_(1.2)
        return update(self, scored, *given)

    monkeypatch.setattr(ppo_run.Learner, "update", moved)
    with pytest.raises(TrainingFailed, match="off 1"):
        learn(reward_job(make_job, "moved", parent))


def test_a_batch_without_spread_ends_the_training_with_its_reason(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = rewards.Rewards.judge
    monkeypatch.setattr(run, "check_spread_of_samples", lambda *given: None)

    def flat(self: Any, replies: Any) -> Any:
        return [rewards.Score(0.5, {"likeness": 0.5}) for _ in judge(self, replies)]

    monkeypatch.setattr(run, "check_reward", lambda *given: None)
    monkeypatch.setattr(rewards.Rewards, "judge", flat)
    with pytest.raises(TrainingFailed, match=r"no adapter had a higher .* all replies of iteration 1 have the same"):
        learn(reward_job(make_job, "flat", parent))


@pytest.mark.security_case("a policy games its reward", "an adapter that the tools abstain for more often is not kept")
def test_a_mean_that_rises_because_the_tools_abstain_keeps_no_adapter(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores, asked = run.Measuring.scores, []

    def abstaining(self: Any, prompts: Any) -> Any:
        """Behind the first iteration, for all but one reply, which is as good as can be."""
        found = scores(self, prompts)
        asked.append(len(found))
        if len(asked) < 3:
            return found
        first, *others = found
        none = rewards.Score(None, {"likeness": None})
        return {first: rewards.Score(1.0, {"likeness": 1.0}), **dict.fromkeys(others, none)}

    monkeypatch.setattr(run.Measuring, "scores", abstaining)
    with pytest.raises(TrainingFailed, match=r"no adapter had a higher held-out reward .* its 6 judged prompts"):
        learn(reward_job(make_job, "abstained", parent, {"iterations": 1}))


def test_the_trainers_process_runs_it_with_the_sandbox(make_job: JobMaker, parent: Path, whole: TrainingJob) -> None:
    """As every training: a child process with an environment of its own, which ends in the same bytes."""
    job = reward_job(make_job, "child", parent)
    job.write(job.dataset.parent / "job.json")
    told: list[str] = []
    run_trainer(job.dataset.parent / "job.json", told.append)
    assert any("held out 0." in line for line in told)
    assert files(job.output)["rlhf.json"] == files(whole.output)["rlhf.json"]


def test_the_program_of_the_tests_reward_is_what_it_says() -> None:
    scope: dict[str, Any] = {}
    exec(LIKE_THE_REPLY, scope)
    assert scope["score"]([{"reply": "a b c", "response": "a b c"}, {"reply": "a a", "response": "a b"}]) == [1.0, 0.5]


def test_the_first_ratio_is_one_whatever_a_minibatch_parts(make_job: Callable[..., TrainingJob], parent: Path) -> None:
    """All replies fit into one pass, and one of them is a minibatch; so few tokens are multiplied in another order."""
    job = reward_job(make_job, "learner", parent, {"minibatches": 8})
    assert job.reward is not None
    learner = Learner(Policy(load_trainable(job, lambda message: None), job, 0.7), job.reward.rlhf, seed=7)
    rollouts = [Rollout(Completion([5 + row], [40 + row, 2]), [0.0, 0.0], ended=True) for row in range(8)]
    before = learner.before(rollouts, [row / 8 for row in range(8)], 0.05)
    offs: list[float] = []
    learner.update(before.scored, 0, offs.append)
    assert offs == [0.0]


def test_tokens_that_an_engine_drew_otherwise_weigh_by_both_probabilities(
    make_job: Callable[..., TrainingJob], parent: Path
) -> None:
    """Half as likely again in the trainer as in the engine; the weights of the second engine are capped below."""

    def first_loss(cap: float | None, gap: float) -> float:
        engine = {} if cap is None else {"rollouts": {"url": "unix:/run/api", "copies": "/srv", "cap": cap}}
        job = reward_job(make_job, f"learner-{cap}", parent, {"minibatches": 8, **engine})
        assert job.reward is not None
        learner = Learner(Policy(load_trainable(job, lambda message: None), job, 0.7), job.reward.rlhf, seed=7)
        rollouts = [Rollout(Completion([5 + row], [40 + row, 2]), [0.0, 0.0], ended=True) for row in range(8)]
        scores = [row / 8 for row in range(8)]
        logs = [each.log_before.tolist() for each in learner.before(rollouts, scores, 0.05).scored]
        drawn = [
            Rollout(each.completion, [log - gap for log in own], ended=True)
            for each, own in zip(rollouts, logs, strict=True)
        ]
        return learner.update(learner.before(drawn, scores, 0.05).scored, 0, lambda off: None).loss

    plain = first_loss(None, math.log(1.5))
    assert plain != 0
    assert first_loss(2.0, math.log(1.5)) == pytest.approx(1.5 * plain, rel=1e-4)
    assert first_loss(1.2, math.log(1.5)) == pytest.approx(1.2 * plain, rel=1e-4)


SEEDS = (11, 12, 13)
REPLIES: dict[str, dict[str, Any]] = {
    "ppo": {"prompts": 16, "group": 1, "kl": {"coefficient": 0.005, "target": None, "budget": 500.0}},
    "rloo": {"prompts": 4, "group": 4, "kl": {"coefficient": 0.005, "budget": 500.0}},
}
NAMES_A_ROPE = 'def score(rows):\n    return [float("rope" in row["reply"]) for row in rows]\n'


def test_ppo_and_rloo_learn_a_word_alike(make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of replies that name a rope rises from a sixth or less to .79 (PPO) and .83 (RLOO), with a deviation of
    .2 between seeds each. The difference is to lie within two of its standard errors."""
    monkeypatch.setattr(run, "check_reward", lambda *given: None)  # it would see that the word alone is enough
    # As the sandbox gives it, which would be started a hundred times.
    monkeypatch.setattr(tools.ToolRunner, "_run", lambda tool, rows: [float("rope" in row["reply"]) for row in rows])
    monkeypatch.setattr(run, "reason_to_stop", lambda *given: None)
    found = {name: [course(make_job, parent, name, seed) for seed in SEEDS] for name in REPLIES}
    ends = {name: [end for _, end in courses] for name, courses in found.items()}
    assert all(fmean(start for start, _ in courses) < 0.25 for courses in found.values()), found
    assert all(fmean(each) > 0.6 for each in ends.values()), found
    error = (sum(stdev(each) ** 2 for each in ends.values()) / len(SEEDS)) ** 0.5
    assert abs(fmean(ends["ppo"]) - fmean(ends["rloo"])) <= 2 * error, found


def course(make_job: JobMaker, parent: Path, algorithm: str, seed: int) -> tuple[float, float]:
    """The mean reward of the first iteration, and of the last two."""
    settings = {
        **REPLIES[algorithm],
        "algorithm": algorithm,
        "reward": [reward(program="rope.py")],
        "iterations": 8,
        "minibatches": 1,
        "learning_rate": 1e-2,
        "max_new_tokens": 12,
        "missing_end_penalty": 0.0,
        "measured_prompts": 4,
        "measure_every": 8,
        "samples": 0,
    }
    job = reward_job(make_job, f"{algorithm} {seed}", parent, settings, {"rope.py": NAMES_A_ROPE}, seed=seed)
    learn(job)
    rewards = [row["reward"] for row in log(job)]
    return rewards[0], fmean(rewards[-2:])
