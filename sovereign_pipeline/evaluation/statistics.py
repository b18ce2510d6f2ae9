"""Paired statistics: confidence intervals of differences, the test of a difference against a margin, and the power of a
recipe's gates before training.

Differences are candidate minus reference over the same rows. The test is the non-inferiority test in the form that uses
a confidence interval: Piaggio et al. 2012 (JAMA 308: 2594-2604, extension of CONSORT, figure 1) and FDA 2016
(Non-Inferiority Clinical Trials to Establish Effectiveness). The interval is two-sided at 95 %, so a candidate that is
worse by exactly the margin passes with a probability of 2.5 %. The interval is wider when the same held-out documents
are used for a second or later evaluation (`looks.py`).
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, Protocol, TypeVar

from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.base.intervals import clustered_interval, confidence
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import folded
from sovereign_pipeline.evaluation.arms import Arm, Reference, references_in
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.record.stage import Outcome
from sovereign_pipeline.suites.rows import EXPECTED, open_suite, prompt_files, read_prompts

Row = TypeVar("Row")
Better = Literal["higher", "lower"]
"""Direction in which a metric is better: `higher` for accuracy, `lower` for loss."""
POWER = 0.8
"""Power for which the minimum detectable difference is computed."""


class PairedDifference(Frozen):
    """The means of reference and candidate over the same rows, and the confidence interval of their difference. The
    confidence is 95 %, or higher for a gate that tests the same held-out documents repeatedly (`looks.py`)."""

    reference: float
    candidate: float
    difference: float
    low: float
    high: float
    rows: int
    clusters: int
    """Number of clusters. Rows of one cluster, such as one case file, are dependent."""


class LossDifference(PairedDifference):
    """A difference of means, such as losses in nats per token."""


class ShareDifference(PairedDifference):
    """A difference of shares (0 to 1), and the p-value of McNemar's exact test, which assumes independent rows."""

    only_reference: int
    """Number of rows on which only the reference's value is true."""
    only_candidate: int
    """Number of rows on which only the candidate's value is true."""
    p_value: float
    """Two-sided p-value."""


Shares = dict[Reference, ShareDifference]


def loss_differences(
    rows: Sequence[Mapping[Arm, float]], clusters: Sequence[str], seed: int, weights: Sequence[float] | None = None
) -> dict[Reference, LossDifference]:
    """Compare the candidate's losses with the losses of each reference (`compare_losses`). All rows must have the same
    arms. Returns an empty dict without rows."""
    return {
        reference: compare_losses(
            [row[reference] for row in rows], [row["candidate"] for row in rows], clusters, seed, weights
        )
        for reference in _references(rows)
    }


def share_differences(rows: Sequence[Mapping[Arm, bool]], clusters: Sequence[str]) -> Shares:
    """Compare the candidate's share of true values with the share of each reference (`compare_shares`). All rows must
    have the same arms. Returns an empty dict without rows."""
    return {
        reference: compare_shares([row[reference] for row in rows], [row["candidate"] for row in rows], clusters)
        for reference in _references(rows)
    }


def compare_losses(
    reference: Sequence[float],
    candidate: Sequence[float],
    clusters: Sequence[str],
    seed: int,
    weights: Sequence[float] | None = None,
) -> LossDifference:
    """Compare two values per row. The interval is the `clustered_interval` of the differences.

    All arguments that have one value per row have the same length, and are not empty.

    Args:
        clusters: for each row, the id of its cluster, such as a case file. Rows of one cluster are dependent.
        weights: weight of each row in all means; None weights all rows equally.
    """
    differences = [after - before for before, after in zip(reference, candidate, strict=True)]
    interval = clustered_interval(differences, clusters, seed, weights)
    return LossDifference(**_paired(reference, candidate, differences, interval, clusters, weights))


def compare_shares(reference: Sequence[bool], candidate: Sequence[bool], clusters: Sequence[str]) -> ShareDifference:
    """Compare two booleans per row. The interval is the `clustered_score_interval` of the differences.

    All arguments have the same length and are not empty.
    """
    differences = [int(after) - int(before) for before, after in zip(reference, candidate, strict=True)]
    only_reference, only_candidate = differences.count(-1), differences.count(1)
    return ShareDifference(
        **_paired(reference, candidate, differences, clustered_score_interval(differences, clusters), clusters),
        only_reference=only_reference,
        only_candidate=only_candidate,
        p_value=mcnemar_exact(only_reference, only_candidate),
    )


def _paired(
    reference: Sequence[float],
    candidate: Sequence[float],
    differences: Sequence[float],
    interval: tuple[float, float],
    clusters: Sequence[str],
    weights: Sequence[float] | None = None,
) -> dict[str, Any]:
    return {
        "reference": _mean(reference, weights),
        "candidate": _mean(candidate, weights),
        "difference": _mean(differences, weights),
        "low": interval[0],
        "high": interval[1],
        "rows": len(differences),
        "clusters": len(set(clusters)),
    }


def mcnemar_exact(only_reference: int, only_candidate: int) -> float:
    """Return McNemar's exact two-sided p-value (McNemar 1947; exact binomial form, Agresti 2002, section 10.1.4). The
    hypothesis is that a discordant row favours either arm with probability one half. Without discordant rows, the
    p-value is 1.0."""
    from scipy.stats import binomtest

    discordant = only_reference + only_candidate
    return float(binomtest(only_candidate, discordant, 0.5).pvalue) if discordant else 1.0


def _references(rows: Sequence[Mapping[Arm, float]]) -> tuple[Reference, ...]:
    return references_in(rows[0]) if rows else ()


def _mean(values: Sequence[float], weights: Sequence[float] | None) -> float:
    if weights is None:
        return sum(values) / len(values)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)


class OfCase(Protocol):
    """A row about a document, with the document's case."""

    @property
    def case(self) -> str: ...


def grouped(rows: Sequence[Row], by: str) -> dict[str, list[Row]]:
    """Group rows by the value of the attribute `by`. The groups are sorted by this value."""
    values: list[str] = [getattr(row, by) for row in rows]
    return {
        each: [row for row, value in zip(rows, values, strict=True) if value == each] for each in sorted(set(values))
    }


def case_files(rows: Iterable[OfCase]) -> list[str]:
    """Return the case file of each row, normalised in the same way as for the split."""
    return [folded(row.case) for row in rows]


class Difference(Protocol):
    """A difference (candidate minus reference over the same rows) with its two-sided confidence interval."""

    @property
    def difference(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def rows(self) -> int: ...


class MarginOutcome(Frozen):
    """The outcome of testing one difference against one margin."""

    outcome: Outcome
    better: Better
    margin: float
    """Margin in the unit of the difference; 0 if superiority is required."""
    smallest_visible: float
    """Minimum detectable difference (80 % power), in the unit of the difference."""
    rows_needed: int | None
    """Number of rows at which `margin` would be the minimum detectable difference. None if superiority is required,
    because no number of rows can assure superiority."""


def evaluate_difference(observed: Difference, margin: float, better: Better) -> MarginOutcome:
    """Test a difference against `margin`, the largest accepted deterioration. A margin of 0 requires superiority.

    - pass: the whole interval is better than a deterioration by `margin`.
    - fail: the candidate is significantly worse than the reference (the whole interval is worse than 0), and the
      estimated deterioration is above the margin. The whole interval need not be beyond the margin, so a small suite
      can fail too.
    - inconclusive: the rows show neither of these.
    """
    sign = 1 if better == "higher" else -1
    ends = (sign * observed.low, sign * observed.high)
    outcome: Outcome = "inconclusive"
    if min(ends) > -margin:
        outcome = "pass"
    elif max(ends) < 0 and sign * observed.difference < -margin:
        outcome = "fail"
    detectable = minimum_detectable_difference(observed)
    return MarginOutcome(
        outcome=outcome,
        better=better,
        margin=margin,
        smallest_visible=detectable,
        rows_needed=math.ceil(observed.rows * (detectable / margin) ** 2) if margin > 0 else None,
    )


def minimum_detectable_difference(observed: Difference) -> float:
    """Return the smallest true difference that these rows detect with 80 % power, at the interval's confidence.

    At 95 % confidence, this difference is (z_0.975 + z_0.8) standard errors: Miller 2024 ("Adding Error Bars to
    Evals"), section 5, solved for the effect. A candidate that is exactly as good as its reference passes with a
    probability of 80 % if the margin equals this difference (Julious 2004, Statistics in Medicine 23: 1921-1986).

    The standard error is half the interval's width divided by z_0.975. The interval takes pairs and clusters into
    account. An interval of shares has a width even if no row differs.
    """
    half = (observed.high - observed.low) / 2
    return half * (1 + normal_quantile(POWER) / normal_quantile((1 + confidence()) / 2))


@cache
def normal_quantile(probability: float) -> float:
    """Return the quantile of the standard normal distribution."""
    from scipy.stats import norm

    return float(norm.ppf(probability))


def score_interval(gained: float, lost: float, rows: float, quantile: float | None = None) -> tuple[float, float]:
    """Return the asymptotic score interval of (gained - lost) / rows (Tango 1998, Statistics in Medicine 17: 891-908).

    The ends of the interval are the differences whose score statistic equals the quantile. The interval keeps its
    coverage even if few or no rows differ; a bootstrap interval would then have no width. Fagerland, Lydersen and Laake
    2014 (Statistics in Medicine 33: 2850-2875) recommend this interval for paired shares.

    Args:
        gained: number of rows where only the candidate is true; fractions are allowed.
        lost: number of rows where only the reference is true; fractions are allowed.
        quantile: normal quantile of the ends. None: the quantile of a two-sided interval at `confidence`.

    Raises ValueError if `rows` is not above 0.
    """
    if rows <= 0:
        raise ValueError(f"a score interval needs at least one row, not {rows} rows")
    z = normal_quantile((1 + confidence()) / 2) if quantile is None else quantile
    return -_upper_end(lost, gained, rows, z), _upper_end(gained, lost, rows, z)


def _upper_end(gained: float, lost: float, rows: float, z: float) -> float:
    from scipy.optimize import brentq

    observed = (gained - lost) / rows
    if observed >= 1:
        return 1.0

    def below(difference: float) -> float:
        return gained - lost - rows * difference + z * _deviation(gained, lost, rows, difference)

    # Start just above the observed difference: if no row differs, the statistic is 0/0 at the observed difference.
    return float(brentq(below, observed + 1e-9, 1.0, xtol=1e-12))


def _deviation(gained: float, lost: float, rows: float, difference: float) -> float:
    """Return the standard deviation of gained - lost if `difference` is the true difference (Tango 1998)."""
    b = (2 * rows - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    share_lost = (math.sqrt(max(b * b - 8 * rows * c, 0.0)) - b) / (4 * rows)
    return math.sqrt(max(rows * (2 * share_lost + difference * (1 - difference)), 0.0))


def clustered_score_interval(differences: Sequence[int], clusters: Sequence[str]) -> tuple[float, float]:
    """Return the score interval of the mean of `differences`, which are -1, 0 or 1. Rows of one cluster are dependent.

    The counts are divided by the design effect, which gives the effective number of independent rows (Rao and Scott
    1992, Biometrics 48: 577-585). The quantile is Student's t with (number of clusters - 1) degrees of freedom (Cameron
    and Miller 2015, Journal of Human Resources 50: 317-372, section VI). With one row per cluster, the result equals
    `score_interval`. The design effect cannot be estimated if few rows differ, so it is at least `_least_effect`. With
    a single cluster, the interval is -1 to 1. Raises ValueError if the arguments are empty or differ in length.
    """
    from scipy.stats import t

    names = set(clusters)
    if not differences or len(differences) != len(clusters):
        raise ValueError(f"each difference needs one cluster: {len(differences)} differences, {len(clusters)} clusters")
    rows, gained, lost = len(differences), differences.count(1), differences.count(-1)
    if len(names) == rows:
        return score_interval(gained, lost, rows)
    if len(names) == 1:
        return -1.0, 1.0
    quantile = float(t.ppf((1 + confidence()) / 2, len(names) - 1))
    effect = max(design_effect(differences, clusters), _least_effect(gained + lost, rows, len(names), quantile))
    return score_interval(gained / effect, lost / effect, rows / effect, quantile)


def _least_effect(differing: int, rows: int, clusters: int, quantile: float) -> float:
    """Return a lower bound for the design effect. If no row differs, the bound is the number of rows per cluster. The
    more rows differ, the lower the bound, down to 0.

    A single row that differs shows no more about the clusters than if no row differed. The interval must therefore not
    become narrower: its end must not be nearer to 0 than if no row differs. Under this condition, the bound falls as
    fast as possible. The upper limit U of a share p solves (U - p)^2 = z^2 * effect * U * (1 - U) / rows (Wilson 1927,
    Journal of the American Statistical Association 22: 209-212). With an effect of rows / clusters * (1 - p / U0)^2, U
    stays at U0 = z^2 / (clusters + z^2), which is the value of U for p = 0.
    """
    bound_of_none = quantile**2 / (clusters + quantile**2)
    return rows / clusters * max(0.0, 1 - differing / rows / bound_of_none) ** 2


def design_effect(values: Sequence[float], clusters: Sequence[str]) -> float:
    """Return the design effect, at least 1: the variance of the mean, divided by the variance that the mean would have
    if all rows were independent.

    Both variances have the usual small-sample correction, G / (G - 1) and n / (n - 1). If all values are equal, the
    result is the number of rows per cluster. There must be at least two clusters.
    """
    mean, rows = sum(values) / len(values), len(values)
    sums: dict[str, float] = {}
    for value, name in zip(values, clusters, strict=True):
        sums[name] = sums.get(name, 0.0) + value - mean
    alone = sum((value - mean) ** 2 for value in values) * rows / (rows - 1)
    if alone == 0:
        return rows / len(sums)
    together = sum(each * each for each in sums.values()) * len(sums) / (len(sums) - 1)
    return max(1.0, together / alone)


CHANGED_ANSWERS = 0.10
"""Assumed share of prompts on which a judge's verdicts on two equally good arms differ. The required number of prompts
is proportional to this share."""
CHANGED_CHOICES = 0.20
"""Assumed share of a capability suite's rows on which the results of two equally good arms differ."""
CHANGED_CONTINUATIONS = 0.02
"""Assumed share of documents that only one of two equally good arms continues verbatim. The share is low, because arms
rarely continue a document verbatim."""


@dataclass(frozen=True)
class GatePower:
    """The statistical power of one gate, given the recipe's number of rows."""

    gate: str
    rows: int
    """Number of compared rows: suite rows, prompts, or documents on each side of the split."""
    margin: float
    least: int
    """Minimum number of rows with which a candidate passes if its results equal the reference's on every row."""
    needed: int
    """Number of rows with which a candidate that is exactly as good as its reference passes with probability 0.8."""
    probability: float
    """Probability that a candidate that is exactly as good as its reference passes with `rows` rows."""


def gate_powers(settings: Settings, line: Line) -> list[GatePower]:
    """Compute the power of each gate that compares shares, in the report's order. Each capability suite has an entry of
    its own.

    The power is the probability of passing the comparison with the base. If there is an incumbent, a candidate must
    also pass the comparison with the incumbent. The held-out loss is left out, because its number of rows is known only
    after the split. Raises the errors of `open_suite` and `read_prompts`.
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
    """Compute the power of one gate. `groups` is 2 for a gate that subtracts the rise on control rows from the rise on
    the same number of training rows, otherwise 1."""
    probability = passing_probability if groups == 1 else passing_probability_of_rise
    needed = rows_by_approximation(margin, changed, groups)
    while probability(needed, margin, changed) < POWER:
        needed += 1
    return GatePower(gate, rows, margin, least_rows(margin, groups), needed, probability(rows, margin, changed))


def least_rows(margin: float, groups: int = 1) -> int:
    """Return the minimum number of rows with which a candidate passes the margin if no row differs from the reference.

    If none of n rows differs, the score interval ends at z^2 / (n + z^2) (Wilson 1927). For two groups, the ends add in
    quadrature (Zou and Donner 2008), as in the gates.
    """
    z = normal_quantile((1 + confidence()) / 2)
    return math.floor(z * z * (math.sqrt(groups) / margin - 1)) + 1


def rows_by_approximation(margin: float, changed: float, groups: int = 1) -> int:
    """Approximate the number of rows with which a candidate that is exactly as good as its reference passes with
    probability 0.8 (Miller 2024, section 5).

    The variance of a paired difference of shares equals the share of rows that differ, if both directions are equally
    likely. With few rows, the approximation is optimistic: with 79 rows, a margin of 0.10 and a share of differing rows
    of 0.10, the exact probability is 0.70.
    """
    z = normal_quantile((1 + confidence()) / 2) + normal_quantile(POWER)
    return math.ceil(groups * changed * (z / margin) ** 2)


def passing_probability(rows: int, margin: float, changed: float) -> float:
    """Return the exact probability that a candidate that is exactly as good as its reference passes. The gates' own
    interval is used.

    Args:
        changed: share of rows on which the arms differ, equally often in either direction.
    """
    from scipy.stats import binom

    total = 0.0
    for differing in _likely(rows, changed):
        # The more of the differing rows are lost, the lower the interval. `fails` is the smallest number of lost rows
        # at which the gate does not pass.
        fails = bisect_left(
            range(differing + 1), True, key=lambda lost: score_interval(differing - lost, lost, rows)[0] <= -margin
        )
        total += float(binom.pmf(differing, rows, changed) * binom.cdf(fails - 1, differing, 0.5))
    return total


def passing_probability_of_rise(rows: int, margin: float, changed: float) -> float:
    """Return the probability that a candidate exactly as good as its reference passes the memorisation gate. The gate
    limits the rise on training rows minus the rise on control rows (`rise_over_control`). Both groups have `rows`
    rows."""
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
    """Return the plausible numbers of differing rows. All other numbers together have a probability below 1e-6."""
    from scipy.stats import binom

    first, last = binom.ppf((5e-7, 1 - 5e-7), rows, changed)
    return range(int(first), int(last) + 1)
