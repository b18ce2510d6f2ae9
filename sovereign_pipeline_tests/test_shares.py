"""The interval of a share."""

import pytest
from scipy.stats import binomtest
from statsmodels.stats.proportion import proportion_confint

from sovereign_pipeline.shares import measured_share


@pytest.mark.parametrize(("hits", "of_all"), [(0, 5), (7, 10), (19, 24), (40, 40), (74, 80), (81, 263), (100, 100)])
def test_the_interval_is_wilsons(hits: int, of_all: int) -> None:
    share = measured_share(hits, of_all)
    assert (share.low, share.high) == pytest.approx(proportion_confint(hits, of_all, method="wilson"))
    assert share.share == pytest.approx(binomtest(hits, of_all).proportion_estimate)


def test_the_interval_is_that_of_a_published_example() -> None:
    """81 of 263: Newcombe 1998 (Statistics in Medicine 17: 857-872), table I, method 3."""
    share = measured_share(81, 263)
    assert (round(share.low, 4), round(share.high, 4)) == (0.2553, 0.3662)


def test_of_nothing_nothing_is_known() -> None:
    share = measured_share(0, 0)
    assert (share.share, share.low, share.high) == (0.0, 0.0, 1.0)
