"""HTML of the pages and of the file, from the templates, in one of two languages.

A page holds its style itself, and its own policy: nothing else is loaded, and no script runs in it, also where it lies
as a file. What belongs here: the template engine and the policy. What does not: what a page holds.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from sovereign_pipeline.artifacts.hashing import short
from sovereign_pipeline.registry_pages.lineage_drawing import lineage_svg
from sovereign_pipeline.registry_pages.views import AdapterView
from sovereign_pipeline.review.page.translations import Language

HERE = Path(__file__).resolve().parent

_TEMPLATES = Environment(
    loader=FileSystemLoader(HERE / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@cache
def arabic() -> Mapping[str, str]:
    """English sentence -> Arabic."""
    table: dict[str, str] = json.loads((HERE / "arabic.json").read_text(encoding="utf-8"))
    return table


@cache
def style() -> str:
    return (HERE / "page.css").read_text(encoding="utf-8")


@cache
def policy(forms: str) -> str:
    """What a page may do: show its own style and drawing. `forms`: where its forms may lead."""
    hashed = base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{hashed}'; img-src data:; base-uri 'none'; form-action {forms}"


def translate(sentence: str, language: Language) -> str:
    return arabic().get(sentence, sentence) if language == "ar" else sentence


def render(template: str, language: Language, **values: Any) -> str:
    """A page of one template; its sentences go through `say`, and one without a translation stays English."""

    return _TEMPLATES.get_template(template).render(
        say=partial(translate, language=language),
        short=short,
        language=language,
        direction="rtl" if language == "ar" else "ltr",
        style=Markup(style()),
        **values,
    )


def adapter_page(view: AdapterView, language: Language) -> str:
    """The page about one adapter, as it is served."""
    return _adapter(view, language, is_file=False)


def adapter_file(view: AdapterView, language: Language) -> str:
    """The same as a file: it leads nowhere, since nothing is served where it lies, and holds its policy itself."""
    return _adapter(view, language, is_file=True)


def _adapter(view: AdapterView, language: Language, *, is_file: bool) -> str:
    drawing = lineage_svg(
        view.nodes,
        view.id,
        translate("an answer", language),
        translate("From an answer to documents", language),
        mirrored=language == "ar",
    )
    policy_inside = policy("'none'") if is_file else None
    return render("adapter.html", language, view=view, drawing=drawing, is_file=is_file, policy=policy_inside)
