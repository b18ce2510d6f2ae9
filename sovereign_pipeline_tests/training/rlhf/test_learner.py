"""One iteration's learning on the tiny model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.loop.models import load_trainable
from sovereign_pipeline.training.loop.rows import Completion
from sovereign_pipeline.training.rlhf.learner import Learner
from sovereign_pipeline.training.rlhf.policy import Policy
from sovereign_pipeline.training.rlhf.rollouts import Rollout
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
