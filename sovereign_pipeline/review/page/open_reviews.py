"""Open reviews in memory: what an operator is asked next, and the texts of a pair.

What belongs here: reading a review once, verified, and finding an operator's next question. What does not: HTTP.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sovereign_pipeline.base.errors import ConflictError, IntegrityError, SignInError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.people import People
from sovereign_pipeline.ledger.signed_artifacts.sealing import open_store
from sovereign_pipeline.ledger.tables import BlindReview
from sovereign_pipeline.review.ballots import given
from sovereign_pipeline.review.catalog import assert_open, find_all_open
from sovereign_pipeline.review.custody import sealed_seed
from sovereign_pipeline.review.links import SignedIn, assert_newest, stands_for
from sovereign_pipeline.review.plan import AnswerPair, PlannedPair, candidate_positions, pairs_to_guess
from sovereign_pipeline.review.sealed import PlanContents, answers_of, plan_of

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Question:
    """What an operator is asked now."""

    kind: Literal["ballot", "guess"]
    pair: str
    left: int
    """How many questions of this kind are left, this one included."""
    total: int


@dataclass(frozen=True)
class PairTexts:
    """One pair as it is shown."""

    prompt: str
    answers: tuple[tuple[Literal["a"], str], tuple[Literal["b"], str]]


@dataclass(frozen=True)
class OpenReview:
    """One open review with everything that its pages are made of, verified."""

    row: BlindReview
    contents: PlanContents
    seed: bytes = field(repr=False)
    answers: Mapping[str, AnswerPair] = field(repr=False)
    """By prompt id."""

    def pairs(self, operator: str) -> dict[str, PlannedPair]:
        """The pairs that an operator rates, by their ids, in order."""
        return {each.pair: each for each in self.contents.asked(operator)}

    def to_guess(self, operator: str) -> list[str]:
        """The pairs that an operator guesses about, in order."""
        plan = self.contents.plan
        planned = plan.operators.get(operator, ())
        return pairs_to_guess(self.seed, operator, planned, self.contents.identical, plan.guess_pairs)

    def texts(self, operator: str, pair: str) -> PairTexts:
        planned = self.contents.plan.operators[operator]
        prompt = next(each.prompt for each in planned if each.pair == pair)
        answers = self.answers[prompt]
        a, b = answers.candidate, answers.opponent
        if candidate_positions(self.seed, operator, planned)[pair] == "b":
            a, b = b, a
        return PairTexts(self.contents.prompts[prompt].text, (("a", a), ("b", b)))


class OpenReviews:
    """Every open review of the installation, each read from the store once."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._read: dict[str, OpenReview] = {}

    def get(self, review_id: str) -> OpenReview:
        """Raises ConflictError for a review that is closed, and SignInError for one that does not exist."""
        with self._registry.reading() as session:
            assert_open(session, review_id)
            row = session.get(BlindReview, review_id)
        if row is None:
            raise _not_signed_in()
        if review_id not in self._read:
            store, seed = open_store(self._settings), sealed_seed(self._settings, row)
            self._read[review_id] = OpenReview(row, plan_of(store, row), seed, answers_of(store, row, seed))
        return self._read[review_id]

    def assert_not_ended(self, who: SignedIn) -> None:
        """Raises SignInError for a sign-in that a newer link has ended."""
        with self._registry.reading() as session:
            row = session.get(BlindReview, who.review)
            if row is None:
                raise _not_signed_in()
            assert_newest(session, row, who)

    def sign_in(self, name: str) -> SignedIn:
        """The oldest open review in which an operator has something left, else the newest they take part in.

        name: as the institution's proxy has it.

        A review that cannot be read is logged and skipped while there is another: it does not concern everybody.
        Raises SignInError for an operator who takes part in none.
        """
        theirs: list[tuple[OpenReview, str]] = []
        people, damaged = People(self._settings), None
        for row in find_all_open(self._registry):
            try:
                review = self.get(row.id)
            except ConflictError:  # closed since
                continue
            except IntegrityError as error:
                _LOG.error("review %s cannot be read: %s", row.id, error)
                damaged = error
                continue
            operator = stands_for(people, name, review.contents.plan.operators)
            if operator is not None and review.pairs(operator):
                theirs.append((review, operator))
        if not theirs:
            raise damaged or SignInError("You take part in no open review.", "Ask whoever invited you.")
        left = [each for each in theirs if self.next_question(*each) is not None]
        review, operator = left[0] if left else theirs[-1]
        return SignedIn(review.row.id, operator)

    def next_question(self, review: OpenReview, operator: str) -> Question | None:
        """What an operator is asked now; None when every ballot and guess is given."""
        done, pairs = given(self._registry, review.row, operator), review.pairs(operator)
        left = [pair for pair in pairs if pair not in done.ballots]
        if left:
            return Question("ballot", left[0], len(left), len(pairs))
        guesses = review.to_guess(operator)
        left = [pair for pair in guesses if pair not in done.guesses]
        return Question("guess", left[0], len(left), len(guesses)) if left else None


def _not_signed_in() -> SignInError:
    return SignInError("You are not signed in here.", "Open the link that you were sent.")
