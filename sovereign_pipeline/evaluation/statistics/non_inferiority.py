"""The rule by which a difference to a reference passes a gate, and the minimum detectable difference.

What belongs here: margin and interval in, outcome out. What does not: how an interval is computed (`paired.py`,
`score_interval.py`) and which margin applies (`policy/margins.py`).

The rule is the confidence interval form of the non-inferiority test: Piaggio et al. 2012 (JAMA 308: 2594-2604,
extension of CONSORT, figure 1) and FDA 2016 (Non-Inferiority Clinical Trials to Establish Effectiveness). The interval
is the two-sided 95 % one, so a candidate that is worse by exactly the margin passes with a probability of 2.5 %.
"""

import math
from typing import Literal, Protocol

from sovereign_pipeline.artifacts.stage import Outcome
from sovereign_pipeline.frozen import Frozen
from sovereign_pipeline.intervals import CONFIDENCE

Better = Literal["higher", "lower"]
"""Direction of a measure: accuracy is better when higher, loss when lower."""

POWER = 0.8
"""Of the minimum detectable difference."""


class Difference(Protocol):
    """Candidate minus reference over the same rows, and its two-sided 95 % interval."""

    @property
    def difference(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...
    @property
    def rows(self) -> int: ...


class Judgement(Frozen):
    """The outcome of one difference against one margin."""

    outcome: Outcome
    better: Better
    margin: float
    """In the unit of the difference; 0 where superiority is required."""
    smallest_visible: float
    """The minimum detectable difference (80 % power), in the unit of the difference; named as stored."""
    rows_needed: int | None
    """Rows at which `margin` would be the minimum detectable difference; None where superiority is required, which no
    number of rows assures."""


def evaluate_difference(observed: Difference, margin: float, better: Better) -> Judgement:
    """Test one difference against the largest accepted loss; a margin of 0 requires superiority.

    pass: the whole interval is better than a loss of `margin`. fail: the candidate is significantly worse than the
    reference (the whole interval is worse than 0) and the estimated loss is above the margin; so also where a suite is
    too small for the whole interval to lie beyond the margin. Otherwise inconclusive: neither is shown.
    """
    sign = 1 if better == "higher" else -1
    ends = (sign * observed.low, sign * observed.high)
    outcome: Outcome = "inconclusive"
    if min(ends) > -margin:
        outcome = "pass"
    elif max(ends) < 0 and sign * observed.difference < -margin:
        outcome = "fail"
    detectable = minimum_detectable_difference(observed)
    return Judgement(
        outcome=outcome,
        better=better,
        margin=margin,
        smallest_visible=detectable,
        rows_needed=math.ceil(observed.rows * (detectable / margin) ** 2) if margin > 0 else None,
    )


def minimum_detectable_difference(observed: Difference) -> float:
    """The smallest true difference that these rows detect with 80 % power, at the interval's confidence.

    (z_0.975 + z_0.8) standard errors: Miller 2024 ("Adding Error Bars to Evals"), section 5, solved for the effect. It
    is also the smallest margin within which a candidate that is exactly as good passes with that probability (Julious
    2004, Statistics in Medicine 23: 1921-1986). The standard error is half the interval's width over z_0.975: paired,
    clustered, and not zero where no row differs.
    """
    from scipy.stats import norm

    half = (observed.high - observed.low) / 2
    return half * (1 + float(norm.ppf(POWER)) / float(norm.ppf((1 + CONFIDENCE) / 2)))
