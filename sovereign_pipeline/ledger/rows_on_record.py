"""Whether the registry's rows are those that entries of the audit log entered: every column, none added, none gone.

A row is a view of its entry. Whoever decides something by rows reads them through here (`catalog.py`), so that a row
that was put in, changed or removed past this program decides nothing.

What belongs here: naming rows in an entry, and comparing them with it. What does not: reviews, whose rows are compared
with their signed acts (`review/reconciling.py`), and whether the log itself is whole (`audit_log.py`).
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import JSON, Column, Select, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.ledger.audit_log import append
from sovereign_pipeline.ledger.log.tree import AT_ONCE
from sovereign_pipeline.ledger.rows_added import ROWS, digest_of_columns, held_tables, key_of
from sovereign_pipeline.ledger.tables import Adapter, AuditEntry, Table, row_as_dict

REGISTERED = "adapter registered"
HINT = "Restore the registry from a copy, and find out who changed it."

Entered = Mapping[str, Mapping[str, str]]
"""Table -> key of a row -> digest of its columns."""


def enter_adapter(session: Session, adapter: Adapter, actor: str) -> None:
    """Enter an adapter, and the rows that were added with it, in the caller's transaction."""
    subjects = {
        "line": adapter.line,
        "adapter": adapter.id,
        "record": adapter.record_digest,
        "record_manifest_sha256": adapter.record_manifest_sha256,
    }
    append(session, actor, REGISTERED, subjects)


def adapters_on_record(session: Session, line: str) -> list[Adapter]:
    """Every adapter of a line. Raises IntegrityError naming a row that was put in, changed or removed."""
    adapters = list(session.scalars(select(Adapter).where(Adapter.line == line).order_by(Adapter.id)))
    of_line = _entries().where(AuditEntry.subjects["line"].as_string() == line)
    entered = {
        key: digest
        for key, digest in _entered(session, of_line).get(Adapter.__tablename__, {}).items()
        if key.rpartition("-")[0] == line
    }
    _raise(_differences(Adapter, adapters, entered))
    return adapters


def assert_on_record(session: Session, adapter: Adapter) -> None:
    """Assert that the row of one adapter is that of its entry. Raises IntegrityError."""
    of_adapter = _entries().where(AuditEntry.subjects["adapter"].as_string() == adapter.id)
    entered = _entered(session, of_adapter).get(Adapter.__tablename__, {})
    _raise(_differences(Adapter, [adapter], {key: entered[key] for key in entered if key == adapter.id}))


def assert_rows_on_record(session: Session) -> None:
    """Assert that every row of every table is that of its entry. Raises IntegrityError naming those that are not."""
    with_rows = AuditEntry.subjects[ROWS].as_string().is_not(None)
    entered = _entered(session, select(AuditEntry.subjects).where(with_rows).order_by(AuditEntry.sequence))
    _raise(
        finding
        for table in held_tables()
        for finding in _differences(table, session.scalars(select(table)), entered.get(table.__tablename__, {}))
    )


def unreadable_row(session: Session) -> str | None:
    """The first row with a value that its column cannot hold, in words; SQLite lets whoever owns it put any there."""
    for table in Table.metadata.sorted_tables:
        key = ", ".join(column.name for column in table.primary_key)
        try:
            for row in session.execute(select(table).execution_options(yield_per=AT_ONCE)).mappings():
                for column in table.columns:
                    if not _fits(column, row[column]):
                        found = ", ".join(str(row[each]) for each in table.primary_key)
                        return f"{column.name} of {table.name} {found}"
        except (ValueError, TypeError, SQLAlchemyError):
            return f"a row of {table.name}, by {key}"
    return None


def _fits(column: Column[Any], value: Any) -> bool:
    if value is None:
        return bool(column.nullable)
    return isinstance(column.type, JSON) or isinstance(value, column.type.python_type)


def assert_entered(session: Session, adapters: Iterable[str]) -> None:
    """Assert that an entry names each adapter; columns are not compared, so that a long list is quick."""
    registered = select(AuditEntry.subjects["adapter"].as_string()).where(AuditEntry.action == REGISTERED)
    entered = set(session.scalars(registered))
    _raise(_put_in(Adapter, adapter) for adapter in adapters if adapter not in entered)


def _entries() -> Select[tuple[dict[str, Any]]]:
    return select(AuditEntry.subjects).where(AuditEntry.action == REGISTERED).order_by(AuditEntry.sequence)


def _entered(session: Session, entries: Select[tuple[dict[str, Any]]]) -> dict[str, dict[str, str]]:
    """What entries say of rows. A row is entered once: a second entry for it is nobody's here, and is not believed."""
    found: dict[str, dict[str, str]] = {}
    for subjects in session.scalars(entries):
        for table, rows in subjects[ROWS].items():
            for key, digest in rows.items():
                found.setdefault(table, {}).setdefault(key, digest)
    return found


def _differences(table: type[Table], rows: Iterable[Table], entered: Mapping[str, str]) -> Iterator[str]:
    name, missing = table.__tablename__.replace("_", " "), dict(entered)
    for row in rows:
        key = key_of(row)
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


def _shown(key: str) -> str:
    return short(key) if len(key) == 64 else key
