"""Paired comparison of a reference and the candidate on the same rows: means, shares, and their differences' intervals.

Differences are always candidate minus reference. The intervals are in `score_interval.py` (shares) and
`intervals.py` (means).
"""

from collections.abc import Mapping, Sequence

from sovereign_pipeline.evaluation.arms.arms import Arm, Reference, references_in
from sovereign_pipeline.evaluation.statistics.score_interval import clustered_score_interval
from sovereign_pipeline.frozen import Frozen
from sovereign_pipeline.intervals import clustered_interval


class LossDifference(Frozen):
    """Means over the rows, such as losses in nats per token, and the 95 % interval of their difference."""

    reference: float
    candidate: float
    difference: float
    low: float
    high: float
    rows: int
    clusters: int
    """Groups of dependent rows (case files) that the interval is based on."""


class ShareDifference(Frozen):
    """Shares of the rows (0 to 1), the 95 % interval of their difference, and McNemar's exact test."""

    reference: float
    candidate: float
    difference: float
    low: float
    high: float
    rows: int
    clusters: int
    """Groups of dependent rows that the interval is based on; the test takes the rows as independent."""
    only_reference: int
    """Rows where only the reference is true."""
    only_candidate: int
    """Rows where only the candidate is true."""
    p_value: float
    """Two-sided."""


Shares = dict[Reference, ShareDifference]


def loss_differences(
    rows: Sequence[Mapping[Arm, float]], clusters: Sequence[str], seed: int
) -> dict[Reference, LossDifference]:
    """`compare_losses` with each reference; all rows have the same arms. Empty without rows."""
    return {
        reference: compare_losses([row[reference] for row in rows], [row["candidate"] for row in rows], clusters, seed)
        for reference in _references(rows)
    }


def share_differences(rows: Sequence[Mapping[Arm, bool]], clusters: Sequence[str]) -> Shares:
    """`compare_shares` with each reference; all rows have the same arms. Empty without rows."""
    return {
        reference: compare_shares([row[reference] for row in rows], [row["candidate"] for row in rows], clusters)
        for reference in _references(rows)
    }


def compare_losses(
    reference: Sequence[float], candidate: Sequence[float], clusters: Sequence[str], seed: int
) -> LossDifference:
    """Paired comparison of one number per row, with `clustered_interval` of the differences.

    `clusters`: what each row shares with others (its case file). All arguments of one length, not empty.
    """
    differences = [after - before for before, after in zip(reference, candidate, strict=True)]
    low, high = clustered_interval(differences, clusters, seed)
    return LossDifference(
        reference=_mean(reference),
        candidate=_mean(candidate),
        difference=_mean(differences),
        low=low,
        high=high,
        rows=len(differences),
        clusters=len(set(clusters)),
    )


def compare_shares(reference: Sequence[bool], candidate: Sequence[bool], clusters: Sequence[str]) -> ShareDifference:
    """Paired comparison of one boolean per row, with `clustered_score_interval` of the differences.

    All arguments of one length, not empty.
    """
    differences = [int(after) - int(before) for before, after in zip(reference, candidate, strict=True)]
    low, high = clustered_score_interval(differences, clusters)
    only_reference = sum(difference < 0 for difference in differences)
    only_candidate = sum(difference > 0 for difference in differences)
    return ShareDifference(
        reference=_mean(reference),
        candidate=_mean(candidate),
        difference=_mean(differences),
        low=low,
        high=high,
        rows=len(differences),
        clusters=len(set(clusters)),
        only_reference=only_reference,
        only_candidate=only_candidate,
        p_value=mcnemar_exact(only_reference, only_candidate),
    )


def mcnemar_exact(only_reference: int, only_candidate: int) -> float:
    """Two-sided p-value that the discordant rows fall either way with probability one half (McNemar 1947; exact
    binomial form, Agresti 2002, section 10.1.4). 1.0 when no row is discordant."""
    from scipy.stats import binomtest

    discordant = only_reference + only_candidate
    return float(binomtest(only_candidate, discordant, 0.5).pvalue) if discordant else 1.0


def _references(rows: Sequence[Mapping[Arm, float]]) -> tuple[Reference, ...]:
    return references_in(rows[0]) if rows else ()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
