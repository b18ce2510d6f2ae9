"""Fit the weights of the name scorer to texts with marked names, and measure them by cross-validation."""

import json
import random
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from sovereign_pipeline.base.files import Frozen, file_sha256
from sovereign_pipeline.privacy.identifiers.recognizers import structured_spans
from sovereign_pipeline.privacy.names.latin_names import (
    Candidate,
    Favour,
    Script,
    SetRecord,
    Weights,
    WeightsFile,
    chosen,
)
from sovereign_pipeline.privacy.names.ner import COVER, MarkedText, Place, cover, covered, read_marked
from sovereign_pipeline.privacy.normalisation import normalise

FOLDS = 5
BETA: Mapping[Favour, float] = {"recall": 2.0, "balanced": 1.0, "precision": 0.5}
"""Favour -> beta of the F that its threshold maximises."""
_VARIANCE = 1.0  # of a weight's prior
_LARGE = 60  # names; the F of a smaller set moves too much to choose a threshold by
_GRID = [step / 10 for step in range(-30, 21)]


class TrainingSet(Frozen):
    """A named set of marked texts."""

    name: str
    sha256: str
    licence: str = ""
    texts: tuple[MarkedText, ...] = Field(repr=False)


def read_set(path: Path, licence: str = "") -> TrainingSet:
    """Read a set from JSON lines. Raises InputError, which names the line and never quotes it."""
    return TrainingSet(name=path.stem, sha256=file_sha256(path), licence=licence, texts=tuple(read_marked(path)))


@dataclass(frozen=True)
class Example:
    """A text's names and candidates, by their places in the normalised text."""

    group: str
    names: tuple[Place, ...]
    candidates: tuple[Candidate, ...]

    @cached_property
    def labelled(self) -> list[tuple[Candidate, bool]]:
        """Return the candidates with whether each is a name, without those beside a name that no candidate matches."""
        matched = {name for name in self.names if any(_matches(each[:2], name) for each in self.candidates)}
        near = [(each, _overlapping(each[:2], self.names)) for each in self.candidates]
        return [
            (each, any(_matches(each[:2], name) for name in names))
            for each, names in near
            if matched.issuperset(names) or any(_matches(each[:2], name) for name in names)
        ]


Find = Callable[[Sequence[str], Sequence[bool]], Iterable[Iterable[Candidate]]]
"""A function that finds the candidates of normalised texts; the second argument says which texts are letters."""


def examples_of(texts: Sequence[MarkedText], find: Find) -> list[Example]:
    """Return the candidates of each text, without those in a structured identifier, which wins over a name."""
    folded = [normalise(each.text) for each in texts]
    found = []
    for each, text, candidates in zip(
        texts, folded, find([text.text for text in folded], [each.is_letter for each in texts]), strict=True
    ):
        identifiers = [(span.start, span.end) for span in structured_spans(text.with_tabs or text.text)]
        starts = text.starts or range(len(each.text) + 1)
        names = tuple((bisect_left(starts, start), bisect_left(starts, end)) for start, end in each.spans)
        kept = tuple(one for one in candidates if not _overlapping(one[:2], identifiers))
        found.append(Example(each.group, names, kept))
    return found


def _overlapping(place: Place, others: Iterable[Place]) -> list[Place]:
    return [each for each in others if each[0] < place[1] and place[0] < each[1]]


@dataclass(frozen=True)
class Counts:
    """Found names of all names, and right findings of all findings."""

    found: int = 0
    names: int = 0
    right: int = 0
    findings: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.found + other.found,
            self.names + other.names,
            self.right + other.right,
            self.findings + other.findings,
        )

    @property
    def precision(self) -> float:
        return self.right / self.findings if self.findings else 1.0

    @property
    def recall(self) -> float:
        return self.found / self.names if self.names else 1.0


def counts_of(names: Sequence[Place], findings: Sequence[Place]) -> Counts:
    """Compare findings with names: at least COVER of the characters of one lie in the others."""
    return Counts(
        covered(names, findings),
        len(names),
        covered(findings, names),
        len(findings),
    )


def f_of(counts: Counts, beta: float = 1.0) -> float:
    """Return the F in which recall counts `beta` times as much as precision."""
    weighed = beta * beta * counts.precision + counts.recall
    return (1 + beta * beta) * counts.precision * counts.recall / weighed if weighed else 0.0


@dataclass(frozen=True)
class CrossValidation:
    """The examples of each set with the scores of weights that were fitted without them."""

    scored: Mapping[str, Sequence[tuple[Example, Sequence[float]]]]

    def counts(self, name: str, threshold: float) -> Counts:
        """Return the counts of a set at a threshold."""
        return sum((_counts_at(each, scores, threshold) for each, scores in self.scored[name]), Counts())

    def thresholds(self) -> dict[Favour, float]:
        """Return favour -> the threshold with the highest mean F of the large sets."""
        names = {name: sum(len(each.names) for each, _ in rows) for name, rows in self.scored.items()}
        large = [name for name, count in names.items() if count >= _LARGE] or [name for name in names if names[name]]
        counted = {at: [self.counts(name, at) for name in large] for at in _GRID}
        return {
            favour: max(_GRID, key=lambda at: sum(f_of(each, beta) for each in counted[at]))
            for favour, beta in BETA.items()
        }


def _counts_at(example: Example, scores: Sequence[float], threshold: float) -> Counts:
    if not example.candidates:
        return Counts(names=len(example.names))
    found = chosen(zip(scores, example.candidates, strict=True), threshold)
    return counts_of(example.names, [each[:2] for each in found])


def cross_validated(
    sets: Mapping[str, Sequence[Example]],
    importance: Mapping[str, float] | None = None,
    without: frozenset[str] = frozenset(),
) -> CrossValidation:
    """Cut each set into folds of whole groups, and score each fold by weights that were fitted to the others."""
    folds = {name: _folds(examples) for name, examples in sets.items()}
    scored: dict[str, list[tuple[Example, list[float]]]] = {name: [] for name in sets}
    for fold in range(FOLDS):
        rest = {
            name: [each for i, part in enumerate(parts) if i != fold for each in part] for name, parts in folds.items()
        }
        weights = fit_weights(rest, importance, without)
        for name, parts in folds.items():
            scored[name] += [(each, [weights.score(one.features) for one in each.candidates]) for each in parts[fold]]
    return CrossValidation(scored)


def _folds(examples: Sequence[Example]) -> list[list[Example]]:
    groups = sorted({each.group for each in examples})
    random.Random(0).shuffle(groups)
    place = {group: number % FOLDS for number, group in enumerate(groups)}
    parts: list[list[Example]] = [[] for _ in range(FOLDS)]
    for each in examples:
        parts[place[each.group]].append(each)
    return parts


# --- fitting ----------------------------------------------------------------------------------------------------------


def fit_script(
    sets: Sequence[TrainingSet],
    examples: Mapping[str, Sequence[Example]],
    importance: Mapping[str, float] | None = None,
) -> Weights:
    """Fit the weights of one script to the examples of each set, choose its thresholds, and measure both on texts that
    were not fitted.

    Args:
        importance: name of a set -> how often its examples count; 1 by default.
    """
    measured = cross_validated(examples, importance)
    thresholds = measured.thresholds()
    fitted = fit_weights(examples, importance)
    records = {}
    for each in sets:
        counts = {favour: measured.counts(each.name, at) for favour, at in thresholds.items()}
        records[each.name] = SetRecord(
            sha256=each.sha256,
            licence=each.licence,
            texts=len(each.texts),
            names=sum(len(text.spans) for text in each.texts),
            measured={favour: (round(one.precision, 3), round(one.recall, 3)) for favour, one in counts.items()},
        )
    return fitted.model_copy(update={"thresholds": thresholds, "sets": records})


def fit_weights(
    sets: Mapping[str, Sequence[Example]],
    importance: Mapping[str, float] | None = None,
    without: frozenset[str] = frozenset(),
) -> Weights:
    """Fit a logistic regression with a normal prior on each weight (Bishop 2006, section 4.5).

    Args:
        without: features to leave out.
    """
    import numpy as np
    from scipy.optimize import minimize
    from scipy.sparse import csr_matrix

    rows = [
        ([feature for feature in one.features if feature not in without], label, times)
        for name, examples in sets.items()
        for times in [(importance or {}).get(name, 1.0)]
        for example in examples
        for one, label in example.labelled
    ]
    features = sorted({feature for each, _, _ in rows for feature in each})
    column = {feature: place for place, feature in enumerate(features)}
    indices = [column[feature] for each, _, _ in rows for feature in each]
    ends = np.cumsum([0, *(len(each) for each, _, _ in rows)])
    matrix = csr_matrix((np.ones(len(indices)), indices, ends), shape=(len(rows), len(features)))
    signs = np.array([1.0 if label else -1.0 for _, label, _ in rows])
    counted = np.array([times for _, _, times in rows])

    def loss(values: Any) -> tuple[float, Any]:
        margins = signs * (matrix @ values[:-1] + values[-1])
        pull = -signs * counted / (1 + np.exp(np.clip(margins, -500, 500)))
        further = np.append(values[:-1], 0.0)  # the bias has no prior
        value = float(counted @ np.logaddexp(0, -margins) + further @ further / (2 * _VARIANCE))
        return value, np.append(matrix.T @ pull, pull.sum()) + further / _VARIANCE

    fitted = minimize(loss, np.zeros(len(features) + 1), jac=True, method="L-BFGS-B", options={"maxiter": 1_000}).x
    weights = {feature: round(float(value), 2) for feature, value in zip(features, fitted, strict=False)}
    return Weights(bias=round(float(fitted[-1]), 2), features=weights, thresholds={})


def _matches(place: Place, name: Place) -> bool:
    return cover(place, [name]) >= COVER and cover(name, [place]) >= COVER


def write_weights(weights: Mapping[Script, Weights], path: Path) -> None:
    """Write a file of weights. Short lists stay on one line."""
    content = WeightsFile(dict(weights)).model_dump(mode="json")
    text = json.dumps(content, indent=1, ensure_ascii=False)
    short = re.sub(r"\[[^\[\]{}]*\]", lambda found: re.sub(r"\s+", " ", found[0]), text)
    path.write_text(re.sub(r"\{[^{}]{0,160}\}", lambda found: re.sub(r"\s+", " ", found[0]), short) + "\n", "utf-8")
