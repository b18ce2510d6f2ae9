"""How well scores tell the chosen reply of held-out pairs from the rejected one, and what two baselines reach.

The baselines see the surface alone: they show what of an accuracy needs no reading. These are functions on numbers and
texts; words of documents never leave this module.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.base.intervals import MeasuredShare, measured_share
from sovereign_pipeline.dataset.jsonl import PreferenceRow

CHANCE = 0.5
BINS = 5
"""Of the calibration, with about as many pairs each."""
LEAST_PAIRS_IN_A_BIN = 4


class PairScore(Frozen):
    """One line of `held_out_scores.jsonl`."""

    id: str
    chosen: float
    """Score of the chosen reply, in logits."""
    rejected: float

    @property
    def margin(self) -> float:
        return self.chosen - self.rejected


class CalibrationBin(Frozen):
    """Pairs with margins of like size."""

    expected: float
    """Mean probability that the model gives the reply it prefers, from 0.5 to 1."""
    right: MeasuredShare
    """How often that reply is the chosen one."""


class HeldOutAccuracy(Frozen):
    """What the held-out pairs say of a reward model."""

    accuracy: MeasuredShare
    """Pairs whose chosen reply scores higher; equal scores count as wrong."""
    length_only: MeasuredShare
    """By the reply's length alone: the longer or the shorter one, whichever is chosen more often in training."""
    words_only: MeasuredShare
    """By single words alone, weighted by how often each stands only in the chosen or only in the rejected reply."""
    where_length_is_wrong: MeasuredShare
    """Accuracy on the pairs that the length alone gets wrong."""
    mean_margin: float
    calibration: tuple[CalibrationBin, ...]


def held_out_accuracy(
    scores: Sequence[PairScore], held_out: Sequence[PreferenceRow], training: Sequence[PreferenceRow]
) -> HeldOutAccuracy:
    """scores: one for each held-out row, in the same order. The baselines learn from the training rows alone."""
    right = [score.margin > 0 for score in scores]
    by_length = _by_length(training, held_out)
    wrong = [place for place, is_right in enumerate(by_length) if not is_right]
    return HeldOutAccuracy(
        accuracy=measured_share(sum(right), len(right)),
        length_only=measured_share(sum(by_length), len(by_length)),
        words_only=measured_share(sum(_by_words(training, held_out)), len(held_out)),
        where_length_is_wrong=measured_share(sum(right[place] for place in wrong), len(wrong)),
        mean_margin=sum(score.margin for score in scores) / len(scores) if scores else 0.0,
        calibration=calibration([score.margin for score in scores]),
    )


def calibration(margins: Sequence[float]) -> tuple[CalibrationBin, ...]:
    """Under Bradley and Terry's model, the sigmoid of a margin is the probability that the reply is preferred."""
    ordered = sorted(margins, key=abs)
    count = max(1, min(BINS, len(ordered) // LEAST_PAIRS_IN_A_BIN))
    bounds = [len(ordered) * place // count for place in range(count + 1)]
    bins = [ordered[start:end] for start, end in pairwise(bounds) if end > start]
    return tuple(
        CalibrationBin(
            expected=sum(1 / (1 + math.exp(-abs(margin))) for margin in each) / len(each),
            right=measured_share(sum(margin > 0 for margin in each), len(each)),
        )
        for each in bins
    )


def _by_length(training: Sequence[PreferenceRow], held_out: Sequence[PreferenceRow]) -> list[bool]:
    def longer(row: PreferenceRow) -> int:
        return len(row["chosen"]) - len(row["rejected"])

    sign = 1 if sum((longer(row) > 0) - (longer(row) < 0) for row in training) >= 0 else -1
    return [sign * longer(row) > 0 for row in held_out]


def _by_words(training: Sequence[PreferenceRow], held_out: Sequence[PreferenceRow]) -> list[bool]:
    for_it: Counter[str] = Counter()
    against: Counter[str] = Counter()
    for row in training:
        chosen, rejected = _words(row["chosen"]), _words(row["rejected"])
        for_it.update(chosen - rejected)
        against.update(rejected - chosen)

    def weight(words: set[str]) -> float:
        return sum(math.log((for_it[word] + 1) / (against[word] + 1)) for word in sorted(words))

    def margin(row: PreferenceRow) -> float:
        chosen, rejected = _words(row["chosen"]), _words(row["rejected"])
        return weight(chosen - rejected) - weight(rejected - chosen)

    return [margin(row) > 0 for row in held_out]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))
