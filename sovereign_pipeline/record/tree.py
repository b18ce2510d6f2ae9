"""Store the ledger's Merkle tree in the database, and write and check proofs that an entry is in the ledger."""

import itertools
import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, insert, select, tuple_
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.record import merkle, notes
from sovereign_pipeline.record.merkle import Growth, Node
from sovereign_pipeline.record.notes import Note, TreeHead, Verifier
from sovereign_pipeline.record.tables import AuditEntry, LedgerEntry, LedgerNode

APPENDED = "appended to the ledger"
"""Key in `Session.info` for the exact bytes of the entries that a transaction added."""
KNOWN = "hashes of the ledger's tree"
"""Key in `Session.info` for a cache of subtree hashes. A session sees one state, and complete subtrees never change."""
AT_ONCE = 5_000
"""Number of rows in one bulk operation."""


_NEWEST = select(func.max(LedgerEntry.sequence))
_BESIDE = select(func.count(AuditEntry.sequence), func.min(AuditEntry.sequence), func.max(AuditEntry.sequence))
_PLACE = tuple_(LedgerNode.level, LedgerNode.position)
_NODES = select(LedgerNode.level, LedgerNode.position, LedgerNode.hash)


def size_of(session: Session) -> int:
    """Return the number of entries."""
    return session.scalar(_NEWEST) or 0


def assert_no_entry_beside(session: Session) -> None:
    """Raise IntegrityError for an audit entry that is not a leaf of the tree. Checkpoints cover only leaves."""
    size = size_of(session)
    count, first, last = session.execute(_BESIDE).one()
    if count and (count > size or first < 1 or last > size):
        raise IntegrityError(
            f"The audit log has {count} entries, numbered {first} to {last}, and the ledger's tree has {size}: "
            f"somebody put some in past this program.",
            "Restore the registry from a copy, and find out who changed it.",
        )


def append(session: Session, sequence: int, data: bytes) -> None:
    """Add the next leaf within the caller's transaction."""
    growth = Growth(sequence - 1, list(_hashes(session, merkle.peaks_of(sequence - 1)).values()))
    session.execute(insert(LedgerEntry).values(sequence=sequence, data=data))
    session.execute(insert(LedgerNode), [_row(node, hash) for node, hash in growth.add(merkle.leaf_hash(data))])
    session.info.setdefault(APPENDED, []).append(data)


def fill(connection: Connection, entries: Iterable[bytes]) -> bytes:
    """Add many leaves to an empty tree. Returns its root hash."""
    growth, remaining = Growth(), iter(entries)
    while batch := list(itertools.islice(remaining, AT_ONCE)):
        first = growth.size + 1
        connection.execute(
            insert(LedgerEntry), [{"sequence": first + place, "data": data} for place, data in enumerate(batch)]
        )
        grown = [each for data in batch for each in growth.add(merkle.leaf_hash(data))]
        connection.execute(insert(LedgerNode), [_row(node, hash) for node, hash in grown])
    return growth.root()


def root_at(session: Session, size: int) -> bytes:
    """Return the root hash that the tree had at a size."""
    return merkle.root(size, lambda nodes: _hashes(session, nodes))


def inclusion_proof(session: Session, sequence: int, size: int) -> list[bytes]:
    return merkle.inclusion_proof(sequence - 1, size, lambda nodes: _hashes(session, nodes))


def consistency_proof(session: Session, old: int, new: int) -> list[bytes]:
    return merkle.consistency_proof(old, new, lambda nodes: _hashes(session, nodes))


def damaged(node: Node, problem: str) -> IntegrityError:
    level, position = node
    return IntegrityError(
        f"The ledger's tree: the hash over entries {(position << level) + 1} to {(position + 1) << level} "
        f"{problem}. The registry was changed past its triggers.",
        "Restore it from a copy, and find out who changed it.",
    )


def _row(node: Node, hash: bytes) -> dict[str, int | bytes]:
    return {"level": node[0], "position": node[1], "hash": hash}


def _hashes(session: Session, nodes: Collection[Node]) -> Mapping[Node, bytes]:
    """Return the hashes of nodes in the given order. Raises IntegrityError if one is missing."""
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
    """An entry that a proof shows to be in the log."""

    entry: dict[str, Any]
    head: TreeHead
    """Content of the checkpoint that the proof refers to."""
    note: Note


def prove(session: Session, sequence: int, note: Note) -> str:
    """Return the proof that an entry is in the tree of a checkpoint, as text.

    Raises:
        NotFoundError: the checkpoint does not cover the entry.
        IntegrityError: the entry was changed.
    """
    head = notes.parse_tree_head(note.text)
    row = session.get(LedgerEntry, sequence) if 0 < sequence <= head.size else None
    if row is None:
        raise NotFoundError(
            f"The checkpoint covers no entry {sequence}.",
            f"Give a number from 1 to {head.size}.",
        )
    data = bytes(row.data)
    proof = inclusion_proof(session, sequence, head.size)
    if not merkle.is_included(sequence - 1, head.size, merkle.leaf_hash(data), proof, head.root):
        raise IntegrityError(
            f"Entry {sequence} is not the one that was signed. The registry was changed past its triggers.",
            "Restore it from a copy, and find out who changed it.",
        )
    lines = [HEADER, f"extra {notes.encoded(data)}", f"index {sequence - 1}", *map(notes.encoded, proof)]
    return "\n".join(lines) + f"\n\n{note}"


def check(text: str, log: Verifier) -> Proven:
    """Verify a proof with only the log's public key.

    Raises:
        InputError: the text is not a proof.
        IntegrityError: the proof is not valid.
    """
    header, _, rest = text.partition("\n\n")
    lines = header.split("\n")
    index = re.fullmatch(r"index (0|[1-9][0-9]{0,18})", lines[2]) if len(lines) > 2 else None
    if lines[0] != HEADER or index is None or not lines[1].startswith("extra "):
        raise InputError(
            "This is not a proof that an entry is in the ledger.", "Give the file that was written as one."
        )
    data, proof = notes.decoded(lines[1].removeprefix("extra ")), notes.decoded_hashes(lines[3:])
    note = notes.parse_note(rest)
    head = notes.parse_tree_head(note.text)
    if head.origin != log.name or not notes.is_signed(note, log):
        raise IntegrityError(f"The checkpoint is not signed by the log {log.name}.", "Check which log's key was given.")
    if not merkle.is_included(int(index[1]), head.size, merkle.leaf_hash(data), proof, head.root):
        raise IntegrityError(f"The proof does not show entry {int(index[1]) + 1}.", "Get the file from the log again.")
    return Proven(json.loads(data), head, note)
