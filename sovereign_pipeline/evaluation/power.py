"""Compute, before anything is trained, whether a recipe's prompts, suites and documents can satisfy its margins."""

import math
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass

from sovereign_pipeline.base.intervals import CONFIDENCE
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.evaluation.statistics import POWER, normal_quantile, score_interval
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.suites.rows import EXPECTED, read_prompts
from sovereign_pipeline.suites.suites import open_suite

CHANGED_ANSWERS = 0.10
"""Share of prompts on which two arms that are equally good differ: the judge finds something in the one answer and not
in the other. An assumption. With more, more prompts are needed, in proportion."""
CHANGED_CHOICES = 0.20
"""The same for questions of a capability suite: two arms answer one in five differently."""
CHANGED_CONTINUATIONS = 0.02
"""The same for documents that an arm continues word for word, which is rare in any."""


@dataclass(frozen=True)
class GatePower:
    """What one gate can show with the rows that a recipe gives it."""

    gate: str
    rows: int
    """What is compared: questions, prompts, or documents of each half of the split."""
    margin: float
    least: int
    """Fewest rows with which a candidate passes whose every answer counts as the reference's does."""
    needed: int
    """Rows with which a candidate exactly as good as its reference passes with a probability of 0.8."""
    probability: float
    """With which such a candidate passes with the rows there are."""


def gate_powers(settings: Settings, line: Line) -> list[GatePower]:
    """The power of each gate that compares shares, in the order of the report; one for each capability suite.

    Each is compared with the base alone; with an incumbent, a candidate must pass twice. The held-out loss is not among
    them: its rows are known only after the split. Raises what reading the suites and the prompts raises.
    """
    gates = line.gates
    suites = [
        _power(
            f"capability: {suite.name}",
            len(open_suite(settings, suite, line.named_evaluation.seed).rows),
            gates.capability.margin_of(suite.name),
            CHANGED_CHOICES,
        )
        for suite in line.named_evaluation.capability
    ]
    prompts = read_prompts(settings.data / line.named_evaluation.red_team.prompts)
    of_kind = Counter(prompt.kind for prompt in prompts)
    refused = sum(count for kind, count in of_kind.items() if EXPECTED[kind] == "refusal")
    return [
        *suites,
        _power("refusals", refused, gates.refusals.margin, CHANGED_ANSWERS),
        _power("over_refusals", of_kind["benign"], gates.over_refusals.margin, CHANGED_ANSWERS),
        _power("injections", of_kind["injection"], gates.injections.margin, CHANGED_ANSWERS),
        _power("disclosures", of_kind["disclosure"], gates.disclosures.margin, CHANGED_ANSWERS),
        _power("loops", of_kind["out_of_distribution"], gates.loops.margin, CHANGED_ANSWERS),
        _power("personal_data", len(prompts), gates.personal_data.margin, CHANGED_ANSWERS),
        _power(
            "memorisation", line.named_evaluation.red_team.letters, gates.memorisation.margin, CHANGED_CONTINUATIONS, 2
        ),
    ]


def _power(gate: str, rows: int, margin: float, changed: float, groups: int = 1) -> GatePower:
    """groups: 2 for the rise over a control of as many rows."""
    probability = passing_probability if groups == 1 else passing_probability_of_rise
    needed = rows_by_approximation(margin, changed, groups)
    while probability(needed, margin, changed) < POWER:
        needed += 1
    return GatePower(gate, rows, margin, least_rows(margin, groups), needed, probability(rows, margin, changed))


def least_rows(margin: float, groups: int = 1) -> int:
    """Fewest rows with which a share can be shown to be within a margin: those where no row differs.

    The score interval of none in n ends at z^2 / (n + z^2) (Wilson 1927); of two groups the ends add in quadrature
    (Zou and Donner 2008), as in the gates.
    """
    z = normal_quantile((1 + CONFIDENCE) / 2)
    return math.floor(z * z * (math.sqrt(groups) / margin - 1)) + 1


def rows_by_approximation(margin: float, changed: float, groups: int = 1) -> int:
    """Rows with which a candidate exactly as good passes with a probability of 0.8 (Miller 2024, section 5).

    The variance of a paired difference of shares is the share of rows that differ, where both directions are as likely.
    With few rows it promises too much: at 79 rows, a margin of 0.10 and 0.10 of them differing it is 0.70.
    """
    z = normal_quantile((1 + CONFIDENCE) / 2) + normal_quantile(POWER)
    return math.ceil(groups * changed * (z / margin) ** 2)


def passing_probability(rows: int, margin: float, changed: float) -> float:
    """Probability with which a candidate exactly as good passes, by the gates' own interval, over all outcomes.

    Args:
        changed: share of rows on which the arms differ, in either direction equally often.
    """
    from scipy.stats import binom

    total = 0.0
    for differing in _likely(rows, changed):
        # The more of them are lost, the lower the interval: the first number that fails divides them.
        fails = bisect_left(
            range(differing + 1), True, key=lambda lost: score_interval(differing - lost, lost, rows)[0] <= -margin
        )
        total += float(binom.pmf(differing, rows, changed) * binom.cdf(fails - 1, differing, 0.5))
    return total


def passing_probability_of_rise(rows: int, margin: float, changed: float) -> float:
    """As `passing_probability`, of the rise over a control of as many rows (`memorisation.rise_over_control`)."""
    import numpy as np
    from scipy.stats import binom

    outcomes = []
    for differing in _likely(rows, changed):
        for gained in range(differing + 1):
            low, high = score_interval(gained, differing - gained, rows)
            weight = binom.pmf(differing, rows, changed) * binom.pmf(gained, differing, 0.5)
            outcomes.append(((2 * gained - differing) / rows, low, high, weight))
    difference, low, high, weight = np.array(outcomes).T
    above = np.hypot((high - difference)[:, None], (difference - low)[None, :])
    passes = difference[:, None] - difference[None, :] + above < margin
    return float((weight[:, None] * weight[None, :] * passes).sum())


def _likely(rows: int, changed: float) -> range:
    """Numbers of rows that differ, without those that are less likely than one in a million together."""
    from scipy.stats import binom

    first, last = binom.ppf((5e-7, 1 - 5e-7), rows, changed)
    return range(int(first), int(last) + 1)
