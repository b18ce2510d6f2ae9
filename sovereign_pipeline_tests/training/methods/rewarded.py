"""Whole trainings by reward on the tiny model, and what was seen in the passes of one iteration of TRL's."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.rlhf.sampling import Rollout
from sovereign_pipeline_tests.training.conftest import JobMaker
from sovereign_pipeline_tests.training.tiny_reward import reward_job

SEEN = 2
"""The iteration that is looked into, from 0: in it the policy is no longer its reference."""
GROUPS: dict[str, Any] = {"prompts": 4, "group": 4, "measured_prompts": 8}
RATES = {"ppo": 5e-3, "rloo": 5e-3, "grpo": 2e-3}
"""GRPO's advantages are of size 1, whatever the reward's spread."""


@dataclass
class Seen:
    """Of one iteration."""

    output: dict[str, Any] = field(default_factory=dict)
    """What TRL made of its replies, in the order in which they were sampled."""
    rollouts: list[Rollout] = field(default_factory=list)
    adapter: dict[str, Any] = field(default_factory=dict)
    """As it sampled."""


@dataclass(frozen=True)
class Whole:
    """A training that nothing interrupted."""

    job: TrainingJob
    told: list[str]
    seen: Seen


def job_by(
    algorithm: str, make_job: JobMaker, name: str, parent: Path, rlhf: dict[str, Any] | None = None, **changes: Any
) -> TrainingJob:
    groups = {} if algorithm == "ppo" else GROUPS
    section = {**groups, "algorithm": algorithm, "learning_rate": RATES[algorithm], **(rlhf or {})}
    return reward_job(make_job, name, parent, section, **changes)


@contextmanager
def watched() -> Iterator[Seen]:
    """Look into one iteration of the training that runs here."""
    from sovereign_pipeline.training.methods import trl as trl_steps

    seen = Seen()
    steps: Any = trl_steps._RewardSteps
    generate = steps._generate_and_score_completions

    def generated(self: Any, inputs: Any) -> Any:
        output = generate(self, inputs)
        if self.iteration == SEEN:
            seen.output = {name: each.clone() for name, each in output.items()}
            seen.rollouts, seen.adapter = self._rollouts, _adapter(self.model)
        return output

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "_generate_and_score_completions", generated)
        yield seen


def _adapter(model: Any) -> dict[str, torch.Tensor]:
    return {name: each.detach().clone() for name, each in model.named_parameters() if ".default." in name}
