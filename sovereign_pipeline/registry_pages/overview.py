"""All registered adapters as one reader may see them, by line and state. Read alone.

An adapter above the reader's clearance is counted by its level and not named; a line that is not among the reader's
lines is not there. What belongs here: that selection. What does not: one adapter's facts (`adapter_view.py`).
"""

import datetime
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.record.catalog import STATES, State, adapters_in_brief, find_adapter, line_of
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.officers import trust_root
from sovereign_pipeline.registry_pages.next_step import FURTHER, next_step
from sovereign_pipeline.registry_pages.readers import Reader
from sovereign_pipeline.registry_pages.time_line import moment
from sovereign_pipeline.registry_pages.views import NextStep
from sovereign_pipeline.release.cadence import Due, due_reviews
from sovereign_pipeline.release.standing import standings_of_adapter

ORDER: tuple[State, ...] = ("production", "staged", "approved", "in review", "registered")
"""States that are shown first; the others, which serve nobody, are folded."""


@dataclass(frozen=True)
class Row:
    """One adapter of the list."""

    id: str
    state: State
    classification: str
    method: str
    base_model: str
    registered_at: str
    due: Due | None
    next_step: NextStep | None
    """Of the newest of its line in each state that leads on; None for others."""


@dataclass(frozen=True)
class LineRows:
    """The adapters of a line that a reader may see."""

    line: str
    rows: tuple[Row, ...]
    folded: tuple[Row, ...]
    withheld: tuple[tuple[str, int], ...]
    """Classification level -> how many adapters of this level there are, that are not shown."""


def overview(registry: Registry, reader: Reader, today: datetime.date) -> tuple[LineRows, ...]:
    """Every line of a reader, by name. Raises IntegrityError naming what was changed."""
    brief = adapters_in_brief(registry)
    due = {each.adapter: each for each in due_reviews(registry, registry.settings, today)}
    by_line: dict[str, list[dict[str, Any]]] = {}
    for row in brief:
        by_line.setdefault(line_of(row["id"]), []).append(row)
    return tuple(
        _line(registry, reader, line, rows, due) for line, rows in sorted(by_line.items()) if reader.reads_line(line)
    )


def _line(
    registry: Registry, reader: Reader, line: str, rows: Sequence[Mapping[str, Any]], due: Mapping[str, Due]
) -> LineRows:
    withheld = Counter(row["classification"] for row in rows if not reader.reads(line, row["classification"]))
    seen = [row for row in rows if row["classification"] not in withheld]
    leading = {row["state"]: row["id"] for row in seen if row["state"] in FURTHER and row["state"] in ORDER}
    shown = [_row(registry, row, due.get(row["id"]), leading) for row in reversed(seen)]
    return LineRows(
        line,
        tuple(sorted((row for row in shown if row.state in ORDER), key=lambda row: ORDER.index(row.state))),
        tuple(sorted((row for row in shown if row.state not in ORDER), key=lambda row: STATES.index(row.state))),
        tuple(sorted(withheld.items())),
    )


def _row(registry: Registry, row: Mapping[str, Any], due: Due | None, leading: Mapping[State, str]) -> Row:
    step = None
    if leading.get(row["state"]) == row["id"]:
        with registry.reading() as session:
            asked = standings_of_adapter(session, registry.settings, trust_root(registry.settings), row["id"])
        step = next_step(registry, find_adapter(registry, row["id"]), row["state"], asked)
    return Row(
        row["id"],
        row["state"],
        row["classification"],
        row["method"],
        row["base_model"],
        moment(row["registered_at"]),
        due,
        step,
    )
