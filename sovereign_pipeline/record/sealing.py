"""Sign artifacts and log them in the ledger when they are sealed, and reject artifacts without valid signatures."""

import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record import statements, tree
from sovereign_pipeline.record.audit_log import SEALED, Parsed, append, proven_entry, stream_in
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.manifest import MANIFEST_FILE, ArtifactRef, Manifest
from sovereign_pipeline.record.officers import PIPELINE, pipeline_signer, trust_root
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.record.tables import SealedEntry
from sovereign_pipeline.record.trust_root import Trust

PROVENANCE_BUNDLE = MANIFEST_FILE + statements.SUFFIX


@dataclass(frozen=True)
class Attestation:
    """A statement about one file of an artifact, to be signed or verified."""

    file: str
    predicate_type: str
    sha256: str
    predicate: Mapping[str, Any]

    @property
    def bundle(self) -> str:
        return self.file + statements.SUFFIX


@dataclass(frozen=True)
class WeightsList:
    """The files in a weights directory. They are signed in the format of OpenSSF Model Signing."""

    directory: str
    files: Mapping[str, str]
    """Maps each file's relative path to its SHA-256."""
    name: str

    @property
    def bundle(self) -> str:
        return self.directory + statements.SUFFIX


Said = Callable[[Manifest, dict[str, Any]], dict[str, Any]]
"""Function that builds a statement's predicate from the artifact's manifest and the attested file's content."""


def _gate(manifest: Manifest, verdict: dict[str, Any]) -> dict[str, Any]:
    (evaluated,) = manifest.inputs.values()
    return {"gate": manifest.producer.config["gate"], "artifact": evaluated, "outcome": verdict["outcome"]}


def _evaluation(manifest: Manifest, report: dict[str, Any]) -> dict[str, Any]:
    return {"line": manifest.line, "artifact": manifest.digest, "outcome": manifest.summary["outcome"]}


def _record(manifest: Manifest, record: dict[str, Any]) -> dict[str, Any]:
    return {"line": manifest.line, "adapter": manifest.inputs["aligned_adapter"]}


def _bill_of_materials(manifest: Manifest, bill: dict[str, Any]) -> dict[str, Any]:
    return bill


ATTESTED: Mapping[str, Mapping[str, tuple[str, Said]]] = {
    "gate_record": {"verdict.json": (statements.GATE, _gate)},
    "evaluation_report": {"report.json": (statements.EVALUATION, _evaluation)},
    "registered_adapter": {
        "record.json": (statements.RECORD, _record),
        "bill_of_materials.json": (statements.BILL_OF_MATERIALS, _bill_of_materials),
    },
}
"""For each kind of artifact, maps each file that has a separate statement to the predicate type and the function that
builds the predicate."""

WEIGHTS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("sft_adapter", "aligned_adapter"), ("adapter", "model")),
    "reward_model": ("reward",),
}
"""Maps each kind of artifact to its weights directories. Other programs load these directories without this package."""


def bundles_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the names of all signature files of an artifact."""
    return (
        PROVENANCE_BUNDLE,
        *(name + statements.SUFFIX for name in _attested_files(manifest)),
        *(each.bundle for each in weights_of(manifest)),
    )


def provenance_of(manifest: Manifest) -> dict[str, Any]:
    return statements.provenance(
        manifest.kind,
        manifest.producer.config,
        {**manifest.inputs, **manifest.external_inputs},
        builder=manifest.circumstances.source_sha256,
        libraries=manifest.producer.libraries,
        finished_on=manifest.circumstances.created_at,
    )


def attestations_of(directory: Path, manifest: Manifest) -> Iterator[Attestation]:
    """Yield the statements about single files of an artifact (`ATTESTED`). The caller must have verified the files."""
    for name, sha256 in _attested_files(manifest).items():
        predicate_type, said = ATTESTED[manifest.kind][name]
        yield Attestation(name, predicate_type, sha256, said(manifest, json.loads((directory / name).read_bytes())))


def weights_of(manifest: Manifest) -> Iterator[WeightsList]:
    """Yield an artifact's weights directories, each with the files that the manifest lists."""
    for directory in WEIGHTS.get(manifest.kind, ()):
        inside = f"{directory}/"
        files = {
            entry.path.removeprefix(inside): entry.sha256 for entry in manifest.files if entry.path.startswith(inside)
        }
        if files:
            yield WeightsList(directory, files, manifest.digest)


def signatures(
    signer: Signer, directory: Path, manifest: Manifest, manifest_sha256: str
) -> Iterator[tuple[str, bytes]]:
    """Sign an artifact that is being sealed. Yields the file name and the bytes of every signature."""
    made = statements.Statement(
        (statements.Subject(MANIFEST_FILE, manifest_sha256),), statements.PROVENANCE, provenance_of(manifest)
    )
    yield PROVENANCE_BUNDLE, statements.sign_statement(signer, made)
    for each in attestations_of(directory, manifest):
        statement = statements.Statement(
            (statements.Subject(each.file, each.sha256),), each.predicate_type, each.predicate
        )
        yield each.bundle, statements.sign_statement(signer, statement)
    for weights in weights_of(manifest):
        yield weights.bundle, statements.sign_listed(signer, weights.files, weights.name)


def _attested_files(manifest: Manifest) -> dict[str, str]:
    """Return a mapping of file name to SHA-256, for the artifact's files that have a separate statement."""
    attested = ATTESTED.get(manifest.kind, {})
    return {entry.path: entry.sha256 for entry in manifest.files if entry.path in attested}


def pipeline_actor(settings: Settings) -> str:
    """Return the pipeline's actor name in the ledger. The name contains the id of the pipeline's key."""
    return f"pipeline:{pipeline_signer(settings, trust_root(settings)).keyid}"


def sealed_at(session: Session, ref: ArtifactRef) -> int | None:
    """Return the number of the first ledger entry about a sealed artifact, or None. The number comes from the index of
    sealed artifacts. If the index is wrong or lacks the artifact, the whole log is searched."""
    wanted = (SEALED, ref.digest, ref.manifest_sha256)

    def stated(entry: Parsed) -> tuple[str, object, object]:
        return entry.action, entry.subjects.get("digest"), entry.subjects.get("manifest_sha256")

    known = select(SealedEntry.sequence).where(SealedEntry.manifest_sha256 == ref.manifest_sha256)
    sequence = session.scalar(known)
    if sequence is not None and 0 < sequence <= tree.size_of(session):
        entry = proven_entry(session, sequence)
        if stated(entry) == wanted:
            return sequence
    # Read the log to its end, because `stream_in` verifies the root hash there.
    found = [each.sequence for each in stream_in(session) if stated(each) == wanted]
    return found[0] if found else None


REMOVE = "Restore the artifact from a copy, or remove its directory, and find out who changed it."


def open_store(settings: Settings, corpus: Path | None = None, registry: Registry | None = None) -> ArtifactStore:
    """Open the installation's store.

    Args:
        corpus: the corpus root, for a process that may read unscrubbed text.
        registry: an open registry, such as a read-only one. If None, the registry is opened on first use.
    """
    opened = (lambda: registry) if registry is not None else partial(open_registry, settings)
    return ArtifactStore(settings.artifacts, LedgerSeals(settings, opened), corpus)


class LedgerSeals:
    """Signs and verifies one installation's artifacts. Implements `manifest.Seals`."""

    def __init__(self, settings: Settings, opened: Callable[[], Registry]) -> None:
        """`opened` is the function that opens the registry on first use."""
        self._settings = settings
        self._opened = opened

    @cached_property
    def _registry(self) -> Registry:
        return self._opened()

    def assert_ready(self) -> None:
        """Raise an error of `trust_root` or `pipeline_signer` if signing is impossible."""
        pipeline_signer(self._settings, trust_root(self._settings))

    def sign(self, directory: Path, manifest: Manifest) -> None:
        signer = pipeline_signer(self._settings, trust_root(self._settings))
        for name, content in signatures(signer, directory, manifest, _sha256(manifest)):
            (directory / name).write_bytes(content)

    def enter(self, manifest: Manifest) -> None:
        manifest_sha256 = _sha256(manifest)
        subjects = {
            "kind": manifest.kind,
            "line": manifest.line,
            "digest": manifest.digest,
            "manifest_sha256": manifest_sha256,
        }
        known = select(SealedEntry).where(SealedEntry.manifest_sha256 == manifest_sha256)
        with self._registry.writing() as session:
            entry = append(session, pipeline_actor(self._settings), SEALED, subjects)
            if session.scalars(known).first() is None:
                session.execute(insert(SealedEntry).values(manifest_sha256=manifest_sha256, sequence=entry.sequence))

    def bundles(self, directory: Path, ref: ArtifactRef, manifest: Manifest) -> tuple[str, ...]:
        """Verify the signed provenance of an artifact. Returns the names of all its signature files."""
        made = Attestation(MANIFEST_FILE, statements.PROVENANCE, ref.manifest_sha256, provenance_of(manifest))
        self._verify(directory, ref, made)
        return bundles_of(manifest)

    def verify_further(self, directory: Path, ref: ArtifactRef, manifest: Manifest) -> None:
        for each in attestations_of(directory, manifest):
            self._verify(directory, ref, each)
        trust = trust_root(self._settings)
        for weights in weights_of(manifest):
            path = directory / weights.bundle
            content = _read(path)
            index = self._index(_read(directory / PROVENANCE_BUNDLE), trust, ref)
            with _naming(path):
                statements.verify_listed(content, weights.files, weights.name, trust, PIPELINE, at_index=index)

    def _verify(self, directory: Path, ref: ArtifactRef, attested: Attestation) -> None:
        """Raise IntegrityError unless a pipeline key signed exactly this statement."""
        path, trust = directory / attested.bundle, trust_root(self._settings)
        content = _read(path)
        kind, sha256 = attested.predicate_type, attested.sha256
        said = (kind, sha256, ref.manifest_sha256, hashlib.sha256(content).hexdigest())
        if _counted.has(trust, said):
            return
        with _naming(path):
            index = self._index(content, trust, ref)
            verified = statements.verify_statement(
                content, trust, PIPELINE, predicate_type=kind, sha256=sha256, at_index=index
            )
        if verified.statement.predicate != attested.predicate:
            raise IntegrityError(f"{path}: the statement contradicts {attested.file}.", REMOVE)
        _counted.keep(trust, said, index)

    def _index(self, bundle: bytes, trust: Trust, ref: ArtifactRef) -> int | None:
        """Return the ledger index at which to verify the signature in `bundle`. If the signing key has the pipeline's
        role and is not revoked, return None, because the signature is valid at any index. Otherwise return the
        artifact's ledger index, or None if the artifact is not logged. Raises IntegrityError if the ledger entry was
        changed."""
        if trust.counts(PIPELINE, statements.signed_by(bundle), None):
            return None
        with self._registry.reading() as session:
            sequence = sealed_at(session, ref)
        return sequence - 1 if sequence is not None else None


Said_sealing = tuple[str, ...]
"""Cache key of a verified signature: predicate type, and SHA-256 of the attested file, the manifest and the bundle."""


class _Counted:
    """Caches signatures that are valid under one trust root, so that a process verifies each signature only once.
    Reloading the trust root empties the cache. Signatures by revoked keys are never cached, because their ledger index
    decides whether they are valid.
    """

    MOST = 50_000

    def __init__(self) -> None:
        self._under: tuple[Trust | None, set[Said_sealing]] = (None, set())

    def has(self, trust: Trust, said: Said_sealing) -> bool:
        known, counted = self._under
        return known is trust and said in counted

    def keep(self, trust: Trust, said: Said_sealing, index: int | None) -> None:
        """Cache a valid signature, unless its validity depended on `index`, the artifact's ledger index."""
        if index is not None:
            return
        known, counted = self._under  # read both at once, because another thread may replace them
        if known is not trust or len(counted) >= self.MOST:
            counted = set()
            self._under = (trust, counted)
        counted.add(said)


_counted = _Counted()


def _sha256(manifest: Manifest) -> str:
    return hashlib.sha256(manifest.to_bytes()).hexdigest()


def _read(path: Path) -> bytes:
    """Return a signature's bytes. Raises IntegrityError if the file is missing, unreadable or not a regular file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise IntegrityError(f"{path}: the signature is missing.", REMOVE) from None
    except OSError as error:
        raise IntegrityError(f"{path}: the signature cannot be read ({error.strerror}).", REMOVE) from None
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IntegrityError(f"{path}: this is not a regular file.", REMOVE)
        return stream.read(statements.LARGEST_BUNDLE + 1)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Prefix a verification error with the file that it is about."""
    try:
        yield
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error.message}", error.hint) from None
