"""Which artifacts hold unscrubbed text, and moving it out of the home of an earlier release.

Their files lie under a root of their own (`$SOVEREIGN_CORPUS`), which processes that need no unscrubbed text are not
given. Their manifests, which hold none, stay in the home, so that every process can follow a lineage.

What belongs here: the rule, and the move. What does not: reading and writing an artifact (`store.py`), and which stages
are given the root (`Stage.reads_corpus`).
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from sovereign_pipeline.artifacts.manifest import MANIFEST_FILE, FileEntry, Manifest
from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import file_sha256, held, short

CONFINED: Mapping[str, frozenset[str]] = {
    "raw_corpus": frozenset({"sources.json"}),
    "classified_corpus": frozenset(),
}
"""Kind of artifact with unscrubbed text -> its files that hold none. All its other files are confined."""

ARTIFACTS = "artifacts"
"""Under the corpus root: `<digest>/` with the confined files of an artifact."""

_MARKS = tuple(f'"kind":"{kind}"'.encode() for kind in CONFINED)


def confined_files(manifest: Manifest) -> tuple[FileEntry, ...]:
    """The files of an artifact that lie under the corpus root."""
    outside = CONFINED.get(manifest.kind)
    return () if outside is None else tuple(entry for entry in manifest.files if entry.path not in outside)


def make_private(directory: Path) -> None:
    """Make a directory, and those above it that are missing, for the owner alone."""
    if not directory.exists():
        make_private(directory.parent)
        directory.mkdir(exist_ok=True, mode=0o700)


def left_in_home(home: Path) -> Iterator[tuple[Path, Manifest, list[FileEntry]]]:
    """Every artifact of the home's store with files that belong under the corpus root, with these files.

    Releases up to 0.1.0 kept them there. Raises IntegrityError for a manifest that was changed.
    """
    for path in sorted(home.glob(f"*/{MANIFEST_FILE}")):
        if not any(mark in path.read_bytes() for mark in _MARKS):
            continue
        manifest = Manifest.from_file(path)
        left = [entry for entry in confined_files(manifest) if (path.parent / entry.path).is_file()]
        if left:
            yield path.parent, manifest, left


def move_out_of_home(home: Path, corpus: Path) -> list[str]:
    """Move what an earlier release left in the home's store under the corpus root. Returns kind and digest of each.

    A file is removed from the home once its copy has the recorded bytes and is on the disk. A move that was interrupted
    is finished by the next one. Raises IntegrityError for a file that is not the recorded one; it stays where it is.

    Args:
        home: the home's store.
        corpus: the corpus root.
    """
    if next(left_in_home(home), None) is None:
        return []
    make_private(corpus / ARTIFACTS)
    with held(corpus / ".moving"):
        return [_moved(directory, manifest, left, corpus) for directory, manifest, left in left_in_home(home)]


def _moved(directory: Path, manifest: Manifest, left: list[FileEntry], corpus: Path) -> str:
    target = corpus / ARTIFACTS / directory.name
    make_private(target)
    for entry in left:
        source, copy = directory / entry.path, target / entry.path
        if not copy.exists():
            make_private(copy.parent)
            _copy(source, copy)
        if file_sha256(copy) != entry.sha256:
            raise IntegrityError(
                f"{copy}: the copy of {source} has not the recorded bytes, so the file was left in the home.",
                "Restore the file in the home from a copy, remove this one, and run again.",
            )
        source.unlink()
    return f"{manifest.kind} {short(directory.name)}"


def _copy(source: Path, target: Path) -> None:
    """Copy a file to another disk or the same; it appears whole."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".copy-")
    with os.fdopen(handle, "wb") as written, source.open("rb") as read:
        shutil.copyfileobj(read, written)
        written.flush()
        os.fsync(written.fileno())
    Path(name).replace(target)
