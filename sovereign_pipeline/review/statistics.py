"""Statistics over few operators with many pairs each. Numbers in, numbers out; no files, no registry.

What belongs here: means with intervals over operators, agreement, and the ranking of versions. Differences are
candidate minus opponent. What does not: the paired statistics of automated scores, which have many documents
(`evaluation/statistics/`).
"""

import math
from collections.abc import Hashable, Sequence
from typing import Literal

from sovereign_pipeline.base.frozen import Frozen

CONFIDENCE = 0.95
POWER = 0.8


class Estimate(Frozen):
    """A mean over values, with its 95 % interval over clusters."""

    mean: float
    low: float | None
    """None with fewer than two clusters, as `high` and `detectable`."""
    high: float | None
    detectable: float | None
    """Minimum detectable mean: the smallest true one whose interval excludes zero in 80 % of such samples."""
    values: int
    clusters: int


class Agreement(Frozen):
    """Agreement of several raters about the same units."""

    alpha: float | None
    """Krippendorff's alpha; None where fewer than two raters rated one unit, or no value varies."""
    units: int
    raters: int


class RankedVersion(Frozen):
    """One version in the ranking."""

    version: str
    strength: float
    """Log of the Bradley-Terry parameter, 0 for the lowest; one version wins against another with probability
    1 / (1 + exp(-difference))."""
    pairs: int
    """How many pairs it was compared in."""


def estimate(values: Sequence[float], clusters: Sequence[str], bounds: tuple[float, float]) -> Estimate:
    """Mean of values and its 95 % interval over clusters, cut to the values' bounds.

    Args:
        clusters: of each value, the cluster it belongs to.

    The variance is the larger of two: the one between clusters, Σ_g (Σ_i∈g (x_i - x̄))² · G/(G-1) / n², and the one
    that independent values would give, with half a value added at each bound. The quantile is Student's with G-1
    degrees of freedom. With clusters of one size the first is the t-interval of the cluster means, which holds its
    level for few clusters, also where their variances differ (Ibragimov and Müller 2010, "t-Statistic Based Correlation
    and Heterogeneity Robust Inference", section 2); else it is the cluster-robust variance with the same quantile
    (Cameron and Miller 2015, "A Practitioner's Guide to Cluster-Robust Inference", section VI.D). A percentile
    bootstrap, as the automated scores have it, is too narrow below some 20 clusters. The second keeps unanimous
    operators from giving an interval without width (half values as in Agresti and Min 2005, "Simple improved confidence
    intervals for comparing matched proportions").

    Raises ValueError for no values, and for another number of clusters than of values.
    """
    import numpy as np
    from scipy.special import stdtrit

    if not values or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values in {len(clusters)} clusters")
    x = np.asarray(values, dtype=np.float64)
    names, membership = np.unique(clusters, return_inverse=True)
    mean, count = float(x.mean()), len(names)
    if count < 2:
        return Estimate(mean=mean, low=None, high=None, detectable=None, values=len(x), clusters=count)
    sums = np.bincount(membership, weights=x - mean, minlength=count)
    between = float(sums @ sums) * count / (count - 1) / len(x) ** 2
    spread = float(((x - mean) ** 2).sum()) + sum((bound - mean) ** 2 for bound in bounds) / 2
    independent = spread / len(x) ** 2
    error = max(between, independent) ** 0.5
    quantile, power = (float(stdtrit(count - 1, share)) for share in ((1 + CONFIDENCE) / 2, POWER))
    return Estimate(
        mean=mean,
        low=max(bounds[0], mean - quantile * error),
        high=min(bounds[1], mean + quantile * error),
        detectable=(quantile + power) * error,
        values=len(x),
        clusters=count,
    )


def agreement(
    ratings: Sequence[tuple[str, Hashable, float]], level: Literal["nominal", "ordinal", "interval"]
) -> Agreement:
    """Krippendorff's alpha over (rater, unit, value): 1 is perfect agreement, 0 that of chance.

    A rater need not have rated every unit. Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability".
    """
    import evalica
    import pandas as pd

    raters, units = len({rater for rater, _, _ in ratings}), len({unit for _, unit, _ in ratings})
    rated: dict[Hashable, list[float]] = {}
    for _, unit, value in ratings:
        rated.setdefault(unit, []).append(value)
    pairable = [value for values in rated.values() if len(values) > 1 for value in values]
    if len(set(pairable)) < 2:
        return Agreement(alpha=None, units=units, raters=raters)
    table = pd.DataFrame(ratings, columns=["rater", "unit", "value"]).pivot(
        index="rater", columns="unit", values="value"
    )
    return Agreement(alpha=float(evalica.alpha(table, level).alpha), units=units, raters=raters)


def rank_versions(outcomes: Sequence[tuple[str, str, float]], of: str) -> list[RankedVersion]:
    """Bradley-Terry strengths of the versions that comparisons link to `of`, strongest first.

    Between versions that nothing links, no strength is defined. Every two versions that were compared get one tie
    more: without it the strength of a version that won or lost every time would be infinite. Source: Bradley and Terry
    1952; Agresti 2002, section 10.6.

    Args:
        outcomes: (version, other version, 1 for a win of the first, 0 for a loss, 0.5 for a tie).
    """
    import evalica

    linked = {of}
    while more := {name for each in outcomes for name in each[:2] if linked & set(each[:2])} - linked:
        linked |= more
    outcomes = [each for each in outcomes if each[0] in linked]
    if not outcomes:
        return []
    winner = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    compared = sorted({tuple(sorted(each[:2])) for each in outcomes})
    games = [*outcomes, *((one, other, 0.5) for one, other in compared)]
    scores = evalica.bradley_terry(
        [one for one, _, _ in games],
        [other for _, other, _ in games],
        [winner[result] for _, _, result in games],
        tolerance=1e-12,
        limit=100_000,
    ).scores
    lowest = math.log(min(scores))
    ranked = [
        RankedVersion(
            version=str(version),
            strength=math.log(score) - lowest,
            pairs=sum(version in each[:2] for each in outcomes),
        )
        for version, score in scores.items()
    ]
    return sorted(ranked, key=lambda each: (-each.strength, each.version))
