"""Proofs that an entry is in the log, to be verified without the log: C2SP's tlog-proof, one text file.

Beside the proof stands the entry itself, so that whoever has the file and the log's public key needs nothing else.
What belongs here: writing and verifying that file.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.ledger.log import merkle, notes, tree
from sovereign_pipeline.ledger.log.notes import Note, TreeHead, Verifier
from sovereign_pipeline.ledger.tables import LedgerEntry

HEADER = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True)
class Proven:
    """An entry that a proof shows to be in the log."""

    entry: dict[str, Any]
    head: TreeHead
    """Of the checkpoint under which it was proven."""
    note: Note


def prove(session: Session, sequence: int, note: Note) -> str:
    """That an entry is in the tree of a checkpoint. Raises NotFoundError for an entry that it does not cover."""
    head = notes.parse_tree_head(note.text)
    row = session.get(LedgerEntry, sequence) if 0 < sequence <= head.size else None
    if row is None:
        raise NotFoundError(
            f"The checkpoint covers no entry {sequence}.",
            f"Give a number from 1 to {head.size}.",
        )
    data = bytes(row.data)
    proof = tree.inclusion_proof(session, sequence, head.size)
    if not merkle.is_included(sequence - 1, head.size, merkle.leaf_hash(data), proof, head.root):
        raise IntegrityError(
            f"Entry {sequence} is not the one that was signed. The registry was changed past its triggers.",
            "Restore it from a copy, and find out who changed it.",
        )
    lines = [HEADER, f"extra {notes.encoded(data)}", f"index {sequence - 1}", *map(notes.encoded, proof)]
    return "\n".join(lines) + f"\n\n{note}"


def check(text: str, log: Verifier) -> Proven:
    """Verify a proof with the log's public key alone.

    Raises InputError for a text that is none of ours, and IntegrityError for one that does not hold.
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
