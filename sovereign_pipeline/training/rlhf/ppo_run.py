"""A training by proximal policy optimisation: each iteration is sampled, judged, and learned from.

What does not belong here: what the other algorithms do too (`trainer.py`), the equations (`ppo.py`), and the steps of
one iteration (`learner.py`).
"""

from pathlib import Path
from typing import Any

from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.loop.hooks import TrainerHooks
from sovereign_pipeline.training.rlhf.guards import Row, check_first_ratio, check_sampler
from sovereign_pipeline.training.rlhf.learner import Learner
from sovereign_pipeline.training.rlhf.policy import Policy
from sovereign_pipeline.training.rlhf.rollouts import Rollout
from sovereign_pipeline.training.rlhf.state import RunState, put_back
from sovereign_pipeline.training.rlhf.trainer import Run


class PpoRun(Run):
    """PPO with a value head, on this package's own passes."""

    _policy: Policy

    def __init__(self, job: TrainingJob, hooks: TrainerHooks) -> None:
        super().__init__(job, hooks)
        self._learner = Learner(self._policy, self._rlhf, job.seed)

    def _with_reference(self, model: Any) -> Policy:
        return Policy(model, self._job, self._rlhf.temperature)

    def _resume(self, checkpoint: Path) -> RunState:
        state, tensors = RunState.load(checkpoint)
        put_back(self._policy, tensors["adapter"])
        self._policy.value_head.load_state_dict(tensors["value_head"])
        self._learner.optimizer.load_state_dict(tensors["optimizer"])
        return state

    def _optimizer(self) -> Any:
        return self._learner.optimizer

    def _learn(self, state: RunState, checkpoint: Path | None) -> None:
        following = None
        while following is None or not following.ends:
            rollouts, row = self._iterate(state)
            self._ended(state, row, rollouts)
            following = self._next(state)
            if following.saves:
                self._save(state)
            if following.stops:
                raise self._stopped(state)

    def _iterate(self, state: RunState) -> tuple[list[Rollout], Row]:
        """Sample, judge, learn."""
        iteration = state.iteration
        prompts = self._drawn[iteration]
        rollouts = self._sample(prompts, f"rollouts/{iteration}")
        scores = self._judge(prompts, rollouts)
        row = self._judged(iteration, self._learner.learning_rate(iteration), rollouts, scores)
        kept = [(each, score.total) for each, score in zip(rollouts, scores, strict=True) if score.total is not None]
        before = self._learner.before(
            [each for each, _ in kept], [self._penalised(each, total) for each, total in kept], state.kl.coefficient
        )
        check_sampler(before.sampler_gap, self._job.sft.precision, by_server=self._engine is not None)
        update = self._learner.update(
            before.scored, iteration, lambda off: check_first_ratio(off, self._job.sft.precision)
        )
        coefficient = state.kl.coefficient
        state.kl = state.kl.after(before.divergence, len(kept))
        return rollouts, {
            **row,
            "kl_coefficient": coefficient,
            "loss": update.policy_loss,
            "value_loss": update.value_loss,
            "clip_share": update.clip_share,
            "first_ratio_off": update.first_ratio_off,
            "kl": before.divergence,
            "entropy": before.entropy,
            "sampler_gap": before.sampler_gap,
        }

    def _save(self, state: RunState) -> None:
        policy = self._policy
        with self._checkpoints.writing(state.iteration) as directory:
            state.save(
                directory,
                {
                    "adapter": {name: each.detach() for name, each in policy.adapter.items()},
                    "value_head": policy.value_head.state_dict(),
                    "optimizer": self._learner.optimizer.state_dict(),
                },
            )
