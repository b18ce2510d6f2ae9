"""Compute a fitted linear score for candidates, decide which of them are names, and explain the score."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import Field, RootModel

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.base.files import Frozen

PACKAGED = Path(__file__).with_name("weights.json")

Script = Literal["latin", "latin_alone", "arabic", "arabic_alone"]
"""Key of the weights: the script, followed by `_alone` for texts that no name model read."""
Favour = Literal["recall", "balanced", "precision"]
FAVOURS: tuple[Favour, ...] = ("recall", "balanced", "precision")


class Candidate(NamedTuple):
    """A half-open span that may be a name, and the names of its features."""

    start: int
    end: int
    features: tuple[str, ...]


class SetRecord(Frozen):
    """A set of texts to which weights were fitted, or on which they were measured."""

    sha256: str
    licence: str = ""
    texts: int
    names: int
    measured: dict[Favour, tuple[float, float]] = {}
    """Value of `favour` -> precision and recall on texts to which the weights were not fitted."""


class Weights(Frozen):
    """The fitted weights of one script, in logits."""

    bias: float
    features: dict[str, float]
    thresholds: dict[Favour, float]
    """Value of `favour` -> score above which a candidate counts as a name."""
    sets: dict[str, SetRecord] = Field(default_factory=dict)

    def score(self, features: Iterable[str]) -> float:
        """Return the score of a candidate. Features without a weight are ignored."""
        weights = self.features
        return self.bias + sum([weights[each] for each in features if each in weights])


class WeightsFile(RootModel[dict[Script, Weights]]):
    """The content of a file of weights, by script."""


class Scorer:
    """Decides which candidates are names, by fitted weights and one policy (`favour`)."""

    def __init__(self, weights: Mapping[Script, Weights], favour: Favour = "balanced") -> None:
        self.weights = weights
        self._favour = favour

    def names(self, script: Script, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Return the candidates that are names, without overlaps. Of overlapping candidates, the highest score wins."""
        return self._above(script, candidates, self._favour)

    def doubtful(self, script: Script, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Return the candidates that do not count as names under this policy, but would if the policy favoured
        recall."""
        names, more = self.names(script, candidates), self._above(script, candidates, "recall")
        return [each for each in more if all(each.end <= name.start or name.end <= each.start for name in names)]

    def _above(self, script: Script, candidates: Iterable[Candidate], favour: Favour) -> list[Candidate]:
        weights = self.weights[script]
        return chosen([(weights.score(each.features), each) for each in candidates], weights.thresholds[favour])


def explain(weights: Weights, features: Iterable[str], count: int = 3) -> str:
    """Return a text with the features that contribute most to a candidate's score: "given name +2.1, after a title
    +1.4"."""
    known = {each: weights.features[each] for each in features if each in weights.features}
    strongest = sorted(known, key=lambda name: (-abs(known[name]), name))[:count]
    return ", ".join(f"{name} {known[name]:+.1f}" for name in strongest)


def chosen(scored: Iterable[tuple[float, Candidate]], threshold: float) -> list[Candidate]:
    """Return the candidates with a score above the threshold, in reading order. Of overlapping candidates, only the one
    with the highest score is returned."""
    found: list[Candidate] = []
    above = [pair for pair in scored if pair[0] > threshold]
    for _, each in sorted(above, key=lambda pair: (-pair[0], pair[1].start, pair[1].end)):
        place = bisect_left(found, each.start, key=lambda other: other.start)
        after_one = place == 0 or found[place - 1].end <= each.start
        if after_one and (place == len(found) or each.end <= found[place].start):
            found.insert(place, each)
    return found


@cache
def load_weights(path: Path = PACKAGED) -> dict[Script, Weights]:
    """Read a file of weights. Raises PrivacyError if it is missing or invalid."""
    try:
        return WeightsFile.model_validate_json(path.read_bytes()).root
    except (OSError, ValueError) as error:
        raise PrivacyError(
            f"{path}: this is no file of name weights ({type(error).__name__}).",
            "Fit the weights again, or use the packaged ones.",
        ) from None
