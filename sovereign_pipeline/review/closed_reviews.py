"""Closed reviews, read back verified from the registry, the store and the revealed seed.

What belongs here: which closed review is about an adapter, and which adapters lost theirs. What does not: the figures
(`result.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.base.errors import NotFoundError
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.ledger.catalog import registered_as
from sovereign_pipeline.ledger.database import Registry, open_registry
from sovereign_pipeline.ledger.tables import BlindReview, ReviewClosing
from sovereign_pipeline.review.catalog import find_closed, find_closed_of
from sovereign_pipeline.review.reconciling import assert_none, findings_in, read_log, rows_of
from sovereign_pipeline.review.result import has_lost, is_counted
from sovereign_pipeline.review.sealed import plan_of
from sovereign_pipeline.review.unblinding import ClosedReview, EarlyClosing

Rows = tuple[BlindReview, ReviewClosing]
"""What the registry holds of one closed review, beside its ballots."""


@dataclass(frozen=True)
class ReviewsToDate:
    """The newest closed review of a line's current registered adapter, and every review closed before it."""

    newest: Rows
    earlier: Sequence[Rows]

    def digests(self) -> dict[str, str]:
        """Name -> digest of everything that a result is computed from."""
        review, closing = self.newest
        return {
            "review_plan": review.plan_digest,
            "ballots": closing.ballots_sha256,
            "earlier_reviews": digest_of([[each.plan_digest, ended.ballots_sha256] for each, ended in self.earlier]),
        }

    def read(self, registry: Registry, store: ArtifactStore) -> tuple[ClosedReview, list[ClosedReview]]:
        """The newest review and the earlier ones, verified. Raises IntegrityError."""
        *earlier, newest = read_closed(registry, store, [*self.earlier, self.newest])
        return newest, earlier


def find_reviews(workplace: Workplace, registered: ArtifactRef | None) -> ReviewsToDate:
    """Find the reviews of a line's current registered_adapter artifact, under any artifact and version of its
    weights.

    Raises NotFoundError when none was closed.
    """
    line, registry = workplace.line.line, open_registry(workplace.settings)
    adapter = registered_as(registry, registered.digest) if registered is not None else None
    of_adapter = find_closed_of(registry, line, adapter.adapter_sha256) if adapter is not None else []
    closed = find_closed(registry, line)
    ids = {review.id for review, _ in of_adapter}
    numbers = [number for number, (review, _) in enumerate(closed) if review.id in ids]
    if not numbers:
        raise NotFoundError(
            f"Line {line}: no review of its current registered adapter was closed.",
            "Open a review, and close it when every ballot is given.",
            act="open_review",
            line=line,
        )
    return ReviewsToDate(closed[numbers[-1]], closed[: numbers[-1]])


def standings(registry: Registry, store: ArtifactStore, line: str) -> dict[str, bool]:
    """SHA-256 of weights of a line that were reviewed -> whether they lost their newest review with ballots to count.

    By weights and not by artifact: a change of the recipe that changes no weight makes another artifact of them.
    Raises IntegrityError for a review that was changed.
    """
    closed = read_closed(registry, store, find_closed(registry, line))
    return {each.candidate_weights: has_lost(each) for each in closed if is_counted(each)}


def adapters_that_lost(registry: Registry, store: ArtifactStore, line: str) -> set[str]:
    """SHA-256 of all weights of a line that lost their newest blind review. None of them becomes an incumbent.

    Raises IntegrityError for a review that was changed.
    """
    return {weights for weights, lost in standings(registry, store, line).items() if lost}


def read_closed(registry: Registry, store: ArtifactStore, closed: Sequence[Rows]) -> list[ClosedReview]:
    """Read closed reviews, each compared with its acts in the audit log.

    Raises IntegrityError that names what was added, changed or removed.
    """
    if not closed:
        return []
    with registry.reading() as session:
        log = read_log(session)
        rows = [rows_of(session, review, log) for review, _ in closed]
        plans = [plan_of(store, review) for review, _ in closed]
        compared = [(contents.plan.candidate_weights, contents.plan.opponent_weights) for contents in plans]
    read = []
    for each, contents, weights, (review, closing) in zip(rows, plans, compared, closed, strict=True):
        assert_none(review.id, findings_in(each, contents, registry.settings))
        read.append(
            ClosedReview(
                review=review.id,
                contents=contents,
                seed=bytes.fromhex(closing.seed),
                ballots=each.ballots,
                guesses=each.guesses,
                closed_early=EarlyClosing(officer=closing.officer, reason=closing.reason or "")
                if closing.officer is not None
                else None,
                candidate_weights=weights[0],
                opponent_weights=weights[1],
            )
        )
    return read
