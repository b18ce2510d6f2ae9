"""Rows that a transaction adds, each named in the entry of its act by the digest of its columns.

`Registry.writing` watches its session, and `audit_log.append` takes what was added since the entry before: so no row of
these tables is committed without an entry that says every column of it.

What belongs here: which tables, and their digests. What does not: comparing rows with entries (`rows_on_record.py`).
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from sqlalchemy import event, inspect
from sqlalchemy.orm import Session

from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.ledger.tables import (
    AuditEntry,
    Ballot,
    BlindReview,
    Guess,
    LedgerEntry,
    LedgerKey,
    LedgerNode,
    ReviewClosing,
    SignInLink,
    SignInUse,
    Table,
    row_as_dict,
)
from sovereign_pipeline.ledger.triggers import MAY_CHANGE

ROWS = "rows"
"""The name in an entry's subjects under which the rows stand that it entered."""
ADDED = "rows added since the last entry"
"""In `Session.info`."""

THE_LEDGER_ITSELF = (AuditEntry, LedgerEntry, LedgerNode, LedgerKey)
BY_SIGNED_ACTS = (BlindReview, SignInLink, SignInUse, Ballot, Guess, ReviewClosing)
"""Held to the signed acts of a review instead (`review/reconciling.py`)."""

Rows = dict[str, dict[str, str]]
"""Table -> key of a row -> digest of its columns."""


def held_tables() -> list[type[Table]]:
    """Tables whose every row is in an entry: all but an index that may change, in the order of their names."""
    classes = [mapper.class_ for mapper in Table.registry.mappers]
    held = [
        each
        for each in classes
        if each not in (*THE_LEDGER_ITSELF, *BY_SIGNED_ACTS) and not each.__table__.info.items() >= MAY_CHANGE.items()
    ]
    return sorted(held, key=lambda each: each.__tablename__)


def watch(session: Session) -> None:
    """Note what a session adds from now on."""

    @event.listens_for(session, "after_flush")
    def _note(flushed: Session, context: Any) -> None:
        held = tuple(held_tables())
        rows: Rows = flushed.info.setdefault(ADDED, {})
        for row in flushed.new:
            if isinstance(row, held):
                rows.setdefault(row.__tablename__, {})[key_of(row)] = digest_of_columns(row_as_dict(row))


def taken(session: Session) -> Rows:
    """What was added since the last entry; the next entry does not get it again."""
    session.flush()
    rows: Rows = session.info.pop(ADDED, {})
    return {table: rows[table] for table in sorted(rows) if rows[table]}


def assert_none_left(session: Session) -> None:
    """At the end of a transaction. A row without an entry is a mistake in this program, and is not committed."""
    if left := taken(session):
        raise RuntimeError(f"rows of {', '.join(left)} would be committed without an entry of the ledger")


def digest_of_columns(columns: Mapping[str, Any]) -> str:
    """SHA-256 over the columns that hold something, so that a column added later changes no digest."""
    return digest_of({name: _plain(value) for name, value in columns.items() if value is not None})


def key_of(row: Table) -> str:
    """The primary key of a row as one text."""
    return "/".join(str(part) for part in inspect(row).mapper.primary_key_from_instance(row))


def _plain(value: Any) -> Any:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value
