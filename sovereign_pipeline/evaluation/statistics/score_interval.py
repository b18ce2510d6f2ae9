"""The interval of a difference between two shares of the same rows.

A bootstrap interval has no width where no row differs, and too little where few do: three questions that nobody lost
would prove that nothing was lost. The score interval keeps its coverage there too. Means of other numbers are in
`paired.py`.
"""

import math
from collections.abc import Sequence

from sovereign_pipeline.intervals import CONFIDENCE


def score_interval(gained: float, lost: float, rows: float, quantile: float | None = None) -> tuple[float, float]:
    """Asymptotic score interval of (gained - lost) / rows (Tango 1998, Statistics in Medicine 17: 891-908).

    Both ends are the differences whose score statistic equals the quantile. Recommended for paired shares by Fagerland,
    Lydersen and Laake 2014 (Statistics in Medicine 33: 2850-2875). Raises ValueError without rows.

    Args:
        gained: rows where only the candidate is true; fractions are allowed.
        lost: rows where only the reference is true; fractions are allowed.
        quantile: by default that of a two-sided 95 % interval.
    """
    from scipy.stats import norm

    if rows <= 0:
        raise ValueError(f"{rows} rows")
    z = float(norm.ppf((1 + CONFIDENCE) / 2)) if quantile is None else quantile
    return -_upper_end(lost, gained, rows, z), _upper_end(gained, lost, rows, z)


def _upper_end(gained: float, lost: float, rows: float, z: float) -> float:
    from scipy.optimize import brentq

    observed = (gained - lost) / rows
    if observed >= 1:
        return 1.0

    def below(difference: float) -> float:
        return gained - lost - rows * difference + z * _deviation(gained, lost, rows, difference)

    # Just above the observed difference: where all rows agree, the statistic there is 0/0.
    return float(brentq(below, observed + 1e-9, 1.0, xtol=1e-12))


def _deviation(gained: float, lost: float, rows: float, difference: float) -> float:
    """Standard deviation of gained - lost, were this the true difference (Tango 1998)."""
    b = (2 * rows - gained + lost) * difference - gained - lost
    c = -lost * difference * (1 - difference)
    share_lost = (math.sqrt(max(b * b - 8 * rows * c, 0.0)) - b) / (4 * rows)
    return math.sqrt(max(rows * (2 * share_lost + difference * (1 - difference)), 0.0))


def clustered_score_interval(differences: Sequence[int], clusters: Sequence[str]) -> tuple[float, float]:
    """The score interval of the mean of differences that are -1, 0 or 1, when rows of a cluster are dependent.

    The counts are divided by the design effect, which gives the effective number of independent rows (Rao and Scott
    1992, Biometrics 48: 577-585), and the quantile is Student's with one degree of freedom less than there are clusters
    (Cameron and Miller 2015, Journal of Human Resources 50: 317-372, section VI). With clusters of one row each this is
    `score_interval`. Where few rows differ the design effect cannot be estimated, and `_least_effect` is used. The
    interval of one cluster is -1 to 1. Raises ValueError when empty.
    """
    from scipy.stats import t

    names = set(clusters)
    if not differences or len(differences) != len(clusters):
        raise ValueError(f"{len(differences)} differences in {len(names)} clusters")
    rows, gained, lost = len(differences), differences.count(1), differences.count(-1)
    if len(names) == rows:
        return score_interval(gained, lost, rows)
    if len(names) == 1:
        return -1.0, 1.0
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(names) - 1))
    effect = max(design_effect(differences, clusters), _least_effect(gained + lost, rows, len(names), quantile))
    return score_interval(gained / effect, lost / effect, rows / effect, quantile)


def _least_effect(differing: int, rows: int, clusters: int, quantile: float) -> float:
    """The lower bound of the design effect: rows per cluster where no row differs, falling to 1 where many do.

    One row that differs shows no more about clusters than none. The bound falls as fast as possible without the
    interval ending nearer to 0 than if none had been lost: the bound U of a share p solves
    (U - p)^2 = z^2 * effect * U * (1 - U) / rows (Wilson 1927, Journal of the American Statistical Association 22:
    209-212), so with an effect of rows / clusters * (1 - p / U0)^2 it stays at U0 = z^2 / (clusters + z^2), where it is
    when p is 0.
    """
    bound_of_none = quantile**2 / (clusters + quantile**2)
    return rows / clusters * max(0.0, 1 - differing / rows / bound_of_none) ** 2


def design_effect(values: Sequence[float], clusters: Sequence[str]) -> float:
    """Variance of the mean over its variance if all rows were independent; at least 1.

    Both variances have the usual small-sample correction, G / (G - 1) and n / (n - 1). For equal rows the result is
    rows per cluster. Needs at least two clusters.
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
