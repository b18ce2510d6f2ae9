"""PPO's own parts: its learner, its groups, and policies that game their reward. What RLOO and GRPO do as well:
`test_by_reward.py`."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.training.launcher import run_trainer
from sovereign_pipeline.training.methods.ppo import Learner
from sovereign_pipeline.training.models import load_trainable
from sovereign_pipeline.training.rlhf import rewards, run
from sovereign_pipeline.training.rlhf.policy import Policy
from sovereign_pipeline.training.rlhf.sampling import Rollout
from sovereign_pipeline.training.rows import Completion
from sovereign_pipeline_tests.training.conftest import JobMaker
from sovereign_pipeline_tests.training.processes.launching import written
from sovereign_pipeline_tests.training.tiny_reward import BY_LENGTH, reward, reward_job
from sovereign_pipeline_tests.training.trainings import files, learn, log, report, stopped

pytestmark = pytest.mark.slow


def test_in_bfloat16_and_groups_too_an_interrupted_training_resumes_to_the_same_bytes(
    make_job: JobMaker, parent: Path
) -> None:
    section = {"prompts": 4, "group": 4, "samples": 0}
    never, once = (reward_job(make_job, name, parent, section) for name in ("never", "once"))
    narrow = {"sft": never.sft.model_copy(update={"precision": "bfloat16"})}
    never, once = never.model_copy(update=narrow), once.model_copy(update=narrow)
    learn(never)
    assert "resuming from step-00000002" in learn(stopped(once, after=2))
    assert files(once.output) == files(never.output)
    # Each of the sixteen prompts was in one of the four iterations, and went through the model once for its replies.
    found = report(once)
    replies = sum(row["reply_tokens"] for row in log(once)) * 16
    assert found["supervised_share"] == pytest.approx(replies / (replies + found["tokens"]), abs=1e-6)
    assert found["tokens_trained"] == round(2 * (replies + found["tokens"]))


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
    reasons = ("held-out reward fell", "replies went from", "repeated runs", "without end of turn", "same reward")
    assert any(reason in message for message in told for reason in reasons), told[-1]


def test_a_policy_that_moved_before_the_update_is_caught(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Learner.update

    def moved(self: Any, scored: Any, *given: Any) -> Any:
        with torch.no_grad():
            next(iter(self._policy.adapter.values())).mul_(1.2)
        return update(self, scored, *given)

    monkeypatch.setattr(Learner, "update", moved)
    with pytest.raises(TrainingFailed, match="differs from 1"):
        learn(reward_job(make_job, "moved", parent))


Scores = dict[str, rewards.Score]
NONE = rewards.Score(None, {"likeness": None, "law": None})


def of_both(likeness: float, law: float | None) -> rewards.Score:
    judged = [each for each in (likeness, law) if each is not None]
    return rewards.Score(sum(judged) / len(judged), {"likeness": likeness, "law": law})


@pytest.mark.security_case(
    "a policy games its reward", "an adapter whose reward rises because a tool abstains is not kept"
)
def test_a_mean_that_rises_because_the_tools_abstain_keeps_no_adapter(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the parent, the tools abstain on the first prompt; after the three iterations on most prompts, for a part,
    and on another prompt."""
    answers: list[Callable[[int], rewards.Score]] = [
        *[lambda place: of_both(0.8, 0.2) if place else NONE] * 2,
        lambda place: of_both(1.0, 1.0) if place == 0 else NONE,
        lambda place: of_both(0.7, None),
        lambda place: NONE if place == 1 else of_both(0.9, 0.9),
    ]
    asked = list[int]()

    def abstaining(self: Any, prompts: Any) -> Scores:
        asked.append(len(prompts))
        return {prompt.row.id: answers[len(asked) - 1](place) for place, prompt in enumerate(prompts)}

    monkeypatch.setattr(run.RewardedMethod, "_measured", abstaining)
    with pytest.raises(TrainingFailed, match=r"no adapter had a higher held-out reward than the parent's 0\.500, so"):
        learn(reward_job(make_job, "abstained", parent, {"iterations": 3}))
    assert len(asked) == len(answers)


def test_an_adapter_that_cannot_be_compared_with_its_parent_is_not_reported(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is better on the prompts that choose it, and the tools abstain for one of the others."""
    asked = list[int]()

    def abstaining(self: Any, prompts: Any) -> Scores:
        asked.append(len(prompts))
        found = {prompt.row.id: of_both(0.5 if len(asked) < 3 else 0.9, 0.5) for prompt in prompts}
        return found if len(asked) < 4 else {**found, prompts[0].row.id: NONE}

    monkeypatch.setattr(run.RewardedMethod, "_measured", abstaining)
    with pytest.raises(TrainingFailed, match="cannot be compared"):
        learn(reward_job(make_job, "apart", parent, {"iterations": 1}))
    assert len(asked) == 4


def test_the_trainers_process_asks_the_tools_in_their_sandbox(make_job: JobMaker, parent: Path) -> None:
    """As every training: a child process with an environment of its own. Its guard has the reward judge replies."""
    job = reward_job(make_job, "child", parent, programs={"score.py": BY_LENGTH})
    with pytest.raises(TrainingFailed, match="does not need a good reply"):
        run_trainer(written(job), lambda line: None)


def a_learner(make_job: JobMaker, parent: Path, name: str, precision: str = "float32", **rlhf: Any) -> Learner:
    job = reward_job(make_job, name, parent, {"minibatches": 8, **rlhf})
    job = job.model_copy(update={"sft": job.sft.model_copy(update={"precision": precision})})
    assert job.reward is not None
    return Learner(Policy(load_trainable(job, lambda message: None), job, 0.7), job.reward.rlhf, job)


ROLLOUTS = [Rollout(Completion([5 + row], [40 + row, 2]), [0.0, 0.0], ended=True) for row in range(8)]
SCORES = [row / 8 for row in range(8)]


def test_the_first_ratio_is_one_whatever_a_minibatch_parts(make_job: JobMaker, parent: Path) -> None:
    """All replies fit into one pass, and one of them is a minibatch; so few tokens are multiplied in another order."""
    learner = a_learner(make_job, parent, "learner")
    offs: list[float] = []
    learner.update(learner.before(ROLLOUTS, SCORES, 0.05).scored, 0, offs.append)
    assert offs == [0.0]


def test_tokens_that_a_sampler_drew_otherwise_weigh_by_both_probabilities(make_job: JobMaker, parent: Path) -> None:
    """Half as likely again in the update as in the sampler. An engine's weights are capped by the recipe; in bfloat16
    the trainer's own sampler is weighed as an engine is, and in float32 by 1 to the bit."""

    def first_loss(cap: float | None, precision: str = "float32", drawn_otherwise: bool = True) -> float:
        section: dict[str, Any] = {"epochs": 1}
        if cap is not None:
            section["rollouts"] = {"url": "unix:/run/api", "copies": "/srv", "cap": cap}
        learner = a_learner(make_job, parent, f"{cap} {precision} {drawn_otherwise}", precision, **section)
        logs = [each.log_before.tolist() for each in learner.before(ROLLOUTS, SCORES, 0.05).scored]
        drawn = [
            Rollout(each.completion, [log - drawn_otherwise * math.log(1.5) for log in own], ended=True)
            for each, own in zip(ROLLOUTS, logs, strict=True)
        ]
        first = learner.before(drawn, SCORES, 0.05).scored[:1]  # whitened advantages of all add up to nothing
        return learner.update(first, 0, lambda off: None).policy_loss

    plain = first_loss(None)
    assert plain != 0 and plain == first_loss(None, drawn_otherwise=False)
    assert first_loss(2.0) == pytest.approx(1.5 * plain, rel=1e-4)
    assert first_loss(1.2) == pytest.approx(1.2 * plain, rel=1e-4)
    narrow = first_loss(None, "bfloat16", drawn_otherwise=False)
    assert first_loss(None, "bfloat16") == pytest.approx(1.5 * narrow, rel=1e-4)


def test_the_value_of_its_last_state_stands_in_for_the_score_of_a_cut_reply(make_job: JobMaker, parent: Path) -> None:
    """With discount and trace 1, and without a divergence, each value's target is what is still to come."""
    learner = a_learner(make_job, parent, "bootstrap", cut_replies="bootstrap")
    torch.nn.init.ones_(learner._policy.value_head.weight)
    cut = [Rollout(each.completion, each.log_probabilities, ended=place > 3) for place, each in enumerate(ROLLOUTS)]
    found = learner.before(cut, [1.0 + score for score in SCORES], 0.05).scored
    for place, each in enumerate(found):
        prompt, reply = each.rollout.completion.prompt_ids, each.rollout.completion.reply_ids
        longer = learner._policy.numbers_without_gradient([Completion(prompt, [*reply, 77])]).values
        to_come = float(longer[-1]) if place < 4 else 1.0 + SCORES[place]
        assert each.value_target.tolist() == pytest.approx([to_come] * len(reply), abs=1e-4), place
