"""Whether the registry's rows are those that entries of the audit log entered: every column, none added, none gone.

A row is a view of its entry. Whoever decides something by rows reads them through here (`catalog.py`), so that a row
that was put in, changed or removed past this program decides nothing.

What belongs here: naming rows in an entry, and comparing them with it. What does not: reviews, whose rows are compared
with their signed acts (`review/reconciling.py`), and whether the log itself is whole (`audit_log.py`).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import Select, inspect, select
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.hashing import digest_of, short
from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.ledger.audit_log import append
from sovereign_pipeline.ledger.tables import Adapter, AuditEntry, BaseModelRow, Dataset, Table, row_as_dict

REGISTERED = "adapter registered"
TAKEN_OVER = "rows of an earlier release taken over"
"""Of the migration: what stood in the registry before rows were held to entries counts as it stood then."""

ENTERED = (REGISTERED, TAKEN_OVER)
HELD: tuple[type[Table], ...] = (Adapter, Dataset, BaseModelRow)
"""Tables whose rows must each be in an entry."""

HINT = "Restore the registry from a copy, and find out who changed it."

Entered = Mapping[str, Mapping[str, str]]
"""Table -> key of a row -> digest of its columns."""


def enter_adapter(session: Session, adapter: Adapter, added: Iterable[Table], actor: str) -> None:
    """Enter an adapter, and the rows that were added with it, in the caller's transaction."""
    rows: dict[str, dict[str, str]] = {}
    for row in (adapter, *added):
        rows.setdefault(row.__tablename__, {})[_key(row)] = digest_of_columns(row_as_dict(row))
    subjects = {
        "line": adapter.line,
        "adapter": adapter.id,
        "record": adapter.record_digest,
        "record_manifest_sha256": adapter.record_manifest_sha256,
        "rows": rows,
    }
    append(session, actor, REGISTERED, subjects)


def digest_of_columns(columns: Mapping[str, Any]) -> str:
    """SHA-256 over the columns that hold something, so that a column added later changes no digest."""
    return digest_of({name: value for name, value in columns.items() if value is not None})


def adapters_on_record(session: Session, line: str) -> list[Adapter]:
    """Every adapter of a line. Raises IntegrityError naming a row that was put in, changed or removed."""
    adapters = list(session.scalars(select(Adapter).where(Adapter.line == line).order_by(Adapter.id)))
    of_line = _entries().where(
        (AuditEntry.action == TAKEN_OVER) | (AuditEntry.subjects["line"].as_string() == line),
    )
    entered = {
        key: digest
        for key, digest in _entered(session, of_line).get(Adapter.__tablename__, {}).items()
        if key.rpartition("-")[0] == line
    }
    _raise(_differences(Adapter, adapters, entered))
    return adapters


def assert_on_record(session: Session, adapter: Adapter) -> None:
    """Assert that the row of one adapter is that of its entry. Raises IntegrityError."""
    of_adapter = _entries().where(
        (AuditEntry.action == TAKEN_OVER) | (AuditEntry.subjects["adapter"].as_string() == adapter.id),
    )
    entered = _entered(session, of_adapter).get(Adapter.__tablename__, {})
    _raise(_differences(Adapter, [adapter], {key: entered[key] for key in entered if key == adapter.id}))


def assert_rows_on_record(session: Session) -> None:
    """Assert that every row of every table is that of its entry. Raises IntegrityError naming those that are not."""
    entered = _entered(session, _entries())
    _raise(
        finding
        for table in HELD
        for finding in _differences(table, session.scalars(select(table)), entered.get(table.__tablename__, {}))
    )


def assert_entered(session: Session, adapters: Iterable[str]) -> None:
    """Assert that an entry names each adapter; columns are not compared, so that a long list is quick."""
    taken_over = select(AuditEntry.subjects).where(AuditEntry.action == TAKEN_OVER)
    entered = set(_entered(session, taken_over).get(Adapter.__tablename__, {}))
    registered = select(AuditEntry.subjects["adapter"].as_string()).where(AuditEntry.action == REGISTERED)
    entered.update(session.scalars(registered))
    _raise(_put_in(Adapter, adapter) for adapter in adapters if adapter not in entered)


def _entries() -> Select[tuple[dict[str, Any]]]:
    return select(AuditEntry.subjects).where(AuditEntry.action.in_(ENTERED)).order_by(AuditEntry.sequence)


def _entered(session: Session, entries: Select[tuple[dict[str, Any]]]) -> dict[str, dict[str, str]]:
    """What entries say of rows. A row is entered once: a second entry for it is nobody's here, and is not believed."""
    found: dict[str, dict[str, str]] = {}
    for subjects in session.scalars(entries):
        for table, rows in subjects["rows"].items():
            for key, digest in rows.items():
                found.setdefault(table, {}).setdefault(key, digest)
    return found


def _differences(table: type[Table], rows: Iterable[Table], entered: Mapping[str, str]) -> Iterator[str]:
    name, missing = table.__tablename__.replace("_", " "), dict(entered)
    for row in rows:
        key = _key(row)
        digest = missing.pop(key, None)
        if digest is None:
            yield _put_in(table, key)
        elif digest != digest_of_columns(row_as_dict(row)):
            yield f"the row of {name} {_shown(key)} differs from its entry in the audit log"
    for key in missing:
        yield f"the row of {name} {_shown(key)} is gone; the audit log names it"


def _put_in(table: type[Table], key: str) -> str:
    name = table.__tablename__.replace("_", " ")
    return f"the row of {name} {_shown(key)} was put in past this program: no entry of the audit log names it"


def _raise(differences: Iterable[str]) -> None:
    found = list(differences)
    if found:
        raise IntegrityError(f"The registry: {'; '.join(found)}.", HINT)


def _key(row: Table) -> str:
    return str(inspect(row).mapper.primary_key_from_instance(row)[0])


def _shown(key: str) -> str:
    return short(key) if len(key) == 64 else key
