"""Compute confidence intervals of a proportion and of a clustered mean."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

from sovereign_pipeline.base.files import Frozen


class MeasuredShare(Frozen):
    """A proportion and its 95 % confidence interval."""

    hits: int
    of: int
    share: float
    """Proportion `hits / of`; 0 if `of` is 0."""
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.share:.2f} ({self.low:.2f} to {self.high:.2f})"


def measured_share(hits: int, of: int) -> MeasuredShare:
    """Return a proportion with its 95 % Wilson interval (Wilson 1927), which keeps its coverage near 0 and 1 (Brown,
    Cai and DasGupta 2001, section 4). If `of` is 0, return 0 with the interval 0 to 1."""
    from scipy.stats import binomtest

    if of == 0:
        return MeasuredShare(hits=0, of=0, share=0.0, low=0.0, high=1.0)
    low, high = binomtest(hits, of).proportion_ci(0.95, method="wilson")
    return MeasuredShare(hits=hits, of=of, share=hits / of, low=float(low), high=float(high))


CONFIDENCE = 0.95
RESAMPLES = 10_000
_CONFIDENCE = ContextVar("confidence of the intervals of differences", default=CONFIDENCE)


def confidence() -> float:
    """Return the confidence at which intervals of differences are computed in the current block (`at_confidence`)."""
    return _CONFIDENCE.get()


@contextmanager
def at_confidence(level: float) -> Iterator[None]:
    """Within the block, compute the intervals of differences at the confidence `level` instead of 0.95."""
    before = _CONFIDENCE.set(level)
    try:
        yield
    finally:
        _CONFIDENCE.reset(before)


def clustered_interval(
    values: Sequence[float], clusters: Sequence[str], seed: int, weights: Sequence[float] | None = None
) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean, or of the weighted mean. The bootstrap resamples whole
    clusters.

    At any other level (`at_confidence`), percentiles are not used, because 10,000 samples do not show the tails, and
    the skewness of few clusters is mostly chance. The interval is then symmetric around the mean. Half of its width is
    the longer side of the 95 % interval, multiplied by the ratio of Student's quantiles at the two levels.

    Percentile method: Efron and Tibshirani 1993, section 13.3. Resampling clusters with replacement ("pairs cluster
    bootstrap"): Cameron, Gelbach and Miller 2008, section III; for evaluations, Miller 2024 ("Adding Error Bars to
    Evals"), section 2.2. The percentile interval is too narrow for few clusters, so it is computed at wider quantiles,
    which are derived from Student's t (Hesterberg 2015, The American Statistician 69: 371-386). With one cluster, the
    interval has no width and no meaning.

    Raises ValueError if there are no values, or if the numbers of values and clusters differ.
    """
    import numpy as np
    from scipy.stats import norm, t

    if not values or len(values) != len(clusters):
        raise ValueError(f"{len(values)} values, but {len(clusters)} cluster names")
    names = sorted(set(clusters))
    index = {name: position for position, name in enumerate(names)}
    membership = np.array([index[name] for name in clusters])
    each = np.asarray(values, dtype=np.float64) * (1 if weights is None else np.asarray(weights))
    sums = np.bincount(membership, weights=each, minlength=len(names))
    sizes = np.bincount(membership, weights=weights, minlength=len(names))
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=RESAMPLES)
    means = (drawn @ sums) / (drawn @ sizes)
    count = len(names)
    student = t.ppf((1 + CONFIDENCE) / 2, count - 1) * np.sqrt(count / (count - 1)) if count > 1 else 0.0
    tail = norm.cdf(-student)
    low, high = np.quantile(means, [tail, 1 - tail])
    if confidence() != CONFIDENCE and count > 1:
        mean = sums.sum() / sizes.sum()
        wider, usual = (t.ppf((1 + level) / 2, count - 1) for level in (confidence(), CONFIDENCE))
        half = max(mean - low, high - mean) * wider / usual
        low, high = mean - half, mean + half
    return float(low), float(high)
