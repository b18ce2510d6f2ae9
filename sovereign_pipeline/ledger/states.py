"""The state of an adapter: where its recorded transitions lead. Each row is held to its entry in the audit log.

What belongs here: reading states, now and at an earlier moment. What does not: which transitions are allowed and what
each needs (`release/`).
"""

import datetime
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.ledger.rows_added import ROWS
from sovereign_pipeline.ledger.tables import Adapter, AuditEntry, BlindReview, Transition

State = Literal[
    "registered", "in review", "approved", "staged", "production", "superseded", "rejected", "recalled", "retired"
]
STATES: tuple[State, ...] = get_args(State)

ENDED: frozenset[State] = frozenset({"rejected", "recalled", "retired"})
"""States in which an adapter is neither served, nor compared with, nor continued from."""

STATE_CHANGED = "state changed"


def transitions_of(session: Session, line: str) -> list[Transition]:
    """Every transition of a line, the oldest first.

    Raises IntegrityError naming one that was put in, changed or removed, or that does not follow from those before it.
    """
    return _transitions(session, line).get(line, [])


def facts_of(row: Transition) -> dict[str, object]:
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
        "statement": row.statement_sha256,
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
    for rows in _transitions(session, line).values():
        for row, moment in zip(rows, _moments(rows), strict=True):
            if at is None or moment <= at:
                found[row.adapter_id] = _state(row.after)
    return found


def state_of(session: Session, adapter: Adapter) -> State:
    """The state of an adapter now."""
    return states(session, adapter.line)[adapter.id]


def in_production(session: Session, line: str, at: datetime.datetime | None = None) -> str | None:
    """The adapter of a line that is in production, or was at a moment; None for none."""
    return next((each for each, state in states(session, line, at).items() if state == "production"), None)


def _moments(rows: Sequence[Transition]) -> list[datetime.datetime]:
    """When each transition was made, at the latest: no later than any after it, whatever a wrong clock wrote."""
    return list(itertools.accumulate((row.made_at for row in reversed(rows)), min))[::-1]


def _transitions(session: Session, line: str | None) -> dict[str, list[Transition]]:
    """Line -> its transitions, the oldest first, compared with their entries; of one line or of all."""
    rows = select(Transition).order_by(Transition.line, Transition.sequence)
    entries = select(AuditEntry.subjects).where(AuditEntry.action == STATE_CHANGED).order_by(AuditEntry.sequence)
    if line is not None:
        rows = rows.where(Transition.line == line)
        entries = entries.where(AuditEntry.subjects["line"].as_string() == line)
    found: dict[str, list[Transition]] = {}
    for row in session.scalars(rows):
        found.setdefault(row.line, []).append(row)
    entered: dict[str, list[dict[str, Any]]] = {}
    for subjects in session.scalars(entries):
        entered.setdefault(subjects["line"], []).append(subjects)
    for each in dict.fromkeys([*found, *entered]):
        _assert_entered(each, found.get(each, []), entered.get(each, []))
        _assert_one_follows_the_other(each, found.get(each, []))
    return found


def _assert_entered(line: str, rows: Sequence[Transition], entered: Sequence[Mapping[str, Any]]) -> None:
    for number, (row, entry) in enumerate(zip(rows, entered, strict=False), start=1):
        if facts_of(row) != {name: entry[name] for name in entry if name != ROWS} or row.sequence != number:
            raise _not_on_record(line, number, "differs from its entry in the audit log")
    if len(rows) > len(entered):
        raise _not_on_record(line, len(entered) + 1, "was put in past this program: no entry of the audit log names it")
    if len(rows) < len(entered):
        raise _not_on_record(line, len(rows) + 1, "is gone; the audit log names it")


def _assert_one_follows_the_other(line: str, rows: Sequence[Transition]) -> None:
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
    return next(each for each in STATES if each == word)


def _not_on_record(line: str, number: int, problem: str) -> IntegrityError:
    return IntegrityError(
        f"The registry: transition {number} of line {line} {problem}.",
        "Restore the registry from a copy, and find out who changed it.",
    )
