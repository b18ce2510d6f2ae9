"""What an artifact's manifest states, which of its files hold unscrubbed text, and who signs what is sealed."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import SerializerFunctionWrapHandler, model_serializer

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import canonical_json, digest_of
from sovereign_pipeline.base.frozen import Frozen

MANIFEST_FILE = "manifest.json"
FORMAT = 1


class ArtifactRef(Frozen):
    """The typed reference that is passed from asset to asset."""

    kind: str
    line: str
    digest: str
    """Of the artifact, 64 hex digits."""
    manifest_sha256: str
    """Of the manifest's bytes, 64 hex digits."""


class FileEntry(Frozen):
    """One file of an artifact."""

    path: str
    """Relative, with forward slashes."""
    size: int
    """In bytes."""
    sha256: str


class Producer(Frozen):
    """The stage that made an artifact, in the version and configuration it had then."""

    code_version: str
    config: dict[str, Any]
    """The part of the recipe and of the institution's policy that the stage reads."""
    config_sha256: str
    libraries: dict[str, str]
    """Distribution -> version, of those whose version changes the result."""


class Circumstances(Frozen):
    """What differs between two runs of the same work."""

    created_at: str
    """UTC, ISO 8601."""
    source_sha256: str
    """Digest of this package's own source code when it ran."""
    measured: dict[str, float]
    """Durations and rates."""
    input_manifests: dict[str, str]
    """Kind -> SHA-256 of the manifest that was read."""
    recorded: dict[str, str] = {}
    """Further facts, such as the fingerprint of the key that originals were sealed to; left out when there are none."""

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = written(self)
        return fields if self.recorded else {name: value for name, value in fields.items() if name != "recorded"}


class Manifest(Frozen):
    """The content of `manifest.json`."""

    format: int = FORMAT
    kind: str
    line: str
    classification: str
    ladder: tuple[str, ...]
    """The classification levels of the institution, lowest first."""
    files: tuple[FileEntry, ...]
    inputs: dict[str, str]
    """Kind -> digest of the input artifact."""
    external_inputs: dict[str, str]
    """Name of a file outside the store -> its SHA-256."""
    producer: Producer
    summary: dict[str, Any]
    """Counts and other facts; never document text."""
    circumstances: Circumstances

    @property
    def digest(self) -> str:
        """The artifact's digest: over everything but the circumstances."""
        return digest_of(self.model_dump(mode="json", exclude={"circumstances"}))

    def to_bytes(self) -> bytes:
        """The bytes of `manifest.json`: canonical JSON and a newline."""
        return canonical_json(self.model_dump(mode="json")) + b"\n"

    @classmethod
    def from_file(cls, path: Path) -> "Manifest":
        """Read and validate. Raises IntegrityError unless the file is in exactly the canonical form."""
        return read_manifest(path).manifest


@dataclass(frozen=True)
class ReadManifest:
    """A manifest as it lies in a file."""

    manifest: Manifest
    digest: str
    """The artifact's."""
    sha256: str
    """Of the file's bytes."""


MOST_DIGESTS = 50_000
_digests: dict[str, str] = {}
"""SHA-256 of a manifest's bytes in canonical form -> the artifact's digest. The same bytes give the same one."""


def read_manifest(path: Path) -> ReadManifest:
    """Read and validate. Raises IntegrityError unless the file is in exactly the canonical form."""
    try:
        content = path.read_bytes()
        manifest = Manifest.model_validate_json(content)
    except (OSError, ValueError) as error:
        raise IntegrityError(
            f"{path}: the manifest is missing or unreadable ({type(error).__name__}).",
            "Restore the artifact from a copy.",
        ) from None
    sha256 = hashlib.sha256(content).hexdigest()
    digest = _digests.get(sha256)
    if digest is None:
        if manifest.to_bytes() != content:
            raise IntegrityError(
                f"{path}: the manifest was changed after it was written.", "Restore the artifact from a copy."
            )
        digest = manifest.digest
        if len(_digests) >= MOST_DIGESTS:
            _digests.clear()
        _digests[sha256] = digest
    return ReadManifest(manifest, digest, sha256)


CONFINED: Mapping[str, frozenset[str]] = {
    "raw_corpus": frozenset({"sources.json"}),
    "classified_corpus": frozenset(),
}
"""Kind of artifact with unscrubbed text -> its files that hold none. All its other files are confined."""

ARTIFACTS = "artifacts"
"""Under the corpus root: `<digest>/` with the confined files of an artifact."""


def confined_files(manifest: Manifest) -> tuple[FileEntry, ...]:
    """The files of an artifact that lie under the corpus root."""
    outside = CONFINED.get(manifest.kind)
    return () if outside is None else tuple(entry for entry in manifest.files if entry.path not in outside)


def make_private(directory: Path) -> None:
    """Make a directory, and those above it that are missing, for the owner alone."""
    if not directory.exists():
        make_private(directory.parent)
        directory.mkdir(exist_ok=True, mode=0o700)


class Seals(Protocol):
    """Signs what is sealed, and refuses what is not signed."""

    def assert_ready(self) -> None:
        """Raise a SovereignError where nothing could be signed: asked before work begins."""

    def sign(self, directory: Path, manifest: Manifest) -> None:
        """Write the signatures of an artifact that is being sealed beside its files."""

    def enter(self, manifest: Manifest) -> None:
        """Enter the artifact into the ledger. No record, no act: afterwards it is put into its place."""

    def bundles(self, directory: Path, ref: ArtifactRef, manifest: Manifest) -> tuple[str, ...]:
        """Verify the provenance of a stored artifact. Returns the file names of all signatures that belong to it.

        Raises IntegrityError naming the file.
        """

    def verify_further(self, directory: Path, ref: ArtifactRef, manifest: Manifest) -> None:
        """Verify the signatures besides the provenance, once every file was verified. Raises IntegrityError."""
