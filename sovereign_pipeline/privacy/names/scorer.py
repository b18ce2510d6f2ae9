"""Weigh the features of candidates for names, and choose the names among overlapping candidates."""

import json
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from sovereign_pipeline.base.errors import PrivacyError

PACKAGED = Path(__file__).with_name("weights.json")

Script = Literal["latin", "latin_alone", "arabic", "arabic_alone"]
"""Which weights: by script, and `_alone` where no name model read the text."""
Favour = Literal["recall", "balanced", "precision"]


class Candidate(NamedTuple):
    """A half-open span that may be a name, and the names of its features."""

    start: int
    end: int
    features: tuple[str, ...]


@dataclass(frozen=True)
class Weights:
    """The weights of one script: a linear score, in logits."""

    bias: float
    features: Mapping[str, float]
    thresholds: Mapping[str, float]
    """Favour -> the score from which a candidate is a name."""

    def score(self, features: Iterable[str]) -> float:
        """Return the score of a candidate. A feature that was not fitted counts nothing."""
        weights = self.features
        return self.bias + sum([weights[each] for each in features if each in weights])


class Scorer:
    """Fitted weights and one policy. A higher score is a more certain name; 0 is the policy's threshold."""

    def __init__(self, content: Mapping[str, Any], favour: Favour = "balanced") -> None:
        """
        Args:
            content: a file of weights, as `training.fit` returns it.
        """
        self.content = content
        self._weights = {script: Weights(**each) for script, each in content["weights"].items()}
        self._thresholds = {script: each.thresholds[favour] for script, each in self._weights.items()}

    def score(self, script: Script, features: Iterable[str]) -> float:
        """Return the score of a candidate above the threshold."""
        return self._weights[script].score(features) - self._thresholds[script]

    def names(self, script: Script, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Return the candidates that are names, without overlaps. Of overlapping ones, the highest score wins."""
        scored = [(self.score(script, each.features), each) for each in candidates]
        return without_overlaps([pair for pair in scored if pair[0] > 0])

    def reasons(self, script: Script, features: Sequence[str], count: int = 3) -> list[tuple[str, float]]:
        """Return the features that speak most for a candidate, with their weights."""
        weights = self._weights[script].features
        found = [(each, weights[each]) for each in features if weights.get(each, 0) > 0]
        return sorted(found, key=lambda pair: -pair[1])[:count]


def without_overlaps(scored: Iterable[tuple[float, Candidate]]) -> list[Candidate]:
    """Return the candidates in reading order, of overlapping ones the one with the highest score."""
    chosen: list[Candidate] = []
    for _, each in sorted(scored, key=lambda pair: (-pair[0], pair[1].start, pair[1].end)):
        place = bisect_left(chosen, each.start, key=lambda other: other.start)
        after_one = place == 0 or chosen[place - 1].end <= each.start
        if after_one and (place == len(chosen) or each.end <= chosen[place].start):
            chosen.insert(place, each)
    return chosen


@cache
def load_scorer(path: Path = PACKAGED, favour: Favour = "balanced") -> Scorer:
    """Read a file of weights. Raises PrivacyError if it is none."""
    try:
        return Scorer(json.loads(path.read_bytes()), favour)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PrivacyError(
            f"{path}: this is no file of name weights ({type(error).__name__}).",
            "Run `sovereign privacy train`, or leave privacy.names.weights out.",
        ) from None
