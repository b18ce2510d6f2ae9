"""The ledger's tree in the database: the exact bytes of every entry, and the hashes of its complete subtrees.

What belongs here: adding leaves, and looking roots and proofs up. Entry 1 is leaf 0. What does not: what an entry says
(`audit_log.py`), and whether all of it is still so (`verifying.py`).
"""

import itertools
from collections.abc import Collection, Iterable, Mapping

from sqlalchemy import Connection, func, insert, select, tuple_
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.ledger.log import merkle
from sovereign_pipeline.ledger.log.merkle import Growth, Node
from sovereign_pipeline.ledger.tables import AuditEntry, LedgerEntry, LedgerNode

APPENDED = "appended to the ledger"
"""In `Session.info`: exact bytes of the entries that a transaction added."""
KNOWN = "hashes of the ledger's tree"
"""In `Session.info`: those that were looked up. A session sees one state, and no act changes a complete subtree."""
AT_ONCE = 5_000
"""Rows that are written together when many are."""


_NEWEST = select(func.max(LedgerEntry.sequence))
_BESIDE = select(func.count(AuditEntry.sequence), func.min(AuditEntry.sequence), func.max(AuditEntry.sequence))
_PLACE = tuple_(LedgerNode.level, LedgerNode.position)
_NODES = select(LedgerNode.level, LedgerNode.position, LedgerNode.hash)


def size_of(session: Session) -> int:
    """How many entries there are."""
    return session.scalar(_NEWEST) or 0


def assert_no_entry_beside(session: Session) -> None:
    """Raise IntegrityError for an entry in columns that is no leaf: the checkpoints cover leaves alone."""
    size = size_of(session)
    count, first, last = session.execute(_BESIDE).one()
    if count and (count > size or first < 1 or last > size):
        raise IntegrityError(
            f"The audit log has {count} entries, numbered {first} to {last}, and the ledger's tree has {size}: "
            f"somebody put some in past this program.",
            "Restore the registry from a copy, and find out who changed it.",
        )


def append(session: Session, sequence: int, data: bytes) -> None:
    """Add the next leaf, within the caller's transaction."""
    growth = Growth(sequence - 1, list(_hashes(session, merkle.peaks_of(sequence - 1)).values()))
    session.execute(insert(LedgerEntry).values(sequence=sequence, data=data))
    session.execute(insert(LedgerNode), [_row(node, hash) for node, hash in growth.add(merkle.leaf_hash(data))])
    session.info.setdefault(APPENDED, []).append(data)


def fill(connection: Connection, entries: Iterable[bytes]) -> bytes:
    """Add many leaves to a tree that has none. Returns its root."""
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
    """The root when there were so many entries."""
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
    """In the order in which they are asked for."""
    known: dict[Node, bytes] = session.info.setdefault(KNOWN, {})
    if asked := [node for node in nodes if node not in known]:
        rows = session.execute(_NODES.where(_PLACE.in_(asked)))
        known |= {(level, position): hash for level, position, hash in rows}
    missing = [node for node in asked if node not in known]
    if missing:
        raise damaged(missing[0], "is missing")
    return {node: known[node] for node in nodes}
