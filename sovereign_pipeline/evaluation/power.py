"""Compute before training whether a recipe has enough prompts, rows and documents to pass its margins."""

import math
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass

from sovereign_pipeline.base.intervals import confidence
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.evaluation.statistics import POWER, normal_quantile, score_interval
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.suites.rows import EXPECTED, open_suite, prompt_files, read_prompts

CHANGED_ANSWERS = 0.10
"""Assumed share of prompts on which a judge's verdicts differ between two equally good arms. The number of prompts
needed is proportional to this share."""
CHANGED_CHOICES = 0.20
"""Assumed share of rows of a capability suite on which two equally good arms differ."""
CHANGED_CONTINUATIONS = 0.02
"""Assumed share of documents that only one of two equally good arms continues verbatim. The share is low, because arms
rarely continue a document verbatim."""


@dataclass(frozen=True)
class GatePower:
    """The statistical power of one gate with the recipe's number of rows."""

    gate: str
    rows: int
    """Number of compared rows: suite rows, prompts, or documents from each side of the split."""
    margin: float
    least: int
    """Minimum number of rows with which a candidate passes if its results equal the reference's on every row."""
    needed: int
    """Number of rows with which a candidate exactly as good as its reference passes with probability 0.8."""
    probability: float
    """Probability that a candidate exactly as good as its reference passes with `rows` rows."""


def gate_powers(settings: Settings, line: Line) -> list[GatePower]:
    """Compute the power of each gate that compares shares, in the report's order, with one entry for each capability
    suite.

    Each power is for the comparison with the base alone. If there is an incumbent, a candidate must pass the comparison
    with the base and the comparison with the incumbent. The held-out loss is left out, because its number of rows is
    known only after the split. Raises the errors of reading the suites and the prompts.
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
    prompts = read_prompts(*prompt_files(settings.data, line.named_evaluation.red_team).values())
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
    """Compute the power of one gate. `groups`: 2 if the gate tests a rise over a control with the same number of rows,
    otherwise 1."""
    probability = passing_probability if groups == 1 else passing_probability_of_rise
    needed = rows_by_approximation(margin, changed, groups)
    while probability(needed, margin, changed) < POWER:
        needed += 1
    return GatePower(gate, rows, margin, least_rows(margin, groups), needed, probability(rows, margin, changed))


def least_rows(margin: float, groups: int = 1) -> int:
    """Return the minimum number of rows with which a difference of 0 on every row passes the margin.

    The score interval of 0 in n ends at z^2 / (n + z^2) (Wilson 1927). For two groups the ends add in quadrature (Zou
    and Donner 2008), as in the gates.
    """
    z = normal_quantile((1 + confidence()) / 2)
    return math.floor(z * z * (math.sqrt(groups) / margin - 1)) + 1


def rows_by_approximation(margin: float, changed: float, groups: int = 1) -> int:
    """Approximate the number of rows with which a candidate exactly as good as its reference passes with probability
    0.8 (Miller 2024, section 5). The variance of a paired difference of shares equals the share of rows that differ, if
    both directions are equally likely. The approximation is optimistic with few rows: with 79 rows, a margin of 0.10
    and a share of differing rows of 0.10, the true probability is 0.70.
    """
    z = normal_quantile((1 + confidence()) / 2) + normal_quantile(POWER)
    return math.ceil(groups * changed * (z / margin) ** 2)


def passing_probability(rows: int, margin: float, changed: float) -> float:
    """Return the exact probability that a candidate exactly as good as its reference passes, with the interval that the
    gates use.

    Args:
        changed: share of rows on which the arms differ, equally often in either direction.
    """
    from scipy.stats import binom

    total = 0.0
    for differing in _likely(rows, changed):
        # The interval falls as more of the differing rows are lost, so the first number that fails separates pass from
        # fail.
        fails = bisect_left(
            range(differing + 1), True, key=lambda lost: score_interval(differing - lost, lost, rows)[0] <= -margin
        )
        total += float(binom.pmf(differing, rows, changed) * binom.cdf(fails - 1, differing, 0.5))
    return total


def passing_probability_of_rise(rows: int, margin: float, changed: float) -> float:
    """Return the probability as `passing_probability` does, for a gate on the rise over a control with the same number
    of rows (`memorisation.rise_over_control`)."""
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
    """Return the plausible numbers of differing rows. The omitted numbers together have a probability below one in a
    million."""
    from scipy.stats import binom

    first, last = binom.ppf((5e-7, 1 - 5e-7), rows, changed)
    return range(int(first), int(last) + 1)
