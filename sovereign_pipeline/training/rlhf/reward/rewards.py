"""The reward of a reply: the weighted mean of what its parts say.

What does not belong here: how a part judges (`tools.py`, `reward_adapter.py`), and the penalties for divergence and for
a missing end, which are the algorithm's (`ppo.py`, `trainer.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovereign_pipeline.policy.training.rlhf import Reward
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.rlhf.reward.reward_adapter import RewardAdapter
from sovereign_pipeline.training.rlhf.reward.tools import Reply, ToolRunner


@dataclass(frozen=True)
class Score:
    """What a reply is worth."""

    total: float | None
    """From 0 to 1; None where every part abstains."""
    parts: Mapping[str, float | None]
    raw: Mapping[str, float] = field(default_factory=dict)
    """Of the part that a reward model judges: the model's score, logits."""


def rewards_of(job: TrainingJob, model: Any, tokenizer: Any) -> tuple["Rewards", "Rewards"]:
    """What a job optimises, and what it measures on held-out prompts.

    model: the policy in PEFT. Where a reward model judges, its adapter is put on the policy's base; what is active and
    what is trained stay as they are.
    """
    assert job.reward is not None
    given, rlhf = job.reward, job.reward.rlhf
    adapter = RewardAdapter(model, tokenizer, job) if rlhf.uses_reward_model else None
    rewards = Rewards(rlhf.reward, given.code, given.code_directory, given.cache, adapter)
    if rlhf.gold is None:
        return rewards, rewards
    return rewards, Rewards(rlhf.gold, given.code, given.code_directory, given.cache, adapter)


class Rewards:
    """The parts of a reward, ready to judge."""

    def __init__(
        self,
        parts: Sequence[Reward],
        code: Mapping[str, str],
        directory: Path,
        cache: Path,
        reward_model: RewardAdapter | None = None,
    ) -> None:
        """code, directory, cache: see `ToolRunner`. reward_model: where a part is judged by one."""
        self._weights = {part.name: part.weight for part in parts}
        self._tools = {
            part.name: ToolRunner(part.name, part.tool, code, directory, cache)
            for part in parts
            if part.tool is not None
        }
        self._models = {part.name: reward_model for part in parts if part.reward_model and reward_model is not None}
        if unjudged := self._weights.keys() - self._tools.keys() - self._models.keys():
            raise ValueError(f"{', '.join(unjudged)}: judged by a reward model, and none is given")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._weights)

    @property
    def identities(self) -> dict[str, str]:
        """Part -> digest of what decides its scores."""
        found = {name: tool.identity for name, tool in self._tools.items()}
        found |= {name: model.identity for name, model in self._models.items()}
        return {name: found[name] for name in self._weights}

    def judge(self, replies: Sequence[Reply]) -> list[Score]:
        """The score of each reply. Raises as `ToolRunner.scores` and `RewardAdapter.judge`."""
        by_part: dict[str, Sequence[float | None]] = {name: tool.scores(replies) for name, tool in self._tools.items()}
        preferred = {name: model.judge(replies) for name, model in self._models.items()}
        by_part |= {name: [each.probability for each in found] for name, found in preferred.items()}
        return [
            self._score(
                {name: by_part[name][place] for name in self._weights},
                {name: found[place].raw for name, found in preferred.items()},
            )
            for place in range(len(replies))
        ]

    def _score(self, parts: dict[str, float | None], raw: dict[str, float]) -> Score:
        said = {name: score for name, score in parts.items() if score is not None}
        if not said:
            return Score(None, parts, raw)
        weight = sum(self._weights[name] for name in said)
        return Score(sum(self._weights[name] * score for name, score in said.items()) / weight, parts, raw)
