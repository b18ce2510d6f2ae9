"""The reward of a reply: the weighted mean of what its parts say.

What does not belong here: how a part judges (`tools.py`), and the penalties for divergence and for a missing end, which
are the algorithm's (`ppo.py`, `trainer.py`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.policy.rlhf import Reward
from sovereign_pipeline.training.rlhf.tools import Reply, ToolRunner


@dataclass(frozen=True)
class Score:
    """What a reply is worth."""

    total: float | None
    """From 0 to 1; None where every part abstains."""
    parts: Mapping[str, float | None]


class Rewards:
    """The parts of a reward, ready to judge."""

    def __init__(self, parts: Sequence[Reward], code: Mapping[str, str], directory: Path, cache: Path) -> None:
        """See `ToolRunner`."""
        self._weights = {part.name: part.weight for part in parts}
        self._runners = [ToolRunner(part.name, part.tool, code, directory, cache) for part in parts]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._weights)

    @property
    def identities(self) -> dict[str, str]:
        """Part -> digest of what decides its scores."""
        return {runner.name: runner.identity for runner in self._runners}

    def judge(self, replies: Sequence[Reply]) -> list[Score]:
        """The score of each reply. Raises as `ToolRunner.scores`."""
        by_part = {runner.name: runner.scores(replies) for runner in self._runners}
        return [self._score({name: by_part[name][place] for name in by_part}) for place in range(len(replies))]

    def _score(self, parts: dict[str, float | None]) -> Score:
        said = {name: score for name, score in parts.items() if score is not None}
        if not said:
            return Score(None, parts)
        weight = sum(self._weights[name] for name in said)
        return Score(sum(self._weights[name] * score for name, score in said.items()) / weight, parts)
