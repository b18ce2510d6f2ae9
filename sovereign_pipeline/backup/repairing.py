"""Putting files of a damaged artifact back from a backup. History stays: the artifact is the same, and it is on record.

What belongs here: that. What does not: weights that were purged, which stay gone, and files that do not belong to an
artifact, which a person removes.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.backup import archive, description
from sovereign_pipeline.backup.archive import Listed
from sovereign_pipeline.backup.aside import folder_aside
from sovereign_pipeline.backup.description import ARCHIVE
from sovereign_pipeline.backup.restoring import purged_files
from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.processes import account
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.manifest import ARTIFACTS
from sovereign_pipeline.record.officers import KEY_ID, trust_root
from sovereign_pipeline.record.people import People
from sovereign_pipeline.record.sealing import LedgerSeals, open_store
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.record.store import ArtifactStore

REPAIRED = "artifact repaired"
"""Action of the entry of a repair."""


@dataclass(frozen=True)
class Damage:
    """A file that is missing or changed, and its good copy."""

    name: str
    path: Path
    good: Path


def repair(settings: Settings, directory: Path, digest: str, private_key: str, progress: Progress) -> list[str]:
    """Put back what is missing or changed of one artifact. Returns the files' names; none where nothing was.

    Raises NotFoundError where the backup does not hold it, IntegrityError and InputError.
    """
    if not KEY_ID.fullmatch(digest):
        raise InputError(f"'{digest[:70]}' is no digest of an artifact.", "Give all 64 digits.")
    made = description.read(directory, trust_root(settings))
    gone = purged_files(settings, digest)
    places = {f"home/artifacts/{digest}": settings.artifacts / digest}
    places[f"corpus/{ARTIFACTS}/{digest}"] = settings.corpus / ARTIFACTS / digest
    with folder_aside(settings.home) as aside:
        progress("decrypting and comparing")
        _extract(directory / ARCHIVE, made.archive, private_key, aside, tuple(places))
        _assert_good(settings, aside, digest, gone)
        damages = [each for name, place in places.items() for each in _damages(aside / name, place, gone)]
        if not damages:
            return []
        names = [each.name for each in damages]
        registry = open_registry(settings)
        with registry.writing() as session:
            actor = People(settings).commitment_of(account())
            append(session, actor, REPAIRED, {"artifact": digest, "files": names, "backup": made.archive})
        for each in damages:
            _put(each)
    store = open_store(settings, settings.corpus)
    store.open_without(store.ref_of(digest), gone) if gone else store.open(store.ref_of(digest))
    return names


def _extract(path: Path, sha256: str, private_key: str, aside: Path, wanted: Sequence[str]) -> None:
    def take(listed: Listed, blocks: Iterator[bytes]) -> None:
        if not listed.name.startswith(tuple(f"{each}/" for each in wanted)):
            return
        to = aside / listed.name
        if not to.resolve().is_relative_to(aside.resolve()):
            raise IntegrityError(f"{path}: {listed.name!a} does not belong into a backup.", "Use another backup.")
        to.parent.mkdir(parents=True, exist_ok=True)
        with to.open("xb") as stream:
            stream.writelines(blocks)

    archive.read(path, sha256, private_key, take)


def _assert_good(settings: Settings, aside: Path, digest: str, gone: frozenset[str]) -> None:
    """The backup's copy verifies whole, with its signatures."""
    root = aside / "home" / "artifacts"
    if not (root / digest).is_dir():
        raise NotFoundError(f"The backup does not hold the artifact {digest}.", "Use a later backup.")
    store = ArtifactStore(root, LedgerSeals(settings, lambda: open_registry(settings)), aside / "corpus")
    store.open_without(store.ref_of(digest), gone) if gone else store.open(store.ref_of(digest))


def _damages(good: Path, place: Path, gone: frozenset[str]) -> Iterator[Damage]:
    for path in sorted(each for each in good.rglob("*") if each.is_file()):
        name = path.relative_to(good).as_posix()
        there = place / name
        is_good = there.is_file() and not there.is_symlink() and file_sha256(there) == file_sha256(path)
        if name not in gone and not is_good:
            yield Damage(name, there, path)


def _put(damage: Damage) -> None:
    """Replace a file, so that it is whole whenever this process ends."""
    damage.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = damage.path.with_name(f".{damage.path.name}.repaired")
    shutil.copyfile(damage.good, aside)
    with aside.open("rb") as stream:
        os.fsync(stream.fileno())
    aside.replace(damage.path)
