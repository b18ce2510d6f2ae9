"""Closing a review: its seed is revealed, its result can be computed, and nothing is added any more.

What belongs here: when a review may be closed. What does not: whether its rows are those of its acts
(`reconciling.py`), and what follows from its ballots (`result.py`).
"""

import datetime
from collections.abc import Iterable

from sovereign_pipeline.errors import ConflictError, GateRefused, InputError
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.people import People
from sovereign_pipeline.ledger.tables import BlindReview, ReviewClosing
from sovereign_pipeline.review.acts import REVIEW_CLOSED, REVIEW_CLOSED_EARLY, digest_of_row, entering_acts
from sovereign_pipeline.review.ballots import ballots_digest
from sovereign_pipeline.review.catalog import is_closed
from sovereign_pipeline.review.custody import forget_key, sealed_seed, signed_acts
from sovereign_pipeline.review.links import stands_for
from sovereign_pipeline.review.plan import ReviewPlan
from sovereign_pipeline.review.reconciling import assert_none, findings_in, read_log, rows_of
from sovereign_pipeline.review.sealed import PlanContents
from sovereign_pipeline.settings import Settings


def close(
    registry: Registry,
    settings: Settings,
    review: BlindReview,
    contents: PlanContents,
    actor: str,
    officer: str | None = None,
    reason: str | None = None,
) -> ReviewClosing:
    """Close a review, reveal its seed, and delete the key that signs its acts.

    Args:
        actor: who runs the command.
        officer: name of who closes below the pre-registered number of ballots; the plan must name them.
        reason: why; required with an officer.

    Raises GateRefused for too few ballots, InputError for an officer without a reason or one who may not close early,
    ConflictError for a review that is closed or that release 0.1.0 opened, and IntegrityError that names every finding
    when ballots, sign-ins and the rest are not those of the signed acts.
    """
    try:
        return _close(registry, settings, review, contents, actor, officer, reason)
    finally:
        # Also where something failed after the commit, and when it is closed once more: a key that lies there signs.
        if is_closed(registry, review.id):
            forget_key(settings, review.id)


def _close(
    registry: Registry,
    settings: Settings,
    review: BlindReview,
    contents: PlanContents,
    actor: str,
    officer: str | None,
    reason: str | None,
) -> ReviewClosing:
    if review.act_key is None:
        raise ConflictError(
            f"Review {review.id} of line {review.line} was opened by release 0.1.0, which did not sign ballots. It "
            f"cannot be closed.",
            "Open another one; this one no longer counts.",
            act="open_review",
            line=review.line,
        )
    plan = contents.plan
    people = People(settings)
    person = _who_closes_early(people, review, plan, officer, reason)
    with entering_acts(settings, registry, review.id) as entering:
        rows = rows_of(entering.session, review, read_log(entering.session))
        assert_none(review.id, findings_in(rows, contents, signed_acts(settings, review.id)))
        is_early = rows.asked < review.ballots
        if is_early and person is None:
            raise _too_few(people, review, plan, rows.asked)
        closing = ReviewClosing(
            review_id=review.id,
            closed_at=datetime.datetime.now(datetime.UTC),
            seed=sealed_seed(settings, review).hex(),
            ballots=rows.asked,
            ballots_sha256=ballots_digest(rows.ballots, rows.guesses),
            officer=person if is_early else None,
            reason=reason if is_early else None,
        )
        entering.session.add(closing)
        entering.session.flush()
        entering.enter(
            actor,
            REVIEW_CLOSED_EARLY if is_early else REVIEW_CLOSED,
            {
                "seed": closing.seed,
                "ballots": closing.ballots,
                "ballots_sha256": closing.ballots_sha256,
                "officer": closing.officer,
                "reason": closing.reason,
                "row": digest_of_row(closing),
            },
        )
    return closing


def _who_closes_early(
    people: People, review: BlindReview, plan: ReviewPlan, officer: str | None, reason: str | None
) -> str | None:
    """What stands for the officer; None where nobody closes early."""
    if (officer is None) != (not (reason or "").strip()):
        raise InputError(
            "Closing early takes both an officer and a reason.",
            "Give both.",
            act="close_review_early",
            line=review.line,
        )
    person = stands_for(people, officer, plan.may_close_early) if officer is not None else None
    if officer is not None and person is None:
        allowed = ", ".join(_names(people, plan.may_close_early))
        raise InputError(
            f"{officer} may not close this review of line {review.line} early. The recipe it was opened under allows "
            f"{allowed or 'nobody'} (gates.review.may_close_early).",
            "Wait for the missing ballots, or let one of these officers close it."
            if allowed
            else "Wait for the missing ballots.",
        )
    return person


def _names(people: People, persons: Iterable[str]) -> list[str]:
    names = people.listed()
    return [people.shown(each, names) for each in persons]


def _too_few(people: People, review: BlindReview, plan: ReviewPlan, asked: int) -> GateRefused:
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
    allowed = " or ".join(_names(people, plan.may_close_early))
    return GateRefused(
        message,
        f"Wait for the missing ballots, or let {allowed} close it early with a reason.",
        act="close_review_early",
        line=review.line,
    )
