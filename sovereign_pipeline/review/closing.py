"""Close a review: reveal its seed, so that its result can be computed, and reject further acts."""

import datetime
from collections.abc import Iterable

from sovereign_pipeline.base.errors import GateRefused, InputError, SignInError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.in_force import assert_in_force, trust_named
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.officers import assert_may, officer_of, on_one_line, trust_root
from sovereign_pipeline.record.people import People
from sovereign_pipeline.record.statements import EARLY_CLOSING, Statement, Subject, sign_statement
from sovereign_pipeline.record.tables import BlindReview, ReviewClosing
from sovereign_pipeline.review.acts import (
    REVIEW_CLOSED,
    REVIEW_CLOSED_EARLY,
    Entering,
    digest_of_row,
    entering_acts,
    forget_key,
    is_closed,
    sealed_seed,
    signed_acts,
)
from sovereign_pipeline.review.ballots import ballots_digest, stands_for
from sovereign_pipeline.review.plan import PlanContents, ReviewPlan
from sovereign_pipeline.review.reconciling import CLOSE, STATEMENT, assert_none, findings_in, read_log, rows_of, said_of


def close(
    registry: Registry,
    settings: Settings,
    review: BlindReview,
    contents: PlanContents,
    actor: str,
    signer: Signer | None = None,
    reason: str | None = None,
) -> ReviewClosing:
    """Close a review, reveal its seed, and delete the key that signs its acts.

    Args:
        actor: the person who runs the command.
        signer: key of an officer who closes early, below the pre-registered number of ballots. The plan must name the
            officer.
        reason: the officer's reason; required with `signer`.

    Raises GateRefused for too few ballots, InputError for a key without a reason, SignInError for an officer who may
    not close early, ConflictError if the review is closed, and IntegrityError that names every difference between the
    registry's rows and the signed acts.
    """
    try:
        return _close(registry, settings, review, contents, actor, signer, reason)
    finally:
        # Delete the key even after an error that follows the commit, and on a second attempt, because the key could
        # still sign acts.
        if is_closed(registry, review.id):
            forget_key(settings, review.id)


def _close(
    registry: Registry,
    settings: Settings,
    review: BlindReview,
    contents: PlanContents,
    actor: str,
    signer: Signer | None,
    reason: str | None,
) -> ReviewClosing:
    plan = contents.plan
    people, said = People(settings), on_one_line(reason or "")
    _assert_may_close_early(people, settings, review, contents, signer, said)
    with entering_acts(settings, registry, review.id) as entering:
        rows = rows_of(entering.session, review, read_log(entering.session))
        assert_none(review.id, findings_in(rows, contents, settings, signed_acts(settings, review.id)))
        is_early = rows.asked < review.ballots
        if is_early and signer is None:
            raise _too_few(people, review, plan, rows.asked)
        closing = ReviewClosing(
            review_id=review.id,
            closed_at=datetime.datetime.now(datetime.UTC),
            seed=sealed_seed(settings, review).hex(),
            ballots=rows.asked,
            ballots_sha256=ballots_digest(rows.ballots, rows.guesses),
            officer=signer.keyid if is_early and signer is not None else None,
            reason=said if is_early else None,
        )
        signed = _signed(entering, settings, review, closing, signer) if is_early and signer is not None else {}
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
                **signed,
            },
        )
    return closing


def _signed(
    entering: Entering, settings: Settings, review: BlindReview, closing: ReviewClosing, signer: Signer
) -> dict[str, str | int]:
    """Return the additional fields of an early closing's entry: the signed statement and the trust root's versions."""
    trust = trust_root(settings)
    assert_in_force(entering.session, settings, trust)
    subject = Subject("review_plan/manifest.json", review.plan_manifest_sha256)
    bundle = sign_statement(signer, Statement((subject,), EARLY_CLOSING, said_of(review, closing)))
    return {STATEMENT: bundle.decode(), **trust_named(trust)}


def _assert_may_close_early(
    people: People,
    settings: Settings,
    review: BlindReview,
    contents: PlanContents,
    signer: Signer | None,
    reason: str,
) -> None:
    if (signer is None) != (not reason):
        raise InputError(
            "Closing early needs both an officer's key and a reason.",
            "Give both.",
            act="close_review_early",
            line=review.line,
        )
    if signer is None:
        return
    officer, named = officer_of(trust_root(settings), signer.keyid), contents.plan.may_close_early
    if stands_for(people, officer.person, named) is None:
        allowed = ", ".join(_names(people, named))
        raise SignInError(
            f"{officer.person} may not close this review of line {review.line} early. The recipe it was opened under "
            f"allows {allowed or 'nobody'} (gates.review.may_close_early).",
            "Wait for the missing ballots, or have one of these officers close it."
            if allowed
            else "Wait for the missing ballots.",
        )
    assert_may(officer, CLOSE, [contents.classification])


def _names(people: People, persons: Iterable[str]) -> list[str]:
    names = people.listed()
    return [people.shown(each, names) for each in persons]


def _too_few(people: People, review: BlindReview, plan: ReviewPlan, asked: int) -> GateRefused:
    message = (
        f"Line {review.line}: {asked} of the {review.ballots} pre-registered ballots were cast, so the review stays "
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
        f"Wait for the missing ballots, or have {allowed} close it early with a reason.",
        act="close_review_early",
        line=review.line,
    )
