"""Fit the scorer of names on texts with marked names, and measure it by cross-validation."""

import json
import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import Frozen, file_sha256
from sovereign_pipeline.privacy.identifiers.recognizers import structured_spans
from sovereign_pipeline.privacy.names.latin_words import recased
from sovereign_pipeline.privacy.names.name_models import Entity, NameModel
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.names.scorer import Candidate, Script, Weights, without_overlaps
from sovereign_pipeline.privacy.normalisation import normalise

COVER = 0.9
"""Share of a name's characters that a finding must cover, and of a finding that names must cover."""
FOLDS = 5
_STRENGTH = 1.0  # of the prior: the variance of a weight
_DECIMALS = 2
_LEAST = 0.1  # a smaller weight decides nothing
_LARGE = 100  # names; the F of a smaller set moves too much to choose a threshold by
Place = tuple[int, int]


class MarkedText(Frozen):
    """A line of a training set: a text, and its names as half-open spans."""

    text: str
    spans: tuple[Place, ...] = ()
    group: str = ""
    """Texts of one group stay on one side in the cross-validation: a template, a document, an author."""
    is_letter: bool = False
    """True if the text may end with a signature."""
    false_persons: tuple[Place, ...] = ()
    """Spans that a name model, if one reads the text, is taken to call persons: they teach doubt about its labels."""


class TrainingSet(Frozen):
    """A named set of marked texts."""

    name: str
    sha256: str
    licence: str = ""
    texts: tuple[MarkedText, ...] = Field(repr=False)


def read_set(path: Path, licence: str = "") -> TrainingSet:
    """Read a set from JSON lines. Raises InputError, which names the line and never quotes it."""
    texts = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = MarkedText.model_validate_json(line)
        except ValueError:
            row = None
        if row is None or any(not 0 <= start < end <= len(row.text) for start, end in row.spans):
            raise InputError(
                f"{path}, line {number}: no marked text.", 'Write {"text": …, "spans": [[start, end], …]}.'
            )
        texts.append(row)
    return TrainingSet(name=path.stem, sha256=file_sha256(path), licence=licence, texts=tuple(texts))


@dataclass(frozen=True)
class Example:
    """A text's candidates and its names."""

    group: str
    names: tuple[Place, ...]
    candidates: tuple[Candidate, ...]


def examples_of(texts: Sequence[MarkedText], model: NameModel | None, patterns: NamePatterns) -> list[Example]:
    """Return the candidates of each text. Candidates in a structured identifier are left out, as identifiers win."""
    normalised = [normalise(each.text) for each in texts]
    read = model.entities([recased(each.text) for each in normalised]) if model is not None else (None for _ in texts)
    found = []
    for each, folded, entities in zip(texts, normalised, read, strict=True):
        identifiers = [(span.start, span.end) for span in structured_spans(folded.with_tabs)]
        starts = folded.starts or range(len(each.text) + 1)
        names = tuple((bisect_left(starts, start), bisect_left(starts, end)) for start, end in each.spans)
        if entities is not None and each.false_persons:
            others = [entity for entity in entities if not _overlapping(entity[:2], each.false_persons)]
            entities = sorted([*others, *(Entity(start, end, "PERSON") for start, end in each.false_persons)])
        candidates = patterns.candidates(folded.text, entities, signed=each.is_letter)
        kept = tuple(each for each in candidates if not _overlapping(each[:2], identifiers))
        found.append(Example(each.group, names, kept))
    return found


# --- measuring --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Counts:
    """Found names and right findings, with their totals."""

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

    def measure(self, beta: float = 1.0) -> dict[str, float]:
        """Return recall, precision and F (recall counts `beta` times as much)."""
        recall, precision = self.found / max(self.names, 1), self.right / max(self.findings, 1)
        weighed = beta * beta * precision + recall
        f = (1 + beta * beta) * recall * precision / weighed if weighed else 0.0
        return {"recall": round(recall, 3), "precision": round(precision, 3), "f": round(f, 4)}


def counts_of(names: Sequence[Place], findings: Sequence[Place]) -> Counts:
    """Compare findings with names: at least COVER of the characters of one lie in the others."""
    return Counts(
        sum(_cover(each, findings) >= COVER for each in names),
        len(names),
        sum(_cover(each, names) >= COVER for each in findings),
        len(findings),
    )


def _cover(place: Place, others: Iterable[Place]) -> float:
    start, end = place
    covered = {at for first, last in others for at in range(max(start, first), min(end, last))}
    return len(covered) / (end - start)


def _overlapping(place: Place, others: Iterable[Place]) -> list[Place]:
    return [each for each in others if each[0] < place[1] and place[0] < each[1]]


# --- fitting ----------------------------------------------------------------------------------------------------------

FAVOURS: Mapping[str, float] = {"recall": 2.0, "balanced": 1.25, "precision": 0.5}
"""Favour -> beta of the F that its threshold maximises."""
_GRID = [step / 10 for step in range(-40, 31)]


def fit_script(
    sets: Mapping[str, Sequence[Example]], prior: Weights | None = None, importance: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """Fit the weights of one script, choose the thresholds, and measure both on texts that were not fitted.

    Each set is cut into folds of whole groups. The threshold of a favour has the highest mean F of the large
    sets.

    Args:
        sets: name -> examples.
        prior: weights from which the fit starts, and which few examples change little.
        importance: name -> how often the set's examples count; 1 by default.
    """
    folds = {name: _folds(examples) for name, examples in sets.items()}
    scored: dict[str, list[tuple[Example, list[float]]]] = {name: [] for name in sets}
    for fold in range(FOLDS):
        rest = {
            name: [each for i, part in enumerate(parts) if i != fold for each in part] for name, parts in folds.items()
        }
        weights = fit_weights(rest, prior, importance)
        for name, parts in folds.items():
            scored[name] += [(each, [weights.score(one.features) for one in each.candidates]) for each in parts[fold]]
    by_grid = {
        at: {name: sum((_at(each, scores, at) for each, scores in rows), Counts()) for name, rows in scored.items()}
        for at in _GRID
    }
    counted = [name for name in sets if any(each.names for each in sets[name])]
    large = [name for name in counted if sum(len(each.names) for each in sets[name]) >= _LARGE] or counted
    thresholds = {
        favour: max(_GRID, key=lambda at: sum(by_grid[at][name].measure(beta)["f"] for name in large))
        for favour, beta in FAVOURS.items()
    }
    weights = fit_weights(sets, prior, importance)
    return {
        "weights": {
            "bias": round(weights.bias, _DECIMALS),
            "features": {name: value for name, value in sorted(weights.features.items()) if abs(value) >= _LEAST},
            "thresholds": thresholds,
        },
        "measured": {
            favour: {name: by_grid[at][name].measure() for name in counted} for favour, at in thresholds.items()
        },
    }


def _folds(examples: Sequence[Example]) -> list[list[Example]]:
    groups = sorted({each.group for each in examples})
    random.Random(0).shuffle(groups)
    place = {group: number % FOLDS for number, group in enumerate(groups)}
    parts: list[list[Example]] = [[] for _ in range(FOLDS)]
    for each in examples:
        parts[place[each.group]].append(each)
    return parts


def _at(example: Example, scores: Sequence[float], threshold: float) -> Counts:
    chosen = without_overlaps([pair for pair in zip(scores, example.candidates, strict=True) if pair[0] > threshold])
    return counts_of(example.names, [each[:2] for each in chosen])


def _labelled(example: Example) -> Iterator[tuple[Candidate, bool]]:
    """Yield the candidates with whether each is a name, without those beside a name that no candidate matches."""
    matched = {name for name in example.names if any(_matches(each[:2], name) for each in example.candidates)}
    for each in example.candidates:
        near = _overlapping(each[:2], example.names)
        if any(_matches(each[:2], name) for name in near):
            yield each, True
        elif all(name in matched for name in near):
            yield each, False


def _matches(place: Place, name: Place) -> bool:
    return _cover(place, [name]) >= COVER and _cover(name, [place]) >= COVER


def fit_weights(
    sets: Mapping[str, Sequence[Example]], prior: Weights | None = None, importance: Mapping[str, float] | None = None
) -> Weights:
    """Fit a logistic regression with a normal prior on each weight (Bishop 2006, section 4.5)."""
    import numpy as np
    from scipy.optimize import minimize
    from scipy.sparse import csr_matrix

    rows = [
        (one.features, label, (importance or {}).get(name, 1.0))
        for name, examples in sets.items()
        for example in examples
        for one, label in _labelled(example)
    ]
    features = sorted({feature for each, _, _ in rows for feature in each} | set(prior.features if prior else ()))
    column = {feature: place for place, feature in enumerate(features)}
    indices = [column[feature] for each, _, _ in rows for feature in each]
    ends = np.cumsum([0, *(len(each) for each, _, _ in rows)])
    matrix = csr_matrix((np.ones(len(indices)), indices, ends), shape=(len(rows), len(features)))
    signs = np.array([1.0 if label else -1.0 for _, label, _ in rows])
    times = np.array([weight for _, _, weight in rows])
    start = np.array(
        [prior.features.get(each, 0.0) if prior else 0.0 for each in features] + [prior.bias if prior else 0.0]
    )

    def loss(values: Any) -> tuple[float, Any]:
        margins = signs * (matrix @ values[:-1] + values[-1])
        pull = -signs * times / (1 + np.exp(np.clip(margins, -500, 500)))
        further = values - start
        further[-1] = 0.0 if prior is None else further[-1]  # the bias has no prior of its own
        value = float(times @ np.logaddexp(0, -margins) + further @ further / (2 * _STRENGTH))
        return value, np.append(matrix.T @ pull, pull.sum()) + further / _STRENGTH

    fitted = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 1_000}).x
    rounded = [round(float(value), _DECIMALS) for value in fitted]
    return Weights(rounded[-1], dict(zip(features, rounded[:-1], strict=True)), {})


def fit(
    sets: Sequence[TrainingSet],
    models: Mapping[Script, NameModel | None],
    prior: Mapping[str, Any] | None = None,
    importance: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Fit every script and return the content of a file of weights.

    Args:
        models: script -> the name model that reads the texts; None for none.
        prior: the content of the file of weights from which the fit starts.
    """
    patterns = NamePatterns()
    fitted = {}
    for script, model in models.items():
        of_script = {each.name: examples_of(each.texts, model, patterns) for each in sets}
        before = Weights(**prior["weights"][script]) if prior is not None else None
        fitted[script] = fit_script(of_script, before, importance)
    kept = dict(prior["weights"]) if prior is not None else {}
    return {
        "trained_on": [each.model_dump(exclude={"texts"}) | {"texts": len(each.texts)} for each in sets],
        "measured": {script: each["measured"] for script, each in fitted.items()},
        "weights": kept | {script: each["weights"] for script, each in fitted.items()},
    }


def write_weights(content: Mapping[str, Any], path: Path) -> None:
    """Write a file of weights."""
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
