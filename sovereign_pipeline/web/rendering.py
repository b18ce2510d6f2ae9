"""Render an adapter's facts as HTML, in English or Arabic. The page and the `--html` file have the same content."""

import base64
import datetime
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from sovereign_pipeline.base.files import short
from sovereign_pipeline.record.catalog import State
from sovereign_pipeline.record.manifest import READABLE
from sovereign_pipeline.review.page.rendering import Language

Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Node:
    """A box in the lineage from an adapter's answer to documents: an artifact, or one of the institution's files."""

    id: str
    """Digest of the artifact. For a file: its name and SHA-256."""
    name: str
    """Kind of the artifact, or name of the file."""
    sha256: str
    level: str | None
    """Classification level; None for a file, whose rows have levels."""
    made_of: tuple[str, ...]
    """Ids of its direct inputs, without those that are also inputs of another input."""
    files: tuple[str, ...] = ()
    """Files in the artifact's manifest. Some of them are served as reports."""


@dataclass(frozen=True)
class Digest:
    """A digest that a reader can check, with the command and its expected output."""

    what: str
    sha256: str
    """Digest by which the item is known; for an artifact, its artifact digest."""
    command: str
    prints: str


@dataclass(frozen=True)
class Waived:
    """A waiver signed by an officer."""

    what: str
    outcome: str
    """Outcome of the gate; empty if it was not a gate that was waived."""
    person: str
    at: str
    reason: str
    holds_for: str
    """Artifact or decision that the waiver applies to. No waiver expires."""


@dataclass(frozen=True)
class GateView:
    """The verdict of a gate on one artifact."""

    stage: str
    gate: str
    outcome: Outcome
    message: str
    waived: Waived | None
    """Waiver that an officer signed, if there is one."""
    record: str
    """Digest of the gate's record."""


@dataclass(frozen=True)
class Happened:
    """One event on the time line."""

    at: str
    """Time of the event, UTC, ISO 8601, to the second."""
    what: str
    """Description of the event; the pages translate it."""
    about: str = ""
    """Subject of the event, such as `registered → approved` or `recall-1`."""
    by: str = ""
    approved_by: tuple[str, ...] = ()
    words: str = ""
    """Officer's own words."""
    is_waiver: bool = False


@dataclass(frozen=True)
class ReviewView:
    """The result of a blind review, from its signed artifact."""

    digest: str
    ballots: int
    operators: int
    net: float
    """Net preference for the adapter: (wins - losses) / pairs."""
    low: float | None
    """Lower end of the 95 % interval of `net`. None, like `high`, if only one operator rated."""
    high: float | None
    closed_early: bool


@dataclass(frozen=True)
class IssueView:
    number: int
    text: str
    person: str
    at: str


@dataclass(frozen=True)
class RecallView:
    """A recall that applies to the adapter."""

    id: str
    recalled: str
    reason: str
    person: str
    at: str


@dataclass(frozen=True)
class Missing:
    """A condition that the adapter's next transition lacks."""

    what: str
    hint: str = ""


@dataclass(frozen=True)
class NextStep:
    """The transition that would advance the adapter. If nothing is missing, the next approval makes it."""

    transition: str
    after: State
    missing: tuple[Missing, ...]


@dataclass(frozen=True)
class DueView:
    """The date of the adapter's next review."""

    on: datetime.date
    state: Literal["not due", "due", "overdue"]
    why: tuple[str, ...]


@dataclass(frozen=True)
class AdapterView:
    """All facts that a reader sees about one registered adapter."""

    id: str
    line: str
    version: str
    state: State
    classification: str
    institution: str
    is_demonstration: bool
    """True if the facts rest on demonstration keys, which prove nothing."""
    purpose: str
    owner: str
    method: str
    base_model: str
    licence: str
    parent_adapter: str | None
    registered_at: str
    weights_purged: str | None
    """Day on which the weights were purged, ISO 8601."""
    nodes: tuple[Node, ...]
    """Nodes of the lineage, record first and files last."""
    files_not_drawn: int
    digests: tuple[Digest, ...]
    gates: tuple[GateView, ...]
    waived: tuple[Waived, ...]
    time_line: tuple[Happened, ...]
    """Events, oldest first."""
    reviews: tuple[ReviewView, ...]
    is_under_review: bool
    issues: tuple[IssueView, ...]
    recalls: tuple[RecallView, ...]
    due: DueView | None
    """Next review; None for an adapter that a newer one of its line has replaced, or that has reached a final state."""
    next_step: NextStep | None
    """Next transition; None if there is none."""
    entries: int
    """Number of ledger entries at the time of reading."""
    read_at: str

    @property
    def not_passed(self) -> Sequence[GateView]:
        return [each for each in self.gates if each.outcome != "pass"]


BOX_WIDTH, BOX_HEIGHT = 190, 46
GAP, ROW = 22, 62
MARGIN = 8
LONGEST_NAME = 24
"""Maximum number of characters that fit into a box."""

ANSWER = "answer"


def lineage_svg(nodes: Sequence[Node], adapter: str, answer: str, label: str, *, mirrored: bool) -> Markup:
    """Draw the lineage as SVG. `answer`: text above the adapter at the top; `label`: text for screen readers."""
    places = _places(nodes, mirrored=mirrored)
    width = max(x for x, _ in places.values()) + BOX_WIDTH + MARGIN
    height = max(y for _, y in places.values()) + BOX_HEIGHT + MARGIN
    lines = [_line(places[node.id], places[below]) for node in nodes for below in node.made_of]
    lines.insert(0, _line(places[ANSWER], places[nodes[0].id]))
    boxes = [_box(places[ANSWER], "top", answer, adapter, None)]
    boxes += [
        _box(places[node.id], "file" if node.level is None else "made", node.name, short(node.sha256), node.level)
        for node in nodes
    ]
    return Markup(
        '<svg class="lineage" role="img" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" width="{}" '
        'direction="ltr" aria-label="{}">{}{}</svg>'
    ).format(width, height, width, label, Markup("").join(lines), Markup("").join(boxes))


def _places(nodes: Sequence[Node], *, mirrored: bool) -> dict[str, tuple[int, int]]:
    """Return node -> upper left corner of its box. Each row is centred, and a box stands below the boxes that it is an
    input of."""
    rows = _rows(nodes)
    widest = max(len(row) for row in rows)
    whole = widest * BOX_WIDTH + (widest - 1) * GAP
    places: dict[str, tuple[int, int]] = {}
    for number, row in enumerate(rows):
        left = MARGIN + (whole - len(row) * BOX_WIDTH - (len(row) - 1) * GAP) // 2
        for place, id in enumerate(row):
            x = left + place * (BOX_WIDTH + GAP)
            places[id] = (2 * MARGIN + whole - x - BOX_WIDTH if mirrored else x, MARGIN + number * ROW)
    return places


def _rows(nodes: Sequence[Node]) -> list[list[str]]:
    depth = _depths(nodes)
    above: dict[str, list[str]] = {}
    for node in nodes:
        for below in node.made_of:
            above.setdefault(below, []).append(node.id)
    rows = [[ANSWER]]
    order: dict[str, float] = {}
    for _, row in groupby(sorted(nodes, key=lambda node: depth[node.id]), key=lambda node: depth[node.id]):
        ids = [node.id for node in row]
        ids.sort(key=lambda id: sum(order[each] for each in above.get(id, ())) / max(1, len(above.get(id, ()))))
        order |= {id: (place + 0.5) / len(ids) for place, id in enumerate(ids)}
        rows.append(ids)
    return rows


def _depths(nodes: Sequence[Node]) -> Mapping[str, int]:
    """Return node id -> row below the record. A node is below everything that it is an input of, and as near as
    possible to its own inputs, so that few lines cross a box."""
    made_of = {node.id: node.made_of for node in nodes}
    depth = dict.fromkeys(made_of, 0)
    for _ in nodes:  # at most as many rounds as there are nodes: nothing is made of itself
        for id, below in made_of.items():
            for each in below:
                depth[each] = max(depth[each], depth[id] + 1)
    for id in sorted(made_of, key=lambda each: -depth[each]):
        if made_of[id] and id != nodes[0].id:
            depth[id] = min(depth[each] for each in made_of[id]) - 1
    return depth


def _line(above: tuple[int, int], below: tuple[int, int]) -> Markup:
    x, y = above[0] + BOX_WIDTH // 2, above[1] + BOX_HEIGHT
    to_x, to_y = below[0] + BOX_WIDTH // 2, below[1]
    bend = (to_y - y) // 2
    return Markup('<path d="M{} {}C{} {} {} {} {} {}"/>').format(x, y, x, y + bend, to_x, to_y - bend, to_x, to_y)


def _box(place: tuple[int, int], kind: str, name: str, digest: str, level: str | None) -> Markup:
    x, y = place
    middle, second = x + BOX_WIDTH // 2, " · ".join(each for each in (digest, level) if each)
    box = Markup('<g class="{}"><title>{}</title><rect x="{}" y="{}" width="{}" height="{}" rx="8"/>').format(
        kind, f"{name} {second}".strip(), x, y, BOX_WIDTH, BOX_HEIGHT
    )
    written = [(name, y + (19 if second else 28), "name")] + ([(second, y + 36, "digest")] if second else [])
    texts = [
        Markup('<text x="{}" y="{}" class="{}">{}</text>').format(middle, line, style, escape(_fitting(text)))
        for text, line, style in written
    ]
    return box + Markup("").join(texts) + Markup("</g>")


def _fitting(text: str) -> str:
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


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
    """Load the translations: English sentence -> Arabic."""
    table: dict[str, str] = json.loads((HERE / "arabic.json").read_text(encoding="utf-8"))
    return table


@cache
def style() -> str:
    return (HERE / "page.css").read_text(encoding="utf-8")


@cache
def policy(forms: str) -> str:
    """Return the content security policy: a page may show its own style and drawing only. `forms`: allowed form
    targets."""
    hashed = base64.b64encode(hashlib.sha256(style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{hashed}'; img-src data:; base-uri 'none'; form-action {forms}"


def translate(sentence: str, language: Language) -> str:
    return arabic().get(sentence, sentence) if language == "ar" else sentence


def render(template: str, language: Language, **values: Any) -> str:
    """Render a template. Its sentences go through `say`; a sentence without a translation stays English."""

    return _TEMPLATES.get_template(template).render(
        say=partial(translate, language=language),
        short=short,
        language=language,
        direction="rtl" if language == "ar" else "ltr",
        style=Markup(style()),
        **values,
    )


def adapter_page(view: AdapterView, language: Language) -> str:
    """Render the page about one adapter, with links to the reports served beside it."""
    return _adapter(view, language, READABLE, policy_inside=None)


def adapter_file(view: AdapterView, language: Language) -> str:
    """Render the same page as a file. It has no links, because nothing is served beside it, and includes its own
    security policy."""
    return _adapter(view, language, {}, policy_inside=policy("'none'"))


def _adapter(
    view: AdapterView, language: Language, readable: Mapping[str, Mapping[str, str]], *, policy_inside: str | None
) -> str:
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
