"""Ballots and guesses in the registry: each given once, none summed up before the review is closed.

What belongs here: recording them, and how far each operator is. What does not: what makes an act of it (`acts.py`),
closing (`closing.py`), figures (`result.py`), and which answer was the candidate's: a ballot holds A and B as they were
shown.
"""

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError as RefusedByDatabase
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, IntegrityError
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.people import person_in_short
from sovereign_pipeline.ledger.tables import Ballot, BlindReview, Guess
from sovereign_pipeline.policy.review import Criterion
from sovereign_pipeline.review.acts import (
    BALLOT_GIVEN,
    GUESS_GIVEN,
    HINT,
    PROXY,
    SIGNED_IN,
    Entering,
    acts_of,
    entering_acts,
    entries_of,
)
from sovereign_pipeline.review.links import SignedIn
from sovereign_pipeline.review.plan import Position

Preference = Literal["a", "b", "tie"]

LOWEST, HIGHEST = 1, 5
"""The scale of a rating."""

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
    settings: Settings,
    who: SignedIn,
    pair: str,
    preference: Preference,
    ratings: Mapping[str, int],
) -> None:
    """Record one ballot and its act. The caller has checked who it is, and that the pair is the operator's.

    Args:
        ratings: `a.accuracy` and so on -> 1 to 5.

    Raises ConflictError for a second ballot, even an equal one, and once the review is closed; IntegrityError when the
    registry was changed.
    """
    ballot = Ballot(
        review_id=who.review,
        operator=who.operator,
        pair=pair,
        preference=preference,
        ratings=dict(sorted(ratings.items())),
        given_at=datetime.datetime.now(datetime.UTC),
    )
    _record(registry, settings, who, ballot)


def give_guess(registry: Registry, settings: Settings, who: SignedIn, pair: str, choice: Position) -> None:
    """Record which answer of a pair an operator takes for the candidate's. Raises as `give_ballot`."""
    now = datetime.datetime.now(datetime.UTC)
    guess = Guess(review_id=who.review, operator=who.operator, pair=pair, choice=choice, given_at=now)
    _record(registry, settings, who, guess)


def given(registry: Registry, review: BlindReview, operator: str) -> Given:
    """What one operator has on record; for pairs with identical answers a tie is on record from the beginning.

    Raises IntegrityError when that is not what the operator's acts say.
    """
    with registry.reading() as session:
        ballots = [each for each in ballots_of(session, review.id) if each.operator == operator]
        guesses = [each for each in guesses_of(session, review.id) if each.operator == operator]
        entries = [each for each in entries_of(session, review.id) if each.actor == operator]
    acts = acts_of(entries, review.act_key)
    by_acts = {each.subjects["ballot"] for each in acts if each.action in (BALLOT_GIVEN, GUESS_GIVEN)}
    on_record: list[Ballot | Guess] = [*filter(was_asked, ballots), *guesses]
    if by_acts != {digest_of(content_of(each)) for each in on_record}:
        raise IntegrityError(
            f"Review {review.id}: what {person_in_short(operator)} gave is not what the audit log says. The registry "
            f"was changed past this program.",
            HINT,
        )
    return Given(frozenset(each.pair for each in ballots), frozenset(each.pair for each in guesses))


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


def _record(registry: Registry, settings: Settings, who: SignedIn, record: Ballot | Guess) -> None:
    action = BALLOT_GIVEN if isinstance(record, Ballot) else GUESS_GIVEN
    try:
        with entering_acts(settings, registry, who.review) as entering:
            if entering.session.get(type(record), (who.review, who.operator, record.pair)) is not None:
                raise ConflictError(GIVEN)
            sign_in = who.sign_in or _sign_in_by_proxy(entering, who)
            entering.session.add(record)
            entering.session.flush()
            subjects = {"pair": record.pair, "ballot": digest_of(content_of(record)), "sign_in": sign_in}
            entering.enter(who.operator, action, subjects)
    except RefusedByDatabase:
        raise ConflictError(GIVEN) from None


def _sign_in_by_proxy(entering: Entering, who: SignedIn) -> int:
    """Number of the act by which the institution's proxy named an operator; entered with their first ballot."""
    for act in reversed(entering.acts()):
        if (act.action, act.actor) == (SIGNED_IN, who.operator) and act.subjects.get("by") == PROXY:
            return act.number
    return entering.enter(who.operator, SIGNED_IN, {"by": PROXY})


def _by_pair(content: Mapping[str, Any]) -> tuple[str, str]:
    return content["operator"], content["pair"]
