"""Signing what the store seals, entering it into the ledger, and refusing what nobody signed.

Trust root and key are those of the settings. The ledger is asked only for what was signed with a key that is revoked by
now: it counts where its entry is older.

What belongs here: whether a stored artifact's signatures count. What does not: which there are, and what they say
(`artifacts/attested.py`).
"""

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

from sovereign_pipeline.artifacts.attested import (
    PROVENANCE_BUNDLE,
    attestations_of,
    bundles_of,
    provenance_of,
    signatures,
    weights_of,
)
from sovereign_pipeline.artifacts.manifest import ArtifactRef, Manifest
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.database import Registry, open_registry
from sovereign_pipeline.ledger.signed_artifacts.sealed_entries import SealedEntries
from sovereign_pipeline.signing.bundles import LARGEST_BUNDLE
from sovereign_pipeline.signing.model_directory import verify_listed
from sovereign_pipeline.signing.officers import PIPELINE, pipeline_signer, trust_root
from sovereign_pipeline.signing.predicates import PROVENANCE
from sovereign_pipeline.signing.statements import signed_by, verify_statement
from sovereign_pipeline.signing.trusted import Trust

REMOVE = "Restore the artifact from a copy, or remove its directory, and find out who changed it."


def open_store(settings: Settings, corpus: Path | None = None, registry: Registry | None = None) -> ArtifactStore:
    """The installation's store.

    Args:
        corpus: the corpus root, for a process that is given unscrubbed text.
        registry: where it is open already, such as for reading alone; else it is opened when it is needed.
    """
    opened = (lambda: registry) if registry is not None else partial(open_registry, settings)
    return ArtifactStore(settings.artifacts, LedgerSeals(settings, opened), corpus)


class LedgerSeals:
    """The seals of one installation (`artifacts.seals.Seals`)."""

    def __init__(self, settings: Settings, opened: Callable[[], Registry]) -> None:
        self._settings = settings
        self._opened = opened

    @cached_property
    def _entries(self) -> SealedEntries:
        return SealedEntries(self._settings, self._opened)

    def assert_ready(self) -> None:
        """Raise NotFoundError, IntegrityError or SignInError where nothing could be signed."""
        pipeline_signer(self._settings, trust_root(self._settings))

    def sign(self, directory: Path, manifest: Manifest) -> None:
        """Write the signatures of an artifact that is being sealed beside its files."""
        signer = pipeline_signer(self._settings, trust_root(self._settings))
        for name, content in signatures(signer, directory, manifest, _sha256(manifest)):
            (directory / name).write_bytes(content)

    def enter(self, manifest: Manifest) -> None:
        """Enter an artifact into the ledger."""
        self._entries.enter(manifest, _sha256(manifest))

    def bundles(self, directory: Path, ref: ArtifactRef, manifest: Manifest) -> tuple[str, ...]:
        """Verify the provenance."""
        path = directory / PROVENANCE_BUNDLE
        content, trust = _read(path), trust_root(self._settings)
        said = (PROVENANCE, ref.manifest_sha256, hashlib.sha256(content).hexdigest())
        if not _counted.has(trust, said):
            with _naming(path):
                index = self._index(content, trust, ref)
                verified = verify_statement(
                    content, trust, PIPELINE, predicate_type=PROVENANCE, sha256=ref.manifest_sha256, at_index=index
                )
            if verified.statement.predicate != provenance_of(manifest):
                raise IntegrityError(f"{path}: it says something else than the manifest.", REMOVE)
            _counted.keep(trust, said, index)
        return bundles_of(manifest)

    def verify_further(self, directory: Path, ref: ArtifactRef, manifest: Manifest) -> None:
        """Verify the signatures besides the provenance, once every file was verified. Raises IntegrityError."""
        trust = trust_root(self._settings)
        for each in attestations_of(directory, manifest):
            path = directory / each.bundle
            content = _read(path)
            said = (each.predicate_type, each.sha256, ref.manifest_sha256, hashlib.sha256(content).hexdigest())
            if _counted.has(trust, said):
                continue
            with _naming(path):
                index = self._index(content, trust, ref)
                verified = verify_statement(
                    content, trust, PIPELINE, predicate_type=each.predicate_type, sha256=each.sha256, at_index=index
                )
            if verified.statement.predicate != each.predicate:
                raise IntegrityError(f"{path}: it says something else than {each.file}.", REMOVE)
            _counted.keep(trust, said, index)
        for weights in weights_of(manifest):
            path = directory / weights.bundle
            content = _read(path)
            index = self._index(_read(directory / PROVENANCE_BUNDLE), trust, ref)
            with _naming(path):
                verify_listed(content, weights.files, weights.name, trust, PIPELINE, at_index=index)

    def _index(self, bundle: bytes, trust: Trust, ref: ArtifactRef) -> int | None:
        """Where the ledger names the artifact, if that decides: for what a key signed that is revoked by now."""
        keyid = signed_by(bundle)
        if trust.counts(PIPELINE, keyid, None):
            return None
        return self._entries.index_of(ref)


Said = tuple[str, ...]
"""What a signature is, what it must be about, and its bytes: everything but the trust root that decides the verdict."""


class _Counted:
    """Signatures that count under one trust root, so that a process verifies the same bytes once.

    A trust root that was read anew is another object: nothing is known under it. What a revoked key signed counts by
    its entry in the ledger and is never kept.
    """

    MOST = 50_000

    def __init__(self) -> None:
        self._under: tuple[Trust | None, set[Said]] = (None, set())

    def has(self, trust: Trust, said: Said) -> bool:
        known, counted = self._under
        return known is trust and said in counted

    def keep(self, trust: Trust, said: Said, index: int | None) -> None:
        """`index`: where the ledger was asked for the artifact; None where that did not decide."""
        if index is not None:
            return
        known, counted = self._under  # together, for another thread may replace them
        if known is not trust or len(counted) >= self.MOST:
            counted = set()
            self._under = (trust, counted)
        counted.add(said)


_counted = _Counted()


def _sha256(manifest: Manifest) -> str:
    return hashlib.sha256(manifest.to_bytes()).hexdigest()


def _read(path: Path) -> bytes:
    """A signature's bytes. Raises IntegrityError for what is no file of a possible size."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise IntegrityError(f"{path}: the signature is missing.", REMOVE) from None
    except OSError as error:
        raise IntegrityError(f"{path}: the signature cannot be read ({error.strerror}).", REMOVE) from None
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise IntegrityError(f"{path}: this is no file.", REMOVE)
        return stream.read(LARGEST_BUNDLE + 1)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name the file in what is said about a signature."""
    try:
        yield
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error.message}", error.hint) from None
