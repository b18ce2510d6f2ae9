"""The state of an adapter: where its recorded transitions lead. Each row is held to its entry in the audit log.

What belongs here: reading states, now and at an earlier moment. What does not: which transitions are allowed and what
each needs (`release/`).
"""

import datetime
from collections.abc import Sequence
from typing import Literal, get_args

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.errors import IntegrityError
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
    rows = list(session.scalars(select(Transition).where(Transition.line == line).order_by(Transition.sequence)))
    entered = _entered(session, line)
    for number, (row, entry) in enumerate(zip(rows, entered, strict=False), start=1):
        if facts_of(row) != entry or row.sequence != number:
            raise _not_on_record(line, number, "differs from its entry in the audit log")
    if len(rows) > len(entered):
        raise _not_on_record(line, len(entered) + 1, "was put in past this program: no entry of the audit log names it")
    if len(rows) < len(entered):
        raise _not_on_record(line, len(rows) + 1, "is gone; the audit log names it")
    _assert_one_follows_the_other(session, line, rows)
    return rows


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


def states_of_line(session: Session, line: str, at: datetime.datetime | None = None) -> dict[str, State]:
    """Adapter -> its state; `at`: at that moment, else now."""
    adapters = session.scalars(select(Adapter).where(Adapter.line == line))
    states: dict[str, State] = {each.id: "registered" for each in adapters if at is None or each.registered_at <= at}
    reviews = session.scalars(select(BlindReview).where(BlindReview.line == line))
    for review in reviews:
        if review.adapter_id in states and (at is None or review.opened_at <= at):
            states[review.adapter_id] = "in review"
    for row in transitions_of(session, line):
        if at is None or row.made_at <= at:
            states[row.adapter_id] = _state(row.after)
    return states


def state_of(session: Session, adapter: Adapter) -> State:
    """The state of an adapter now."""
    return states_of_line(session, adapter.line)[adapter.id]


def in_production(session: Session, line: str, at: datetime.datetime | None = None) -> str | None:
    """The adapter of a line that is in production, or was at a moment; None for none."""
    return next((each for each, state in states_of_line(session, line, at).items() if state == "production"), None)


def _entered(session: Session, line: str) -> list[dict[str, object]]:
    query = select(AuditEntry.subjects).where(
        AuditEntry.action == STATE_CHANGED, AuditEntry.subjects["line"].as_string() == line
    )
    return list(session.scalars(query.order_by(AuditEntry.sequence)))


def _assert_one_follows_the_other(session: Session, line: str, rows: Sequence[Transition]) -> None:
    """A transition begins in the state that the one before left, and one adapter at most is in production."""
    states: dict[str, str] = {}
    for row in rows:
        before = states.get(row.adapter_id)
        begins = {before} if before is not None else {"registered", "in review"}
        if row.before not in begins:
            raise _not_on_record(line, row.sequence, f"begins in '{row.before}', and {row.adapter_id} was not there")
        states[row.adapter_id] = _state(row.after)
    in_production = [adapter for adapter, state in states.items() if state == "production"]
    if len(in_production) > 1:
        raise _not_on_record(line, len(rows), f"leaves {' and '.join(in_production)} in production")


def _state(word: str) -> State:
    return next(each for each in STATES if each == word)


def _not_on_record(line: str, number: int, problem: str) -> IntegrityError:
    return IntegrityError(
        f"The registry: transition {number} of line {line} {problem}.",
        "Restore the registry from a copy, and find out who changed it.",
    )
