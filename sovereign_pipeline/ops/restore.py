"""Verify a backup, restore an installation from it, and repair damaged artifacts from it."""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.processes import account
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.ops import backup_archive, postgresql
from sovereign_pipeline.ops.backup import (
    ASIDE,
    DUMPS,
    REGISTRY,
    REGISTRY_DUMP,
    ROOTS,
    database_file,
    folder_aside,
    on_servers,
)
from sovereign_pipeline.ops.backup_archive import ARCHIVE, DamagedBackup, Description, Listed
from sovereign_pipeline.ops.postgresql import Database
from sovereign_pipeline.record import checkpoints, notes, tree
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.catalog import files_purged
from sovereign_pipeline.record.checkpoints import read_note
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.manifest import ARTIFACTS, make_private
from sovereign_pipeline.record.merkle import is_consistent
from sovereign_pipeline.record.notes import Note, TreeHead
from sovereign_pipeline.record.officers import KEY_ID, People, trust_root
from sovereign_pipeline.record.sealing import LedgerSeals, open_store
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline.record.witnesses import LOG, assert_log_of

RESTORED = "backup restored"
"""Action of a restore's ledger entry."""
STAGED = ".restoring"
"""Suffix of a restored directory's name until the content of the directory is verified."""


@dataclass(frozen=True)
class Checked:
    description: Description
    entries: int
    """Number of entries in the backup's ledger."""
    artifacts: int
    """Number of artifacts in the backup."""


def check(settings: Settings, directory: Path, private_key: str, progress: Progress) -> Checked:
    """Verify a whole backup: signature, every byte, ledger and artifacts. The unpacked files are removed afterwards.

    A registry from a PostgreSQL server is restored temporarily into the settings' database. That database must be
    empty, so it cannot be the installation's own. Raises IntegrityError if the backup is damaged, InputError if that
    database is missing or not empty, and PrivacyError if the key does not decrypt the backup.
    """
    made = backup_archive.read_description(directory, trust_root(settings))
    with folder_aside(settings.home.parent) as aside:
        staged = extract(settings, directory, made, private_key, aside, progress)
        with on_servers_again(settings, staged, kept=False):
            return Checked(made, verified_ledger(staged, made), verified_artifacts(staged))


@dataclass(frozen=True)
class Restored:
    description: Description
    entries: int
    """Number of ledger entries, including the restore's own."""
    artifacts: int
    lost: int
    """Number of ledger entries that the backup lacks, according to known checkpoints and the ledger's second copy."""
    was_compared: bool
    """False if there was no known checkpoint and no second copy to compare with. Losses then cannot be detected."""
    kept_aside: Path | None
    """New path of the ledger's second copy, if it diverged from the restored ledger and was renamed; otherwise None."""


def restore(
    settings: Settings,
    directory: Path,
    private_key: str,
    reason: str,
    progress: Progress,
    *,
    known: Sequence[Path] = (),
    loses: int = 0,
) -> Restored:
    """Restore a backup to empty directories and databases.

    Args:
        known: files with later checkpoints of the ledger, from the old SOVEREIGN_HOME, an auditor or a witness.
        loses: number of ledger entries whose loss the operator accepts. It must be the number that the backup lacks.

    Raises IntegrityError if the backup is damaged or contradicts a known checkpoint, InputError if a directory or
    database is not empty, and ConflictError, which lists the lost entries, if their number is not `loses`.
    """
    _refuse_full(settings)
    made = backup_archive.read_description(directory, trust_root(settings))
    with _removed_on_error(settings):
        staged = extract(settings, directory, made, private_key, None, progress)
        progress("verifying ledger and artifacts")
        with on_servers_again(settings, staged, kept=True):
            restored = _put_on_record(settings, staged, made, reason, known, loses)
    _put_into_place(settings, staged)
    return replace(restored, kept_aside=_second_copy_aside(settings)) if restored.lost else restored


def _put_on_record(
    settings: Settings, staged: Settings, made: Description, reason: str, known: Sequence[Path], loses: int
) -> Restored:
    """Verify the unpacked backup, compare its ledger with the known checkpoints, and log the restore in that ledger."""
    size = verified_ledger(staged, made)
    count = verified_artifacts(staged)
    registry = open_registry(staged)
    newest = _newest_known(registry, settings, known)
    lost = max(newest.size - size, 0) if newest is not None else 0
    if lost != loses:
        raise ConflictError(
            _lost_entries(settings, size, lost, loses),
            "Find out what the lost entries contain. To restore anyway, state their number with --loses.",
        )
    subjects = {"backup": made.archive, "taken": made.created, "entries": size, "reason": reason}
    if newest is not None and lost:
        subjects |= {"lost": [size + 1, newest.size], "lost_root": newest.root.hex()}
    with registry.writing() as session:
        append(session, People(staged).commitment_of(account()), RESTORED, subjects)
    registry.engine.dispose()
    return Restored(made, size + 1, count, lost, newest is not None, None)


@contextmanager
def _removed_on_error(settings: Settings) -> Iterator[None]:
    """Remove the unpacked files if the block fails. Raises InputError if an earlier restore has left such files."""
    places = [_staged(getattr(settings, name)) for name in ROOTS]
    places.append(_staged_database(settings, places[0]))
    for path in places:
        if os.path.lexists(path):
            raise InputError(
                f"{path} is left over from a restore that was interrupted.", "Remove it, and restore again."
            )
    try:
        yield
    except BaseException:
        for path in places:
            shutil.rmtree(path, ignore_errors=True)
            path.unlink(missing_ok=True)
        raise


def extract(
    settings: Settings, directory: Path, made: Description, private_key: str, into: Path | None, progress: Progress
) -> Settings:
    """Unpack a backup. Returns settings with the paths of the unpacked files and without a second copy of the ledger.

    Args:
        into: target directory. If None, each directory of the backup is unpacked beside the directory in the settings
            that it will replace. In both cases `on_servers_again` later restores PostgreSQL dumps into the settings'
            empty databases.
    """
    roots = {name: into / name if into is not None else _staged(getattr(settings, name)) for name in ROOTS}
    database = (into / "registry.db") if into is not None else _staged_database(settings, roots["home"])
    dumps, servers = _dumps(roots["home"]), on_servers(settings)
    progress("decrypting and comparing")

    def take(listed: Listed, blocks: Iterator[bytes]) -> None:
        root, _, rest = listed.name.partition("/")
        leads_out = not rest or rest.startswith("/") or ".." in PurePosixPath(rest).parts
        is_database = listed.name in (REGISTRY, *DUMPS)
        if not is_database and (root not in roots or leads_out):
            raise DamagedBackup(f"{directory}: {listed.name!a} does not belong in a backup.")
        if is_database and "registry" not in listed.name and into is not None:  # verification does not need the others
            return
        if is_database:
            _assert_can_hold(servers, listed.name, is_restored=into is None)
            path = database if listed.name == REGISTRY else dumps / rest
        else:
            path = roots[root] / rest
        make_private(path.parent)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as stream:
            for block in blocks:
                stream.write(block)

    backup_archive.read(directory / ARCHIVE, made.archive, private_key, take)
    for root in roots.values():
        make_private(root)
    elsewhere: dict[str, Any] = {**roots, "registry_url": f"sqlite:///{quote(str(database))}", "ledger_copy": None}
    if (dumps / PurePosixPath(REGISTRY_DUMP).name).exists():
        elsewhere["registry_url"] = settings.registry_url
    return replace(settings, **elsewhere)


@contextmanager
def on_servers_again(settings: Settings, staged: Settings, *, kept: bool) -> Iterator[None]:
    """Restore the unpacked dumps into their databases. After an error in the block, empty these databases.

    Args:
        kept: if True, keep the restored databases after a block without error. If False, empty them.
    """
    dumps = _dumps(staged.home)
    done: list[Database] = []
    try:
        for name, server in on_servers(settings).items():
            dumped = dumps / PurePosixPath(name).name
            if dumped.exists():
                postgresql.restore(server, dumped)
                done.append(server)
        shutil.rmtree(dumps, ignore_errors=True)
        yield
    except BaseException:
        kept = False
        raise
    finally:
        for server in done if not kept else ():
            postgresql.empty(server)


def _dumps(home: Path) -> Path:
    return home / f"{ASIDE}dumps"


def _assert_can_hold(servers: Mapping[str, Database], name: str, *, is_restored: bool) -> None:
    """Raise InputError if the archive's database `name` cannot be restored into the database that the settings name:
    the types (SQLite, PostgreSQL) differ, or a PostgreSQL database is not empty."""
    if name == REGISTRY:
        if is_restored and REGISTRY_DUMP in servers:
            raise InputError(
                "The registry in the backup is an SQLite file, but SOVEREIGN_REGISTRY_URL names a PostgreSQL server.",
                "Restore the registry to SQLite: unset SOVEREIGN_REGISTRY_URL, or set it to an SQLite file.",
            )
        return
    if name not in servers:
        variable = VARIABLES[DUMPS[name]]
        raise InputError(
            f"The backup contains a PostgreSQL database, but {variable} does not name a PostgreSQL server.",
            f"Set {variable} to an empty database for restoring or verifying.",
        )
    postgresql.assert_empty(servers[name])


def verified_ledger(staged: Settings, made: Description) -> int:
    """Verify the ledger of an unpacked backup, and return its number of entries. Raises IntegrityError if the ledger
    does not match the backup's description, or if the trust root lists keys of the log and the ledger's key is not one
    of them."""
    registry = open_registry(staged, from_first_entry=True)
    report = verify_registry(registry)
    head = made.head
    if (report.ledger.newest.sequence, report.ledger.root) != (head.size, head.root):
        raise DamagedBackup("The ledger in the backup does not match the checkpoint in the signed description.")
    with registry.reading() as session:
        log = checkpoints.verifier(session, staged)
    trust = trust_root(staged)
    if log is not None and trust.keys(LOG):
        assert_log_of(trust, log, head.size)
    registry.engine.dispose()
    return head.size


def verified_artifacts(staged: Settings) -> int:
    """Verify all artifacts, except purged files, and return their number. Raises IntegrityError for a wrong file."""
    store = open_store(staged, staged.corpus)
    digests = [path.parent.name for path in sorted(staged.artifacts.glob("*/manifest.json"))]
    for digest in digests:
        ref = store.ref_of(digest)
        gone = purged_files(staged, digest)
        if gone:
            store.open_without(ref, gone)
        else:
            store.open(ref)
    return len(digests)


def purged_files(settings: Settings, digest: str) -> frozenset[str]:
    """Return the paths of an artifact's files whose purge is logged."""
    with open_registry(settings).reading() as session:
        return frozenset(files_purged(session, trust_root(settings), digest))


def _staged(root: Path) -> Path:
    return root.with_name(root.name + STAGED)


def _staged_database(settings: Settings, home: Path) -> Path:
    database = database_file(settings)
    if database is None:
        return home / "registry.db"
    if database.is_relative_to(settings.home):
        return home / database.relative_to(settings.home)
    return _staged(database)


def _refuse_full(settings: Settings) -> None:
    """Raise InputError if a directory or database file to be restored is not empty."""
    for path in (*(getattr(settings, name) for name in ROOTS), database_file(settings)):
        if path is not None and (path.is_file() or (path.is_dir() and any(path.iterdir()))):
            raise InputError(f"{path} is not empty, and a restore does not overwrite files.", "Move it aside first.")


def _newest_known(registry: Registry, settings: Settings, known: Sequence[Path]) -> TreeHead | None:
    """Return the known checkpoint that covers the most ledger entries. Raises IntegrityError if the backup contradicts
    a known checkpoint."""
    found = [(path, read_note(path)) for path in known]
    copy = settings.ledger_copy
    if copy is not None and copy.exists() and (confirmed := checkpoints.end_of(copy).confirmed) is not None:
        found.append((copy, confirmed))
    with registry.reading() as session:
        verifier = checkpoints.verifier(session, registry.settings)
        size = tree.size_of(session)
        heads = []
        for path, note in found:
            head = _signed_head(path, note, verifier)
            heads.append(head)
            if 0 < head.size <= size and not is_consistent(
                head.size,
                size,
                head.root,
                tree.root_at(session, size),
                tree.consistency_proof(session, head.size, size),
            ):
                raise DamagedBackup(f"{path}: the backup's entries differ from those that this checkpoint covers.")
    return max(heads, key=lambda head: head.size, default=None)


def _signed_head(path: Path, note: Note, verifier: notes.Verifier | None) -> TreeHead:
    head = notes.parse_tree_head(note.text)
    if verifier is None or head.origin != verifier.name or not notes.is_signed(note, verifier):
        raise IntegrityError(
            f"{path}: this checkpoint does not belong to the ledger in the backup.",
            "Choose a checkpoint of that ledger.",
        )
    return head


def _lost_entries(settings: Settings, size: int, lost: int, loses: int) -> str:
    if not lost:
        return f"The backup has all known ledger entries, but --loses states {loses} lost entries."
    named = checkpoints.missing_entries(settings, size + 1, size + lost)
    return f"The backup ends at entry {size} and lacks {counted(lost, 'later entry', 'later entries')}: {named}."


def _put_into_place(settings: Settings, staged: Settings) -> None:
    for name in ROOTS:
        getattr(staged, name).replace(getattr(settings, name))
    database, there = database_file(settings), database_file(staged)
    if database is not None and there is not None and not database.is_relative_to(settings.home):
        there.replace(database)


def _second_copy_aside(settings: Settings) -> Path | None:
    """Rename the ledger's second copy, which diverges from the restored ledger, and start an empty one. Returns the
    renamed copy's path, or None if there is no second copy."""
    copy = settings.ledger_copy
    if copy is None or not copy.exists():
        return None
    aside = copy.with_name(f"{copy.name}.before-restore-{checkpoints.end_of(copy).size}")
    copy.replace(aside)
    copy.touch(mode=0o600)
    return aside


REPAIRED = "artifact repaired"
"""Action of a repair's ledger entry."""


@dataclass(frozen=True)
class Damage:
    """A missing or changed file of an artifact, and the valid copy of this file from the backup."""

    name: str
    path: Path
    good: Path


def repair(settings: Settings, directory: Path, digest: str, private_key: str, progress: Progress) -> list[str]:
    """Restore the missing or changed files of one artifact from a backup, and return their names. Raises InputError if
    `digest` is malformed, NotFoundError if the backup lacks the artifact, and IntegrityError if the backup is damaged.
    """
    if not KEY_ID.fullmatch(digest):
        raise InputError(f"'{digest[:70]}' is not the digest of an artifact.", "Enter all 64 digits.")
    made = backup_archive.read_description(directory, trust_root(settings))
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
            raise DamagedBackup(f"{path}: {listed.name!a} does not belong in a backup.")
        to.parent.mkdir(parents=True, exist_ok=True)
        with to.open("xb") as stream:
            stream.writelines(blocks)

    backup_archive.read(path, sha256, private_key, take)


def _assert_good(settings: Settings, aside: Path, digest: str, gone: frozenset[str]) -> None:
    """Raise an error unless the backup's copy of the artifact and the copy's signatures are valid."""
    root = aside / "home" / "artifacts"
    if not (root / digest).is_dir():
        raise NotFoundError(f"The backup does not contain the artifact {digest}.", "Use a later backup.")
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
    damage.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    aside = damage.path.with_name(f".{damage.path.name}.repaired")
    shutil.copyfile(damage.good, aside)
    with aside.open("rb") as stream:
        os.fsync(stream.fileno())
    aside.replace(damage.path)
