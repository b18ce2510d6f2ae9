"""Closing a review, and reading its ballots back as they were when it was closed.

What belongs here: when a review may be closed, and that its ballots are those of the audit log. What does not: what
follows from them (`result.py`).
"""

import datetime
from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.hashing import digest_of
from sovereign_pipeline.errors import GateRefused, InputError, IntegrityError
from sovereign_pipeline.ledger import audit_log as audit
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import AuditEntry, Ballot, BlindReview, Guess, ReviewClosing
from sovereign_pipeline.review.ballots import (
    BALLOT_GIVEN,
    GUESS_GIVEN,
    assert_open,
    ballots_digest,
    ballots_of,
    content_of,
    guesses_of,
    was_asked,
)
from sovereign_pipeline.review.plan import ReviewPlan


def close(
    registry: Registry,
    review: BlindReview,
    seed: bytes,
    plan: ReviewPlan,
    actor: str,
    officer: str | None = None,
    reason: str | None = None,
) -> ReviewClosing:
    """Close a review and reveal its seed.

    Args:
        actor: who runs the command.
        officer: who closes below the pre-registered number of ballots; the plan must name them.
        reason: why; required with an officer.

    Raises GateRefused for too few ballots, InputError for an officer without a reason or one who may not close early,
    ConflictError for a review that is closed, and IntegrityError when the ballots are not those of the audit log.
    """
    _assert_may_close_early(review, plan, officer, reason)
    with registry.writing() as session:
        assert_open(session, review.id)
        ballots, guesses = ballots_of(session, review.id), guesses_of(session, review.id)
        _assert_as_logged(review.id, ballots, guesses, _log(session))
        asked = sum(map(was_asked, ballots))
        is_early = asked < review.ballots
        if is_early and officer is None:
            raise _too_few(review, plan, asked)
        closing = ReviewClosing(
            review_id=review.id,
            closed_at=datetime.datetime.now(datetime.UTC),
            seed=seed.hex(),
            ballots=asked,
            ballots_sha256=ballots_digest(ballots, guesses),
            officer=officer if is_early else None,
            reason=reason if is_early else None,
        )
        session.add(closing)
        session.flush()
        audit.append(
            session,
            actor,
            "review closed early" if is_early else "review closed",
            {
                "review": review.id,
                "seed": closing.seed,
                "ballots": closing.ballots,
                "ballots_sha256": closing.ballots_sha256,
                "officer": closing.officer,
                "reason": closing.reason,
            },
        )
    return closing


def read_ballots(registry: Registry, closing: ReviewClosing) -> tuple[list[Ballot], list[Guess]]:
    """The ballots and guesses of a closed review, each compared with its entry in the audit log.

    Raises IntegrityError when one was added, changed or removed since, or when the log itself was changed.
    """
    with registry.reading() as session:
        ballots, guesses = ballots_of(session, closing.review_id), guesses_of(session, closing.review_id)
        log = _log(session)
    _assert_as_logged(closing.review_id, ballots, guesses, log)
    asked = sum(map(was_asked, ballots))
    if ballots_digest(ballots, guesses) != closing.ballots_sha256 or asked != closing.ballots:
        raise IntegrityError(
            f"The ballots of review {closing.review_id} are not those that it was closed with. The registry was "
            f"changed past its triggers.",
            "Restore the registry from a copy, and find out who changed it.",
        )
    return ballots, guesses


def has_ballots(registry: Registry, closing: ReviewClosing) -> bool:
    """Whether anybody rated anything in a closed review."""
    with registry.reading() as session:
        return any(map(was_asked, ballots_of(session, closing.review_id)))


def _assert_may_close_early(review: BlindReview, plan: ReviewPlan, officer: str | None, reason: str | None) -> None:
    if (officer is None) != (not (reason or "").strip()):
        raise InputError(
            "Closing early takes both an officer and a reason.",
            "Give both.",
            act="close_review_early",
            line=review.line,
        )
    if officer is not None and officer not in plan.may_close_early:
        allowed = ", ".join(plan.may_close_early)
        raise InputError(
            f"{officer} may not close this review of line {review.line} early. The recipe it was opened under allows "
            f"{allowed or 'nobody'} (gates.review.may_close_early).",
            "Wait for the missing ballots, or let one of these officers close it."
            if allowed
            else "Wait for the missing ballots.",
        )


def _too_few(review: BlindReview, plan: ReviewPlan, asked: int) -> GateRefused:
    message = (
        f"Line {review.line}: {asked} of the {review.ballots} pre-registered ballots were given, so the review stays "
        f"open."
    )
    if not plan.may_close_early:
        return GateRefused(
            message,
            "Wait for the missing ballots. The recipe it was opened under lets nobody close it early "
            "(gates.review.may_close_early).",
            act="review_status",
            line=review.line,
        )
    return GateRefused(
        message,
        f"Wait for the missing ballots, or let {' or '.join(plan.may_close_early)} close it early with a reason.",
        act="close_review_early",
        line=review.line,
    )


def _log(session: Session) -> list[AuditEntry]:
    return list(session.scalars(select(AuditEntry).order_by(AuditEntry.sequence)))


def _assert_as_logged(
    review: str, ballots: Sequence[Ballot], guesses: Sequence[Guess], log: Sequence[AuditEntry]
) -> None:
    """Raises IntegrityError unless the ballots and guesses that operators gave are exactly those of the log."""
    audit.verify(log)
    logged = {
        entry.subjects["ballot"]
        for entry in log
        if entry.action in (BALLOT_GIVEN, GUESS_GIVEN) and entry.subjects["review"] == review
    }
    everything: list[Ballot | Guess] = [*ballots, *guesses]
    if logged != {digest_of(content_of(each)) for each in everything if was_asked(each)}:
        raise IntegrityError(
            f"The ballots of review {review} are not those of the audit log: one was added, changed or removed past "
            f"the registry's triggers.",
            "Restore the registry from a copy, and find out who changed it.",
        )
