"""Render an adapter's facts as HTML, in English or Arabic. The page and the `--html` file have the same content."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Literal

from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.pages import Language, hash_of, style, templates, translations
from sovereign_pipeline.record.catalog import State
from sovereign_pipeline.record.manifest import READABLE, Manifest
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.record import AdapterRecord
from sovereign_pipeline.release.cadence import Due

Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Node:
    """A box in the lineage diagram: an artifact, or one of the institution's files."""

    id: str
    """Digest of the artifact, or name and SHA-256 of the file."""
    name: str
    """Kind of the artifact, or name of the file."""
    sha256: str
    level: str | None
    """Classification level. None for a file, because each row has its own level."""
    made_of: tuple[str, ...]
    """Ids of the direct inputs. Omits a direct input that is also upstream of another direct input."""
    files: tuple[str, ...] = ()
    """Names of the files in the artifact's manifest. Some of them are served as reports."""


@dataclass(frozen=True)
class Digest:
    """A digest that a reader can check, with the command and its expected output."""

    what: str
    sha256: str
    """Digest by which the pages identify the item. For an artifact, this is the artifact's digest, not the SHA-256 of a
    file."""
    command: str
    prints: str


@dataclass(frozen=True)
class Waived:
    what: str
    outcome: str
    """Outcome of the waived gate. Empty if the waiver is not about a gate."""
    person: str
    at: str
    reason: str
    holds_for: str
    """Artifact or decision to which the waiver applies."""


@dataclass(frozen=True)
class GateView:
    stage: str
    gate: str
    outcome: Outcome
    message: str
    waived: Waived | None
    """The officer's waiver, or None."""
    record: str
    """Digest of the gate's record."""


@dataclass(frozen=True)
class Happened:
    at: str
    """Time of the event, UTC, ISO 8601, to the second."""
    what: str
    """Description of the event, which the pages translate."""
    about: str = ""
    """Subject of the event, such as `registered → approved` or `recall-1`."""
    by: str = ""
    approved_by: tuple[str, ...] = ()
    words: str = ""
    """The officer's own text."""
    is_waiver: bool = False


@dataclass(frozen=True)
class Remark:
    """A known issue, or a recall that applies to the adapter."""

    id: str
    person: str
    at: str
    words: str
    """The officer's own text."""
    recalled: str = ""
    """For a recall, the recalled content, such as a document or a source; otherwise empty."""


@dataclass(frozen=True)
class Missing:
    """An unmet condition of the adapter's next transition."""

    what: str
    hint: str = ""


@dataclass(frozen=True)
class NextStep:
    """The transition that would advance the adapter. If no condition is missing, the next approval makes this
    transition."""

    transition: str
    after: State
    missing: tuple[Missing, ...]


@dataclass(frozen=True)
class AdapterView:
    """All facts that a reader sees about one registered adapter."""

    adapter: Adapter
    record: AdapterRecord
    state: State
    institution: str
    is_demonstration: bool
    """True if the facts were signed with demonstration keys, which prove nothing."""
    weights_purged: str | None
    """Day on which the weights were purged, ISO 8601; None if they were not."""
    nodes: tuple[Node, ...]
    """Nodes of the lineage, with the record first and the source files last."""
    files_not_drawn: int
    digests: tuple[Digest, ...]
    gates: tuple[GateView, ...]
    waived: tuple[Waived, ...]
    time_line: tuple[Happened, ...]
    reviews: tuple[Mapping[str, Any], ...]
    """Summaries of blind reviews, from their signed artifacts, each with the artifact's `digest`."""
    is_under_review: bool
    issues: tuple[Remark, ...]
    recalls: tuple[Remark, ...]
    due: Due | None
    """The adapter's next review. None if the line has a newer adapter, or if this adapter has reached a final state."""
    next_step: NextStep | None
    """Next transition, or None."""
    entries: int
    """Number of ledger entries at the time of reading."""
    read_at: str

    @property
    def passed(self) -> Sequence[GateView]:
        return [each for each in self.gates if each.outcome == "pass"]

    @property
    def not_passed(self) -> Sequence[GateView]:
        return [each for each in self.gates if each.outcome != "pass"]


BOX_WIDTH, BOX_HEIGHT = 236, 46
GAP, ROW = 22, 84
MARGIN = 8
LONGEST_NAME = 36
"""Maximum number of characters that fit into a box of the diagram."""

ANSWER = "answer"
Point = tuple[int, int]


def lineage_svg(
    nodes: Sequence[Node], adapter: str, answer: str, label: str, links: Mapping[str, str], *, mirrored: bool
) -> Markup:
    """Draw the lineage as SVG.

    Args:
        adapter: id of the adapter, below `answer` in the top box.
        answer: first line of the top box.
        label: text for screen readers.
        links: mapping of a node's id to the URL of the node's page.
        mirrored: draw from right to left.
    """
    rows, ways = _rows(nodes)
    widest = max(map(_width, rows))
    places: dict[str, Point] = {}
    """Maps an item of a row to the centre of the item's upper edge."""
    for number, row in enumerate(rows):
        x = MARGIN + (widest - _width(row)) // 2
        for item in row:
            width = _width([item])
            middle = x + width // 2
            places[item] = (2 * MARGIN + widest - middle if mirrored else middle, MARGIN + number * ROW)
            x += width + GAP
    height = MARGIN * 2 + (len(rows) - 1) * ROW + BOX_HEIGHT
    lines = [_line([places[item] for item in way]) for way in ways]
    boxes = [_box(places[ANSWER], "top", answer, adapter, None, None)]
    boxes += [
        _box(
            places[node.id],
            "file" if node.level is None else "made",
            node.name,
            short(node.sha256),
            node.level,
            links.get(node.id),
        )
        for node in nodes
    ]
    width = widest + 2 * MARGIN
    return Markup(
        '<svg class="lineage" role="group" xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {} {}" width="{}" '
        'direction="ltr" aria-label="{}">{}{}</svg>'
    ).format(width, height, width, label, Markup("").join(lines), Markup("").join(boxes))


def _width(row: Sequence[str]) -> int:
    """Return the width of a row of boxes and passages. A passage is a gap for an edge; its name begins with `|`."""
    return sum(GAP // 2 if item.startswith("|") else BOX_WIDTH for item in row) + (len(row) - 1) * GAP


def _rows(nodes: Sequence[Node]) -> tuple[list[list[str]], list[list[str]]]:
    """Return the diagram's rows from top to bottom, and the route of each edge through the rows.

    An edge to a box several rows below passes the rows in between through passages beside their boxes, so that no edge
    runs behind a box. Each row is sorted by the mean position of the connected boxes above.
    """
    depth = {ANSWER: 0, **{id: 1 + row for id, row in _depths(nodes).items()}}
    ways: list[list[str]] = []
    for above, below in [(ANSWER, nodes[0].id), *((node.id, below) for node in nodes for below in node.made_of)]:
        passages = [f"|{above} {below} {row}" for row in range(depth[above] + 1, depth[below])]
        depth |= {passage: depth[above] + 1 + place for place, passage in enumerate(passages)}
        ways.append([above, *passages, below])
    above_of: dict[str, list[str]] = {}
    for above, below in (pair for way in ways for pair in pairwise(way)):
        above_of.setdefault(below, []).append(above)
    rows: list[list[str]] = []
    order: dict[str, float] = {}
    for _, row in groupby(sorted(depth, key=depth.__getitem__), key=depth.__getitem__):
        items = list(row)
        items.sort(
            key=lambda item: sum(order[each] for each in above_of.get(item, ())) / max(1, len(above_of.get(item, ())))
        )
        order |= {item: (place + 0.5) / len(items) for place, item in enumerate(items)}
        rows.append(items)
    return rows, ways


def _depths(nodes: Sequence[Node]) -> Mapping[str, int]:
    """Return a mapping of node id to row. A node is below all nodes that have it as an input, and as close as
    possible to its own inputs."""
    made_of = {node.id: node.made_of for node in nodes}
    depth = dict.fromkeys(made_of, 0)
    for _ in nodes:  # the graph has no cycles, so this many rounds are enough
        for id, below in made_of.items():
            for each in below:
                depth[each] = max(depth[each], depth[id] + 1)
    for id in sorted(made_of, key=lambda each: -depth[each]):
        if made_of[id] and id != nodes[0].id:
            depth[id] = min(depth[each] for each in made_of[id]) - 1
    return depth


def _line(way: Sequence[Point]) -> Markup:
    """Draw an edge between two boxes. The edge runs straight down through passages, and bends only between rows."""
    (x, y), *_ = way
    drawn = [f"M{x} {y + BOX_HEIGHT}"]
    for (above_x, above_y), (to_x, to_y) in pairwise(way):
        from_y = above_y + BOX_HEIGHT
        bend = (to_y - from_y) // 2
        drawn.append(f"L{above_x} {from_y}C{above_x} {from_y + bend} {to_x} {to_y - bend} {to_x} {to_y}")
    return Markup('<path d="{}"/>').format("".join(drawn))


def _box(place: Point, kind: str, name: str, digest: str, level: str | None, link: str | None) -> Markup:
    middle, y = place
    second = " · ".join(each for each in (digest, level) if each)
    box = Markup('<g class="{}"><title>{}</title><rect x="{}" y="{}" width="{}" height="{}" rx="8"/>').format(
        kind, f"{name} {second}".strip(), middle - BOX_WIDTH // 2, y, BOX_WIDTH, BOX_HEIGHT
    )
    written = [(name, y + (19 if second else 28), "name")] + ([(second, y + 36, "digest")] if second else [])
    texts = [
        Markup('<text x="{}" y="{}" class="{}">{}</text>').format(middle, line, style, escape(_fitting(text)))
        for text, line, style in written
    ]
    drawn = box + Markup("").join(texts) + Markup("</g>")
    return Markup('<a href="{}">{}</a>').format(link, drawn) if link is not None else drawn


def _fitting(text: str) -> str:
    return text if len(text) <= LONGEST_NAME else f"{text[: LONGEST_NAME - 1]}…"


HERE = Path(__file__).resolve().parent

_TEMPLATES = templates(HERE / "templates")
STYLE = style(HERE / "page.css")
translate = translations(HERE / "arabic.json")


def policy(forms: str) -> str:
    """Return the content security policy of a page that contains only its own style and drawing. `forms`: allowed form
    targets."""
    return f"default-src 'none'; style-src {hash_of(STYLE)}; img-src data:; base-uri 'none'; form-action {forms}"


def render(template: str, language: Language, **values: Any) -> str:
    """Render a template. The template translates its sentences with `say`. A sentence without a translation stays in
    English."""

    return _TEMPLATES.get_template(template).render(
        say=lambda sentence: translate(sentence, language),
        short=short,
        language=language,
        direction="rtl" if language == "ar" else "ltr",
        style=Markup(STYLE),
        **values,
    )


def adapter_page(view: AdapterView, language: Language) -> str:
    """Render the page about one adapter, with links to the reports on the same server."""
    return _adapter(view, language, READABLE, policy_inside=None)


def adapter_file(view: AdapterView, language: Language) -> str:
    """Render the page about one adapter as a standalone file without links, with its own content security policy."""
    return _adapter(view, language, {}, policy_inside=policy("'none'"))


def _adapter(
    view: AdapterView, language: Language, readable: Mapping[str, Mapping[str, str]], *, policy_inside: str | None
) -> str:
    reports = [
        (node, f"/{node.sha256}/{file}", label)
        for node in view.nodes
        for file, label in readable.get(node.name, {}).items()
        if file in node.files
    ]
    drawing = lineage_svg(
        view.nodes,
        view.adapter.id,
        translate("an answer", language),
        translate("From an answer to documents", language),
        {node.id: address for node, address, _ in reversed(reports)},
        mirrored=language == "ar",
    )
    return render("adapter.html", language, view=view, drawing=drawing, reports=reports, policy=policy_inside)


def document_page(manifest: Manifest, name: str, content: str) -> str:
    """Render a report or card of an artifact, with the classification level above and the digest, version and date
    below. These four facts are added when the page is displayed, because a file cannot contain the digest of its own
    artifact."""
    if name.endswith(".md"):
        body = MarkdownIt("commonmark", {"html": False}).enable("table").render(content)
        body = body.replace("<th></th>", "<td></td>").replace("<table>", f"{_SCROLLED}<table>")
        body = body.replace("</table>", "</table></div>")
    else:
        found = re.search(r"<main>(.*)</main>", content, re.DOTALL)
        body = found[1] if found else content
    return render("document.html", "en", manifest=manifest, body=Markup(body), policy=None)


_SCROLLED = '<div class="wide" tabindex="0" role="group" aria-label="Table">'
