"""The state of an adapter: where its recorded transitions lead. Each row is held to its entry in the audit log.

What belongs here: reading states, now and at an earlier moment. What does not: which transitions are allowed and what
each needs (`release/`).
"""

import datetime
import hashlib
import itertools
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, get_args

from sqlalchemy import Row, Text, cast, select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.ledger.rows_added import ROWS
from sovereign_pipeline.ledger.tables import Adapter, AuditEntry, BlindReview, Transition

State = Literal[
    "registered", "in review", "approved", "staged", "production", "superseded", "rejected", "recalled", "retired"
]
STATES: tuple[State, ...] = get_args(State)

ENDED: frozenset[State] = frozenset({"rejected", "recalled", "retired"})
"""States in which an adapter is neither served, nor compared with, nor continued from."""

REQUESTED, STATE_CHANGED, FLAG_CHANGED = "release requested", "state changed", "flag changed"
"""Actions of the entries of requests, of transitions, and of the changes of a line's flag."""

TransitionRow = Transition | Row[Any]
"""A transition as an object or, where there are thousands, as a row."""


def transitions_of(session: Session, line: str) -> list[Transition]:
    """Every transition of a line, the oldest first.

    Raises IntegrityError naming one that was put in, changed or removed, or that does not follow from those before it.
    """
    rows = list(session.scalars(select(Transition).where(Transition.line == line).order_by(Transition.sequence)))
    _assert_on_record(session, line, {line: rows} if rows else {})
    return rows


def facts_of(row: TransitionRow) -> dict[str, object]:
    """What the entry of a transition says of it; the signed statement is named by its SHA-256."""
    return {
        "line": row.line,
        "sequence": row.sequence,
        "adapter": row.adapter_id,
        "transition": row.transition,
        "from": row.before,
        "to": row.after,
        "request": row.request_id,
        "at": row.made_at.isoformat(),
        "statement": hashlib.sha256(row.statement).hexdigest(),
    }


def states(session: Session, line: str | None = None, at: datetime.datetime | None = None) -> dict[str, State]:
    """Adapter -> its state, of one line or of all; `at`: at that moment, else now."""
    adapters, reviewed = select(Adapter.id), select(BlindReview.adapter_id)
    if line is not None:
        adapters, reviewed = adapters.where(Adapter.line == line), reviewed.where(BlindReview.line == line)
    if at is not None:
        adapters, reviewed = adapters.where(Adapter.registered_at <= at), reviewed.where(BlindReview.opened_at <= at)
    found: dict[str, State] = dict.fromkeys(session.scalars(adapters), "registered")
    found |= dict.fromkeys((each for each in session.scalars(reviewed) if each in found), "in review")
    columns = Transition.__table__.c
    query = select(*columns).order_by(columns.line, columns.sequence)
    made = session.execute(query if line is None else query.where(columns.line == line))
    by_line = {each: list(rows) for each, rows in itertools.groupby(made, key=lambda row: str(row.line))}
    _assert_on_record(session, line, by_line)
    for rows in by_line.values():
        if at is not None:
            rows = [row for row, moment in zip(rows, _moments(rows), strict=True) if moment <= at]
        found |= {row.adapter_id: _state(row.after) for row in rows}
    return found


def lines_in(session: Session, wanted: Collection[State]) -> list[str]:
    """Lines with an adapter in one of these states, as a glance: a line whose transitions are not on record is among
    them, so that whoever looks closer refuses that one and no other."""
    found = set[str]()
    try:
        state = states(session)
    except IntegrityError:
        state = {}
        for line in session.scalars(select(Transition.line).distinct()).all():
            try:
                state |= states(session, line)
            except IntegrityError:
                found.add(line)
    ids = [each for each, reached in state.items() if reached in wanted]
    return sorted({*found, *session.scalars(select(Adapter.line).where(Adapter.id.in_(ids)).distinct())})


def state_of(session: Session, adapter: Adapter) -> State:
    """The state of an adapter now."""
    return states(session, adapter.line)[adapter.id]


def in_production(session: Session, line: str, at: datetime.datetime | None = None) -> str | None:
    """The adapter of a line that is in production, or was at a moment; None for none."""
    return next((each for each, state in states(session, line, at).items() if state == "production"), None)


def _moments(rows: Sequence[TransitionRow]) -> list[datetime.datetime]:
    """When each transition was made, at the latest: no later than any after it, whatever a wrong clock wrote."""
    return list(itertools.accumulate((row.made_at for row in reversed(rows)), min))[::-1]


def _assert_on_record(session: Session, line: str | None, found: Mapping[str, Sequence[TransitionRow]]) -> None:
    """Compare every transition of one line, or of all, with its entry. `found`: line -> the oldest first."""
    entries = select(cast(AuditEntry.subjects, Text)).where(AuditEntry.action == STATE_CHANGED)
    if line is not None:
        entries = entries.where(AuditEntry.subjects["line"].as_string() == line)
    entered: dict[str, list[dict[str, Any]]] = {}
    # As one text: thousands of texts take twice as long to read.
    for subjects in json.loads(f"[{','.join(session.scalars(entries.order_by(AuditEntry.sequence)))}]"):
        subjects.pop(ROWS, None)
        entered.setdefault(subjects["line"], []).append(subjects)
    for each in dict.fromkeys([*found, *entered]):
        _assert_entered(each, found.get(each, []), entered.get(each, []))
        _assert_one_follows_the_other(each, found.get(each, []))


def _assert_entered(line: str, rows: Sequence[TransitionRow], entered: Sequence[dict[str, Any]]) -> None:
    for number, (row, entry) in enumerate(zip(rows, entered, strict=False), start=1):
        if facts_of(row) != entry or row.sequence != number:
            raise _not_on_record(line, number, "differs from its entry in the audit log")
    if len(rows) > len(entered):
        raise _not_on_record(line, len(entered) + 1, "was put in past this program: no entry of the audit log names it")
    if len(rows) < len(entered):
        raise _not_on_record(line, len(rows) + 1, "is gone; the audit log names it")


def _assert_one_follows_the_other(line: str, rows: Sequence[TransitionRow]) -> None:
    """A transition begins in the state that the one before left, and one adapter at most is in production."""
    reached: dict[str, str] = {}
    for row in rows:
        before = reached.get(row.adapter_id)
        begins = {before} if before is not None else {"registered", "in review"}
        if row.before not in begins:
            raise _not_on_record(line, row.sequence, f"begins in '{row.before}', and {row.adapter_id} was not there")
        reached[row.adapter_id] = _state(row.after)
    serving = [adapter for adapter, state in reached.items() if state == "production"]
    if len(serving) > 1:
        raise _not_on_record(line, len(rows), f"leaves {' and '.join(serving)} in production")


def _state(word: str) -> State:
    return _BY_WORD[word]


_BY_WORD: Mapping[str, State] = {each: each for each in STATES}


def _not_on_record(line: str, number: int, problem: str) -> IntegrityError:
    return IntegrityError(
        f"The registry: transition {number} of line {line} {problem}.",
        "Restore the registry from a copy, and find out who changed it.",
    )
