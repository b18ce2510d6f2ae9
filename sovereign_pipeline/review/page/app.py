"""Define the review page's routes, and the application that serves them."""

import contextlib
from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import Field
from starlette.middleware.base import BaseHTTPMiddleware
from uvicorn import Config, Server

from sovereign_pipeline.base.errors import InputError, NotFoundError
from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.base.hosts import LOOPBACK, for_hosts, listen
from sovereign_pipeline.base.pages import LANGUAGE_COOKIE, Language
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
from sovereign_pipeline.review.page import rendering
from sovereign_pipeline.review.page.context import (
    SESSION_COOKIE,
    SESSION_SECONDS,
    Author,
    Context,
    PageContext,
    Reader,
    Review,
)
from sovereign_pipeline.review.page.rendering import CRITERION_MEANINGS, HERE, render
from sovereign_pipeline.review.plan import Position

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
    app.add_api_route("/static/review.css", lambda: Response(rendering.STYLE, media_type="text/css"))
    app.mount("/static", StaticFiles(directory=HERE / "static"))
    app.include_router(router)
    rendering.add_handlers(app)
    app.add_middleware(BaseHTTPMiddleware, dispatch=rendering.protect)
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
