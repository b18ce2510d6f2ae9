"""Which artifacts hold unscrubbed text.

Their files lie under a root of their own (`$SOVEREIGN_CORPUS`), which processes that need no unscrubbed text are not
given. Their manifests, which hold none, stay in the home, so that every process can follow a lineage.

"""

from collections.abc import Mapping
from pathlib import Path

from sovereign_pipeline.artifacts.manifest import FileEntry, Manifest

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
