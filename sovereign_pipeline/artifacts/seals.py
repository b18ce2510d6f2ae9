"""What the store asks of whoever signs what is stored, and says whether a stored artifact's signatures count.

The store cannot do it itself: keys, trust root and ledger are a later room's (`ledger/signed_artifacts/sealing.py`).
"""

from pathlib import Path
from typing import Protocol

from sovereign_pipeline.artifacts.manifest import ArtifactRef, Manifest


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
