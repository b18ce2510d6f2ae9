"""Ballots of a review in the registry: given once, read by nobody's sum before the review is closed.

What belongs here: recording what an operator says, how far each has come, and closing. What does not: what the ballots
amount to (`result.py`), and which side A was: a ballot holds A and B as they were shown, and only the sealed seed
knows.
"""

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError as RefusedByDatabase
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.hashing import digest_of
from sovereign_pipeline.errors import ConflictError, GateRefused, InputError, IntegrityError, NotFoundError
from sovereign_pipeline.ledger import audit_log as audit
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import Adapter, AuditEntry, Ballot, BlindReview, Guess, ReviewClosing
from sovereign_pipeline.policy.review import Criterion
from sovereign_pipeline.review.plan import Arm, ReviewPlan

Preference = Literal["a", "b", "tie"]
LOWEST, HIGHEST = 1, 5
"""Of a rating."""

CLOSED = "This review is closed; no rating is taken any more. Thank you for yours."
GIVEN = "This pair was rated already. The first rating stands."


@dataclass(frozen=True)
class Progress:
    """One operator. ballots: given, of the pairs that they are asked about; guesses: given."""

    operator: str
    ballots: int
    pairs: int
    guesses: int


@dataclass(frozen=True)
class Given:
    """Pairs of one operator that are on record."""

    ballots: frozenset[str]
    guesses: frozenset[str]


def find_open(session: Session, line: str) -> BlindReview | None:
    """The review of a line that was opened and not closed."""
    closed = select(ReviewClosing.review_id)
    query = select(BlindReview).where(BlindReview.line == line, BlindReview.id.not_in(closed))
    return session.scalars(query).one_or_none()


def find_all_open(registry: Registry) -> list[BlindReview]:
    """Every open review of the installation, the oldest first."""
    query = select(BlindReview).where(BlindReview.id.not_in(select(ReviewClosing.review_id)))
    with registry.reading() as session:
        return list(session.scalars(query.order_by(BlindReview.opened_at, BlindReview.id)))


def find_last(registry: Registry, line: str) -> tuple[BlindReview, ReviewClosing | None]:
    """The line's open review, or the one that was opened last. Raises NotFoundError when there never was one."""
    with registry.reading() as session:
        query = select(BlindReview).where(BlindReview.line == line).order_by(BlindReview.opened_at.desc())
        review = find_open(session, line) or session.scalars(query.limit(1)).one_or_none()
        if review is None:
            raise NotFoundError(f"Line {line} has had no review. Open one: `sovereign review open {line}`.")
        return review, session.get(ReviewClosing, review.id)


def find_closed(registry: Registry, line: str) -> list[tuple[BlindReview, ReviewClosing]]:
    """Every closed review of a line, in the order of closing."""
    query = (
        select(BlindReview, ReviewClosing)
        .join(ReviewClosing, ReviewClosing.review_id == BlindReview.id)
        .where(BlindReview.line == line)
        .order_by(ReviewClosing.closed_at, BlindReview.id)
    )
    with registry.reading() as session:
        return [(review, closing) for review, closing in session.execute(query)]


def find_closed_of(registry: Registry, line: str, adapter_digest: str) -> list[tuple[BlindReview, ReviewClosing]]:
    """Those of the line's closed reviews whose candidate was this artifact, whatever it was registered as then: a
    changed recipe or release registers the same weights once more."""
    of_artifact = select(Adapter.id).where(Adapter.line == line, Adapter.adapter_digest == adapter_digest)
    with registry.reading() as session:
        ids = set(session.scalars(of_artifact))
    return [each for each in find_closed(registry, line) if each[0].adapter_id in ids]


def give_ballot(
    registry: Registry,
    review: str,
    operator: str,
    pair: str,
    preference: Preference,
    ratings: Mapping[str, int],
) -> None:
    """Record one ballot and its entry in the audit log. The pair must be the operator's (`page.py` sees to that).

    ratings: `a.accuracy` and so on -> 1 to 5. Raises ConflictError for a second one, whatever it says, and once the
    review is closed.
    """
    ballot = Ballot(
        review_id=review,
        operator=operator,
        pair=pair,
        preference=preference,
        ratings=dict(sorted(ratings.items())),
        given_at=datetime.datetime.now(datetime.UTC),
    )
    _record(registry, ballot, "ballot given")


def give_guess(registry: Registry, review: str, operator: str, pair: str, choice: Arm) -> None:
    """Record which answer of a pair an operator takes for the new side's. Raises as `give_ballot`."""
    now = datetime.datetime.now(datetime.UTC)
    _record(registry, Guess(review_id=review, operator=operator, pair=pair, choice=choice, given_at=now), "guess given")


def given(registry: Registry, review: str, operator: str) -> Given:
    """What one operator has on record; pairs with identical answers are from the beginning."""

    def pairs(table: type[Ballot] | type[Guess]) -> frozenset[str]:
        query = select(table.pair).where(table.review_id == review, table.operator == operator)
        return frozenset(session.scalars(query))

    with registry.reading() as session:
        return Given(pairs(Ballot), pairs(Guess))


def progress(registry: Registry, review: BlindReview, pairs: Mapping[str, int]) -> list[Progress]:
    """How far every operator has come; never what they said. pairs: operator -> how many they are asked about."""
    with registry.reading() as session:
        ballots = Counter(each.operator for each in ballots_of(session, review.id) if _was_asked(each))
        guesses = Counter(each.operator for each in guesses_of(session, review.id))
    return [Progress(name, ballots[name], total, guesses[name]) for name, total in pairs.items()]


def close(
    registry: Registry,
    review: BlindReview,
    seed: bytes,
    plan: ReviewPlan,
    actor: str,
    officer: str | None = None,
    reason: str | None = None,
) -> ReviewClosing:
    """Close a review and reveal its seed. actor: whoever runs the command.

    Below the pre-registered number of ballots an officer whom the plan names must give a reason. Raises GateRefused
    when there are too few ballots, InputError for an officer without a reason or one who may not close early,
    ConflictError for a review that is closed, and IntegrityError when the ballots are not those of the audit log.
    """
    if (officer is None) != (not (reason or "").strip()):
        raise InputError("Closing early takes both: --officer NAME and --reason TEXT.")
    if officer is not None and officer not in plan.may_close_early:
        allowed = ", ".join(plan.may_close_early) or "nobody"
        raise InputError(
            f"{officer} may not close this review of line {review.line} early; the recipe under which it was opened "
            f"allows {allowed} (gates.review.may_close_early)."
        )
    with registry.writing() as session:
        _assert_open(session, review.id)
        ballots, guesses = ballots_of(session, review.id), guesses_of(session, review.id)
        _assert_as_logged(review.id, ballots, guesses, _log(session))
        asked = sum(map(_was_asked, ballots))
        is_early = asked < review.ballots
        if is_early and officer is None:
            early = "An officer may close it early: --officer NAME --reason TEXT."
            if not plan.may_close_early:
                early = "Nobody may close it early by the recipe it was opened under (gates.review.may_close_early)."
            raise GateRefused(
                f"Line {review.line}: {asked} of the {review.ballots} pre-registered ballots were given, so the "
                f"review stays open. {early}"
            )
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
    """The ballots and guesses of a closed review, each held to its entry in the audit log.

    Raises IntegrityError when one was added, changed or removed since, or when the log itself was changed.
    """
    with registry.reading() as session:
        ballots, guesses = ballots_of(session, closing.review_id), guesses_of(session, closing.review_id)
        log = _log(session)
    _assert_as_logged(closing.review_id, ballots, guesses, log)
    asked = sum(map(_was_asked, ballots))
    if ballots_digest(ballots, guesses) != closing.ballots_sha256 or asked != closing.ballots:
        raise IntegrityError(
            f"The ballots of review {closing.review_id} are not those that it was closed with. The registry was "
            f"changed past its triggers: restore it from a copy, and find out who."
        )
    return ballots, guesses


def were_asked(registry: Registry, closing: ReviewClosing) -> bool:
    """Whether anybody rated anything in a closed review."""
    with registry.reading() as session:
        return any(_was_asked(each) for each in ballots_of(session, closing.review_id))


def ballots_of(session: Session, review: str) -> list[Ballot]:
    return list(
        session.scalars(select(Ballot).where(Ballot.review_id == review).order_by(Ballot.operator, Ballot.pair))
    )


def guesses_of(session: Session, review: str) -> list[Guess]:
    return list(session.scalars(select(Guess).where(Guess.review_id == review).order_by(Guess.operator, Guess.pair)))


def ballots_digest(ballots: Sequence[Ballot], guesses: Sequence[Guess]) -> str:
    """SHA-256 over all that was said, whatever the order."""
    return digest_of([sorted((_content(each) for each in kind), key=_by_pair) for kind in (ballots, guesses)])


def ratings_asked(criteria: Sequence[Criterion]) -> tuple[str, ...]:
    """The names of the ratings of one ballot."""
    return tuple(f"{side}.{criterion}" for side in ("a", "b") for criterion in criteria)


def _record(registry: Registry, said: Ballot | Guess, action: str) -> None:
    digest = digest_of(_content(said))
    try:
        with registry.writing() as session:
            _assert_open(session, said.review_id)
            if session.get(type(said), (said.review_id, said.operator, said.pair)) is not None:
                raise ConflictError(GIVEN)
            session.add(said)
            session.flush()
            audit.append(
                session, said.operator, action, {"review": said.review_id, "pair": said.pair, "ballot": digest}
            )
    except RefusedByDatabase:
        raise ConflictError(GIVEN) from None


def _log(session: Session) -> list[AuditEntry]:
    return list(session.scalars(select(AuditEntry).order_by(AuditEntry.sequence)))


def _assert_as_logged(
    review: str, ballots: Sequence[Ballot], guesses: Sequence[Guess], log: Sequence[AuditEntry]
) -> None:
    """What was asked for and given is what the log says, no more and no less. Raises IntegrityError."""
    audit.verify(log)
    logged = {
        entry.subjects["ballot"]
        for entry in log
        if entry.action in ("ballot given", "guess given") and entry.subjects["review"] == review
    }
    everything: list[Ballot | Guess] = [*ballots, *guesses]
    if logged != {digest_of(_content(each)) for each in everything if _was_asked(each)}:
        raise IntegrityError(
            f"The ballots of review {review} are not those of the audit log: one was added, changed or removed past "
            f"the registry's triggers. Restore the registry from a copy, and find out who."
        )


def _assert_open(session: Session, review: str) -> None:
    if session.get(ReviewClosing, review) is not None:
        raise ConflictError(CLOSED)


def _was_asked(said: Ballot | Guess) -> bool:
    return isinstance(said, Guess) or said.ratings is not None


def _content(said: Ballot | Guess) -> dict[str, Any]:
    return {
        "review": said.review_id,
        "operator": said.operator,
        "pair": said.pair,
        "given_at": said.given_at.isoformat(timespec="microseconds"),
        **(
            {"choice": said.choice}
            if isinstance(said, Guess)
            else {"preference": said.preference, "ratings": said.ratings}
        ),
    }


def _by_pair(content: Mapping[str, Any]) -> tuple[str, str]:
    return content["operator"], content["pair"]
