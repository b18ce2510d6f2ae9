"""The ledger's entries about sealed artifacts: one for each, before it is put into its place.

What belongs here: entering an artifact, and finding its entry again. What does not: its signatures (`sealing.py`).
"""

from collections.abc import Callable
from functools import cached_property

from sqlalchemy import select

from sovereign_pipeline.artifacts.manifest import ArtifactRef, Manifest
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.audit_log import append, assert_leaf
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import AuditEntry
from sovereign_pipeline.signing.officers import pipeline_signer, trust_root

SEALED = "artifact sealed"


def pipeline_actor(settings: Settings) -> str:
    """How the pipeline stands in the ledger: by its key."""
    return f"pipeline:{pipeline_signer(settings, trust_root(settings)).keyid}"


class SealedEntries:
    """Entries about artifacts, in the registry of one installation."""

    def __init__(self, settings: Settings, opened: Callable[[], Registry]) -> None:
        """`opened`: opens the registry, once it is needed."""
        self._settings = settings
        self._opened = opened
        self._sequences: dict[str, int] = {}
        """SHA-256 of a manifest -> number of the first entry that names it."""
        self._read = 0
        """The newest entry that was looked at."""

    @cached_property
    def _registry(self) -> Registry:
        return self._opened()

    def enter(self, manifest: Manifest, manifest_sha256: str) -> None:
        """Name an artifact in the ledger."""
        subjects = {
            "kind": manifest.kind,
            "line": manifest.line,
            "digest": manifest.digest,
            "manifest_sha256": manifest_sha256,
        }
        with self._registry.writing() as session:
            append(session, pipeline_actor(self._settings), SEALED, subjects)

    def index_of(self, ref: ArtifactRef) -> int | None:
        """The index in the log of the first entry that names this artifact; None where there is none.

        Raises IntegrityError for an entry that was changed past this program.
        """
        key = ref.manifest_sha256
        if key not in self._sequences:
            self._read_on()
        sequence = self._sequences.get(key)
        if sequence is None:
            return None
        with self._registry.reading() as session:
            entry = assert_leaf(session, sequence)
        stated = (entry.subjects.get("digest"), entry.subjects.get("manifest_sha256"))
        return sequence - 1 if stated == (ref.digest, ref.manifest_sha256) else None

    def _read_on(self) -> None:
        """Read the entries that were added since; there may be many, so little of each is kept."""
        columns = select(AuditEntry.sequence, AuditEntry.subjects["manifest_sha256"].as_string())
        query = columns.where(AuditEntry.action == SEALED, AuditEntry.sequence > self._read)
        with self._registry.reading() as session:
            for sequence, manifest_sha256 in session.execute(query.order_by(AuditEntry.sequence)):
                self._sequences.setdefault(manifest_sha256, sequence)
                self._read = sequence
