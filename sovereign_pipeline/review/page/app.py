"""Define the review page's routes and the application that serves them, and render its pages in English and Arabic."""

import contextlib
import hashlib
import hmac
import logging
import secrets
import unicodedata
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from uvicorn import Config, Server

from sovereign_pipeline.base.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    NotFoundError,
    SignInError,
    SovereignError,
    place_of,
)
from sovereign_pipeline.base.files import Frozen, write_new
from sovereign_pipeline.base.pages import HEADERS as PAGE_HEADERS
from sovereign_pipeline.base.pages import (
    LANGUAGE_COOKIE,
    LOOPBACK,
    Language,
    Proxy,
    for_hosts,
    language_of,
    listen,
    style,
    templates,
    translations,
)
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.officers import People
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.tables import BlindReview
from sovereign_pipeline.review.acts import assert_open, find_all_open, sealed_seed, secrets_directory
from sovereign_pipeline.review.ballots import (
    HIGHEST,
    LOWEST,
    Preference,
    SignedIn,
    assert_newest,
    give_ballot,
    give_guess,
    given,
    ratings_asked,
    stands_for,
    use_link,
)
from sovereign_pipeline.review.plan import (
    AnswerPair,
    PlanContents,
    PlannedPair,
    Position,
    answers_of,
    candidate_positions,
    pairs_to_guess,
    plan_of,
    readable,
)
from sovereign_pipeline.split.shingles import PLACEHOLDER

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
        write_new(aside, secrets.token_bytes(_KEY_BYTES))
        with contextlib.suppress(FileExistsError):  # another process of this installation created the key first
            path.hardlink_to(aside)
        aside.unlink()
    return path.read_bytes()


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
    """Prompt id -> answers of candidate and opponent."""

    def pairs(self, operator: str) -> dict[str, PlannedPair]:
        """Return the pairs that an operator rates, keyed by id, in display order."""
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
        """Return an open review. Raises ConflictError if the review is closed, SignInError if it does not exist, and
        IntegrityError if its plan, seed or answers were changed."""
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
        left, sign the operator in to the operator's newest open review. A review that cannot be read is logged and
        skipped. Raises SignInError if no review includes the operator, or IntegrityError instead if a review was
        skipped.

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
    """Return the operator who sent a request, named by the trusted proxy's header or, without this header, by the
    session cookie. Raises SignInError if neither names an operator, or if a newer link ended the session."""
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
    """Return the operator who sent a ballot or guess. Raises SignInError if the request's form token is missing or
    wrong, because another site may have caused the request (CSRF)."""
    if not context.sessions.is_form_token(reader, request.headers.get(FORM_HEADER, "")):
        raise SignInError("This request did not come from the page.", "Load the page again.")
    return reader


Author = Annotated[SignedIn, Depends(signed_in_by_form)]
"""The operator who may record a ballot or a guess."""


def review_of_reader(context: Context, reader: Reader) -> OpenReview:
    """Return the open review of a request's operator. Raises ConflictError if the review is closed."""
    return context.reviews.get(reader.review)


Review = Annotated[OpenReview, Depends(review_of_reader)]


Direction = Literal["ltr", "rtl"]

CRITERION_MEANINGS = {
    "accuracy": "The content is correct, and nothing is invented.",
    "helpfulness": "The sender can act on it.",
    "tone": "It sounds like our own letters.",
}


def direction(text: str) -> Direction:
    """Return the writing direction of most characters, according to Unicode's bidirectional classes. Placeholders such
    as NAME_1 are ignored.

    `dir="auto"` in HTML uses the first strong character, so an Arabic answer that begins with a Latin name would run
    from left to right.
    """
    classes = [unicodedata.bidirectional(character) for character in PLACEHOLDER.sub(" ", text)]
    right_to_left = sum(each in ("R", "AL") for each in classes)
    return "rtl" if right_to_left > classes.count("L") else "ltr"


HERE = Path(__file__).resolve().parent
translate = translations(HERE / "arabic.json")

_TEMPLATES = templates(HERE / "templates")
STYLE = style(HERE / "review.css")


def render(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """Render a template as a page. The template translates its sentences with `say`."""
    language = language_of(request)

    def say(sentence: str) -> str:
        return translate(sentence, language)

    content = _TEMPLATES.get_template(template).render(
        say=say,
        language=language,
        direction="rtl" if language == "ar" else "ltr",
        direction_of=direction,
        **values,
    )
    return Response(content, status, media_type="text/html")


_LOG = logging.getLogger(__name__)

HEADERS = {
    **PAGE_HEADERS,
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
}

REFUSALS: Sequence[tuple[type[SovereignError], int, str]] = (
    (SignInError, 401, "Not signed in"),
    (NotFoundError, 404, "Something is wrong"),
    (ConflictError, 409, "Thank you"),
    (InputError, 400, "Something is wrong"),
)
"""Error class, HTTP status and page title. The first class that matches an error applies."""


def add_handlers(app: FastAPI) -> None:
    """Register handlers that show an explanation to the operator if a route raises an expected error."""
    for kind, _, _ in REFUSALS:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unknown)


async def protect(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Set the security headers, and hide the details of unexpected errors from browsers."""
    try:
        response = await call_next(request)
    except Exception as error:
        # Messages of expected errors are logged. The message of a bug may quote an answer, so only its place is logged.
        _LOG.error(str(error) if isinstance(error, SovereignError) else place_of(error))
        text = "The page is not available now. Tell the administrator; no rating is lost."
        response = _refuse(request, 500, "Something is wrong", text)
    response.headers.update(HEADERS)
    return response


def _refused(request: Request, error: Exception) -> Response:
    status, title = next((status, title) for kind, status, title in REFUSALS if isinstance(error, kind))
    text = f"{error.message} {error.hint}".strip() if isinstance(error, SovereignError) else str(error)
    return _refuse(request, status, title, text)


def _invalid(request: Request, error: Exception) -> Response:
    return _refuse(request, 400, "Something is wrong", "The rating is not complete. Load the page again.")


def _unknown(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    return _refuse(request, status, "Something is wrong", "There is no such page here.")


def _refuse(request: Request, status: int, title: str, text: str) -> Response:
    """Return a full page for a GET request, or only the sentence, as JSON, for a request of the page's script."""
    if request.method == "GET":
        return render(request, "message.html", status, title=title, text=text)
    return JSONResponse({"error": translate(text, language_of(request))}, status)


router = APIRouter()


class SentToken(Frozen):
    token: Annotated[str, Field(max_length=200)]


@router.get("/sign-in")
def show_sign_in(request: Request) -> Response:
    return render(request, "sign_in.html")


@router.post("/sign-in", status_code=204)
def sign_in(request: Request, context: Context, sent: SentToken) -> Response:
    response = Response(status_code=204)
    response.set_cookie(
        SESSION_COOKIE,
        context.sessions.sign(use_link(context.registry, context.settings, sent.token)),
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=context.is_behind_tls(request),
    )
    return response


@router.get("/language/{language}")
def choose_language(request: Request, context: Context, language: Language) -> Response:
    response = RedirectResponse("/", 303)
    response.set_cookie(
        LANGUAGE_COOKIE,
        language,
        max_age=SESSION_SECONDS,
        httponly=True,
        samesite="strict",
        secure=context.is_behind_tls(request),
    )
    return response


@router.get("/")
def show_question(request: Request, context: Context, reader: Reader, review: Review) -> Response:
    question = context.reviews.next_question(review, reader.operator)
    if question is None:
        return render(
            request, "message.html", title="Thank you", text="All your pairs are rated. You can close this page."
        )
    return render(
        request,
        f"{question.kind}.html",
        question=question,
        texts=review.texts(reader.operator, question.pair),
        criteria=review.contents.plan.criteria,
        meanings=CRITERION_MEANINGS,
        form_token=context.sessions.form_token(reader),
    )


class SentBallot(Frozen):
    preference: Preference
    ratings: dict[str, Annotated[int, Field(strict=True, ge=LOWEST, le=HIGHEST)]]


@router.post("/pairs/{pair}", status_code=204)
def record_ballot(context: Context, author: Author, review: Review, pair: str, sent: SentBallot) -> None:
    if pair not in review.pairs(author.operator):
        raise NotFoundError("This pair is not assigned to you.")
    if set(sent.ratings) != set(ratings_asked(review.contents.plan.criteria)):
        raise InputError("The rating is not complete.", "Load the page again.")
    give_ballot(context.registry, context.settings, author, pair, sent.preference, sent.ratings)


class SentGuess(Frozen):
    choice: Position


@router.post("/guesses/{pair}", status_code=204)
def record_guess(context: Context, author: Author, review: Review, pair: str, sent: SentGuess) -> None:
    """Record a guess. Guesses are accepted once the operator has given every ballot."""
    question = context.reviews.next_question(review, author.operator)
    is_rating = question is not None and question.kind == "ballot"
    if pair not in review.to_guess(author.operator) or is_rating:
        raise NotFoundError("This pair is not assigned to you.")
    give_guess(context.registry, context.settings, author, pair, sent.choice)


def create_app(settings: Settings, registry: Registry) -> FastAPI:
    """Build the web application. Its only state is a read cache, so several processes can serve it at the same time."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.context = PageContext(settings, registry)
    app.add_api_route("/static/review.css", lambda: Response(STYLE, media_type="text/css"))
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    app.include_router(router)
    add_handlers(app)
    app.add_middleware(BaseHTTPMiddleware, dispatch=protect)
    # Starlette runs the middleware that was added last first: requests from other sites are rejected before the user
    # is looked up.
    app.add_middleware(for_hosts, hosts=settings.ui_hosts)
    return app


def server_config(settings: Settings, registry: Registry, port: int) -> Config:
    """Return a server configuration that binds loopback only, hides the server's name and logs no addresses."""
    return Config(
        create_app(settings, registry),
        host=LOOPBACK,
        port=port,
        proxy_headers=False,  # otherwise a header would replace the client address by which the proxy is trusted
        server_header=False,
        access_log=False,
        log_level="warning",
    )


def serve(settings: Settings, registry: Registry, port: int, report: Callable[[str], None]) -> None:
    """Serve until Ctrl-C. Calls `report` with the URL once the port is bound. Raises InputError for a port in use."""
    with listen(port, "--port") as held, contextlib.suppress(KeyboardInterrupt):
        report(f"review page http://{LOOPBACK}:{port}   Ctrl-C ends")
        Server(server_config(settings, registry, port)).run(sockets=[held])
