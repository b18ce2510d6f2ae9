"""A closed review with its positions undone: which rating and which guess was about the candidate.

What belongs here: from A and B to candidate and opponent, by the revealed seed. What does not: figures (`result.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ConfigDict, Field

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.ledger.tables import Ballot, Guess
from sovereign_pipeline.policy.review import Criterion
from sovereign_pipeline.review.plan import PlannedPair, Position, candidate_positions, commitment
from sovereign_pipeline.review.sealed import PlanContents


class EarlyClosing(Frozen):
    """Who closed a review before the pre-registered number of ballots, and why."""

    officer: str
    reason: str


@dataclass(frozen=True)
class ClosedReview:
    """All that a result is computed from."""

    review: str
    """Its id."""
    contents: PlanContents
    seed: bytes
    ballots: Sequence[Ballot]
    guesses: Sequence[Guess]
    closed_early: EarlyClosing | None
    candidate_weights: str
    """SHA-256 of the weights that were compared, under whichever artifact and version."""
    opponent_weights: str | None
    """None for the base model."""

    @property
    def opponent(self) -> str:
        """Id of the adapter that the candidate would replace, or name of the base model."""
        return self.contents.plan.opponent or self.contents.plan.base_model


class UnblindedBallot(Frozen):
    """One row of `ballots.jsonl`."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    operator: str
    pair: str
    prompt: str
    """Id of the prompt."""
    shared: bool
    """Whether every operator rates this prompt."""
    candidate_position: Position = Field(validation_alias="candidate_side", serialization_alias="candidate_side")
    """Where the candidate's answer was shown."""
    preference: int
    """1 for the candidate, -1 for the opponent, 0 for a tie."""
    candidate: dict[Criterion, int]
    """Criterion -> 1 to 5; empty for identical answers, which nobody rated."""
    opponent: dict[Criterion, int]

    @property
    def was_asked(self) -> bool:
        return bool(self.candidate)


class UnblindedGuess(Frozen):
    """One row of `guesses.jsonl`."""

    operator: str
    pair: str
    right: bool
    """Whether the operator took the candidate's answer for the newer version's."""


def unblind_ballots(closed: ClosedReview) -> list[UnblindedBallot]:
    """Every ballot of a closed review.

    Raises IntegrityError for a seed other than the committed one, and for a ballot that the plan cannot have led to.
    """
    plan = closed.contents.plan
    if commitment(closed.seed) != plan.seed_sha256:
        raise IntegrityError(
            f"Review {closed.review}: the revealed seed is not the one that was committed to.",
            "Restore the registry from a copy, and find out who changed it.",
        )
    positions, planned = _positions(closed), _planned(closed)
    ballots = []
    for ballot in closed.ballots:
        key = (ballot.operator, ballot.pair)
        if key not in planned:
            raise _planted(closed, "a ballot is about a pair that was never shown")
        if (ballot.ratings is None) != (planned[key].prompt in closed.contents.identical):
            raise _planted(closed, "a tie is on record that nobody gave, or a pair of identical answers was rated")
        position = positions[key]
        ballots.append(
            UnblindedBallot(
                operator=ballot.operator,
                pair=ballot.pair,
                prompt=planned[key].prompt,
                shared=planned[key].shared,
                candidate_position=position,
                preference=0 if ballot.preference == "tie" else 1 if ballot.preference == position else -1,
                candidate=_ratings_at(ballot, position),
                opponent=_ratings_at(ballot, "b" if position == "a" else "a"),
            )
        )
    return ballots


def unblind_guesses(closed: ClosedReview) -> list[UnblindedGuess]:
    positions = _positions(closed)
    return [
        UnblindedGuess(operator=each.operator, pair=each.pair, right=each.choice == positions[each.operator, each.pair])
        for each in closed.guesses
    ]


def counted_ballots(ballots: Sequence[UnblindedBallot]) -> list[UnblindedBallot]:
    """The ballots that figures are computed over: the own pairs of every operator who rated one of them.

    Ties for identical answers are on record for operators who never came. Counted, each of those would be one more
    opinion.
    """
    own = [each for each in ballots if not each.shared]
    came = {each.operator for each in own if each.was_asked}
    return [each for each in own if each.operator in came]


def _planted(closed: ClosedReview, what: str) -> IntegrityError:
    return IntegrityError(
        f"Review {closed.review}: {what}.", "Restore the registry from a copy, and find out who changed it."
    )


def _positions(closed: ClosedReview) -> dict[tuple[str, str], Position]:
    return {
        (operator, pair): position
        for operator, pairs in closed.contents.plan.operators.items()
        for pair, position in candidate_positions(closed.seed, operator, pairs).items()
    }


def _planned(closed: ClosedReview) -> dict[tuple[str, str], PlannedPair]:
    return {(operator, each.pair): each for operator, pairs in closed.contents.plan.operators.items() for each in pairs}


def _ratings_at(ballot: Ballot, position: Position) -> dict[Any, int]:
    prefix = f"{position}."
    return {
        name.removeprefix(prefix): value for name, value in (ballot.ratings or {}).items() if name.startswith(prefix)
    }
