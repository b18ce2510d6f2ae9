"""The audit log: who did what to what, each entry bound to the one before it by its hash. It only grows.

A chain of hashes does not show that its newest entries were cut off. An auditor keeps a `Checkpoint` elsewhere for
that: a later log must still hold that entry. Nor does it show who appended an entry: whoever can write to the database
can. An entry may therefore carry a signature, by a key that the database does not hold.

What belongs here: appending within the transaction of the act, and verifying the chain. What does not: which acts get
an entry, and which of them must be signed by whom. No entry holds text of a document, a prompt or an answer.
"""

import datetime
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError, IntegrityError, SovereignError
from sovereign_pipeline.base.files import canonical_json, digest_of
from sovereign_pipeline.ledger import rows_added
from sovereign_pipeline.ledger.log import merkle, tree
from sovereign_pipeline.ledger.log.checkpoints import Readable
from sovereign_pipeline.ledger.tables import AuditEntry, LedgerEntry

BEFORE_THE_FIRST = "before the first entry of a transaction"
"""In `Session.info`: what is done with the session before its first entry (`in_force.py`)."""
FIRST = "0" * 64
"""The `previous` hash of the first entry."""

SIGNATURE = "signature"
"""The name in an entry's subjects under which its signature stands, where it has one: hex digits."""

SIGNED_AS = b"sovereign audit entry 1\n"
"""What stands before the bytes that are signed, so that the signature is good for nothing else."""

Entry = AuditEntry | Row[Any]
"""An entry in columns, as an object or as a row."""
Sign = Callable[[bytes], bytes]
"""Bytes -> their signature."""


@dataclass(frozen=True)
class Checkpoint:
    """The newest entry of a log at some time."""

    sequence: int
    """0 for an empty log."""
    hash: str
    """64 hex digits."""


BEGINNING = Checkpoint(sequence=0, hash=FIRST)
"""Of an empty log."""


def append(
    session: Session, actor: str, action: str, subjects: Mapping[str, Any], sign: Sign | None = None
) -> AuditEntry:
    """Add one entry within the caller's transaction (`Registry.writing`): act and entry are committed together.

    `subjects`: what the act was done to, as digests, names and counts. `sign`: None leaves the entry unsigned. The rows
    that the transaction added since its last entry are named by digest (`rows_added.py`).
    """
    rows = rows_added.taken(session)
    if (before := session.info.pop(BEFORE_THE_FIRST, None)) is not None:
        before(session)
    last = session.scalars(select(AuditEntry).order_by(AuditEntry.sequence.desc()).limit(1)).one_or_none()
    _assert_newest(session, last)
    entry = AuditEntry(
        sequence=last.sequence + 1 if last is not None else 1,
        at=datetime.datetime.now(datetime.UTC),
        actor=actor,
        action=action,
        subjects={**subjects, **({rows_added.ROWS: rows} if rows else {})},
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
    """One entry, after it was held against the tree. Raises IntegrityError where it was changed past this program."""
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
    """The bytes of one entry that are a leaf of the ledger's tree."""
    return canonical_json(as_dict(entry))


def signed_content(entry: Entry) -> bytes:
    """The bytes that the signature of an entry is over: the whole act, but not its place in the log."""
    content = {name: value for name, value in content_of(entry).items() if name not in ("sequence", "previous")}
    content["subjects"] = {name: value for name, value in entry.subjects.items() if name != SIGNATURE}
    return SIGNED_AS + canonical_json(content)


def entries(registry: Readable) -> list[AuditEntry]:
    """The whole log, oldest first."""
    with registry.reading() as session:
        return entries_in(session)


def entries_in(session: Session) -> list[AuditEntry]:
    """The whole log as a transaction sees it. Raises IntegrityError where what an entry is about cannot be read."""
    return [AuditEntry(**row._mapping) for row in stream_in(session)]


def stream_in(session: Session, after: int = 0) -> Iterator[Row[Any]]:
    """The log's entries in columns, oldest first, of which few are held at a time. Raises as `entries_in` does."""
    columns = AuditEntry.__table__.c
    query = select(*columns).where(columns.sequence > after).order_by(columns.sequence)
    try:
        for row in session.execute(query.execution_options(yield_per=tree.AT_ONCE)):
            if not isinstance(row.subjects, dict):
                raise unreadable()
            yield row
    except ValueError:  # no JSON
        raise unreadable() from None


def verify(log: Iterable[Entry], kept: Checkpoint | None = None, after: Checkpoint | None = None) -> Checkpoint:
    """Compute every hash again. Returns the log's newest entry as a checkpoint.

    `kept`: a checkpoint that was taken earlier. `after`: where the log begins, when it is not whole. Raises
    IntegrityError naming the first entry that is missing, changed or out of order, or the entry of the checkpoint when
    the log does not hold it.
    """
    last = start = after or BEGINNING
    found = kept is None or kept == last
    for last in _verified((as_dict(entry) for entry in log), damaged_registry, start):
        found = found or last == kept
    if not found and kept is not None:
        raise damaged_registry(kept.sequence, "is not the one of the checkpoint, or is gone")
    return last


def export(registry: Readable, file: Path) -> Checkpoint:
    """Write the verified log as JSONL, oldest first, into a new file. Returns its newest entry."""
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
    """The newest entry of an export; every hash is computed again.

    Raises InputError for a file that is no export, and IntegrityError naming the entry that was changed.
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
    """One entry as JSON, times in UTC. `hash` is over all other keys."""
    return {**content_of(entry), "hash": entry.hash}


def _verified(
    log: Iterable[dict[str, Any]], damaged: Callable[[int, str], IntegrityError], last: Checkpoint
) -> Iterator[Checkpoint]:
    """Each entry of a log, in the form of `as_dict`, after its hash was computed again.

    `damaged`: the error for the entry with this number and this problem.
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
    """The newest entry in columns is the newest leaf of the tree."""
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
    """SHA-256 of the entry's canonical JSON, with the hash of the entry before it."""
    return digest_of(content_of(entry))


def _has_hash(content: Mapping[str, Any], stated: str) -> bool:
    try:
        return digest_of(content) == stated
    except ValueError:  # a number such as NaN, which no entry of ours holds
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
