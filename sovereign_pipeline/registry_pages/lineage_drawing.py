"""The chain from an answer to documents, drawn as SVG: made here, without a script or a style of its own.

Rows go down from the record to the institution's files. From right to left the picture is mirrored; its texts are
centred, so they fit in either direction. Colours are the page's (classes), and every fact is a text as well.

What belongs here: places and lines. What does not: which artifacts there are (`adapter_view.py`).
"""

from collections.abc import Mapping, Sequence
from itertools import groupby

from markupsafe import Markup, escape

from sovereign_pipeline.base.files import short
from sovereign_pipeline.registry_pages.views import Node

BOX_WIDTH, BOX_HEIGHT = 190, 46
GAP, ROW = 22, 62
MARGIN = 8
LONGEST_NAME = 24
"""Characters that fit into a box."""

ANSWER = "answer"


def lineage_svg(nodes: Sequence[Node], adapter: str, answer: str, label: str, *, mirrored: bool) -> Markup:
    """The drawing. `answer`: what is written above the adapter at its top; `label`: what is read aloud."""
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
    """Node -> left upper corner of its box. Each row is centred; within it boxes stand below what is made of them."""
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
    """How far below the record each stands: below all that is made of it, and as near as it can be to what it was made
    of, so that few lines pass a box."""
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
