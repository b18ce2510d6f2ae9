"""Append entries to the audit log, parse stored entries, and verify the log's hash chain."""

import datetime
import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, event, inspect, select
from sqlalchemy.orm import ORMExecuteState, Session

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError, SovereignError
from sovereign_pipeline.base.files import canonical_json, digest_of
from sovereign_pipeline.base.text import refuse_long_texts
from sovereign_pipeline.record import merkle, notes, tables, tree
from sovereign_pipeline.record.checkpoints import Readable

ROWS = "rows"
"""Key in an entry's subjects. Its value lists the added rows: `{table: {primary key: SHA-256 of the row}}`."""
ADDED = "rows added since the last entry"
"""Key in `Session.info` for the rows that the session added since the last ledger entry."""
DRAFTED = "named by the transaction's entries"
"""Key in `Session.info`. The value maps a SHA-256 in the transaction's entries to the content with this SHA-256."""

Rows = dict[str, dict[str, bytes]]
"""For each table, maps a row's primary key to the row's columns as canonical JSON."""


def watch(session: Session, drafted: dict[str, bytes]) -> None:
    """From now on, collect the rows that the session adds to the view's tables (`replay.py`), so that the next ledger
    entry lists these rows. Changing or deleting such a row, or changing these tables with a bulk statement, then raises
    RuntimeError.

    Args:
        drafted: dictionary to fill with the content of each added row and its signed statements, by SHA-256.
    """
    session.info[DRAFTED] = drafted

    @event.listens_for(session, "do_orm_execute")
    def _refuse(state: ORMExecuteState) -> None:
        table = getattr(state.statement, "table", None)
        changes = state.is_insert or state.is_update or state.is_delete
        if changes and table is not None and not table.info.get(tables.STORED):
            raise RuntimeError("a bulk statement would change the registry; add each row as an ORM object")

    @event.listens_for(session, "after_flush")
    def _note(flushed: Session, context: Any) -> None:
        changed = [*filter(flushed.is_modified, flushed.dirty), *flushed.deleted]
        if any(isinstance(each, tables.Table) and _is_held(each) for each in changed):
            raise RuntimeError("a row of the registry would be changed; the registry only allows new rows")
        rows: Rows = flushed.info.setdefault(ADDED, {})
        for row in flushed.new:
            if isinstance(row, tables.Table) and _is_held(row):
                content = content_of_row(row)
                rows.setdefault(row.__tablename__, {})[key_of(row)] = drafted[_sha256(content)] = content
                for column in row.__table__.columns:
                    value = getattr(row, column.name)
                    if isinstance(value, bytes):
                        drafted[_sha256(value)] = value


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_held(row: tables.Table) -> bool:
    return not isinstance(row, tables.AuditEntry) and not tables.Table.metadata.tables[row.__tablename__].info.get(
        tables.STORED
    )


def taken(session: Session) -> Rows:
    """Return the rows added since the last ledger entry, and clear the session's list of these rows."""
    session.flush()
    rows: Rows = session.info.pop(ADDED, {})
    return {table: rows[table] for table in sorted(rows) if rows[table]}


def assert_none_left(session: Session) -> None:
    """Raise RuntimeError if the transaction added rows that no ledger entry lists. Called before each commit."""
    if left := taken(session):
        raise RuntimeError(f"rows of {', '.join(left)} would be committed without an entry of the ledger")


def content_of_row(row: tables.Table) -> bytes:
    """Return a row's columns as canonical JSON, with bytes replaced by their SHA-256. A ledger entry lists the SHA-256
    of this JSON. NULL columns are omitted, so that a new column does not change the digests of existing rows."""
    return canonical_json({name: value for name, value in tables.row_as_dict(row).items() if value is not None})


def key_of(row: tables.Table) -> str:
    """Return the values of a row's primary key, joined with slashes."""
    return "/".join(str(part) for part in inspect(row).mapper.primary_key_from_instance(row))


BEFORE_THE_FIRST = "before the first entry of a transaction"
"""Key in `Session.info`. The value is a function to call before the transaction's first entry is added
(`in_force.py`)."""
LAST = "hash of the newest entry"
"""Key in `Session.info`. The value is the hash of the newest entry."""
FIRST = "0" * 64
"""Value of `previous` in the first entry."""

SIGNATURE = "signature"
"""Key in a signed entry's subjects. The value is the signature in hex digits."""

SIGNED_AS = b"sovereign audit entry 1\n"
"""Prefix of the bytes that are signed for an entry, so that the signature is valid for no other purpose."""


AFTER_HASH = b'"previous":"'
"""Bytes that follow the hash in an entry's JSON. No value before the hash can contain these bytes, because JSON escapes
quotes."""


class Parsed(NamedTuple):
    """A ledger entry, parsed from its bytes."""

    sequence: int
    at: datetime.datetime
    actor: str
    action: str
    subjects: dict[str, Any]
    previous: str
    hash: str


Entry = tables.AuditEntry | Parsed
Sign = Callable[[bytes], bytes]
"""Function that signs bytes."""
Damaged = Callable[[int, str], SovereignError]
"""Function that returns the error for a damaged entry. Its arguments are the entry's number and the problem."""
UNREADABLE = "cannot be read"
"""The problem to pass to a `Damaged` function if the bytes are not a ledger entry."""


@dataclass(frozen=True)
class Checkpoint:
    """The number and hash of a log's newest entry at some time."""

    sequence: int
    """Number of the newest entry; 0 for an empty log."""
    hash: str


BEGINNING = Checkpoint(sequence=0, hash=FIRST)
"""The checkpoint of an empty log."""


def damaged_registry(sequence: int, problem: str) -> IntegrityError:
    return IntegrityError(
        f"The audit log: entry {sequence} {problem}. Another program changed the registry.",
        "Restore the registry from a backup, and find out who changed it.",
    )


CLOCKS = datetime.timedelta(minutes=5)
"""Tolerated difference between two machines' clocks. `evidence/verify.py` tolerates the same difference."""


def append(
    session: Session,
    actor: str,
    action: str,
    subjects: Mapping[str, Any],
    sign: Sign | None = None,
    dated: datetime.datetime | None = None,
) -> tables.AuditEntry:
    """Add an entry in the caller's transaction, so that the act and its entry are committed together. The entry
    contains the SHA-256 of each row that the transaction added since the previous entry.

    Args:
        session: a session of `Registry.writing`.
        subjects: digests, names and counts that identify what the act changed.
        sign: function that signs the entry; None leaves the entry unsigned.
        dated: the time in the act's signed statement; None if there is none.

    Raises InputError if a text in `subjects` is too long. Raises ConflictError if `dated` is more than `CLOCKS` in the
    future, because an evidence package with such a statement would fail verification.
    """
    refuse_long_texts(subjects)
    now = datetime.datetime.now(datetime.UTC)
    if dated is not None and dated > now + CLOCKS:
        raise ConflictError(
            f"'{action}' is dated {dated:%Y-%m-%d %H:%M:%S} UTC, which is in the future: a clock is wrong.",
            "Correct the clocks of this machine and of the signing machine. The act can be logged after the stated "
            "time.",
        )
    rows = taken(session)
    if (before := session.info.pop(BEFORE_THE_FIRST, None)) is not None:
        before(session)
    named = {table: {key: _sha256(each) for key, each in of_table.items()} for table, of_table in rows.items()}
    if named and (ROWS in subjects or action == SEALED):
        raise RuntimeError(f"the act '{action}' cannot add rows")
    entry = tables.AuditEntry(
        sequence=tree.size_of(session) + 1,
        at=now,
        actor=actor,
        action=action,
        subjects={**subjects, **({ROWS: named} if named else {})},
        previous=session.info[LAST],
    )
    if sign is not None:
        entry.subjects = {**entry.subjects, SIGNATURE: sign(signed_content(entry)).hex()}
    entry.hash = digest_of(content_of(entry))
    session.add(entry)
    session.flush()
    tree.append(session, exact_bytes(entry))
    session.info[LAST] = entry.hash
    return entry


def named_rows(subjects: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """Return the rows that an entry lists: for each table, a mapping of primary key to the row's SHA-256. In some acts,
    `rows` is missing or is a number; the result is then empty."""
    named = subjects.get(ROWS)
    return named if isinstance(named, dict) else {}


def entries_of_rows(
    session: Session, actions: Collection[str], *conditions: ColumnElement[bool]
) -> dict[tuple[str, str], int]:
    """Return a mapping from (table, primary key) of each row to the number of the entry that added the row. Reads only
    entries that have one of `actions` and meet all `conditions`."""
    query = select(tables.AuditEntry.sequence, tables.AuditEntry.subjects).where(
        tables.AuditEntry.action.in_(actions), *conditions
    )
    return {
        (table, key): sequence
        for sequence, subjects in session.execute(query)
        for table, keys in named_rows(subjects).items()
        for key in keys
    }


def proven_entry(session: Session, sequence: int) -> Parsed:
    """Return one entry after verifying that the ledger's Merkle tree contains the entry. Raises IntegrityError if the
    entry is missing or changed."""
    size = tree.size_of(session)
    with tree.written_by_this_program():
        data = session.scalar(select(tables.LedgerEntry.data).where(tables.LedgerEntry.sequence == sequence))
        if data is None or sequence > size:
            raise damaged_registry(sequence, "is missing")
        proof = tree.inclusion_proof(session, sequence, size)
        if not merkle.is_included(sequence - 1, size, merkle.leaf_hash(data), proof, tree.root_at(session, size)):
            raise damaged_registry(sequence, "was changed")
    return parse(data, sequence)


def parse(data: bytes, sequence: int, damaged: Damaged = damaged_registry) -> Parsed:
    """Parse an entry. Raises the error of `damaged` if the bytes are not an entry, or if the entry's number is not
    `sequence`."""
    try:
        said = json.loads(data)
        entry = Parsed(**{**said, "at": datetime.datetime.fromisoformat(said["at"])})
    except (ValueError, TypeError, KeyError, RecursionError):
        raise damaged(sequence, UNREADABLE) from None
    if entry.sequence != sequence:
        raise damaged(sequence, "is missing")
    if not isinstance(entry.subjects, dict):
        raise damaged(sequence, UNREADABLE)
    return entry


def exact_bytes(entry: Entry) -> bytes:
    """Return an entry as canonical JSON. These bytes are the entry's leaf in the ledger's Merkle tree."""
    return canonical_json(as_dict(entry))


def verified_hash(sequence: int, data: bytes, last: str, damaged: Damaged = damaged_registry) -> str:
    """Return an entry's hash. Raises the error of `damaged` if the bytes are not the entry `sequence`, if the hash is
    wrong, or if the entry does not state `last` as the hash of the previous entry."""
    entry = parse(data, sequence, damaged)
    if entry.previous != last:
        raise damaged(sequence, "does not follow the previous entry")
    content = data.replace(b'"hash":"' + entry.hash.encode() + b'",' + AFTER_HASH, AFTER_HASH, 1)
    if hashlib.sha256(content).hexdigest() != entry.hash:
        raise damaged(sequence, "was changed")
    return entry.hash


def signed_content(entry: Entry) -> bytes:
    """Return the bytes that an entry's signature covers: `SIGNED_AS`, and all fields except the signature and those
    that depend on the position in the log (number, hash, and hash of the previous entry)."""
    content = {name: value for name, value in content_of(entry).items() if name not in ("sequence", "previous")}
    content["subjects"] = {name: value for name, value in entry.subjects.items() if name != SIGNATURE}
    return SIGNED_AS + canonical_json(content)


def entries(registry: Readable) -> list[Parsed]:
    with registry.reading() as session:
        return list(stream_in(session))


def stream_in(session: Session, after: int = 0) -> Iterator[Parsed]:
    """Yield the log's entries with a number above `after`, oldest first, reading them in batches. Raises IntegrityError
    if an entry is missing or unreadable or, after the last entry, if the tree's root hash is wrong."""
    growth = merkle.Growth(after, tree.peaks_at(session, after))
    for sequence, data in tree.leaves(session, after):
        if sequence != growth.size + 1:
            break
        for _ in growth.add(merkle.leaf_hash(data)):
            pass
        yield parse(data, sequence)
    if growth.size != tree.size_of(session):
        raise damaged_registry(growth.size + 1, "is missing")
    if growth.root() != tree.root_at(session, growth.size):
        raise damaged_registry(growth.size, "or an earlier entry was changed")


def verify(log: Iterable[bytes], damaged: Damaged = damaged_registry) -> Checkpoint:
    """Recompute every hash of a log, and return the number and hash of the newest entry. Raises the error of `damaged`
    for the first missing, changed or misplaced entry.

    Args:
        log: the bytes of the entries, oldest first.
        damaged: function that returns the error for a damaged entry, given the entry's number and the problem.
    """
    last = BEGINNING
    for sequence, data in enumerate(log, 1):
        last = Checkpoint(sequence, verified_hash(sequence, data, last.hash, damaged))
    return last


def assert_contains(session: Session, kept: Checkpoint) -> None:
    """Raise IntegrityError if the entry of an earlier checkpoint is missing from the log, or has a different hash in
    the log."""
    if proven_entry(session, kept.sequence).hash != kept.hash:
        raise damaged_registry(kept.sequence, "differs from the entry with this number in the export")


def export(registry: Readable, file: Path) -> Checkpoint:
    """Verify the log and write it to a new JSONL file, oldest entry first. Returns the number and hash of the newest
    entry. Deletes the file on an error. Raises IntegrityError if the log is damaged."""
    with registry.reading() as session, file.open("xb") as stream:

        def written() -> Iterator[bytes]:
            for entry in stream_in(session):
                data = exact_bytes(entry)
                stream.write(data + b"\n")
                yield data

        try:
            return verify(written())
        except (SovereignError, OSError):
            file.unlink()
            raise


def checkpoint_of(file: Path) -> Checkpoint:
    """Verify an export's hashes, and return the number and hash of the newest entry. Raises InputError if the file is
    missing, is not an export or has no entries. Raises IntegrityError if an entry was changed; it names the first."""
    if not file.is_file():
        raise InputError(f"{file}: the file does not exist.", "Correct the path of the export.")

    def damaged(sequence: int, problem: str) -> SovereignError:
        if problem == UNREADABLE:
            return InputError(
                f"{file}: line {sequence} is not a ledger entry.", "Choose a file that `sovereign audit export` wrote."
            )
        return IntegrityError(
            f"{file}: entry {sequence} {problem}.",
            "Use another copy of the export, and find out who changed this copy.",
        )

    with file.open("rb") as stream:
        newest = verify((line.removesuffix(b"\n") for line in stream), damaged)
    if newest == BEGINNING:
        raise InputError(f"{file}: the export has no entries to compare.", "Choose an export with entries.")
    return newest


CHECKPOINT = ".checkpoint"
"""Suffix of the signed checkpoint beside an export."""


def signed_entries(file: Path, log: str, action: str) -> tuple[list[dict[str, Any]], str]:
    """Return two values: the subjects of the entries with this action in an export, and a text with the number and time
    of the newest entry of any action. Reads only the entries that the signed checkpoint beside the export covers.

    Args:
        log: public key of the log, from an independent source.

    Raises:
        IntegrityError: the log's key did not sign the checkpoint, or the export does not begin with the entries that
            the checkpoint covers.
        InputError: a file cannot be read, or the checkpoint or the key is malformed.
    """
    beside = file.with_name(file.name + CHECKPOINT)
    try:
        lines, text = file.read_bytes().split(b"\n")[:-1], beside.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        problem = f"the export or {beside.name} cannot be read ({type(error).__name__})."
        raise InputError(f"{file}: {problem}", "Give a file that `sovereign audit export` wrote.") from None
    verifier, note = notes.parse_verifier(log), notes.parse_note(text)
    head, growth = notes.parse_tree_head(note.text), merkle.Growth()
    for line in lines[: head.size]:
        for _ in growth.add(merkle.leaf_hash(line)):
            pass
    is_signed = notes.is_signed(note, verifier) and head.origin == verifier.name
    if not is_signed or (growth.size, growth.root()) != (head.size, head.root):
        raise IntegrityError(
            f"{file}: the log's key did not sign the checkpoint beside this file, or the file does not begin with the "
            f"{head.size} entries that the checkpoint covers.",
            "Use another copy of the export, and find out who changed this copy.",
        )
    entries = [parse(line, number) for number, line in enumerate(lines[: head.size], start=1)]
    ends = f"entry {entries[-1].sequence}, {entries[-1].at:%Y-%m-%d %H:%M} UTC"
    return [entry.subjects for entry in entries if entry.action == action], ends


def as_dict(entry: Entry) -> dict[str, Any]:
    """Return an entry as a JSON object with times in UTC. The value of `hash` covers all other keys."""
    return {**content_of(entry), "hash": entry.hash}


def content_of(entry: Entry) -> dict[str, Any]:
    return {
        "sequence": entry.sequence,
        "at": entry.at.isoformat(timespec="microseconds"),
        "actor": entry.actor,
        "action": entry.action,
        "subjects": entry.subjects,
        "previous": entry.previous,
    }


SEALED, REGISTERED = "artifact sealed", "adapter registered"
TRAINED_ON = "trained_on"
"""Key in the subjects of a registration's entry. The value lists the adapter's base models and datasets, and for each
dataset the SHA-256 of its contents (`contents_of`)."""
CONTENTS_AT_ONCE = 50


def contents_of(documents: Collection[str], sources: Collection[str]) -> bytes:
    """Return the documents and sources of a dataset as canonical JSON. The registry stores these bytes, and a
    registration's entry contains their SHA-256."""
    return canonical_json({"documents": sorted(documents), "sources": sorted(sources)})


def enter_adapter(
    session: Session, adapter: tables.Adapter, actor: str, trained_on: Mapping[str, Any], contents: Iterable[bytes]
) -> None:
    """Add the ledger entry of an adapter's registration in the caller's transaction. The entry also lists the rows that
    the transaction has added so far.

    Args:
        trained_on: value of `TRAINED_ON` in the entry.
        contents: the documents and sources of each dataset in `trained_on` (`contents_of`).
    """
    session.info[DRAFTED].update((_sha256(each), each) for each in contents)
    subjects = {
        "line": adapter.line,
        "adapter": adapter.id,
        "record": adapter.record_digest,
        "record_manifest_sha256": adapter.record_manifest_sha256,
        TRAINED_ON: dict(trained_on),
    }
    append(session, actor, REGISTERED, subjects)


def contents_in(session: Session, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the contents of datasets (`contents_of`) whose SHA-256 is in `wanted`, each as a pair of SHA-256 and bytes.
    Loads `CONTENTS_AT_ONCE` at a time. Raises IntegrityError if a dataset's contents are missing or changed."""
    ordered = sorted(wanted)
    with tree.written_by_this_program():
        for start in range(0, len(ordered), CONTENTS_AT_ONCE):
            part = ordered[start : start + CONTENTS_AT_ONCE]
            query = select(tables.Blob.sha256, tables.Blob.data).where(tables.Blob.sha256.in_(part))
            found = {sha256: bytes(data) for sha256, data in session.execute(query)}
            for sha256 in part:
                if _sha256(found.get(sha256, b"")) != sha256:
                    raise tree.RegistryDamaged(
                        f"The registry: a dataset's list of documents (SHA-256 {sha256}) is missing or was changed, so "
                        f"recalls cannot be decided."
                    )
                yield sha256, found[sha256]


def assert_contents(session: Session) -> None:
    """Raise IntegrityError if the stored documents and sources of a dataset are missing, or do not have the SHA-256
    that a registration logged."""
    query = select(tables.AuditEntry.subjects).where(tables.AuditEntry.action == REGISTERED)
    datasets = (each for subjects in session.scalars(query) for each in subjects[TRAINED_ON]["datasets"].values())
    for _ in contents_in(session, {each["contents"] for each in datasets}):
        pass
