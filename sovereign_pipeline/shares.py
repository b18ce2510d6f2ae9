"""A share of what was counted, with its interval.

What belongs here: the one interval of a proportion that rooms which import nothing of each other state. What does not:
comparing two shares (`evaluation/statistics/`).
"""

from sovereign_pipeline.frozen import Frozen


class MeasuredShare(Frozen):
    """A share and its 95 % interval."""

    hits: int
    of: int
    share: float
    """0 of none."""
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.share:.2f} ({self.low:.2f} to {self.high:.2f})"


def measured_share(hits: int, of: int) -> MeasuredShare:
    """A share with its 95 % interval by Wilson 1927; of none, 0 with the interval from 0 to 1.

    Wilson's interval keeps its coverage near 0 and 1 (Brown, Cai and DasGupta 2001, section 4).
    """
    from scipy.stats import binomtest

    if of == 0:
        return MeasuredShare(hits=0, of=0, share=0.0, low=0.0, high=1.0)
    low, high = binomtest(hits, of).proportion_ci(0.95, method="wilson")
    return MeasuredShare(hits=hits, of=of, share=hits / of, low=float(low), high=float(high))
