"""Collect the facts for the list of lines, and for the page of one line."""

import datetime
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline.record.catalog import (
    ENDED,
    STATES,
    State,
    adapters_in_brief,
    find_adapter,
    line_of,
    urgent_promotions,
)
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.officers import trust_root
from sovereign_pipeline.release.cadence import Due, due_reviews
from sovereign_pipeline.release.recall import recalls_in_force
from sovereign_pipeline.release.standing import Standing, open_standings, standings
from sovereign_pipeline.serving.gateway.auth import Caller
from sovereign_pipeline.web.adapter_view import FURTHER, next_step
from sovereign_pipeline.web.rendering import NextStep

ORDER: tuple[State, ...] = ("production", "staged", "approved", "in review", "registered")
"""States in display order. Adapters in other states serve nobody, and the page collapses their rows."""


@dataclass(frozen=True)
class _Adapter:
    line: str
    classification: str


@dataclass(frozen=True)
class Reader:
    """A signed-in reader with the caller's grants."""

    caller: Caller
    ladder: ClassificationLadder

    def reads(self, line: str, classification: str) -> bool:
        return self.caller.may_oversee(_Adapter(line, classification), self.ladder)

    def reads_line(self, line: str) -> bool:
        """Return True if any of the reader's grants covers the line. The levels of the line's adapters are not
        compared."""
        return any(grant.admin and (grant.lines is None or line in grant.lines) for grant in self.caller.grants)


@dataclass(frozen=True)
class LineInBrief:
    """A line in the list. Adapters above the reader's clearance are counted only in `withheld`."""

    line: str
    adapters: int
    level: str | None
    """The highest classification level of the line's visible adapters. None if all adapters are withheld."""
    production: str | None
    staged: str | None
    is_urgent: bool
    """True if the adapter in production was promoted without passing its trial."""
    requests: int
    """Number of open requests."""
    recalled: int
    """Number of adapters to which an open recall applies, and whose state is neither recalled nor retired."""
    due: Due | None
    """The next review of the newest adapter."""
    withheld: tuple[tuple[str, int], ...]
    """Pairs of a classification level and the number of adapters at this level that are hidden from the reader."""

    @property
    def waits(self) -> bool:
        """Return True if the line needs an officer's decision."""
        return bool(self.requests or self.recalled or (self.due is not None and self.due.state != "not due"))


@dataclass(frozen=True)
class Row:
    adapter: Mapping[str, Any]
    """The adapter as `adapters_in_brief` returns it."""
    is_urgent: bool
    """True if the adapter was promoted without passing its trial."""
    due: Due | None
    next_step: NextStep | None
    """Next transition of the line's newest adapter in each state; None for other adapters."""


@dataclass(frozen=True)
class LineView:
    line: str
    rows: tuple[Row, ...]
    folded: tuple[Row, ...]
    withheld: tuple[tuple[str, int], ...]
    """As in `LineInBrief`."""


def overview(registry: Registry, reader: Reader, today: datetime.date) -> tuple[LineInBrief, ...]:
    """Return every line that a reader may see. Lines that need an officer's decision come first, then the others, by
    name.

    States come from the replayed ledger, in one pass. Signatures of open requests, recalls and reviews are verified
    here; signatures of closed requests are verified on the line's page. Raises IntegrityError that names the changed
    record.
    """
    settings = registry.settings
    with registry.reading() as session:
        brief = adapters_in_brief(registry)
        urgent = urgent_promotions(session)
        asked = Counter(each.request.adapter_id for each in open_standings(session, settings, trust_root(settings)))
        serving = {row["id"]: row["state"] for row in brief if row["state"] not in ENDED}
        recalled = recalls_in_force(session, settings, serving)
    due = {each.adapter: each for each in due_reviews(registry, settings, today)}
    found = []
    for line, rows in _by_line(brief).items():
        if not reader.reads_line(line):
            continue
        seen, withheld = _seen(reader, line, rows)
        by_state = {row["state"]: row["id"] for row in seen}
        production = by_state.get("production")
        found.append(
            LineInBrief(
                line,
                len(seen),
                max((row["classification"] for row in seen), key=reader.ladder.rank, default=None),
                production,
                by_state.get("staged"),
                production in urgent,
                sum(asked[row["id"]] for row in seen),
                sum(row["id"] in recalled for row in seen),
                next((due[row["id"]] for row in seen if row["id"] in due), None),
                withheld,
            )
        )
    return tuple(sorted(found, key=lambda each: (not each.waits, each.line)))


def line_view(registry: Registry, reader: Reader, line: str, today: datetime.date) -> LineView | None:
    """Return a line's adapters, or None if the line has no adapters or the reader may not see the line. Raises
    IntegrityError that names the changed record."""
    brief = adapters_in_brief(registry, line) if reader.reads_line(line) else []
    if not brief:
        return None
    settings = registry.settings
    with registry.reading() as session:
        urgent = urgent_promotions(session)
        requests = standings(session, settings, trust_root(settings), line)
    due = {each.adapter: each for each in due_reviews(registry, settings, today, line)}
    seen, withheld = _seen(reader, line, brief)
    leading = {row["state"]: row["id"] for row in seen if row["state"] in FURTHER and row["state"] in ORDER}
    shown = [
        Row(
            row,
            row["id"] in urgent,
            due.get(row["id"]),
            _next_step(registry, row, requests) if leading.get(row["state"]) == row["id"] else None,
        )
        for row in reversed(seen)
    ]
    rest = [state for state in STATES if state not in ORDER]
    return LineView(line, _in_states(shown, ORDER), _in_states(shown, rest), withheld)


def _in_states(rows: Sequence[Row], states: Sequence[State]) -> tuple[Row, ...]:
    return tuple(row for state in states for row in rows if row.adapter["state"] == state)


def _by_line(brief: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found = defaultdict[str, list[Mapping[str, Any]]](list)
    for row in brief:
        found[line_of(row["id"])].append(row)
    return found


def _seen(
    reader: Reader, line: str, rows: Sequence[Mapping[str, Any]]
) -> tuple[list[Mapping[str, Any]], tuple[tuple[str, int], ...]]:
    """Return the adapters that a reader may see, and the number of hidden adapters at each level."""
    counts = Counter(row["classification"] for row in rows)
    withheld = {level: count for level, count in counts.items() if not reader.reads(line, level)}
    return [row for row in rows if row["classification"] not in withheld], tuple(sorted(withheld.items()))


def _next_step(registry: Registry, row: Mapping[str, Any], requests: Sequence[Standing]) -> NextStep | None:
    asked = [each for each in requests if each.request.adapter_id == row["id"]]
    return next_step(registry, find_adapter(registry, row["id"]), row["state"], asked)
