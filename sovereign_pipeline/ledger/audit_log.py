"""The audit log: who did what to what, each entry bound to the one before it by its hash. It only grows.

What belongs here: appending inside the transaction that does the thing, and verifying the chain. What does not: what is
worth an entry; whoever does it says so. No entry holds text of a document, a prompt or an answer.

A chain cannot tell that its newest entries were cut off. `checkpoint` is what an auditor keeps elsewhere for that: a
later log must still hold that entry.
"""

import datetime
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.hashing import canonical_json, digest_of
from sovereign_pipeline.errors import InputError, IntegrityError
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import AuditEntry

FIRST = "0" * 64
"""What the first entry names as the hash before it."""


class Checkpoint(BaseModel):
    """The newest entry of a log at some time. sequence: 0 for an empty log. hash: 64 hex digits."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sequence: int
    hash: str


def append(session: Session, actor: str, action: str, subjects: Mapping[str, Any]) -> AuditEntry:
    """Add one entry in the caller's own transaction (`Registry.writing`), so that the deed and its entry stand or fall
    together. subjects: what it was done to, as digests, names and counts."""
    last = session.scalars(select(AuditEntry).order_by(AuditEntry.sequence.desc()).limit(1)).one_or_none()
    entry = AuditEntry(
        sequence=last.sequence + 1 if last is not None else 1,
        at=datetime.datetime.now(datetime.UTC),
        actor=actor,
        action=action,
        subjects=dict(subjects),
        previous=last.hash if last is not None else FIRST,
    )
    entry.hash = _hash(entry)
    session.add(entry)
    session.flush()
    return entry


def entries(registry: Registry) -> list[AuditEntry]:
    """The whole log, oldest first."""
    with registry.reading() as session:
        return list(session.scalars(select(AuditEntry).order_by(AuditEntry.sequence)))


def verify(log: Iterable[AuditEntry], kept: Checkpoint | None = None) -> Checkpoint:
    """Compute every hash anew. Returns the log's newest entry as a checkpoint.

    kept: a checkpoint that was taken earlier. Raises IntegrityError naming the first entry that is missing, was changed
    or stands in another place, or that the log no longer holds although the checkpoint says so.
    """
    last = Checkpoint(sequence=0, hash=FIRST)
    found = kept is None or kept == last
    for last in _followed((as_dict(entry) for entry in log), _damaged):
        found = found or last == kept
    if not found and kept is not None:
        raise IntegrityError(_damaged(kept.sequence, "is not the one of the checkpoint, or is gone"))
    return last


def export(registry: Registry, file: Path) -> Checkpoint:
    """Write the verified log as JSONL, oldest first. Returns its newest entry."""
    log = entries(registry)
    last = verify(log)
    file.write_bytes(b"".join(canonical_json(as_dict(entry)) + b"\n" for entry in log))
    return last


def checkpoint_of(file: Path) -> Checkpoint:
    """The newest entry of an export, whose every hash is computed anew.

    Raises InputError for a file that is no export, and IntegrityError naming the entry for one that was changed.
    """
    if not file.is_file():
        raise InputError(f"{file}: there is no such file. Correct the path of the export.")

    def damaged(sequence: int, what: str) -> str:
        return f"{file}: entry {sequence} {what}. Use another copy of the export, and find out who changed this one."

    try:
        followed = list(_followed(map(json.loads, file.read_bytes().splitlines()), damaged))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{file}: not an export of the audit log. Give one that `audit export` wrote.") from None
    return followed[-1] if followed else Checkpoint(sequence=0, hash=FIRST)


def as_dict(entry: AuditEntry) -> dict[str, Any]:
    """One entry for JSON; times in UTC. `hash` is over all the others."""
    return {**_content(entry), "hash": entry.hash}


def _followed(log: Iterable[dict[str, Any]], damaged: Callable[[int, str], str]) -> Iterator[Checkpoint]:
    """Each entry of a chain, in the form of `as_dict`, once its hash was computed anew. damaged: the words for an entry
    that is not what it was."""
    last = Checkpoint(sequence=0, hash=FIRST)
    for entry in log:
        content = {name: value for name, value in entry.items() if name != "hash"}
        if content["sequence"] != last.sequence + 1:
            raise IntegrityError(damaged(last.sequence + 1, "is missing"))
        if content["previous"] != last.hash:
            raise IntegrityError(damaged(last.sequence + 1, "does not follow the one before it"))
        if digest_of(content) != entry["hash"]:
            raise IntegrityError(damaged(last.sequence + 1, "was changed"))
        last = Checkpoint(sequence=content["sequence"], hash=entry["hash"])
        yield last


def _content(entry: AuditEntry) -> dict[str, Any]:
    return {
        "sequence": entry.sequence,
        "at": entry.at.isoformat(timespec="microseconds"),
        "actor": entry.actor,
        "action": entry.action,
        "subjects": entry.subjects,
        "previous": entry.previous,
    }


def _hash(entry: AuditEntry) -> str:
    """SHA-256 of the entry's canonical JSON, the hash of the one before it included."""
    return digest_of(_content(entry))


def _damaged(sequence: int, what: str) -> str:
    return (
        f"The audit log: entry {sequence} {what}. The registry was changed past its triggers: restore it from a copy, "
        f"and find out who."
    )
