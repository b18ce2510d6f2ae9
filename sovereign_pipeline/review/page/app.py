"""Define the review page's routes and the application that serves them, and render its pages in English and Arabic."""

import contextlib
import logging
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.middleware.base import BaseHTTPMiddleware
from uvicorn import Config, Server

from sovereign_pipeline.base.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    SignInError,
    SovereignError,
    place_of,
)
from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.base.hosts import LOOPBACK, for_hosts, listen
from sovereign_pipeline.base.pages import HEADERS as PAGE_HEADERS
from sovereign_pipeline.base.pages import LANGUAGE_COOKIE, Language, language_of, style, templates, translations
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.review.ballots import (
    HIGHEST,
    LOWEST,
    Preference,
    give_ballot,
    give_guess,
    ratings_asked,
    use_link,
)
from sovereign_pipeline.review.page.context import (
    SESSION_COOKIE,
    SESSION_SECONDS,
    Author,
    Context,
    PageContext,
    Reader,
    Review,
)
from sovereign_pipeline.review.plan import Position
from sovereign_pipeline.split.shingles import PLACEHOLDER

Direction = Literal["ltr", "rtl"]

CRITERION_MEANINGS = {
    "accuracy": "The content is correct, and nothing is invented.",
    "helpfulness": "The sender can act on it.",
    "tone": "It sounds like our own letters.",
}


def direction(text: str) -> Direction:
    """Return the writing direction that most characters have according to Unicode's bidirectional classes. Placeholders
    such as NAME_1 are ignored.

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
"""Error class, HTTP status and page title. The first matching class applies."""


def add_handlers(app: FastAPI) -> None:
    """Register handlers that show the operator a sentence for every expected error of a route."""
    for kind, _, _ in REFUSALS:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unknown)


async def protect(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Set the security headers, and hide the details of unexpected errors from browsers."""
    try:
        response = await call_next(request)
    except Exception as error:
        # The log gets our own messages, but not the message of a bug, which may quote an answer.
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
    """Return a full page if the browser navigates, and only the sentence if the page's script sent the request."""
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
    """Build the web application. The application's only state is a read cache, so several processes may serve it at
    once."""
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
    """Serve until Ctrl-C. Calls `report` with the URL once the port is bound. Raises InputError if the port is in
    use."""
    with listen(port, "--port") as held, contextlib.suppress(KeyboardInterrupt):
        report(f"review page http://{LOOPBACK}:{port}   Ctrl-C ends")
        Server(server_config(settings, registry, port)).run(sockets=[held])
