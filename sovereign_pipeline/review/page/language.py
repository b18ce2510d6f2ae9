"""The choice of a language, kept in a cookie."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from sovereign_pipeline.review.page.context import Context
from sovereign_pipeline.review.page.rendering import LANGUAGE_COOKIE
from sovereign_pipeline.review.page.sessions import SESSION_SECONDS
from sovereign_pipeline.review.page.translations import Language

router = APIRouter()


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
