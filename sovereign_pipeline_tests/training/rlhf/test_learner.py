"""One iteration's learning on the tiny model."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.methods.ppo import Learner
from sovereign_pipeline.training.models import load_trainable
from sovereign_pipeline.training.rlhf.policy import Policy
from sovereign_pipeline.training.rlhf.sampling import Rollout
from sovereign_pipeline.training.rows import Completion
from sovereign_pipeline_tests.training.rlhf.tiny_reward import reward_job

pytestmark = pytest.mark.slow


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
