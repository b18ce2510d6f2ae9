"""Store the ledger's Merkle tree in the database, and create and check proofs that the ledger contains an entry."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import insert, select, tuple_
from sqlalchemy.exc import IntegrityError as RefusedByDatabase
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.record import merkle, notes
from sovereign_pipeline.record.merkle import Growth, Node
from sovereign_pipeline.record.notes import Note, TreeHead, Verifier
from sovereign_pipeline.record.tables import Blob, LedgerEntry, LedgerNode


class RegistryDamaged(IntegrityError):
    """Raised when the registry's database was changed by another program."""

    usual_hint = "Restore the registry from a backup, and find out who changed it."


GROWTH = "the ledger's tree"
"""Key in `Session.info` for the tree that the session sees, including entries that the session appended."""
APPENDED = "appended to the ledger"
"""Key in `Session.info` for the entries and nodes that a transaction appended (`Appended`)."""
KNOWN = "hashes of the ledger's tree"
"""Key in `Session.info` for a cache of subtree hashes. The cache never becomes stale: a session sees one state, and
complete subtrees do not change."""
AT_ONCE = 5_000
"""Number of rows in one bulk operation."""


@dataclass
class Appended:
    """Entries and nodes that a transaction adds. They are written at the end of the transaction, when the new root hash
    is signed."""

    entries: list[bytes] = field(default_factory=list)
    nodes: list[dict[str, int | bytes]] = field(default_factory=list)


_PLACE = tuple_(LedgerNode.level, LedgerNode.position)
_NODES = select(LedgerNode.level, LedgerNode.position, LedgerNode.hash)


@contextmanager
def written_by_this_program() -> Iterator[None]:
    """Raise IntegrityError if the block fails because a column of the database contains a value of a wrong type."""
    try:
        yield
    except (TypeError, ValueError, AttributeError):
        raise RegistryDamaged("The registry's database contains rows that this program cannot have written.") from None


def size_of(session: Session) -> int:
    size: int = session.info[GROWTH].size
    return size


def append(session: Session, data: bytes) -> None:
    """Append an entry as the tree's next leaf, in the caller's transaction."""
    appended: Appended = session.info.setdefault(APPENDED, Appended())
    grown = session.info[GROWTH].add(merkle.leaf_hash(data))
    appended.nodes += [{"level": level, "position": position, "hash": hash} for (level, position), hash in grown]
    appended.entries.append(data)


def write(session: Session, head: str, named: Mapping[str, bytes]) -> None:
    """Write the entries and nodes that the transaction appended, and the signed head of the resulting state.

    Args:
        named: maps a SHA-256 to the content that the entries refer to.
    """
    appended: Appended = session.info[APPENDED]
    first, last = size_of(session) - len(appended.entries) + 1, size_of(session)
    rows = [
        {"sequence": sequence, "data": data, "head": head if sequence == last else None}
        for sequence, data in enumerate(appended.entries, first)
    ]
    digests = list(named)
    known = set[str]()
    for start in range(0, len(digests), AT_ONCE):
        known |= {*session.scalars(select(Blob.sha256).where(Blob.sha256.in_(digests[start : start + AT_ONCE])))}
    try:
        session.execute(insert(LedgerEntry), rows)
        session.execute(insert(LedgerNode), appended.nodes)
        if new := [{"sha256": each, "data": named[each]} for each in digests if each not in known]:
            session.execute(insert(Blob), new)
    except RefusedByDatabase:
        raise RegistryDamaged(
            f"The registry: another program added rows with the keys of entry {first} or of its nodes in the "
            "ledger's tree."
        ) from None


def leaves(session: Session, after: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the bytes of each entry with a number above `after`, oldest first. Fetches `AT_ONCE` entries
    at a time. Raises IntegrityError if an entry's content is not bytes."""
    columns = LedgerEntry.__table__.c
    query = select(columns.sequence, columns.data).where(columns.sequence > after, columns.sequence <= size_of(session))
    for sequence, data in session.execute(query.order_by(columns.sequence).execution_options(yield_per=AT_ONCE)):
        if not isinstance(data, bytes):
            raise RegistryDamaged(f"The audit log: entry {sequence} cannot be read.")
        yield sequence, data


def peaks_at(session: Session, size: int) -> list[bytes]:
    """Return the hashes of `merkle.peaks_of(size)`, for the tree when it had `size` leaves."""
    return list(_hashes(session, merkle.peaks_of(size)).values())


def root_at(session: Session, size: int) -> bytes:
    """Return the root hash of the tree when it had `size` leaves."""
    growth: Growth = session.info[GROWTH]
    if size == growth.size:
        return growth.root()
    return merkle.root(size, lambda nodes: _hashes(session, nodes))


def inclusion_proof(session: Session, sequence: int, size: int) -> list[bytes]:
    return merkle.inclusion_proof(sequence - 1, size, lambda nodes: _hashes(session, nodes))


def consistency_proof(session: Session, old: int, new: int) -> list[bytes]:
    return merkle.consistency_proof(old, new, lambda nodes: _hashes(session, nodes))


def damaged(node: Node, problem: str) -> IntegrityError:
    level, position = node
    return RegistryDamaged(
        f"The ledger's tree: the hash over entries {(position << level) + 1} to {(position + 1) << level} "
        f"{problem}. Another program changed the registry."
    )


def _hashes(session: Session, nodes: Collection[Node]) -> Mapping[Node, bytes]:
    """Return a mapping of node to hash, in the given order. Raises IntegrityError if a hash is missing."""
    known: dict[Node, bytes] = session.info.setdefault(KNOWN, {})
    if asked := [node for node in nodes if node not in known]:
        rows = session.execute(_NODES.where(_PLACE.in_(asked)))
        known |= {(level, position): hash for level, position, hash in rows}
    missing = [node for node in asked if node not in known]
    if missing:
        raise damaged(missing[0], "is missing")
    return {node: known[node] for node in nodes}


HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True)
class Proven:
    """An entry that a valid proof shows to be in the log."""

    entry: dict[str, Any]
    head: TreeHead
    """Size and root hash in the checkpoint that the proof refers to."""
    note: Note


def prove(session: Session, sequence: int, note: Note) -> str:
    """Return a text that proves that a checkpoint's tree contains an entry. Raises NotFoundError if the checkpoint does
    not cover the entry, and IntegrityError if the entry was changed."""
    head = notes.parse_tree_head(note.text)
    row = session.get(LedgerEntry, sequence) if 0 < sequence <= head.size else None
    if row is None:
        raise NotFoundError(
            f"The checkpoint does not cover entry {sequence}.",
            f"Give a number from 1 to {head.size}.",
        )
    data = bytes(row.data)
    proof = inclusion_proof(session, sequence, head.size)
    if not merkle.is_included(sequence - 1, head.size, merkle.leaf_hash(data), proof, head.root):
        raise RegistryDamaged(f"Entry {sequence} differs from the signed entry. Another program changed the registry.")
    lines = [HEADER, f"extra {notes.encoded(data)}", f"index {sequence - 1}", *map(notes.encoded, proof)]
    return "\n".join(lines) + f"\n\n{note}"


def check(text: str, log: Verifier) -> Proven:
    """Verify a proof, using only the log's public key. Raises InputError if the text is not a proof, and IntegrityError
    if the proof is invalid."""
    header, _, rest = text.partition("\n\n")
    lines = header.split("\n")
    index = re.fullmatch(r"index (0|[1-9][0-9]{0,18})", lines[2]) if len(lines) > 2 else None
    if lines[0] != HEADER or index is None or not lines[1].startswith("extra "):
        raise InputError(
            "This is not a proof that an entry is in the ledger.", "Use a file that `sovereign audit prove` wrote."
        )
    data, proof = notes.decoded(lines[1].removeprefix("extra ")), notes.decoded_hashes(lines[3:])
    note = notes.parse_note(rest)
    head = notes.parse_tree_head(note.text)
    if head.origin != log.name or not notes.is_signed(note, log):
        raise IntegrityError(
            f"The checkpoint is not signed by the log {log.name}.", "Check that the key belongs to this log."
        )
    if not merkle.is_included(int(index[1]), head.size, merkle.leaf_hash(data), proof, head.root):
        raise IntegrityError(f"The proof of entry {int(index[1]) + 1} is invalid.", "Get the file from the log again.")
    return Proven(json.loads(data), head, note)
