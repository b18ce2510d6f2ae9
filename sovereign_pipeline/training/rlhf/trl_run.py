"""A training by one of TRL's trainers, which compare several replies to one prompt: RLOO or GRPO.

What does not belong here: what PPO does too (`trainer.py`), and how TRL's trainers are put on prompts, sampler and
reward (`trl_steps.py`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.training.report import TrlNumerics
from sovereign_pipeline.training.rlhf.guards import Row
from sovereign_pipeline.training.rlhf.policy import POLICY, TwoAdapters
from sovereign_pipeline.training.rlhf.prompts import Prompt
from sovereign_pipeline.training.rlhf.run import Run, RunState
from sovereign_pipeline.training.rlhf.sampling import Rollout


class TrlRun(Run):
    """RLOO or GRPO, on TRL's passes."""

    _state: RunState

    def _with_reference(self, model: Any) -> TwoAdapters:
        from sovereign_pipeline.training.rlhf.trl_steps import REFERENCE, Rounds, reward_trainer

        self._row: Row = {}
        """Of the present iteration's replies."""
        self._rollouts: list[Rollout] = []
        self._stops = False
        # TRL's head divides by the temperature, also where no reply was sampled at it.
        self._own_forward = model.get_base_model().forward
        group = self._compared = self._rlhf.group
        rounds = Rounds(
            prompts=[prompt for each in self._drawn for prompt in each[::group]],
            sample=lambda prompts, iteration: self._sample(prompts, f"rollouts/{iteration}"),
            reward=self._reward_of,
            ended=self._iteration_ended,
            save=lambda directory: self._state.save(directory, {}),
        )
        self._trainer = reward_trainer(self._job, model, self._tokenizer, rounds)
        adapters = TwoAdapters(model, self._job.sft.precision, REFERENCE)
        _check_copy(adapters)
        return adapters

    def _resume(self, checkpoint: Path) -> RunState:
        state, _ = RunState.load(checkpoint)  # adapter and optimizer are put back by transformers
        return state

    def _optimizer(self) -> Any:
        return getattr(self._trainer.optimizer, "optimizer", self._trainer.optimizer)

    def _numerics(self) -> TrlNumerics:
        from sovereign_pipeline.training.rlhf.trl_steps import numerics

        return numerics(self._rlhf.algorithm, self._trainer.args)

    def _learn(self, state: RunState, checkpoint: Path | None) -> None:
        self._state = state
        self._trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        self._policy.model.get_base_model().forward = self._own_forward
        self._trainer.check_reference_kept()
        if self._stops:
            raise self._stopped(state)
        if state.iteration < self._rlhf.iterations and state.stopped is None:
            raise TrainingFailed(
                f"The training ended behind iteration {state.iteration} of {self._rlhf.iterations} without a request "
                f"to stop. Nothing was saved.",
                "Install the pinned versions (requirements/). If they are installed, report this.",
            )

    def _reward_of(self, prompts: Sequence[Prompt], rollouts: Sequence[Rollout]) -> list[float | None]:
        scores = self._judge(prompts, rollouts)
        iteration = self._state.iteration
        rate = self._rlhf.learning_rate * (1 - iteration / self._rlhf.iterations)
        self._rollouts, self._row = list(rollouts), self._judged(iteration, rate, rollouts, scores)
        return [
            None if score.total is None else self._penalised(each, score.total)
            for each, score in zip(rollouts, scores, strict=True)
        ]

    def _iteration_ended(self, numbers: dict[str, float]) -> tuple[bool, bool]:
        coefficient = {"kl_coefficient": self._state.kl.coefficient}
        self._ended(self._state, {**self._row, **coefficient, **numbers}, self._rollouts)
        following = self._next(self._state)
        self._stops = following.stops
        return following.saves, following.ends or following.stops


def _check_copy(adapters: TwoAdapters) -> None:
    """Check that TRL's reference is a copy of the parent adapter: else the divergence is from something else."""
    import torch

    tensors = dict(adapters.model.named_parameters())
    other = [
        name
        for name, each in adapters.adapter.items()
        if not torch.equal(each, tensors[name.replace(f".{POLICY}.", f".{adapters.reference}.")])
    ]
    if other:
        raise TrainingFailed(
            f"{len(other)} tensors of TRL's reference are not those of the parent adapter.",
            "Install the pinned versions (requirements/). If they are installed, report this.",
        )
