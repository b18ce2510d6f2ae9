"""What a browser gets when a request is refused or fails, and the headers of every response.

What belongs here: errors as responses, in plain sentences. What does not: when something is refused (the routes).
"""

import logging
from collections.abc import Awaitable, Callable, Sequence

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
from sovereign_pipeline.review.page.rendering import language_of, render
from sovereign_pipeline.review.page.translations import translate

_LOG = logging.getLogger(__name__)

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

REFUSALS: Sequence[tuple[type[SovereignError], int, str]] = (
    (SignInError, 401, "Not signed in"),
    (NotFoundError, 404, "Something is wrong"),
    (ConflictError, 409, "Thank you"),
    (InputError, 400, "Something is wrong"),
)
"""Error, HTTP status, title of its page; the first that fits."""


def add_handlers(app: FastAPI) -> None:
    """Let every expected error of a route end in a sentence for the operator."""
    for kind, _, _ in REFUSALS:
        app.add_exception_handler(kind, _refused)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unknown)


async def protect(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Set the headers, and let no unexpected error tell a browser anything."""
    try:
        response = await call_next(request)
    except Exception as error:
        # A message of ours goes to the server's log; a bug's own message does not, since it may quote an answer.
        _LOG.error(str(error) if isinstance(error, SovereignError) else place_of(error))
        text = "The page cannot be served now. Tell the administrator; no rating is lost."
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
    """A page for whoever opened one, and the sentence alone for the page's own requests."""
    if request.method == "GET":
        return render(request, "message.html", status, title=title, text=text)
    return JSONResponse({"error": translate(text, language_of(request))}, status)
