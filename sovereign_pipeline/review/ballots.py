"""Ballots and guesses in the registry: each given once, none summed up before the review is closed.

What belongs here: recording them, and how far each operator is. What does not: closing (`closing.py`), figures
(`result.py`), and which answer was the candidate's: a ballot holds A and B as they were shown.
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
from sovereign_pipeline.errors import ConflictError
from sovereign_pipeline.ledger import audit_log as audit
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import Ballot, BlindReview, Guess, ReviewClosing
from sovereign_pipeline.policy.review import Criterion
from sovereign_pipeline.review.plan import Position

Preference = Literal["a", "b", "tie"]

LOWEST, HIGHEST = 1, 5
"""The scale of a rating."""

BALLOT_GIVEN, GUESS_GIVEN = "ballot given", "guess given"
"""Actions in the audit log."""

CLOSED = "This review is closed; no rating is taken any more. Thank you for yours."
GIVEN = "This pair was rated already. The first rating stands."


@dataclass(frozen=True)
class Progress:
    """How far one operator is."""

    operator: str
    ballots: int
    """How many the operator has given."""
    pairs: int
    """How many pairs the operator rates in all."""
    guesses: int


@dataclass(frozen=True)
class Given:
    """Ids of the pairs of one operator that are on record."""

    ballots: frozenset[str]
    guesses: frozenset[str]


def give_ballot(
    registry: Registry,
    review: str,
    operator: str,
    pair: str,
    preference: Preference,
    ratings: Mapping[str, int],
) -> None:
    """Record one ballot and its entry in the audit log. The caller has checked that the pair is the operator's.

    Args:
        ratings: `a.accuracy` and so on -> 1 to 5.

    Raises ConflictError for a second ballot, even an equal one, and once the review is closed.
    """
    ballot = Ballot(
        review_id=review,
        operator=operator,
        pair=pair,
        preference=preference,
        ratings=dict(sorted(ratings.items())),
        given_at=datetime.datetime.now(datetime.UTC),
    )
    _record(registry, ballot, BALLOT_GIVEN)


def give_guess(registry: Registry, review: str, operator: str, pair: str, choice: Position) -> None:
    """Record which answer of a pair an operator takes for the candidate's. Raises as `give_ballot`."""
    now = datetime.datetime.now(datetime.UTC)
    _record(registry, Guess(review_id=review, operator=operator, pair=pair, choice=choice, given_at=now), GUESS_GIVEN)


def given(registry: Registry, review: str, operator: str) -> Given:
    """What one operator has on record; for pairs with identical answers a tie is on record from the beginning."""

    def pairs(table: type[Ballot] | type[Guess]) -> frozenset[str]:
        query = select(table.pair).where(table.review_id == review, table.operator == operator)
        return frozenset(session.scalars(query))

    with registry.reading() as session:
        return Given(pairs(Ballot), pairs(Guess))


def progress(registry: Registry, review: BlindReview, pairs: Mapping[str, int]) -> list[Progress]:
    """How far every operator is; never how they rated. pairs: operator -> how many pairs they rate in all."""
    with registry.reading() as session:
        ballots = Counter(each.operator for each in ballots_of(session, review.id) if was_asked(each))
        guesses = Counter(each.operator for each in guesses_of(session, review.id))
    return [Progress(name, ballots[name], total, guesses[name]) for name, total in pairs.items()]


def ballots_of(session: Session, review: str) -> list[Ballot]:
    return list(
        session.scalars(select(Ballot).where(Ballot.review_id == review).order_by(Ballot.operator, Ballot.pair))
    )


def guesses_of(session: Session, review: str) -> list[Guess]:
    return list(session.scalars(select(Guess).where(Guess.review_id == review).order_by(Guess.operator, Guess.pair)))


def ballots_digest(ballots: Sequence[Ballot], guesses: Sequence[Guess]) -> str:
    """SHA-256 over every ballot and guess, whatever their order."""
    return digest_of([sorted((content_of(each) for each in kind), key=_by_pair) for kind in (ballots, guesses)])


def ratings_asked(criteria: Sequence[Criterion]) -> tuple[str, ...]:
    """The names of the ratings of one ballot: `a.accuracy` and so on."""
    return tuple(f"{position}.{criterion}" for position in ("a", "b") for criterion in criteria)


def was_asked(record: Ballot | Guess) -> bool:
    """Whether an operator gave it; a tie for identical answers was given by nobody."""
    return isinstance(record, Guess) or record.ratings is not None


def content_of(record: Ballot | Guess) -> dict[str, Any]:
    """All of a ballot or guess, as its entry in the audit log commits to it."""
    return {
        "review": record.review_id,
        "operator": record.operator,
        "pair": record.pair,
        "given_at": record.given_at.isoformat(timespec="microseconds"),
        **(
            {"choice": record.choice}
            if isinstance(record, Guess)
            else {"preference": record.preference, "ratings": record.ratings}
        ),
    }


def assert_open(session: Session, review: str) -> None:
    """Raises ConflictError once a review is closed."""
    if session.get(ReviewClosing, review) is not None:
        raise ConflictError(CLOSED)


def _record(registry: Registry, record: Ballot | Guess, action: str) -> None:
    digest = digest_of(content_of(record))
    try:
        with registry.writing() as session:
            assert_open(session, record.review_id)
            if session.get(type(record), (record.review_id, record.operator, record.pair)) is not None:
                raise ConflictError(GIVEN)
            session.add(record)
            session.flush()
            audit.append(
                session, record.operator, action, {"review": record.review_id, "pair": record.pair, "ballot": digest}
            )
    except RefusedByDatabase:
        raise ConflictError(GIVEN) from None


def _by_pair(content: Mapping[str, Any]) -> tuple[str, str]:
    return content["operator"], content["pair"]
