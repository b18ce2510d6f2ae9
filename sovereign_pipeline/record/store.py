"""Seal artifacts, open stored artifacts after verifying every byte, and walk their lineage."""

import hashlib
import os
import shutil
import stat
import tempfile
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.base.errors import CorpusWithheld, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import file_sha256, short, write_atomically
from sovereign_pipeline.record.manifest import (
    ARTIFACTS,
    CONFINED,
    MANIFEST_FILE,
    ArtifactRef,
    FileEntry,
    Manifest,
    Seals,
    confined_files,
    make_private,
    read_manifest,
)

_GIVE_THE_CORPUS = "Run this where SOVEREIGN_CORPUS can be read. Only the stages up to the split have access to it."


@dataclass(frozen=True)
class Artifact:
    """An opened artifact. Every byte was verified, except in the files that `withheld` and `purged` list."""

    ref: ArtifactRef
    path: Path
    manifest: Manifest
    confined: Path | None = None
    """Directory of the files with unscrubbed text. None if there are none, or if this process may not read them."""
    bundles: tuple[str, ...] = ()
    """Names of the artifact's signature files."""
    purged: tuple[FileEntry, ...] = ()
    """Files that were not verified, because a logged purge removed them."""

    def file(self, name: str) -> Path:
        """Return the path of one of the artifact's files. Raises NotFoundError if the manifest does not list the file
        or the file was purged, and CorpusWithheld if this process may not read the file's unscrubbed text."""
        if name not in {entry.path for entry in self.manifest.files}:
            raise NotFoundError(f"{self.path}: the manifest of this {self.ref.kind} lists no file '{name}'.")
        if name in {entry.path for entry in self.purged}:
            raise NotFoundError(f"{self.path / name}: the file was purged.", "It can be restored only from a backup.")
        if name not in {entry.path for entry in confined_files(self.manifest)}:
            return self.path / name
        if self.confined is None:
            raise _withheld(self)
        return self.confined / name

    def digests(self, below: Path) -> dict[Path, str]:
        """Return a mapping of path to SHA-256 (from the manifest), for one file or for all files in a directory of the
        artifact."""
        paths = {self.path / entry.path: entry.sha256 for entry in self.manifest.files}
        return {path: digest for path, digest in paths.items() if path.is_relative_to(below)}

    @property
    def withheld(self) -> tuple[FileEntry, ...]:
        """Files that were not verified, because this process may not read unscrubbed text."""
        return confined_files(self.manifest) if self.confined is None else ()


@dataclass(frozen=True)
class ArtifactStore:
    root: Path
    seals: Seals
    corpus: Path | None = None
    """The corpus root, or None for a process that needs no unscrubbed text."""

    def open(self, ref: ArtifactRef) -> Artifact:
        """Open an artifact and verify every byte. Raises IntegrityError if a file differs from the manifest or a
        signature is invalid; the error names the file. Raises CorpusWithheld if this process may not read the
        artifact's unscrubbed text."""
        artifact = self.open_as_given(ref)
        if artifact.withheld:
            raise _withheld(artifact)
        return artifact

    def open_as_given(self, ref: ArtifactRef) -> Artifact:
        """Open an artifact and verify every byte, except unscrubbed text if this process may not read the corpus root.
        Raises IntegrityError if a file differs from the manifest or a signature is invalid; the error names the file.
        """
        manifest, bundles = self._signed_manifest(ref)
        path, confined = self.path_of(ref.digest), confined_files(manifest)
        entries = tuple(entry for entry in manifest.files if entry not in confined)
        verify_files(path, entries, besides=(MANIFEST_FILE, *bundles))
        self.seals.verify_further(path, ref, manifest)
        if not confined:
            return Artifact(ref, path, manifest, None, bundles)
        if self.corpus is None or not os.access(self.corpus, os.R_OK | os.X_OK):
            return Artifact(ref, path, manifest, None, bundles)
        directory = self.corpus / ARTIFACTS / ref.digest
        verify_files(directory, confined, besides=())
        return Artifact(ref, path, manifest, directory, bundles)

    def open_without(self, ref: ArtifactRef, may_be_gone: Collection[str]) -> Artifact:
        """Open an artifact from which a logged purge may have removed files, and verify the remaining files. Raises
        IntegrityError if another file is missing, or if a file or signature is invalid.

        Args:
            may_be_gone: paths of the files that may be missing.
        """
        (manifest, bundles), path = self._signed_manifest(ref), self.path_of(ref.digest)
        gone = tuple(
            each for each in manifest.files if each.path in may_be_gone and not os.path.lexists(path / each.path)
        )
        entries = tuple(each for each in manifest.files if each not in gone)
        verify_files(path, entries, besides=(MANIFEST_FILE, *bundles))
        # The signature over the weights covers the manifest's file list, so the files themselves may be missing.
        self.seals.verify_further(path, ref, manifest)
        return Artifact(ref, path, manifest, bundles=bundles, purged=gone)

    def read_manifest(self, ref: ArtifactRef) -> Manifest:
        """Return an artifact's manifest after verifying its signature. Does not hash the artifact's files. Raises
        IntegrityError if the manifest or its signature is invalid."""
        return self._signed_manifest(ref)[0]

    def read_file(self, ref: ArtifactRef, manifest: Manifest, name: str) -> bytes:
        """Return one file's bytes after comparing their SHA-256 with the manifest. The caller must have verified the
        manifest. Raises NotFoundError if the manifest does not list the file, and IntegrityError if the bytes
        differ."""
        path = self.path_of(ref.digest) / name
        entry = next((each for each in manifest.files if each.path == name), None)
        if entry is None:
            raise NotFoundError(f"{path}: the manifest of this {manifest.kind} lists no such file.")
        content = b"" if path.is_symlink() or not path.is_file() else path.read_bytes()
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise IntegrityError(f"{path}: the bytes are not the recorded ones.")
        return content

    def _signed_manifest(self, ref: ArtifactRef) -> tuple[Manifest, tuple[str, ...]]:
        """Return the verified manifest and the names of the artifact's signature files."""
        path = self.path_of(ref.digest) / MANIFEST_FILE
        read = read_manifest(path)
        if (read.digest, read.sha256) != (ref.digest, ref.manifest_sha256):
            raise IntegrityError(f"{path}: this is not the manifest that was recorded when the artifact was used.")
        return read.manifest, self.seals.bundles(path.parent, ref, read.manifest)

    def input_ref(self, manifest: Manifest, kind: str) -> ArtifactRef:
        """Return the reference to an artifact's input, with the SHA-256 that the input's manifest had when it was
        read."""
        return self.ref_of(manifest.inputs[kind], manifest.circumstances.input_manifests[kind])

    def open_input(self, manifest: Manifest, kind: str) -> Artifact:
        return self.open(self.input_ref(manifest, kind))

    def ref_of(self, digest: str, manifest_sha256: str | None = None) -> ArtifactRef:
        """Return the reference to a stored artifact. Raises NotFoundError if the artifact is missing.

        Args:
            manifest_sha256: SHA-256 of the manifest as another record states it. If None, the SHA-256 of the stored
                manifest is used.
        """
        path = self.path_of(digest) / MANIFEST_FILE
        if not path.is_file():
            raise NotFoundError(f"{path}: there is no artifact {short(digest)}.", "Restore it from a backup.")
        read = read_manifest(path)
        return ArtifactRef(
            kind=read.manifest.kind,
            line=read.manifest.line,
            digest=digest,
            manifest_sha256=read.sha256 if manifest_sha256 is None else manifest_sha256,
        )

    def path_of(self, digest: str) -> Path:
        return self.root / digest

    @contextmanager
    def workspace(self, kind: str | None = None) -> Iterator[Path]:
        """Provide a build directory on the disk of the stored artifacts. The directory is removed when the context is
        left, unless `seal` moved it. The directory's name begins with the process id, so that the next build can remove
        leftovers of a killed process. Raises CorpusWithheld if this process may not read the kind's unscrubbed text.

        Args:
            kind: kind of the artifact. An artifact with unscrubbed text is built under the corpus root.
        """
        root = self._corpus_artifacts(kind) if kind in CONFINED else self.root
        building = root / ".building"
        building.mkdir(parents=True, exist_ok=True)
        for leftover in building.iterdir():
            owner = leftover.name.split("-")[0]
            if owner.isdigit() and not _is_alive(int(owner)):
                shutil.rmtree(leftover, ignore_errors=True)
        path = Path(tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=building))
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def seal(self, workspace: Path, describe: Callable[[tuple[FileEntry, ...]], Manifest]) -> ArtifactRef:
        """Hash and sign a workspace's files, log the artifact in the ledger, and rename the workspace into place.

        If an artifact with the same digest is stored already, it stays unchanged, with its own manifest. Unscrubbed
        text is moved into place first, because the manifest's presence marks an artifact as stored.
        """
        tree = _tree(workspace)
        manifest = describe(
            tuple(FileEntry(path=name, size=size, sha256=file_sha256(workspace / name)) for name, size in tree)
        )
        if not confined_files(manifest):
            return self._put(workspace, manifest)
        confined = self._corpus_artifacts(manifest.kind) / manifest.digest
        with self.workspace() as in_home:
            for entry in manifest.files:
                if entry not in confined_files(manifest):
                    (in_home / entry.path).parent.mkdir(parents=True, exist_ok=True)
                    shutil.move(workspace / entry.path, in_home / entry.path)
            if not (self.path_of(manifest.digest) / MANIFEST_FILE).exists():
                _flush_to_disk(workspace)
                shutil.rmtree(confined, ignore_errors=True)  # left by a process killed before it wrote the manifest
                workspace.rename(confined)
            return self._put(in_home, manifest)

    def _put(self, workspace: Path, manifest: Manifest) -> ArtifactRef:
        target = self.path_of(manifest.digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists():
            (workspace / MANIFEST_FILE).write_bytes(manifest.to_bytes())
            self.seals.sign(workspace, manifest)
            _flush_to_disk(workspace)
            self.seals.enter(manifest)
            try:
                workspace.rename(target)
            except OSError:
                if not target.exists():  # another process may have stored the same artifact first
                    raise
        return self.ref_of(manifest.digest)

    def _corpus_artifacts(self, kind: str | None) -> Path:
        if self.corpus is None:
            raise CorpusWithheld(
                f"{kind} contains unscrubbed text, but this process has no access to the corpus root.", _GIVE_THE_CORPUS
            )
        make_private(self.corpus / ARTIFACTS)
        return self.corpus / ARTIFACTS

    def find(self, fingerprint: str) -> ArtifactRef | None:
        """Return the stored artifact whose identity has this fingerprint, or None."""
        entry = self._index_entry(fingerprint)
        if not entry.is_file():
            return None
        ref = _read_ref(entry)
        return ref if (self.path_of(ref.digest) / MANIFEST_FILE).is_file() else None

    def remember(self, fingerprint: str, ref: ArtifactRef) -> None:
        write_atomically(self._index_entry(fingerprint), ref.model_dump_json() + "\n")

    def indexed(self, kind: str) -> Iterator[ArtifactRef]:
        """Yield every stored artifact of one kind, for all lines, in no particular order."""
        for entry in (self.root / ".index").glob("*/*.json"):
            ref = _read_ref(entry)
            if ref.kind == kind and (self.path_of(ref.digest) / MANIFEST_FILE).is_file():
                yield ref

    def holding(self, sha256s: Collection[str]) -> Iterator[tuple[ArtifactRef, Manifest]]:
        """Yield every artifact whose manifest contains one of these SHA-256, sorted by the artifacts' digests. Also
        reads artifacts that are not in the index. Raises IntegrityError if such a manifest is invalid."""
        wanted = [sha256.encode() for sha256 in sha256s]
        for path in sorted(self.root.glob(f"*/{MANIFEST_FILE}")):
            content = path.read_bytes()
            if any(sha256 in content for sha256 in wanted):
                ref = self.ref_of(path.parent.name)
                yield ref, self.read_manifest(ref)

    def current(self, line: str, kind: str) -> ArtifactRef | None:
        path = self._current_path(line, kind)
        return _read_ref(path) if path.is_file() else None

    def make_current(self, line: str, kind: str, ref: ArtifactRef) -> None:
        """Set the line's current artifact.

        Args:
            kind: kind of the asset. It differs from `ref.kind` if the stage passed its input through.
        """
        write_atomically(self._current_path(line, kind), ref.model_dump_json() + "\n")

    def _index_entry(self, fingerprint: str) -> Path:
        return self.root / ".index" / fingerprint[:2] / f"{fingerprint}.json"

    def _current_path(self, line: str, kind: str) -> Path:
        return self.root / ".current" / line / f"{kind}.json"


def verify_files(path: Path, entries: Collection[FileEntry], besides: tuple[str, ...] = (MANIFEST_FILE,)) -> None:
    """Raise IntegrityError if a file or directory is missing, extra, changed or a link; the error names the first. A
    link is rejected, because its target can be replaced without touching the artifact.

    Args:
        entries: every file that must be present.
        besides: names of files that are verified elsewhere.
    """
    if not path.is_dir():
        raise IntegrityError(f"{path}: the directory is missing.")
    present = {*besides, *(entry.path for entry in entries)}
    found = dict(_tree(path))
    for name in sorted(found.keys() - present):
        raise IntegrityError(f"{path / name}: this file does not belong to the artifact.", "Remove it.")
    for entry in entries:
        file = path / entry.path
        if entry.path not in found:
            raise IntegrityError(f"{file}: the file is missing.")
        if found[entry.path] != entry.size or file_sha256(file) != entry.sha256:
            raise IntegrityError(f"{file}: the bytes are not the recorded ones.")


def _withheld(artifact: Artifact) -> CorpusWithheld:
    names = ", ".join(entry.path for entry in confined_files(artifact.manifest))
    return CorpusWithheld(
        f"{artifact.ref.kind} {short(artifact.ref.digest)}: this process cannot read the corpus root, which has the "
        f"files with unscrubbed text ({names}).",
        _GIVE_THE_CORPUS,
    )


def _tree(directory: Path) -> Iterator[tuple[str, int]]:
    """Yield relative path and size of every file below a directory, sorted by path. Raises IntegrityError for links,
    devices, pipes and empty directories."""
    for path in (directory, *sorted(directory.rglob("*"))):
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            yield path.relative_to(directory).as_posix(), path.lstat().st_size
        elif not stat.S_ISDIR(mode):
            raise IntegrityError(
                f"{path}: this is a link or a device. An artifact contains only regular files.", "Remove it."
            )
        elif path != directory and not any(path.iterdir()):
            raise IntegrityError(f"{path}: this directory is empty and does not belong to the artifact.", "Remove it.")


def _flush_to_disk(directory: Path) -> None:
    for file in directory.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())


def _read_ref(path: Path) -> ArtifactRef:
    try:
        return ArtifactRef.model_validate_json(path.read_bytes())
    except ValueError:
        raise IntegrityError(
            f"{path}: this file is not a reference to an artifact.", "Delete the file and run the line again."
        ) from None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def lineage(store: ArtifactStore, manifest: Manifest) -> Iterator[tuple[ArtifactRef, Manifest]]:
    """Yield each artifact upstream of `manifest` once, nearest first, with the upstream artifact's verified manifest.
    Raises IntegrityError if a manifest is missing or changed."""
    waiting = deque(input_refs(manifest))
    seen: set[ArtifactRef] = set()
    while waiting:
        ref = waiting.popleft()
        if ref in seen:
            continue
        seen.add(ref)
        ancestor = store.read_manifest(ref)
        yield ref, ancestor
        waiting.extend(input_refs(ancestor))


def input_refs(manifest: Manifest) -> Iterator[ArtifactRef]:
    """Yield references to an artifact's inputs, as its manifest states them. The `kind` of a reference is the kind of
    the input's asset. If that asset's stage passed its own input through, the artifact itself has another kind."""
    for kind, digest in sorted(manifest.inputs.items()):
        manifest_sha256 = manifest.circumstances.input_manifests[kind]
        yield ArtifactRef(kind=kind, line=manifest.line, digest=digest, manifest_sha256=manifest_sha256)
