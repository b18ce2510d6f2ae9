"""Append entries to the audit log, verify its hash chain, and compare the registry's rows with the entries."""

import datetime
import hashlib
import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Column, Row, Select, event, inspect, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError, IntegrityError, SovereignError
from sovereign_pipeline.base.files import canonical_json, digest_of, short
from sovereign_pipeline.record import merkle, tree
from sovereign_pipeline.record.checkpoints import Readable
from sovereign_pipeline.record.tables import (
    MAY_CHANGE,
    Adapter,
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
from sovereign_pipeline.record.tree import AT_ONCE

ROWS = "rows"
"""Key in an entry's subjects that lists the rows added with the entry."""
ADDED = "rows added since the last entry"
"""Key in `Session.info` for the rows added since the last entry."""

THE_LEDGER_ITSELF = (AuditEntry, LedgerEntry, LedgerNode, LedgerKey)
BY_SIGNED_ACTS = (BlindReview, SignInLink, SignInUse, Ballot, Guess, ReviewClosing)
"""Tables whose rows are verified against the signed acts of a review instead (`review/reconciling.py`)."""

Rows = dict[str, dict[str, str]]
"""Table -> primary key of a row -> digest of its columns."""


def held_tables() -> list[type[Table]]:
    """Return the tables whose rows must all be in entries, sorted by name. The recall index is not among them."""
    classes = [mapper.class_ for mapper in Table.registry.mappers]
    held = [
        each
        for each in classes
        if each not in (*THE_LEDGER_ITSELF, *BY_SIGNED_ACTS) and not each.__table__.info.items() >= MAY_CHANGE.items()
    ]
    return sorted(held, key=lambda each: each.__tablename__)


def watch(session: Session) -> None:
    """Record in the session's info every row that the session adds from now on."""

    @event.listens_for(session, "after_flush")
    def _note(flushed: Session, context: Any) -> None:
        held = tuple(held_tables())
        rows: Rows = flushed.info.setdefault(ADDED, {})
        for row in flushed.new:
            if isinstance(row, held):
                rows.setdefault(row.__tablename__, {})[key_of(row)] = digest_of_columns(row_as_dict(row))


def taken(session: Session) -> Rows:
    """Return the rows added since the last entry, and clear them so that no later entry lists them again."""
    session.flush()
    rows: Rows = session.info.pop(ADDED, {})
    return {table: rows[table] for table in sorted(rows) if rows[table]}


def assert_none_left(session: Session) -> None:
    """Raise RuntimeError if rows without an entry would be committed. Called at the end of a transaction."""
    if left := taken(session):
        raise RuntimeError(f"rows of {', '.join(left)} would be committed without an entry of the ledger")


def digest_of_columns(columns: Mapping[str, Any]) -> str:
    """Return the SHA-256 over a row's non-empty columns, so that a column added later changes no digest."""
    return digest_of({name: _plain(value) for name, value in columns.items() if value is not None})


def key_of(row: Table) -> str:
    """Return the primary key of a row as one string."""
    return "/".join(str(part) for part in inspect(row).mapper.primary_key_from_instance(row))


def _plain(value: Any) -> Any:
    return hashlib.sha256(value).hexdigest() if isinstance(value, bytes) else value


BEFORE_THE_FIRST = "before the first entry of a transaction"
"""Key in `Session.info` for the function that runs before the first entry of a transaction (`in_force.py`)."""
FIRST = "0" * 64
"""The `previous` hash of the first entry."""

SIGNATURE = "signature"
"""Key in an entry's subjects for its signature in hex digits, if the entry is signed."""

SIGNED_AS = b"sovereign audit entry 1\n"
"""Prefix of the signed bytes. It makes the signature invalid for any other purpose."""

Entry = AuditEntry | Row[Any]
"""An audit entry as an ORM object or as a plain row."""
Sign = Callable[[bytes], bytes]
"""Function that signs bytes."""


@dataclass(frozen=True)
class Checkpoint:
    """The position of a log: its newest entry at some time."""

    sequence: int
    """Number of the newest entry; 0 for an empty log."""
    hash: str
    """Hash of the newest entry, 64 hex digits."""


BEGINNING = Checkpoint(sequence=0, hash=FIRST)
"""The checkpoint of an empty log."""


def append(
    session: Session, actor: str, action: str, subjects: Mapping[str, Any], sign: Sign | None = None
) -> AuditEntry:
    """Add one entry within the caller's transaction, so that act and entry are committed together.

    The entry lists the digests of the rows that the transaction added since its last entry.

    Args:
        session: a session of `Registry.writing`.
        subjects: digests, names and counts that identify what the act changed.
        sign: signs the entry; None leaves it unsigned.
    """
    rows = taken(session)
    if (before := session.info.pop(BEFORE_THE_FIRST, None)) is not None:
        before(session)
    last = session.scalars(select(AuditEntry).order_by(AuditEntry.sequence.desc()).limit(1)).one_or_none()
    _assert_newest(session, last)
    entry = AuditEntry(
        sequence=last.sequence + 1 if last is not None else 1,
        at=datetime.datetime.now(datetime.UTC),
        actor=actor,
        action=action,
        subjects={**subjects, **({ROWS: rows} if rows else {})},
        previous=last.hash if last is not None else FIRST,
    )
    if sign is not None:
        entry.subjects = {**entry.subjects, SIGNATURE: sign(signed_content(entry)).hex()}
    entry.hash = _hash(entry)
    session.add(entry)
    session.flush()
    data = exact_bytes(entry)
    tree.append(session, entry.sequence, data)
    return entry


def assert_leaf(session: Session, sequence: int) -> AuditEntry:
    """Return one entry after verifying it against the tree. Raises IntegrityError if it is missing or was changed."""
    entry, leaf = session.get(AuditEntry, sequence), session.get(LedgerEntry, sequence)
    if entry is None or leaf is None:
        raise damaged_registry(sequence, "is missing")
    size = tree.size_of(session)
    proof = tree.inclusion_proof(session, sequence, size)
    is_included = merkle.is_included(
        sequence - 1, size, merkle.leaf_hash(bytes(leaf.data)), proof, tree.root_at(session, size)
    )
    if bytes(leaf.data) != exact_bytes(entry) or not is_included:
        raise damaged_registry(sequence, "was changed")
    return entry


def exact_bytes(entry: Entry) -> bytes:
    """Return the bytes of an entry that form its leaf in the ledger's tree."""
    return canonical_json(as_dict(entry))


def signed_content(entry: Entry) -> bytes:
    """Return the bytes that an entry's signature covers: the whole act without its position in the log."""
    content = {name: value for name, value in content_of(entry).items() if name not in ("sequence", "previous")}
    content["subjects"] = {name: value for name, value in entry.subjects.items() if name != SIGNATURE}
    return SIGNED_AS + canonical_json(content)


def entries(registry: Readable) -> list[AuditEntry]:
    """Return the whole log, oldest entry first."""
    with registry.reading() as session:
        return entries_in(session)


def entries_in(session: Session) -> list[AuditEntry]:
    """Return the whole log as the transaction sees it. Raises IntegrityError if an entry's subjects cannot be read."""
    return [AuditEntry(**row._mapping) for row in stream_in(session)]


def stream_in(session: Session, after: int = 0) -> Iterator[Row[Any]]:
    """Yield the log's entries as rows, oldest first, few in memory at once. Raises the same errors as `entries_in`."""
    columns = AuditEntry.__table__.c
    query = select(*columns).where(columns.sequence > after).order_by(columns.sequence)
    try:
        for row in session.execute(query.execution_options(yield_per=tree.AT_ONCE)):
            if not isinstance(row.subjects, dict):
                raise unreadable()
            yield row
    except ValueError:  # not JSON
        raise unreadable() from None


def verify(log: Iterable[Entry], kept: Checkpoint | None = None, after: Checkpoint | None = None) -> Checkpoint:
    """Compute every hash again. Returns the log's newest entry as a checkpoint.

    Args:
        kept: a checkpoint that was taken earlier and must be in the log.
        after: the position after which the given entries begin; None for a whole log.

    Raises:
        IntegrityError: an entry is missing, changed or out of order, or the log does not contain `kept`. The message
            names
            the entry.
    """
    last = start = after or BEGINNING
    found = kept is None or kept == last
    for last in _verified((as_dict(entry) for entry in log), damaged_registry, start):
        found = found or last == kept
    if not found and kept is not None:
        raise damaged_registry(kept.sequence, "is not the one of the checkpoint, or is gone")
    return last


def export(registry: Readable, file: Path) -> Checkpoint:
    """Verify the log and write it as JSONL, oldest entry first, into a new file. Returns its newest entry."""
    with registry.reading() as session, file.open("xb") as stream:

        def written() -> Iterator[Row[Any]]:
            for entry in stream_in(session):
                stream.write(exact_bytes(entry) + b"\n")
                yield entry

        try:
            return verify(written())
        except (SovereignError, OSError):
            file.unlink()
            raise


def checkpoint_of(file: Path) -> Checkpoint:
    """Verify an export's hashes and return its newest entry.

    Raises:
        InputError: the file is missing, is not an export, or has no entries.
        IntegrityError: an entry was changed. The message names it.
    """
    if not file.is_file():
        raise InputError(f"{file}: there is no such file.", "Correct the path of the export.")

    def damaged(sequence: int, problem: str) -> IntegrityError:
        return IntegrityError(
            f"{file}: entry {sequence} {problem}.", "Use another copy of the export, and find out who changed this one."
        )

    try:
        with file.open("rb") as stream:
            newest = deque(_verified(map(json.loads, stream), damaged, BEGINNING), maxlen=1)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{file}: not an export of the audit log.", "Give a file that an export wrote.") from None
    if not newest:
        raise InputError(f"{file}: holds no entry, so nothing is compared with it.", "Give an export with entries.")
    return newest.pop()


def as_dict(entry: Entry) -> dict[str, Any]:
    """Return an entry as JSON, with times in UTC. Its `hash` covers all other keys."""
    return {**content_of(entry), "hash": entry.hash}


def _verified(
    log: Iterable[dict[str, Any]], damaged: Callable[[int, str], IntegrityError], last: Checkpoint
) -> Iterator[Checkpoint]:
    """Verify each entry's hash and position, and yield its checkpoint.

    Args:
        log: entries in the form of `as_dict`.
        damaged: builds the error from an entry's number and its problem.
    """
    for entry in log:
        content = {name: value for name, value in entry.items() if name != "hash"}
        if content["sequence"] != last.sequence + 1:
            raise damaged(last.sequence + 1, "is missing")
        if content["previous"] != last.hash:
            raise damaged(last.sequence + 1, "does not follow the one before it")
        if not _has_hash(content, entry["hash"]):
            raise damaged(last.sequence + 1, "was changed")
        last = Checkpoint(sequence=content["sequence"], hash=entry["hash"])
        yield last


def _assert_newest(session: Session, last: AuditEntry | None) -> None:
    """Assert that the newest row of the log is also the newest leaf of the tree."""
    size = tree.size_of(session)
    if size != (last.sequence if last is not None else 0):
        raise damaged_registry(size if last is None or last.sequence < size else size + 1, "is missing")
    if last is not None and session.get_one(LedgerEntry, size).data != exact_bytes(last):
        raise damaged_registry(size, "was changed")


def content_of(entry: Entry) -> dict[str, Any]:
    return {
        "sequence": entry.sequence,
        "at": entry.at.isoformat(timespec="microseconds"),
        "actor": entry.actor,
        "action": entry.action,
        "subjects": entry.subjects,
        "previous": entry.previous,
    }


def _hash(entry: AuditEntry) -> str:
    """Return the SHA-256 of the entry's canonical JSON, which includes the previous entry's hash."""
    return digest_of(content_of(entry))


def _has_hash(content: Mapping[str, Any], stated: str) -> bool:
    try:
        return digest_of(content) == stated
    except ValueError:  # a value such as NaN, which this program never writes
        return False


def unreadable() -> IntegrityError:
    return IntegrityError(
        "The audit log: an entry cannot be read. The registry was changed past this program.",
        "Restore it from a copy, and find out who changed it.",
    )


def damaged_registry(sequence: int, problem: str) -> IntegrityError:
    return IntegrityError(
        f"The audit log: entry {sequence} {problem}. The registry was changed past its triggers.",
        "Restore it from a copy, and find out who changed it.",
    )


REGISTERED = "adapter registered"
HINT = "Restore the registry from a copy, and find out who changed it."

Entered = Mapping[str, Mapping[str, str]]
"""Table -> primary key of a row -> digest of its columns."""


TRAINED_ON = "trained_on"
"""Key in a registration's entry for the adapter's datasets, their contents and its base models."""


def contents_digest(documents: Collection[str], sources: Collection[str]) -> str:
    """Return the digest of a dataset's documents and sources. The recall index is verified against it."""
    return digest_of({"documents": sorted(documents), "sources": sorted(sources)})


def enter_adapter(session: Session, adapter: Adapter, actor: str, trained_on: Mapping[str, Any]) -> None:
    """Add the entry of an adapter's registration, with the rows added with it, in the caller's transaction."""
    subjects = {
        "line": adapter.line,
        "adapter": adapter.id,
        "record": adapter.record_digest,
        "record_manifest_sha256": adapter.record_manifest_sha256,
        TRAINED_ON: dict(trained_on),
    }
    append(session, actor, REGISTERED, subjects)


def adapters_on_record(session: Session, line: str) -> list[Adapter]:
    """Return every adapter of a line. Raises IntegrityError naming a row that does not match the log."""
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
    """Assert that an adapter's row matches its entry. Raises IntegrityError."""
    of_adapter = _entries().where(AuditEntry.subjects["adapter"].as_string() == adapter.id)
    entered = _entered(session, of_adapter).get(Adapter.__tablename__, {})
    _raise(_differences(Adapter, [adapter], {key: entered[key] for key in entered if key == adapter.id}))


def assert_rows_on_record(session: Session) -> None:
    """Assert that every row of every table matches its entry. Raises IntegrityError naming the rows that do not."""
    with_rows = AuditEntry.subjects[ROWS].as_string().is_not(None)
    entered = _entered(session, select(AuditEntry.subjects).where(with_rows).order_by(AuditEntry.sequence))
    _raise(
        finding
        for table in held_tables()
        for finding in _differences(table, session.scalars(select(table)), entered.get(table.__tablename__, {}))
    )


def unreadable_row(session: Session) -> str | None:
    """Return the name of the first row with a value of the wrong type, or None. SQLite does not enforce types."""
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
    """Assert that an entry names each adapter. Columns are not compared, so this is fast for long lists."""
    registered = select(AuditEntry.subjects["adapter"].as_string()).where(AuditEntry.action == REGISTERED)
    entered = set(session.scalars(registered))
    _raise(_put_in(Adapter, adapter) for adapter in adapters if adapter not in entered)


def _entries() -> Select[tuple[dict[str, Any]]]:
    return select(AuditEntry.subjects).where(AuditEntry.action == REGISTERED).order_by(AuditEntry.sequence)


def _entered(session: Session, entries: Select[tuple[dict[str, Any]]]) -> dict[str, dict[str, str]]:
    """Return the row digests that the entries state. Only the first entry for a row counts."""
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
