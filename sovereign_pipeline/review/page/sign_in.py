"""Signing in: a one-time link is exchanged for a session cookie.

What belongs here: the two routes of `/sign-in`. What does not: links (`review/links.py`) and sessions (`sessions.py`).
"""

from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import Field

from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.review.links import use_link
from sovereign_pipeline.review.page.context import SESSION_COOKIE, Context
from sovereign_pipeline.review.page.rendering import render
from sovereign_pipeline.review.page.sessions import SESSION_SECONDS

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
