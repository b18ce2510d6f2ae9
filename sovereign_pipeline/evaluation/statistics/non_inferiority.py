"""The one rule by which a difference to a reference passes a gate, and what the rows could have shown at all.

What belongs here: margin and interval in, outcome out. What does not: how an interval is made (`statistics.py`,
`score_interval.py`) and which margin holds (`policy/gates.py`).

The rule is the confidence interval form of the non-inferiority test: Piaggio et al. 2012 (JAMA 308: 2594-2604,
extension of CONSORT, figure 1) and FDA 2016 (Non-Inferiority Clinical Trials to Establish Effectiveness). The interval
is the two-sided 95 % one, so a candidate that is worse by exactly the margin passes with a probability of 2.5 %.
"""

import math
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

from sovereign_pipeline.artifacts.stage import Outcome
from sovereign_pipeline.evaluation.statistics.score_interval import CONFIDENCE

Better = Literal["higher", "lower"]
"""Of the measure that was compared: accuracy is better when higher, loss when lower."""

POWER = 0.8


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


class Judgement(BaseModel):
    """margin, smallest_visible: in the unit of the difference. rows_needed: at which `margin` would be the smallest
    visible difference; None where superiority is asked, which no number of rows assures."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    outcome: Outcome
    better: Better
    margin: float
    smallest_visible: float
    rows_needed: int | None


def evaluate_difference(observed: Difference, margin: float, better: Better) -> Judgement:
    """Hold one difference against the largest loss that is accepted; a margin of 0 asks for superiority.

    pass: the whole interval is better than a loss of `margin`. fail: the candidate is significantly worse than the
    reference (the whole interval is worse than none) and the best estimate of its loss is above the margin; that holds
    wherever the whole interval lies beyond the margin, and also where a suite is too small for that. Else inconclusive:
    worse within the margin is not shown, and neither is a loss beyond it.
    """
    sign = 1 if better == "higher" else -1
    ends = (sign * observed.low, sign * observed.high)
    outcome: Outcome = "inconclusive"
    if min(ends) > -margin:
        outcome = "pass"
    elif max(ends) < 0 and sign * observed.difference < -margin:
        outcome = "fail"
    visible = smallest_visible(observed)
    return Judgement(
        outcome=outcome,
        better=better,
        margin=margin,
        smallest_visible=visible,
        rows_needed=math.ceil(observed.rows * (visible / margin) ** 2) if margin > 0 else None,
    )


def smallest_visible(observed: Difference) -> float:
    """The smallest true difference that these rows show with a probability of 80 %, at the interval's own level.

    (z_0.975 + z_0.8) standard errors: Miller 2024 ("Adding Error Bars to Evals"), section 5, solved for the effect. It
    is also the smallest margin within which a candidate that is exactly as good passes with that probability (Julious
    2004, Statistics in Medicine 23: 1921-1986). The standard error is half the interval's width over z_0.975: paired,
    clustered, and not zero where no row differs.
    """
    from scipy.stats import norm

    half = (observed.high - observed.low) / 2
    return half * (1 + float(norm.ppf(POWER)) / float(norm.ppf((1 + CONFIDENCE) / 2)))
