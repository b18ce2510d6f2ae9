"""The cut-over: artifacts that an earlier release made, before there were signatures.

They are listed once, when this release first makes or reads one: in a file of the home that the pipeline signs, whose
SHA-256 an entry of the ledger names. What is listed counts as unsigned; what has no signature and is not listed is
refused. That it was done is marked beside the keys too, so that who removes list and ledger gains nothing.

What belongs here: the list. What does not: artifacts with signatures (`sealing.py`).
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.attested import PROVENANCE_BUNDLE
from sovereign_pipeline.artifacts.manifest import MANIFEST_FILE, ArtifactRef, Manifest
from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.files import canonical_json, file_sha256, write_atomically
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.audit_log import append, assert_leaf
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.signed_artifacts.sealed_entries import pipeline_actor
from sovereign_pipeline.ledger.tables import AuditEntry
from sovereign_pipeline.signing.bundles import SUFFIX
from sovereign_pipeline.signing.officers import PIPELINE, pipeline_signer, trust_root
from sovereign_pipeline.signing.predicates import UNSIGNED
from sovereign_pipeline.signing.statements import Statement, Subject, sign_statement, verify_statement

LISTED = "unsigned artifacts of an earlier release listed"
RESTORE = "Restore home, registry and keys from copies of the same time, and find out who changed them."

Listed = frozenset[tuple[str, str]]
"""Digest and SHA-256 of the manifest of each artifact."""


def list_file(settings: Settings) -> Path:
    return settings.ledger / "unsigned-artifacts.jsonl"


def bundle_file(settings: Settings) -> Path:
    path = list_file(settings)
    return path.with_name(path.name + SUFFIX)


def mark_file(settings: Settings) -> Path:
    """Lies beside the keys once artifacts are signed."""
    return settings.keys / "artifacts-are-signed"


class TakenOver:
    """What an earlier release made in one installation."""

    def __init__(self, settings: Settings, opened: Callable[[], Registry]) -> None:
        """`opened`: opens the registry, once it is needed."""
        self._settings = settings
        self._opened = opened
        self._known: tuple[tuple[int, ...], Listed] | None = None
        self._is_done = False

    @cached_property
    def _registry(self) -> Registry:
        return self._opened()

    def holds(self, ref: ArtifactRef) -> bool:
        """Whether an artifact is one of them. The first question makes the list.

        Raises IntegrityError where the list is missing, or is not the one that the ledger names.
        """
        self.take_over()
        return (ref.digest, ref.manifest_sha256) in self._listed()

    def take_over(self) -> None:
        """List what an earlier release made, unless it was done before."""
        if self._is_done:
            return
        with self._registry.reading() as session:
            is_listed = _entry(session) is not None
        if not is_listed:
            self._make_list()
            self.leave_mark()
        self._is_done = True

    def _make_list(self) -> None:
        """Write and sign the list, and name it in the ledger. Where nothing is unsigned there is no file."""
        signer = pipeline_signer(self._settings, trust_root(self._settings))
        with self._registry.writing() as session:
            if _entry(session) is not None:  # another process was first
                return
            artifacts = list(_unsigned(self._settings.artifacts))
            mark = mark_file(self._settings)
            if artifacts and mark.exists():
                raise IntegrityError(
                    f"{self._settings.artifacts}: {len(artifacts)} artifacts have no signature, and the ledger does "
                    f"not say that an earlier release made them. {mark} says that artifacts were signed here before.",
                    RESTORE,
                )
            content = b"".join(canonical_json(each) + b"\n" for each in artifacts)
            sha256 = hashlib.sha256(content).hexdigest()
            if artifacts:
                name = list_file(self._settings).name
                statement = Statement((Subject(name, sha256),), UNSIGNED, {"artifacts": len(artifacts)})
                write_atomically(list_file(self._settings), content.decode())
                write_atomically(bundle_file(self._settings), sign_statement(signer, statement).decode())
            append(session, pipeline_actor(self._settings), LISTED, {"artifacts": len(artifacts), "sha256": sha256})

    def leave_mark(self) -> None:
        """Say beside the keys that artifacts are signed here."""
        mark = mark_file(self._settings)
        if mark.exists():
            return
        try:
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT, 0o600))
        except OSError as error:
            raise InputError(
                f"{mark}: cannot be written ({error.strerror}).", "Run as the account that has the keys."
            ) from None

    def _listed(self) -> Listed:
        """The list, verified; read again when one of its files was changed."""
        paths = (list_file(self._settings), bundle_file(self._settings))
        stamp = tuple(part for path in paths if path.exists() for part in _stamp(path))
        if self._known is None or self._known[0] != stamp:
            self._known = (stamp, self._read())
        return self._known[1]

    def _read(self) -> Listed:
        with self._registry.reading() as session:
            entry = _entry(session)
        assert entry is not None  # `take_over` made it
        if entry.subjects["artifacts"] == 0:
            return frozenset()
        path, bundle = list_file(self._settings), bundle_file(self._settings)
        for each in (path, bundle):
            if each.is_symlink() or not each.is_file():
                raise IntegrityError(
                    f"{each}: the list of what was made before there were signatures is gone.", RESTORE
                )
        content = path.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        if sha256 != entry.subjects["sha256"]:
            raise IntegrityError(
                f"{path}: it is not the list that entry {entry.sequence} of the ledger names.", RESTORE
            )
        try:
            verify_statement(
                bundle.read_bytes(),
                trust_root(self._settings),
                PIPELINE,
                predicate_type=UNSIGNED,
                sha256=sha256,
                at_index=entry.sequence - 1,
            )
        except IntegrityError as error:
            raise IntegrityError(f"{bundle}: {error.message}", RESTORE) from None
        rows = [json.loads(line) for line in content.splitlines()]
        return frozenset((row["digest"], row["manifest_sha256"]) for row in rows)


def _entry(session: Session) -> AuditEntry | None:
    """The one entry that names a list. Raises IntegrityError for a second one, and for one that was changed."""
    sequences = list(session.scalars(select(AuditEntry.sequence).where(AuditEntry.action == LISTED)))
    if len(sequences) > 1:
        raise IntegrityError(
            f"The ledger: its entries {', '.join(map(str, sequences))} each name a list of what was made before there "
            f"were signatures, and there is one.",
            RESTORE,
        )
    return assert_leaf(session, sequences[0]) if sequences else None


def _unsigned(store: Path) -> Iterator[dict[str, str]]:
    """Every stored artifact without a signature. One whose manifest is none is left out: nobody can read it."""
    for path in sorted(store.glob(f"*/{MANIFEST_FILE}")):
        if os.path.lexists(path.with_name(PROVENANCE_BUNDLE)):
            continue
        try:
            manifest = Manifest.from_file(path)
        except IntegrityError:
            continue
        if manifest.digest == path.parent.name:
            yield {"kind": manifest.kind, "digest": manifest.digest, "manifest_sha256": file_sha256(path)}


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.lstat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
