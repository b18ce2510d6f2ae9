"""HTML from the templates, in the language of whoever asks.

What belongs here: the template engine and the choice of a language. What does not: what a page holds (its route).
"""

from pathlib import Path
from typing import Any

from fastapi import Request, Response
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sovereign_pipeline.review.page.translations import Language, direction, translate

HERE = Path(__file__).resolve().parent
LANGUAGE_COOKIE = "language"

_TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
)


def render(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page of one template; its sentences go through `say`."""
    language = language_of(request)

    def say(sentence: str) -> str:
        return translate(sentence, language)

    content = _TEMPLATES.get_template(template).render(
        say=say, language=language, direction="rtl" if language == "ar" else "ltr", direction_of=direction, **values
    )
    return Response(content, status, media_type="text/html")


def language_of(request: Request) -> Language:
    """As chosen on the page, else the first of the two languages that the browser asks for."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen is None:
        accepted = [part.strip()[:2].lower() for part in request.headers.get("accept-language", "").split(",")]
        chosen = next((each for each in accepted if each in ("en", "ar")), "en")
    return "ar" if chosen == "ar" else "en"
