"""Which weights were removed from disk on record. The entry of the ledger is the record; it holds the signed statement.

What belongs here: reading purges back, and whose signature each has. What does not: removing anything
(`release/purge.py`), and whether the files are there (`registry/verification.py`).
"""

import datetime
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.ledger.tables import Adapter, AuditEntry

if TYPE_CHECKING:
    from sovereign_pipeline.signing.trust import Trust

PURGED = "release weights purged"
MAY = "retire"
"""What the trust root must let the officer do."""
STATEMENT = "bundle"
"""The name in an entry's subjects under which the signed statement stands, as text."""

HINT = "Restore the registry from a copy, and find out who changed it."


@dataclass(frozen=True)
class PurgedFile:
    """A file that was removed, as the manifest of its artifact lists it."""

    artifact: str
    """Digest."""
    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Purge:
    """That the weights of an adapter were removed, as its entry and the signed statement in it have it."""

    adapter: str
    at: datetime.datetime
    files: tuple[PurgedFile, ...]
    reason: str
    officer: str
    """Who signed it."""

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


def purge_dates(session: Session) -> dict[str, datetime.date]:
    """Adapter -> the day on which its weights were purged, as the entries say; for display, no signature verified."""
    query = select(AuditEntry.subjects["adapter"].as_string(), AuditEntry.at).where(AuditEntry.action == PURGED)
    found: dict[str, datetime.date] = {}
    for adapter, at in session.execute(query.order_by(AuditEntry.sequence)):
        found.setdefault(adapter, at.date())
    return found


def purge_of(session: Session, trust: "Trust", adapter_id: str) -> Purge | None:
    """The purge of an adapter's weights, or None. Raises IntegrityError unless an officer signed it."""
    query = _entries().where(AuditEntry.subjects["adapter"].as_string() == adapter_id).limit(1)
    entry = session.scalars(query).first()
    return _verified(session, trust, entry) if entry is not None else None


def purges_of(session: Session, artifact: str) -> list[AuditEntry]:
    """The entries of purges that removed files of an artifact, by its digest; nothing verified."""
    return [each for each in session.scalars(_entries()) if artifact in each.subjects["weights"]]


def files_purged(session: Session, trust: "Trust", artifact: str) -> dict[str, Purge]:
    """Path -> the purge by which it may be gone, of the files of an artifact.

    Raises IntegrityError unless an officer signed each.
    """
    found: dict[str, Purge] = {}
    for entry in purges_of(session, artifact):
        purge = _verified(session, trust, entry)
        for file in purge.files:
            if file.artifact == artifact:
                found.setdefault(file.path, purge)
    return found


def _entries() -> Select[AuditEntry]:
    return select(AuditEntry).where(AuditEntry.action == PURGED).order_by(AuditEntry.sequence)


def _verified(session: Session, trust: "Trust", entry: AuditEntry) -> Purge:
    from sovereign_pipeline.signing.officers import verify_act  # a list verifies no signature
    from sovereign_pipeline.signing.predicates import PURGE

    subjects = entry.subjects
    bundle = str(subjects[STATEMENT]).encode()
    adapter = session.get(Adapter, subjects["adapter"])
    if adapter is None or hashlib.sha256(bundle).hexdigest() != subjects["statement"]:
        raise _differs(entry)
    verified = verify_act(
        bundle,
        trust,
        MAY,
        [adapter.classification],
        predicate_type=PURGE,
        sha256=adapter.record_manifest_sha256,
        at_index=entry.sequence - 1,
    )
    predicate = verified.statement.predicate
    files = tuple(_file(entry, each) for each in predicate["files"])
    stated = (predicate["line"], predicate["adapter"], sorted({file.artifact for file in files}))
    if stated != (adapter.line, adapter.id, subjects["weights"]):
        raise _differs(entry)
    assert verified.key.person is not None  # of every officer's key, as reading the trust root asserts
    return Purge(adapter.id, entry.at, files, predicate["reason"], verified.key.person)


def _file(entry: AuditEntry, stated: Mapping[str, Any]) -> PurgedFile:
    try:
        return PurgedFile(stated["artifact"], stated["path"], stated["size"], stated["sha256"])
    except (KeyError, TypeError):
        raise _differs(entry) from None


def _differs(entry: AuditEntry) -> IntegrityError:
    return IntegrityError(f"The audit log: entry {entry.sequence} differs from the purge that was signed.", HINT)
