"""Manage sessions and open reviews for the review page's routes."""

import contextlib
import hashlib
import hmac
import logging
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

from fastapi import Depends, Request
from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer

from sovereign_pipeline.base.errors import ConflictError, IntegrityError, SignInError
from sovereign_pipeline.base.hosts import Proxy
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.officers import People
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.tables import BlindReview
from sovereign_pipeline.review.acts import assert_open, find_all_open, sealed_seed, secrets_directory, write_private
from sovereign_pipeline.review.ballots import SignedIn, assert_newest, given, stands_for
from sovereign_pipeline.review.plan import (
    AnswerPair,
    PlanContents,
    PlannedPair,
    answers_of,
    candidate_positions,
    pairs_to_guess,
    plan_of,
    readable,
)

SESSION_SECONDS = 7 * 24 * 3600
_KEY_BYTES = 32
_SIGNER = {"key_derivation": "hmac", "digest_method": hashlib.sha256}


class Sessions:
    """Issues and verifies session tokens, signed with this installation's key."""

    def __init__(self, settings: Settings) -> None:
        self._key = _signing_key(settings)
        self._serializer = URLSafeTimedSerializer(self._key, salt="session", signer_kwargs=_SIGNER)

    def sign(self, who: SignedIn) -> str:
        return str(self._serializer.dumps([who.review, who.operator, who.sign_in]))

    def read(self, signed: str) -> SignedIn:
        """Verify a session token and return its operator. Raises SignInError if the token was changed or is older than
        `SESSION_SECONDS`."""
        try:
            review, operator, sign_in = self._serializer.loads(signed, max_age=SESSION_SECONDS)
            return SignedIn(review, operator, int(sign_in))
        except SignatureExpired:
            raise SignInError("Your session has expired.", "Ask for a new link; no rating is lost.") from None
        except (BadSignature, ValueError, TypeError):
            raise SignInError("You are not signed in here.", "Open the link that you received.") from None

    def form_token(self, who: SignedIn) -> str:
        """Return the CSRF token that requests with a ballot or guess must contain."""
        content = f"form\n{who.review}\n{who.operator}\n{who.sign_in}".encode()
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()

    def is_form_token(self, who: SignedIn, token: str) -> bool:
        return hmac.compare_digest(self.form_token(who).encode(), token.encode())


def _signing_key(settings: Settings) -> bytes:
    """Return the installation's session key, created at first use. Deleting its file signs everybody out."""
    path = secrets_directory(settings) / "session.key"
    if not path.exists():
        aside = path.with_name(f".session.key-{secrets.token_hex(8)}")
        write_private(aside, secrets.token_bytes(_KEY_BYTES))
        with contextlib.suppress(FileExistsError):  # another process of this installation created the key first
            path.hardlink_to(aside)
        aside.unlink()
    return path.read_bytes()


_LOG = logging.getLogger(__name__)

TURN_HEADINGS = {
    "system": "Rules",
    "user": "Message",
    "assistant": "Our reply",
    "call": "Call of a tool",
    "tool": "Result of the tool",
}


@dataclass(frozen=True)
class Question:
    """The next question for an operator."""

    kind: Literal["ballot", "guess"]
    pair: str
    left: int
    """Number of remaining questions of the same kind (ballots or guesses), including this question."""
    total: int


@dataclass(frozen=True)
class PairTexts:
    """The texts of one pair, as the page shows them."""

    prompt: str
    turns: tuple[tuple[str, str], ...]
    """Turns of a conversation, each with its heading; empty for a letter."""
    answers: tuple[tuple[Literal["a"], str], tuple[Literal["b"], str]]


@dataclass(frozen=True)
class OpenReview:
    """A verified open review with everything that its pages need."""

    row: BlindReview
    contents: PlanContents
    seed: bytes = field(repr=False)
    answers: Mapping[str, AnswerPair] = field(repr=False)
    """Answers by prompt id."""

    def pairs(self, operator: str) -> dict[str, PlannedPair]:
        """Return id -> pair for the pairs that an operator rates, in display order."""
        return {each.pair: each for each in self.contents.asked(operator)}

    def to_guess(self, operator: str) -> list[str]:
        """Return the ids of the pairs that an operator guesses about, in order."""
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
        shown = self.contents.prompts[prompt]
        turns = tuple(
            (TURN_HEADINGS["call" if message.tool_calls else message.role], readable(message))
            for message in shown.messages
        )
        return PairTexts(shown.text, turns, (("a", a), ("b", b)))


class OpenReviews:
    """The open reviews of the installation. Each review is read from the store once and then cached."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._read: dict[str, OpenReview] = {}

    def get(self, review_id: str) -> OpenReview:
        """Return an open review. Raises ConflictError if the review is closed, and SignInError if the review does not
        exist."""
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
        with self._registry.reading() as session:
            row = session.get(BlindReview, who.review)
            if row is None:
                raise _not_signed_in()
            assert_newest(session, row, who)

    def sign_in(self, name: str) -> SignedIn:
        """Sign an operator in to the oldest open review in which the operator has questions left. If no question is
        left, sign the operator in to the operator's newest open review. Logs a review that cannot be read, and skips it
        if another review includes the operator. Raises SignInError if no review includes the operator.

        Args:
            name: the operator's name, as the institution's proxy sends it.
        """
        theirs: list[tuple[OpenReview, str]] = []
        people, damaged = People(self._settings), None
        for row in find_all_open(self._registry):
            try:
                review = self.get(row.id)
            except ConflictError:  # the review was closed meanwhile
                continue
            except IntegrityError as error:
                _LOG.error("review %s cannot be read: %s", row.id, error)
                damaged = error
                continue
            operator = stands_for(people, name, review.contents.plan.operators)
            if operator is not None and review.pairs(operator):
                theirs.append((review, operator))
        if not theirs:
            raise damaged or SignInError(
                "You are not an operator of an open review.", "Ask the person who invited you."
            )
        left = [each for each in theirs if self.next_question(*each) is not None]
        review, operator = left[0] if left else theirs[-1]
        return SignedIn(review.row.id, operator)

    def next_question(self, review: OpenReview, operator: str) -> Question | None:
        """Return the operator's next question, or None if no ballot or guess is left."""
        done, pairs = given(self._registry, review.row, operator), review.pairs(operator)
        left = [pair for pair in pairs if pair not in done.ballots]
        if left:
            return Question("ballot", left[0], len(left), len(pairs))
        guesses = review.to_guess(operator)
        left = [pair for pair in guesses if pair not in done.guesses]
        return Question("guess", left[0], len(left), len(guesses)) if left else None


def _not_signed_in() -> SignInError:
    return SignInError("You are not signed in here.", "Open the link that you received.")


SESSION_COOKIE = "session"
FORM_HEADER = "X-Form-Token"


class PageContext:
    """The settings, registry, sessions and open reviews of one application."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self.settings = settings
        self.registry = registry
        self.sessions = Sessions(settings)
        self.reviews = OpenReviews(settings, registry)
        self.proxy = Proxy(settings.review_proxies)

    def is_behind_tls(self, request: Request) -> bool:
        if request.url.scheme == "https":
            return True
        return self.proxy.sent(request.scope) and request.headers.get("x-forwarded-proto") == "https"


def context_of(request: Request) -> PageContext:
    context: PageContext = request.app.state.context
    return context


Context = Annotated[PageContext, Depends(context_of)]


def signed_in(request: Request, context: Context) -> SignedIn:
    """Return the operator who sent a request, from the trusted proxy's header or, without this header, from the session
    cookie. Raises SignInError if header and cookie name no operator, or if a newer link ended the session."""
    header = context.settings.review_user_header
    named = context.proxy.named(request.scope, header) if header is not None else None
    if named is not None:
        return context.reviews.sign_in(named)
    who = context.sessions.read(request.cookies.get(SESSION_COOKIE, ""))
    context.reviews.assert_not_ended(who)
    return who


Reader = Annotated[SignedIn, Depends(signed_in)]
"""The operator who may read a page."""


def signed_in_by_form(request: Request, context: Context, reader: Reader) -> SignedIn:
    """Return the operator who sent a ballot or guess. Raises SignInError if the request was not sent by the review page
    (CSRF check)."""
    if not context.sessions.is_form_token(reader, request.headers.get(FORM_HEADER, "")):
        raise SignInError("This request did not come from the page.", "Load the page again.")
    return reader


Author = Annotated[SignedIn, Depends(signed_in_by_form)]
"""The operator who may record a ballot or a guess."""


def review_of_reader(context: Context, reader: Reader) -> OpenReview:
    """Return the open review of a request's operator. Raises ConflictError if the review is closed."""
    return context.reviews.get(reader.review)


Review = Annotated[OpenReview, Depends(review_of_reader)]
