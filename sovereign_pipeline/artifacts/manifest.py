"""What every artifact says of itself.

An artifact's digest covers its identity: files, inputs, producer, classification, line, summary. When it was made and
what that took differ between two runs of the same work, so they stand apart as `circumstances` and do not change the
digest; whoever uses an artifact records the hash of the whole manifest as well, so they cannot be altered either.
"""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sovereign_pipeline.artifacts.hashing import canonical_json, digest_of
from sovereign_pipeline.errors import IntegrityError

MANIFEST_FILE = "manifest.json"
FORMAT = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ArtifactRef(_Record):
    """The typed reference that goes from asset to asset: 64 hex digits each."""

    kind: str
    line: str
    digest: str
    manifest_sha256: str


class FileEntry(_Record):
    """path: relative, with forward slashes; size: bytes."""

    path: str
    size: int
    sha256: str


class Producer(_Record):
    """code_version: of the stage; config: the part of the recipe that the stage reads; libraries: name -> version."""

    code_version: str
    config: dict[str, Any]
    config_sha256: str
    libraries: dict[str, str]


class Circumstances(_Record):
    """created_at: UTC, ISO 8601. source_sha256: digest of this package's own source when it ran. measured: durations,
    rates. input_manifests: kind -> hash of the manifest that was read."""

    created_at: str
    source_sha256: str
    measured: dict[str, float]
    input_manifests: dict[str, str]


class Manifest(_Record):
    """ladder: the levels, lowest first, on which the classification stands.
    inputs: kind -> artifact digest. external_inputs: name of a file outside the store -> its SHA-256.
    summary: counts and other facts; never document text."""

    format: int = FORMAT
    kind: str
    line: str
    classification: str
    ladder: tuple[str, ...]
    files: tuple[FileEntry, ...]
    inputs: dict[str, str]
    external_inputs: dict[str, str]
    producer: Producer
    summary: dict[str, Any]
    circumstances: Circumstances

    @property
    def digest(self) -> str:
        return digest_of(self.model_dump(mode="json", exclude={"circumstances"}))

    def to_bytes(self) -> bytes:
        return canonical_json(self.model_dump(mode="json")) + b"\n"

    @classmethod
    def from_file(cls, path: Path) -> "Manifest":
        """Raises IntegrityError unless the file is exactly the canonical form of what it says."""
        try:
            content = path.read_bytes()
            manifest = cls.model_validate_json(content)
        except (OSError, ValueError) as error:
            raise IntegrityError(
                f"{path}: the manifest is missing or unreadable ({type(error).__name__}). Restore the artifact from a "
                f"copy."
            ) from None
        if manifest.to_bytes() != content:
            raise IntegrityError(f"{path}: the manifest was changed after it was written. Restore it from a copy.")
        return manifest
