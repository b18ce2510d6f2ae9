"""Define an artifact's manifest, the interface for signatures, and which files are stored only under the corpus
root."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import SerializerFunctionWrapHandler, model_serializer

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import Frozen, canonical_json, digest_of

MANIFEST_FILE = "manifest.json"
FORMAT = 1


class ArtifactRef(Frozen):
    """A typed reference to an artifact, passed from asset to asset."""

    kind: str
    line: str
    digest: str
    manifest_sha256: str


class FileEntry(Frozen):
    """One file of an artifact."""

    path: str
    """Relative path with forward slashes."""
    size: int
    sha256: str


class Producer(Frozen):
    """The stage that produced an artifact, with the stage's version and configuration at that time."""

    code_version: str
    config: dict[str, Any]
    """The part of the recipe and of the institution's policy that the stage reads."""
    config_sha256: str
    libraries: dict[str, str]
    """Mapping of name to version, for each Python distribution whose version affects the result."""


class Circumstances(Frozen):
    """Facts that may differ between two builds of the same artifact. The artifact's digest does not cover them."""

    created_at: str
    """Time of creation: UTC, ISO 8601."""
    source_sha256: str
    """SHA-256 of the package's source code that ran."""
    measured: dict[str, float]
    input_manifests: dict[str, str]
    """Mapping of each input's kind to the SHA-256 of its manifest as it was read."""
    recorded: dict[str, str] = {}
    """Further facts, such as the fingerprint of the key that encrypted the originals. Omitted if empty."""

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
    """Classification levels of the institution, lowest first."""
    files: tuple[FileEntry, ...]
    inputs: dict[str, str]
    """Mapping of each input's kind to the input artifact's digest."""
    external_inputs: dict[str, str]
    """Mapping of name to SHA-256, for each file outside the store that was read."""
    producer: Producer
    summary: dict[str, Any]
    """Counts and other facts; never document text."""
    circumstances: Circumstances

    @property
    def digest(self) -> str:
        """The artifact's digest, which covers everything but the circumstances."""
        return digest_of(self.model_dump(mode="json", exclude={"circumstances"}))

    def to_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json")) + b"\n"

    @classmethod
    def from_file(cls, path: Path) -> "Manifest":
        return read_manifest(path).manifest


@dataclass(frozen=True)
class ReadManifest:
    """A manifest read from a file."""

    manifest: Manifest
    digest: str
    sha256: str
    """SHA-256 of the file's bytes."""


MOST_DIGESTS = 50_000
_digests: dict[str, str] = {}
"""Cache that maps the SHA-256 of a manifest's canonical bytes to the artifact's digest."""


def read_manifest(path: Path) -> ReadManifest:
    """Read and validate a manifest. Raises IntegrityError if the file is missing, malformed or not canonical."""
    try:
        content = path.read_bytes()
        manifest = Manifest.model_validate_json(content)
    except (OSError, ValueError) as error:
        raise IntegrityError(f"{path}: the manifest is missing or unreadable ({type(error).__name__}).") from None
    sha256 = hashlib.sha256(content).hexdigest()
    digest = _digests.get(sha256)
    if digest is None:
        if manifest.to_bytes() != content:
            raise IntegrityError(f"{path}: the manifest was changed after it was written.")
        digest = manifest.digest
        if len(_digests) >= MOST_DIGESTS:
            _digests.clear()
        _digests[sha256] = digest
    return ReadManifest(manifest, digest, sha256)


CONFINED: Mapping[str, frozenset[str]] = {
    "raw_corpus": frozenset({"sources.json"}),
    "classified_corpus": frozenset(),
}
"""Maps each kind of artifact with unscrubbed text to the files that contain no such text. All other files of these
artifacts are stored only under the corpus root."""

READABLE: Mapping[str, Mapping[str, str]] = {
    "raw_corpus": {"sources.json": "sources as read"},
    "scrubbed_corpus": {"findings.json": "findings"},
    "leakage_safe_split": {"proof.json": "proof of the split"},
    "training_dataset": {"card.md": "data card", "card.json": "data card, JSON"},
    "preference_dataset": {"card.md": "data card", "card.json": "data card, JSON"},
    "base_model": {"base_model.json": "description of the model"},
    "sft_adapter": {"report.json": "training report"},
    "reward_model": {"report.json": "training report"},
    "aligned_adapter": {"report.json": "training report"},
    "capability_scores": {"scores.json": "scores"},
    "private_scores": {"scores.json": "scores"},
    "red_team_report": {"report.json": "red team report"},
    "evaluation_report": {"report.html": "evaluation report", "report.json": "evaluation report, JSON"},
    "registered_adapter": {"record.json": "record"},
    "blind_review": {"review.md": "review"},
}
"""For each kind of artifact, maps each file that a browser may display to the label of its link."""

ARTIFACTS = "artifacts"
"""Directory under the corpus root. Its subdirectory `<digest>/` has those files of one artifact that are stored only
under the corpus root."""


def confined_files(manifest: Manifest) -> tuple[FileEntry, ...]:
    """Return the files of an artifact that are stored under the corpus root."""
    outside = CONFINED.get(manifest.kind)
    return () if outside is None else tuple(entry for entry in manifest.files if entry.path not in outside)


def make_private(directory: Path) -> None:
    """Create a directory and its missing parents with access for the owner only."""
    if not directory.exists():
        make_private(directory.parent)
        directory.mkdir(exist_ok=True, mode=0o700)


class Seals(Protocol):
    """Signs artifacts when they are sealed, and rejects artifacts without valid signatures."""

    def assert_ready(self) -> None:
        """Raise a SovereignError if signing is impossible. Called before work begins."""

    def sign(self, directory: Path, manifest: Manifest) -> None:
        """Sign an artifact that is being sealed, and write the signatures beside its files."""

    def enter(self, manifest: Manifest) -> None:
        """Log the artifact in the ledger. Called before the artifact is renamed into place."""

    def bundles(self, directory: Path, ref: ArtifactRef, manifest: Manifest) -> tuple[str, ...]:
        """Verify the signed provenance of a stored artifact, and return the names of all its signature files. Raises
        IntegrityError if the provenance or its signature is invalid."""

    def verify_further(self, directory: Path, ref: ArtifactRef, manifest: Manifest) -> None:
        """Verify all signatures except that of the provenance. Called after every file was verified. Raises
        IntegrityError if a signature is invalid."""
