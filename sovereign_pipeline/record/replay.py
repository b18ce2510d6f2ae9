"""Replay the ledger's entries into the view, an in-memory database for all reads of the registry.

An entry is valid only if the signed head (size and root hash of the ledger's tree) covers the entry. A row is valid
only if a valid entry contains the row's SHA-256. Changes that another program makes to the registry's database
therefore affect no result.
"""

import datetime
import hashlib
import json
import os
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Date, DateTime, StaticPool, bindparam, create_engine, event, insert, select
from sqlalchemy import Table as SqlTable
from sqlalchemy.exc import OperationalError, SQLAlchemyError

from sovereign_pipeline.base.errors import InputError, IntegrityError, SovereignError
from sovereign_pipeline.base.files import canonical_json, digest_of, write_atomically
from sovereign_pipeline.record import audit_log, notes
from sovereign_pipeline.record.checkpoints import HEAD, RESTORE
from sovereign_pipeline.record.merkle import Growth, leaf_hash
from sovereign_pipeline.record.notes import Note, Signer, TreeHead, Verifier
from sovereign_pipeline.record.tables import AuditEntry, Blob, Large, LedgerEntry, Signed, Table, view_tables
from sovereign_pipeline.record.tree import AT_ONCE, RegistryDamaged, written_by_this_program

ENTRIES_AT_ONCE = 1_000
ABOUT_AN_ARTIFACT = canonical_json({"action": audit_log.SEALED})[:-1] + b","
"""First bytes of an entry about a sealed artifact. The view omits these entries, because nine of ten entries can be of
this type."""
REPLAY = 1
"""Version of the replay. Increase it when the same entries produce other rows."""
NOTE_BYTES = 100_000
"""Maximum size of the signed note in a snapshot, in bytes. A usual note has about 3 KB."""
SCHEMA = digest_of([REPLAY, {table.name: [repr(column) for column in table.columns] for table in view_tables()}])
"""Digest of `REPLAY` and the definitions of the view's tables. A snapshot with another digest is not used."""
STATE = "/state"
"""Suffix of the log's name in a signed snapshot."""
_NEWEST = select(LedgerEntry.sequence, LedgerEntry.head).order_by(LedgerEntry.sequence.desc()).limit(1)
_ENTRIES = select(LedgerEntry.sequence, LedgerEntry.data).order_by(LedgerEntry.sequence)


class View:
    """The state that results from a registry's entries. Callers must hold `lock`, which is reentrant."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.growth = Growth()
        self.last = audit_log.FIRST
        """Hash of the newest entry."""
        self.disk: Connection | None = None
        """The connection to the database that is being read, or None."""
        self.draft: Connection | None = None
        """The transaction with a writer's uncommitted rows, or None."""
        self.drafted: dict[str, bytes] = {}
        """Maps a SHA-256 to the content of a row or to a signed statement in the draft."""
        self._head = ""
        self._kept = 0
        """Number of entries that the newest known snapshot covers."""
        self._memory = sqlite3.connect(":memory:", check_same_thread=False)
        self._memory.isolation_level = None  # `_begin` begins transactions
        for setting in ("foreign_keys", "query_only"):
            self._memory.execute(f"PRAGMA {setting}=ON")
        self._memory.deserialize(_empty())
        self._engine = create_engine("sqlite://", creator=lambda: self._memory, poolclass=StaticPool)
        event.listen(self._engine, "begin", _begin)

    def connect(self) -> Connection:
        return self._engine.connect()

    @contextmanager
    def changing(self) -> Iterator[Connection]:
        """Open a transaction that may change the view. Outside such a transaction, the view is read-only."""
        self._memory.execute("PRAGMA query_only=OFF")
        try:
            with self._engine.connect().execution_options(writes=True) as connection, connection.begin():
                yield connection
        finally:
            self._memory.execute("PRAGMA query_only=ON")

    @contextmanager
    def drafting(self, disk: Connection) -> Iterator[Connection]:
        """Open a transaction for uncommitted rows. It is always rolled back; `catch_up` later applies the committed
        entries to the view."""
        try:
            with self.changing() as self.draft:
                self.disk = disk
                yield self.draft
                self.draft.rollback()
        finally:
            self.disk = self.draft = None
            self.drafted.clear()

    def catch_up(self, disk: Connection, key: Callable[[], Verifier | None], snapshot: Path | None = None) -> None:
        """Apply the entries that were added to the database since the last call. Raises IntegrityError if an entry, one
        of its rows or the signed head is missing, was changed, or was added by another program.

        Args:
            disk: connection that sees one committed state of the database.
            key: function that returns the public key of the ledger, or None before the first act.
            snapshot: path of a stored state. It is loaded only if the ledger's key signed it.
        """
        with written_by_this_program():
            newest = disk.execute(_NEWEST).one_or_none()
            size, head = (newest.sequence, newest.head) if newest is not None else (0, "")
            if (size, head) == (self.growth.size, self._head) and (head or not size):
                return
            log = key()
            is_loaded = self.growth.size == 0 and log is not None and self._load(snapshot, log)
            try:
                self._catch_up(disk, log, size, head)
            except IntegrityError:
                if not is_loaded:
                    raise
                # Replay all entries to find out whether they or the snapshot are wrong.
                self.growth, self.last, self._head, self._kept = Growth(), audit_log.FIRST, "", 0
                self._memory.deserialize(_empty())
                self._catch_up(disk, log, size, head)

    def rehearse(self, disk: Connection) -> None:
        """Raise IntegrityError if entries that are about to be committed could not be replayed."""
        with self.changing() as connection, written_by_this_program():
            for entries in _batches(disk, self.growth.copy()):
                apply(connection, disk, entries)
            connection.rollback()

    @property
    def is_due(self) -> bool:
        """True if at least `ENTRIES_AT_ONCE` entries were applied since the last snapshot."""
        return self.growth.size - self._kept >= ENTRIES_AT_ONCE

    def keep(self, snapshot: Path, signer: Signer) -> None:
        """Write the state to a snapshot file, and sign the file with the ledger's key."""
        content = self._memory.serialize()
        said = {
            "schema": SCHEMA,
            "size": self.growth.size,
            "peaks": [each.hex() for each in self.growth.peaks],
            "last": self.last,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
        text = f"{signer.name}{STATE}\n{canonical_json(said).decode()}\n"
        note = str(Note(text, (notes.signed(text, signer),))).encode()
        write_atomically(snapshot, len(note).to_bytes(4, "big") + note + content)
        self._kept = self.growth.size

    def _load(self, snapshot: Path | None, log: Verifier) -> bool:
        """Load the state from a file. Returns False if the file is missing, damaged, not signed with the ledger's key,
        or written with another `SCHEMA`."""
        if snapshot is None or not snapshot.is_file():
            return False
        try:
            with snapshot.open("rb") as stream:
                note = notes.parse_note(stream.read(min(int.from_bytes(stream.read(4), "big"), NOTE_BYTES)).decode())
                name, said = note.text.removesuffix("\n").split("\n")
                if not notes.is_signed(note, log) or name != log.name + STATE:
                    return False
                state = json.loads(said)
                content = stream.read(state["bytes"])
        except (OSError, ValueError, KeyError, SovereignError):
            return False
        if (state["schema"], state["sha256"]) != (SCHEMA, hashlib.sha256(content).hexdigest()):
            return False
        self._memory.deserialize(content)
        self.growth, self.last = Growth(state["size"], [bytes.fromhex(each) for each in state["peaks"]]), state["last"]
        self._kept = self.growth.size
        return True

    def _catch_up(self, disk: Connection, log: Verifier | None, size: int, head: str | None) -> None:
        if size < self.growth.size or (self._head and size == self.growth.size):
            raise IntegrityError(
                f"The registry does not continue the {self.growth.size} entries that this process has read: "
                "it is an older registry, or a different one.",
                RESTORE,
            )
        growth = self.growth.copy()
        with self.changing() as connection:
            for entries in _batches(disk, growth):
                apply(connection, disk, entries)
            if growth.size != size:
                raise audit_log.damaged_registry(growth.size + 1, "is missing")
            if not _is_signed(head, growth, log):
                raise _not_signed(disk, growth.size)
            data = disk.scalar(select(LedgerEntry.data).where(LedgerEntry.sequence == size))
            last = audit_log.parse(data or b"", size).hash
        self.growth, self.last, self._head = growth, last, head or ""


def _begin(connection: Connection) -> None:
    """Begin a transaction that changes the view. Readers need no transaction, because they hold the view's lock."""
    if connection.get_execution_options().get("writes", False):
        connection.exec_driver_sql("BEGIN")


@cache
def _empty() -> bytes:
    """Return the view without entries, as the bytes of an SQLite database."""
    memory = sqlite3.connect(":memory:")
    engine = create_engine("sqlite://", creator=lambda: memory, poolclass=StaticPool)
    Table.metadata.create_all(engine, tables=view_tables())
    return memory.serialize()


_LOCK = threading.Lock()
_VIEWS: dict[tuple[object, ...], View] = {}
MOST_VIEWS = 4


def view_of(*identity: object) -> View:
    """Return this process's view of one database. Unused views are dropped, except the `MOST_VIEWS` most recent
    ones."""
    with _LOCK:
        known = _VIEWS.pop(identity, None)
        found = _VIEWS[identity] = known if known is not None else View()
        for each in [each for each in _VIEWS if _VIEWS[each].disk is None][:-MOST_VIEWS]:
            del _VIEWS[each]
        return found


def forget_all() -> None:
    global _LOCK
    _LOCK = threading.Lock()
    _VIEWS.clear()


os.register_at_fork(after_in_child=forget_all)


def _batches(disk: Connection, growth: Growth) -> Iterator[list[audit_log.Parsed]]:
    """Yield the database's entries after the last entry of the tree `growth`, in batches. Adds every entry to the tree,
    but does not yield entries about sealed artifacts."""
    found: list[audit_log.Parsed] = []
    query = _ENTRIES.where(LedgerEntry.sequence > growth.size)
    for sequence, data in disk.execute(query.execution_options(yield_per=ENTRIES_AT_ONCE)):
        if sequence != growth.size + 1:
            raise audit_log.damaged_registry(growth.size + 1, "is missing")
        for _ in growth.add(leaf_hash(data)):
            pass
        if data.startswith(ABOUT_AN_ARTIFACT):
            continue
        found.append(audit_log.parse(data, sequence))
        if len(found) == ENTRIES_AT_ONCE:
            yield found
            found = []
    if found:
        yield found


def _is_signed(head: str | None, growth: Growth, log: Verifier | None) -> bool:
    """Return True if `head` states the root hash of the entries and is signed with the ledger's key."""
    if not head or log is None:
        return False
    try:
        note = notes.parse_note(head)
    except InputError:
        return False
    expected = TreeHead(log.name + HEAD, growth.size, growth.root()).to_text()
    return note.text == expected and notes.is_signed(note, log)


def _not_signed(disk: Connection, size: int) -> IntegrityError:
    """Return the error for entries whose root hash is not signed. It names the first inconsistent entry, if any."""
    last = audit_log.FIRST
    try:
        for sequence, data in disk.execute(_ENTRIES):
            last = audit_log.verified_hash(sequence, data, last)
    except IntegrityError as error:
        return error
    return IntegrityError(
        f"The registry's {size} entries differ from those that the ledger's key signed last: another program "
        "changed, removed or added one.",
        RESTORE,
    )


def apply(connection: Connection, disk: Connection, entries: Sequence[audit_log.Parsed]) -> None:
    """Add entries to the view, with the rows that the entries refer to. Raises IntegrityError if a row's content is
    missing or changed, or if a row contradicts its table or an earlier row.

    Args:
        connection: a transaction of `View.changing`.
        disk: connection to the database that stores the rows' content.
    """
    named = [
        (entry.sequence, table, key, digest)
        for entry in entries
        for table, rows in audit_log.named_rows(entry.subjects).items()
        for key, digest in rows.items()
    ]
    content = _blobs(disk, {digest: sequence for sequence, _, _, digest in named})
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    places: dict[str, list[int]] = defaultdict(list)
    for sequence, table, key, digest in named:
        rows[table].append(_row(sequence, table, key, digest, json.loads(content[digest])))
        places[table].append(sequence)
    signed = {
        row[column]: sequence
        for table in rows
        for row, sequence in zip(rows[table], places[table], strict=True)
        for column in SIGNED[table]
    }
    _blobs(disk, signed)  # a missing statement is an error even if nobody reads it
    rows[AuditEntry.__tablename__] = [each._asdict() for each in entries]
    for each in view_tables():
        if each.name not in rows:
            continue
        try:
            connection.execute(insert(each), rows[each.name])
        except OperationalError:  # such as a lack of memory
            raise
        except SQLAlchemyError:
            raise RegistryDamaged(
                f"The audit log: entries {entries[0].sequence} to {entries[-1].sequence} name rows of "
                f"{each.name} that contradict earlier rows."
            ) from None


_READ = ((DateTime, datetime.datetime.fromisoformat), (Date, datetime.date.fromisoformat))


def _row(sequence: int, name: str, key: str, sha256: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a row by name, from the row's content. `sha256` is the SHA-256 of the content. Raises
    IntegrityError if the table is unknown or the row does not have the primary key `key`."""
    table = _BY_NAME.get(name)
    if table is None or not {*content} <= {*table.columns.keys()}:
        raise audit_log.damaged_registry(sequence, f"names a row of the table {name}, which this release does not know")
    row = {column.name: _value(column.type, content.get(column.name), sha256) for column in table.columns}
    if key != "/".join(str(row[column.name]) for column in table.primary_key):
        raise audit_log.damaged_registry(sequence, f"names a row of the table {name} with a wrong key")
    return row


def _value(type: Any, value: Any, sha256: str) -> Any:
    if value is None:
        return None
    if isinstance(type, Large):
        return sha256
    implemented = getattr(type, "impl_instance", type)
    return next((read(value) for kind, read in _READ if isinstance(implemented, kind)), value)


_BY_NAME: Mapping[str, SqlTable] = {table.name: table for table in view_tables()}
SIGNED: Mapping[str, list[str]] = {
    table.name: [column.name for column in table.columns if isinstance(column.type, Signed)] for table in view_tables()
}
"""Maps each table of the view to the columns that contain signed statements."""


def _blobs(disk: Connection, wanted: Mapping[str, int]) -> dict[str, bytes]:
    """Return stored content by SHA-256. Raises IntegrityError if some content is missing or changed. `wanted` maps each
    SHA-256 to the number of an entry that refers to the content."""
    found = {sha256: data for sha256, data in read_blobs(disk, wanted)}
    for sha256, sequence in wanted.items():
        data = found.get(sha256)
        if data is None or hashlib.sha256(data).hexdigest() != sha256:
            problem = "is missing" if data is None else "was changed"
            raise audit_log.damaged_registry(sequence, f"refers to content that {problem} ({sha256[:12]})")
    return found


_ONE_BLOB = select(Blob.data).where(Blob.sha256 == bindparam("sha256"))


def content_in(disk: Connection, drafted: Mapping[str, bytes], sha256: str) -> bytes:
    """Return a signed statement or a row's content by SHA-256, from `drafted` (content that the transaction has not
    written yet) or the database. Raises IntegrityError if the content is missing or changed."""
    found = drafted.get(sha256)
    if found is None:
        with written_by_this_program():
            found = disk.execute(_ONE_BLOB, {"sha256": sha256}).scalar()
    if found is None or hashlib.sha256(found).hexdigest() != sha256:
        problem = "is missing" if found is None else "was changed"
        raise RegistryDamaged(f"The registry: the stored content with the SHA-256 {sha256} {problem}.")
    return found


def read_blobs(disk: Connection, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    ordered = list(wanted)
    for start in range(0, len(ordered), AT_ONCE):
        query = select(Blob.sha256, Blob.data).where(Blob.sha256.in_(ordered[start : start + AT_ONCE]))
        yield from ((sha256, data) for sha256, data in disk.execute(query))
