"""Render the review's pages in English and Arabic, including its error pages."""

import logging
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from sovereign_pipeline.base.errors import (
    ConflictError,
    InputError,
    NotFoundError,
    SignInError,
    SovereignError,
    place_of,
)
from sovereign_pipeline.base.pages import HEADERS as PAGE_HEADERS
from sovereign_pipeline.base.pages import language_of, style, templates, translations
from sovereign_pipeline.split.similarity import PLACEHOLDER

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
