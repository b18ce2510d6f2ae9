"""Comparing two arms of users: looked at every minute to abort, and once at the end to promote.

Requests of one user resemble each other, so the variance is between users, and looks that are repeated need a bound
that holds at all of them at once: tests on requests abort an adapter that is just good enough in a third of rollouts
(`benchmarks/serving/hold.py` simulates both).

What belongs here: the statistics. What does not: what is counted (`telemetry.py`), and what follows (`hold.py`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

PREPARED_FOR = 2.8
"""Standard errors from a margin (1.96 + 0.84) at which the bound is tightest: fixed before anything is seen."""


@dataclass(frozen=True)
class Sums:
    """What one user contributed: how many observations, and their sum."""

    count: float
    total: float


Users = Mapping[str, Sums]
"""Hashed user -> their sums, of one arm."""


@dataclass(frozen=True)
class Difference:
    """How much more one arm has than the other, on average over observations."""

    estimate: float
    variance: float
    users: int
    """Of the smaller arm."""

    @property
    def standard_error(self) -> float:
        return math.sqrt(self.variance)


def difference(staged: Users, production: Users, *, is_share: bool) -> Difference | None:
    """Staged minus production, its variance between users. None while an arm has fewer than two users.

    The mean of an arm is a ratio of sums over users, and its variance the usual one of a ratio (Cochran 1977, Sampling
    Techniques, 6.3). is_share: observations are 0 or 1; the variance is then at least that of as many independent ones
    with one more of each kind, so that an arm in which nothing has happened yet is not taken for certain.
    """
    arms = [_mean(users, is_share) for users in (staged, production) if len(users) > 1]
    if len(arms) < 2:
        return None
    (one, first), (other, second) = arms
    return Difference(one - other, first + second, min(len(staged), len(production)))


def _mean(users: Users, is_share: bool) -> tuple[float, float]:
    count, total = sum(each.count for each in users.values()), sum(each.total for each in users.values())
    mean, known = total / count, len(users)
    squares = sum((each.total - mean * each.count) ** 2 for each in users.values())
    variance = known / (known - 1) * squares / count**2
    if is_share:
        smoothed = (total + 1) / (count + 2)
        variance = max(variance, smoothed * (1 - smoothed) / count)
    return mean, variance


def is_worse_at_any_look(found: Difference, margin: float, alpha: float) -> bool:
    """Whether the staged arm is worse by more than the margin, by a test that may be made at every moment.

    The one-sided normal-mixture confidence sequence of Howard, Ramdas, McAuliffe and Sekhon 2021 (Annals of Statistics
    49: 1055-1080), over the information 1/variance: wrong at any look with probability alpha at most, for as many looks
    as there are (asymptotically: Waudby-Smith et al. 2024, Annals of Statistics 52: 2613-2640).
    """
    if found.variance <= 0:
        return False
    information = 1 / found.variance
    scale = best_scale((PREPARED_FOR / margin) ** 2, 2 * alpha)
    return (found.estimate - margin) * information > one_sided_bound(information, alpha, scale)


def best_scale(variance: float, alpha: float) -> float:
    """The mixture's scale for which the two-sided bound is tightest at a variance."""
    log = 2 * math.log(1 / alpha)
    return variance / (log + math.log(1 + log))


def two_sided_bound(variance: float, alpha: float, scale: float) -> float:
    """A sum with this variance is never beyond it, with probability 1 - alpha."""
    both = variance + scale
    return math.sqrt(both * math.log(both / (scale * alpha**2)))


def one_sided_bound(variance: float, alpha: float, scale: float) -> float:
    """A sum with this variance is never above it, with probability 1 - alpha; there is no closed form."""
    from scipy.optimize import brentq
    from scipy.special import log_ndtr

    both = variance + scale

    def excess(total: float) -> float:
        log_mixture = 0.5 * math.log(4 * scale / both) + total**2 / (2 * both) + log_ndtr(total / math.sqrt(both))
        return float(log_mixture + math.log(alpha))

    return float(brentq(excess, 0.0, 10 * two_sided_bound(variance, alpha, scale)))


def upper_limit(found: Difference, alpha: float) -> float:
    """The difference is below it, in one look, with probability 1 - alpha (t with one degree fewer than users)."""
    from scipy.stats import t

    return found.estimate + float(t.ppf(1 - alpha, max(1, found.users - 1))) * found.standard_error


def sample_ratio_p(staged: int, production: int, share: float) -> float:
    """How likely numbers of users at least so far from the share are (chi-squared with one degree of freedom)."""
    from scipy.stats import chisquare

    total = staged + production
    if not total or not 0 < share < 1:
        return 1.0
    return float(chisquare([staged, production], [total * share, total * (1 - share)]).pvalue)
