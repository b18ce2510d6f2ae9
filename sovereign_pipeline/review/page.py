"""The page on which operators rate: one pair at a time, from memory and the registry; no model is asked anything.

What belongs here: HTTP. Everything that a browser gets is made of the pair's texts, its meaningless id and the words of
the page; nothing depends on which side is whose but the place of the two texts. What does not: who may sign in
(`sign_in.py`), what is recorded (`ballots.py`).
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.errors import (
    ConflictError,
    InputError,
    IntegrityError,
    NotFoundError,
    SignInError,
    SovereignError,
    place_of,
)
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import BlindReview, ReviewClosing
from sovereign_pipeline.loopback import LOOPBACK, listen
from sovereign_pipeline.review.ballots import (
    CLOSED,
    HIGHEST,
    LOWEST,
    find_all_open,
    give_ballot,
    give_guess,
    given,
    ratings_asked,
)
from sovereign_pipeline.review.plan import Arm, PlannedPair, candidate_arms, pairs_to_guess
from sovereign_pipeline.review.sealed import PlanContents, plan_of, sealed_seed
from sovereign_pipeline.review.sign_in import Sessions, SignedIn, use_link
from sovereign_pipeline.review.translations import MEANING, Language, direction, translate
from sovereign_pipeline.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI, Request
    from uvicorn import Config

_LOG = logging.getLogger(__name__)
HERE = Path(__file__).resolve().parent
SESSION_COOKIE, LANGUAGE_COOKIE = "session", "language"
SESSION_SECONDS = 7 * 24 * 3600
FORM_HEADER = "X-Form-Token"

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; form-action "
        "'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class _Sent(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SentBallot(_Sent):
    preference: Literal["a", "b", "tie"]
    ratings: dict[str, Annotated[int, Field(strict=True, ge=LOWEST, le=HIGHEST)]]


class SentGuess(_Sent):
    choice: Arm


class SentToken(_Sent):
    token: Annotated[str, Field(max_length=200)]


@dataclass(frozen=True)
class Room:
    """One open review with everything that its pages are made of, verified when it was first asked for."""

    review: BlindReview
    contents: PlanContents
    seed: bytes = field(repr=False)

    def pairs(self, operator: str) -> dict[str, PlannedPair]:
        """The pairs that an operator is asked about, by their ids, in order."""
        return {each.pair: each for each in self.contents.asked(operator)}

    def to_guess(self, operator: str) -> list[str]:
        plan = self.contents.plan
        planned = plan.operators.get(operator, ())
        return pairs_to_guess(self.seed, operator, planned, self.contents.identical, plan.guess_pairs)

    def texts(self, operator: str, pair: str) -> tuple[str, str, str]:
        """Prompt, answer A, answer B."""
        planned = self.contents.plan.operators[operator]
        prompt = next(each.prompt for each in planned if each.pair == pair)
        answers = self.contents.answers[prompt]
        a, b = answers.candidate, answers.opponent
        if candidate_arms(self.seed, operator, planned)[pair] == "b":
            a, b = b, a
        return self.contents.prompts[prompt].text, a, b


class Rooms:
    """Open reviews, each read from the store once."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._known: dict[str, Room] = {}

    def of(self, review_id: str) -> Room:
        """Raises ConflictError for a review that is closed, and SignInError for one that is not there."""
        with self._registry.reading() as session:
            if session.get(ReviewClosing, review_id) is not None:
                raise ConflictError(CLOSED)
            review = session.get(BlindReview, review_id)
        if review is None:
            raise SignInError("You are not signed in here. Open the link that you were sent.")
        if review_id not in self._known:
            contents = plan_of(ArtifactStore(self._settings.artifacts), review)
            self._known[review_id] = Room(review, contents, sealed_seed(self._settings, review))
        return self._known[review_id]

    def taking_part(self, operator: str) -> SignedIn:
        """The open review in which an operator has something left, the oldest first; else the newest they were in.

        A review that cannot be read is passed over while there is another, and logged: it is not everybody's.
        """
        theirs, damaged = [], None
        for review in find_all_open(self._registry):
            try:
                room = self.of(review.id)
            except ConflictError:  # closed since
                continue
            except IntegrityError as error:
                _LOG.error("review %s cannot be read: %s", review.id, error)
                damaged = error
                continue
            if room.pairs(operator):
                theirs.append(room)
        if not theirs:
            raise damaged or SignInError("You take part in no open review. Ask whoever invited you.")
        left = [room for room in theirs if self.next(room, operator) is not None]
        return SignedIn((left[0] if left else theirs[-1]).review.id, operator)

    def next(self, room: Room, operator: str) -> "Asked | None":
        """What an operator is asked now; None when everything is given."""
        done, pairs = given(self._registry, room.review.id, operator), room.pairs(operator)
        left = [pair for pair in pairs if pair not in done.ballots]
        if left:
            return Asked("pair", left[0], len(left), len(pairs))
        guesses = room.to_guess(operator)
        left = [pair for pair in guesses if pair not in done.guesses]
        return Asked("guess", left[0], len(left), len(guesses)) if left else None


@dataclass(frozen=True)
class Asked:
    """pair: the one to be shown; left: it included."""

    what: Literal["pair", "guess"]
    pair: str
    left: int
    total: int


def create_app(settings: Settings, registry: Registry) -> "FastAPI":
    """The web application. It holds no state but what it read; any number of processes may serve it."""
    from fastapi import FastAPI, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse, RedirectResponse, Response
    from fastapi.staticfiles import StaticFiles
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from starlette.exceptions import HTTPException

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    sessions, rooms = Sessions(settings, SESSION_SECONDS), Rooms(settings, registry)
    templates = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    app.mount("/static", StaticFiles(directory=HERE / "static"))

    def render(request: Request, template: str, status: int = 200, **values: Any) -> Response:
        language = _language(request)

        def say(sentence: str) -> str:
            return translate(sentence, language)

        content = templates.get_template(template).render(
            say=say, language=language, direction="rtl" if language == "ar" else "ltr", direction_of=direction, **values
        )
        return Response(content, status, media_type="text/html")

    def who(request: Request) -> SignedIn:
        header = settings.review_user_header
        if header is not None and _peer(request) in settings.review_proxies and request.headers.get(header):
            return rooms.taking_part(request.headers[header])
        return sessions.read(request.cookies.get(SESSION_COOKIE, ""))

    def signed_form(request: Request) -> SignedIn:
        someone = who(request)
        if not sessions.is_form_token(someone, request.headers.get(FORM_HEADER, "")):
            raise SignInError("This request did not come from the page. Load the page again.")
        return someone

    @app.get("/")
    def next_pair(request: Request) -> Response:
        someone = who(request)
        room = rooms.of(someone.review)
        asked = rooms.next(room, someone.operator)
        if asked is None:
            return render(
                request, "message.html", title="Thank you", text="All your pairs are rated. You can close this page."
            )
        prompt, a, b = room.texts(someone.operator, asked.pair)
        return render(
            request,
            f"{asked.what}.html",
            asked=asked,
            prompt=prompt,
            answers=(("a", a), ("b", b)),
            criteria=room.contents.plan.criteria,
            meaning=MEANING,
            form_token=sessions.form_token(someone),
        )

    @app.post("/pairs/{pair}", status_code=204)
    def rate(request: Request, pair: str, sent: SentBallot) -> None:
        someone = signed_form(request)
        room = rooms.of(someone.review)
        if pair not in room.pairs(someone.operator):
            raise NotFoundError("This pair is not one of yours.")
        if set(sent.ratings) != set(ratings_asked(room.contents.plan.criteria)):
            raise InputError("The rating is not complete. Load the page again.")
        give_ballot(registry, someone.review, someone.operator, pair, sent.preference, sent.ratings)

    @app.post("/guesses/{pair}", status_code=204)
    def guess(request: Request, pair: str, sent: SentGuess) -> None:
        someone = signed_form(request)
        room = rooms.of(someone.review)
        asked = rooms.next(room, someone.operator)
        if pair not in room.to_guess(someone.operator) or (asked is not None and asked.what == "pair"):
            raise NotFoundError("This pair is not one of yours.")
        give_guess(registry, someone.review, someone.operator, pair, sent.choice)

    @app.get("/sign-in")
    def sign_in_page(request: Request) -> Response:
        return render(request, "sign_in.html")

    @app.post("/sign-in", status_code=204)
    def sign_in(request: Request, sent: SentToken) -> Response:
        response = Response(status_code=204)
        response.set_cookie(
            SESSION_COOKIE,
            sessions.sign(use_link(registry, sent.token)),
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=_is_behind_tls(request, settings),
        )
        return response

    @app.get("/language/{language}")
    def choose_language(request: Request, language: Language) -> Response:
        response = RedirectResponse("/", 303)
        response.set_cookie(
            LANGUAGE_COOKIE,
            language,
            max_age=SESSION_SECONDS,
            httponly=True,
            samesite="strict",
            secure=_is_behind_tls(request, settings),
        )
        return response

    @app.middleware("http")
    async def protect(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        try:
            response = await call_next(request)
        except Exception as error:
            # Whatever it says is for the server's log; a bug's own message is left out, since it may quote an answer.
            _LOG.error(str(error) if isinstance(error, SovereignError) else place_of(error))
            text = "The page cannot be served now. Tell the administrator; no rating is lost."
            response = refuse(request, 500, "Something is wrong", text)
        response.headers.update(HEADERS)
        return response

    def refuse(request: Request, status: int, title: str, text: str) -> Response:
        """In plain words: a page for whoever opened one, and the sentence alone for the page's own requests."""
        if request.method == "GET":
            return render(request, "message.html", status, title=title, text=text)
        return JSONResponse({"error": translate(text, _language(request))}, status)

    def refused(request: Request, error: Exception) -> Response:
        status, title = next((status, title) for kind, status, title in _REFUSALS if isinstance(error, kind))
        return refuse(request, status, title, str(error))

    def invalid(request: Request, error: Exception) -> Response:
        return refuse(request, 400, "Something is wrong", "The rating is not complete. Load the page again.")

    def unknown(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        return refuse(request, status, "Something is wrong", "There is no such page here.")

    for kind, _, _ in _REFUSALS:
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, unknown)
    return app


_REFUSALS: Sequence[tuple[type[SovereignError], int, str]] = (
    (SignInError, 401, "Not signed in"),
    (NotFoundError, 404, "Something is wrong"),
    (ConflictError, 409, "Thank you"),
    (InputError, 400, "Something is wrong"),
)


def _language(request: "Request") -> Language:
    """As chosen on the page, else the first of the two that the browser asks for."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen is None:
        asked = [part.strip()[:2].lower() for part in request.headers.get("accept-language", "").split(",")]
        chosen = next((each for each in asked if each in ("en", "ar")), "en")
    return "ar" if chosen == "ar" else "en"


def _peer(request: "Request") -> str:
    """The address that the connection really came from; no header is believed about it."""
    return request.client.host if request.client is not None else ""


def _is_behind_tls(request: "Request", settings: Settings) -> bool:
    if request.url.scheme == "https":
        return True
    return _peer(request) in settings.review_proxies and request.headers.get("x-forwarded-proto") == "https"


def server_config(settings: Settings, registry: Registry, port: int) -> "Config":
    """Loopback alone, no word about the software, and no log of addresses."""
    from uvicorn import Config

    return Config(
        create_app(settings, registry),
        host=LOOPBACK,
        port=port,
        proxy_headers=False,  # else the proxy's word would replace the address that is asked for trust
        server_header=False,
        access_log=False,
        log_level="warning",
    )


def serve(settings: Settings, registry: Registry, port: int, tell: Callable[[str], None]) -> None:
    """Serve until Ctrl-C. An institution's own proxy stands in front of it. tell: hears of the address once it is ours.

    Raises InputError when the port is taken.
    """
    from uvicorn import Server

    with listen(port, "--port") as held, contextlib.suppress(KeyboardInterrupt):
        tell(f"review page http://{LOOPBACK}:{port}   Ctrl-C ends")
        Server(server_config(settings, registry, port)).run(sockets=[held])
