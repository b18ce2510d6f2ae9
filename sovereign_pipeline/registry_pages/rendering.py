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

from sovereign_pipeline.base.files import short
from sovereign_pipeline.registry_pages.lineage_drawing import lineage_svg
from sovereign_pipeline.registry_pages.views import AdapterView
from sovereign_pipeline.review.page.rendering import Language

HERE = Path(__file__).resolve().parent

Readable = Mapping[str, Mapping[str, str]]
"""Kind of artifact -> file that is served -> what a link to it is called."""

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


def adapter_page(view: AdapterView, language: Language, readable: Readable) -> str:
    """The page about one adapter, as it is served beside its reports."""
    return _adapter(view, language, readable, policy_inside=None)


def adapter_file(view: AdapterView, language: Language) -> str:
    """The same as a file: it leads nowhere, since nothing is served where it lies, and holds its policy itself."""
    return _adapter(view, language, {}, policy_inside=policy("'none'"))


def _adapter(view: AdapterView, language: Language, readable: Readable, *, policy_inside: str | None) -> str:
    drawing = lineage_svg(
        view.nodes,
        view.id,
        translate("an answer", language),
        translate("From an answer to documents", language),
        mirrored=language == "ar",
    )
    reports = [
        (node, file, label)
        for node in view.nodes
        for file, label in readable.get(node.name, {}).items()
        if file in node.files
    ]
    return render("adapter.html", language, view=view, drawing=drawing, reports=reports, policy=policy_inside)
