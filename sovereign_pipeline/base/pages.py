"""Define what all web pages share: style sheet, security headers, templates and translation."""

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

from jinja2 import Environment, FileSystemLoader, StrictUndefined

Language = Literal["en", "ar"]
LANGUAGE_COOKIE = "language"

HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Security headers of every page. Each server adds its content security policy."""


@cache
def style(own: Path) -> str:
    """Return a server's style sheet: the shared rules, with a light and a dark theme, followed by the server's own
    rules."""
    shared = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    return shared + own.read_text(encoding="utf-8")


def hash_of(text: str) -> str:
    """Return the CSP source expression that allows an inline style or script."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def templates(folder: Path) -> Environment:
    """Return the templates of a folder. Jinja escapes every value and raises an error for an unknown name."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def translations(arabic: Path) -> Callable[[str, Language], str]:
    """Return a function that translates sentences with a JSON table of English and Arabic. Sentences that are not in
    the table stay English."""
    table: dict[str, str] = json.loads(arabic.read_text(encoding="utf-8"))
    return lambda sentence, language: table.get(sentence, sentence) if language == "ar" else sentence


class Request(Protocol):
    """The properties of an HTTP request that web pages read."""

    @property
    def cookies(self) -> Mapping[str, str]: ...

    @property
    def headers(self) -> Mapping[str, str]: ...


def language_of(request: Request) -> Language:
    """Return the language that the user chose on the page. Without a choice, return the one of English and Arabic that
    the browser prefers."""
    chosen = request.cookies.get(LANGUAGE_COOKIE)
    if chosen is None:
        accepted = [part.strip()[:2].lower() for part in request.headers.get("accept-language", "").split(",")]
        chosen = next((each for each in accepted if each in ("en", "ar")), "en")
    return "ar" if chosen == "ar" else "en"
