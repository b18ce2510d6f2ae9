"""Create an encrypted backup of an installation while it is in use.

Registry, checkpoint, keys, flags and the gateway's high-water marks are copied first, while the ledger is locked. The
files in SOVEREIGN_HOME follow, then those in SOVEREIGN_CORPUS. References to artifacts are copied before the artifacts.
Other databases are copied with SQLite's backup API or dumped with pg_dump.
"""

import datetime
import fcntl
import os
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.processes import account
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.ops import backup_archive, postgresql
from sovereign_pipeline.ops.backup_archive import ARCHIVE, Archive, Description
from sovereign_pipeline.ops.postgresql import Database
from sovereign_pipeline.privacy.vault import fingerprint_of
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.checkpoints import checkpoint_file, only_writer
from sovereign_pipeline.record.database import is_on_postgresql, open_registry, place_of, registry_url
from sovereign_pipeline.record.officers import People, pipeline_signer, trust_root
from sovereign_pipeline.record.stage import Progress

ASIDE = ".backup-"
"""Prefix of the name of a temporary folder."""
OURS = ".sovereign-aside"
"""Suffix of a temporary folder's name. The suffix distinguishes the folder from other folders beside SOVEREIGN_HOME."""
_NAME = re.compile(re.escape(ASIDE) + r"\w+" + re.escape(OURS))


ROOTS = ("home", "corpus", "vault", "review_secrets", "keys", "serving")
"""Names of the settings whose directories are backed up. `data` is omitted, because it is under version control."""


CREATED, FAILED = "backup created", "backup failed"
"""Actions of a backup's ledger entries. `CREATED` is logged before the copying begins, so that the backup contains the
entry. `FAILED` is logged after a failure."""


@dataclass(frozen=True)
class Taken:
    description: Description
    size: int
    """Size of the encrypted archive in bytes."""
    links: tuple[Path, ...]
    """Symbolic links that were found. They are not copied."""


def take(settings: Settings, out: Path, recipient: str, progress: Progress) -> Taken:
    """Append a ledger entry, then write an encrypted backup to a new folder.

    Raises InputError if the folder exists or a database cannot be dumped, and IntegrityError if the registry does not
    match its checkpoint.

    Args:
        recipient: age public key (age1…).
    """
    database_file(settings)
    for database in on_servers(settings).values():
        postgresql.assert_can_dump(database)
    signer = pipeline_signer(settings, trust_root(settings))
    registry = open_registry(settings)
    if out.exists():
        raise InputError(f"{out}: the folder exists already.", "Choose a new folder.")
    with registry.writing() as session:
        actor = People(settings).commitment_of(account())
        append(session, actor, CREATED, {"recipient": fingerprint_of(recipient)})
    out.mkdir(parents=True, mode=0o700)
    try:
        with folder_aside(settings.home) as aside:
            snapshot = Snapshot(settings, aside)
            checkpoint = snapshot.held_together()
            with backup_archive.written(out / ARCHIVE, recipient) as opened:
                snapshot.write(opened, progress)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        sha256 = file_sha256(out / ARCHIVE)
        made = Description(created=now, archive=sha256, files=len(opened.listed), checkpoint=checkpoint)
        backup_archive.write(out, made, signer)
    except BaseException:
        shutil.rmtree(out)
        with registry.writing() as session:
            append(session, actor, FAILED, {"recipient": fingerprint_of(recipient)})
        raise
    return Taken(made, (out / ARCHIVE).stat().st_size, tuple(snapshot.links))


@contextmanager
def folder_aside(parent: Path) -> Iterator[Path]:
    """Remove the temporary folders of killed processes. Yield a new private folder, and remove it after the block."""
    _remove_left(parent)
    path, lock = _locked(parent)
    try:
        yield path
    finally:
        _remove(path, lock)


def _locked(parent: Path) -> tuple[Path, int]:
    """Create a folder and lock it until this process ends or removes it. Returns the path and the lock's descriptor."""
    while True:  # another process may remove the folder as a leftover before this process has locked it
        path = Path(tempfile.mkdtemp(prefix=ASIDE, suffix=OURS, dir=parent))
        lock = _lock(path)
        if lock is not None and path.exists():
            return path, lock
        if lock is not None:
            os.close(lock)


def _remove_left(parent: Path) -> None:
    for path in parent.iterdir():
        if _NAME.fullmatch(path.name) and not path.is_symlink() and (lock := _lock(path)) is not None:
            _remove(path, lock)


def _remove(path: Path, lock: int) -> None:
    try:
        shutil.rmtree(path)
    finally:
        os.close(lock)


def _lock(path: Path) -> int | None:
    """Lock a folder and return the lock's descriptor. Returns None if the folder is missing, is locked by
    another process, or belongs to a different account."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_uid == os.geteuid():
            return lock
    except BlockingIOError:
        pass
    os.close(lock)
    return None


REGISTRY, REGISTRY_DUMP = "registry/registry.db", "registry/registry.dump"
"""Names of the registry in the archive: as an SQLite file, and as a dump of a PostgreSQL database."""
DUMPS = {REGISTRY_DUMP: "registry_url", "mlflow/mlflow.dump": "mlflow_url", "dagster/dagster.dump": "dagster_url"}
"""Mapping of a dump's name in the archive to the setting that has the URL of the dumped PostgreSQL database."""
SQLITE = b"SQLite format 3\x00"
OF_A_DATABASE = ("-wal", "-shm", "-journal")
PASSING = (".building", ".partial", ASIDE)
"""Name prefixes of folders with unfinished work, which are not backed up."""
FLAGS, MARKS = "home/serving/flags", ("serving/high-water-marks.json", "serving/last-verified.json")
"""Names in the archive of files that must not be newer than the registry. A gateway rejects a registry that is older
than its high-water marks. A flag may name an adapter only after the adapter's transition."""


@dataclass
class Snapshot:
    """Copies the state of an installation into a backup's archive."""

    settings: Settings
    aside: Path
    """Private directory for copies of files that change during the backup."""
    links: list[Path] = field(default_factory=list)

    def held_together(self) -> str:
        """Copy registry, ledger, keys, high-water marks and flags in their state while the ledger is locked. Returns
        the ledger's checkpoint in this state."""
        database, server = database_file(self.settings), on_servers(self.settings).get(REGISTRY_DUMP)
        with ExitStack() as states:
            with only_writer(self.settings):
                if database is not None:
                    _copy_database(database, self._aside(REGISTRY))
                state = states.enter_context(postgresql.one_state(server)) if server is not None else None
                for name, directory in (("home/ledger", self.settings.ledger), ("keys", self.settings.keys)):
                    for path in _files(directory, self.links):
                        to = self._aside(f"{name}/{path.relative_to(directory).as_posix()}")
                        shutil.copyfile(path, to)
                for name, path in self._marks_and_flags():
                    with suppress(FileNotFoundError):  # no gateway has written this file yet
                        shutil.copyfile(path, self._aside(name))
                checkpoint = checkpoint_file(self.settings).read_text(encoding="utf-8")
            if (
                server is not None
            ):  # outside the lock, because processes that wait for the lock time out before a dump ends
                postgresql.dump(server, self._aside(REGISTRY_DUMP), state)
        return checkpoint

    def _marks_and_flags(self) -> Iterator[tuple[str, Path]]:
        """Yield each file's name in the archive and its path. High-water marks come first, because a gateway may change
        the flags meanwhile."""
        for name in MARKS:
            yield name, self.settings.serving / PurePosixPath(name).name
        for change in (self.settings.home / "serving" / "flags").glob("*/[0-9]*"):
            for path in _files(change, self.links):
                yield f"{FLAGS}/{change.parent.name}/{change.name}/{path.name}", path

    def write(self, archive: Archive, progress: Progress) -> None:
        for name, server in on_servers(self.settings).items():
            if name != REGISTRY_DUMP:
                postgresql.dump(server, self._aside(name))
        for path in sorted(self.aside.rglob("*")):
            if path.is_file():
                archive.add(path.relative_to(self.aside).as_posix(), path)
        done = {each.name for each in archive.listed}
        database = database_file(self.settings)
        for name, path in self._others():
            if name in done or path == database or name.startswith((f"{FLAGS}/", *MARKS)):
                continue
            self._add(archive, name, path)
            if len(archive.listed) % 1000 == 0:
                progress(f"{counted(len(archive.listed), 'file')}, at {name.partition('/')[0]}")

    def _others(self) -> Iterator[tuple[str, Path]]:
        """Yield each file's name in the archive and its path, in the order that the module's docstring states."""
        for field_name in ROOTS:
            root: Path = getattr(self.settings, field_name)
            paths = list(_files(root, self.links))
            paths.sort(key=lambda path: (not {".index", ".current"} & {*path.relative_to(root).parts}, path))
            for path in paths:
                yield f"{field_name}/{path.relative_to(root).as_posix()}", path

    def _add(self, archive: Archive, name: str, path: Path) -> None:
        try:
            if _is_database(path):
                copy = self._aside(f"databases/{name}")
                try:
                    _copy_database(path, copy)
                    archive.add(name, copy)
                except sqlite3.DatabaseError:  # the file begins like a database, but is not a database
                    archive.add(name, path)
                copy.unlink()
            else:
                archive.add(name, path)
        except FileNotFoundError:
            if "artifacts" in path.parts:
                raise  # an artifact's files vanish only by a logged purge, and the next backup then omits them

    def _aside(self, name: str) -> Path:
        path = self.aside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def database_file(settings: Settings) -> Path | None:
    """Return the path of the registry's SQLite file, or None for PostgreSQL. Raises InputError for other databases."""
    url = registry_url(settings)
    if is_on_postgresql(settings.registry_url):
        return None
    if url.get_backend_name() != "sqlite" or not url.database:
        raise InputError(
            f"{VARIABLES['registry_url']}: this database is neither an SQLite file nor on a PostgreSQL "
            "server, so it cannot be backed up.",
            "Stop all services and runs. Then take the server's own backup, and copy home, corpus, vault and keys.",
        )
    return Path(url.database).absolute()


def on_servers(settings: Settings) -> dict[str, Database]:
    """Return a mapping of dump name to database, for the databases on a PostgreSQL server. A database that several
    settings name is listed once."""
    found: dict[str, Database] = {}
    places = set[tuple[object, ...]]()
    for name, setting in DUMPS.items():
        database = Database(VARIABLES[setting], getattr(settings, setting) or "")
        if not is_on_postgresql(database.url):
            continue
        found |= {name: database} if place_of(database.url) not in places else {}
        places.add(place_of(database.url))
    return found


def _files(root: Path, links: list[Path]) -> Iterator[Path]:
    """Yield every file below a directory, except unfinished folders and database journals. Append links to `links`."""
    if not root.is_dir():
        return
    for entry in sorted(os.scandir(root), key=lambda each: each.name):
        path = Path(entry.path)
        if entry.is_symlink():
            links.append(path)
        elif entry.is_dir():
            if not entry.name.startswith(PASSING):
                yield from _files(path, links)
        elif entry.is_file() and not entry.name.endswith(OF_A_DATABASE):
            yield path


def _is_database(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(SQLITE)) == SQLITE


def _copy_database(path: Path, to: Path) -> None:
    """Copy an SQLite database in one consistent state, even while other processes write to it."""
    there = f"{path.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(there, uri=True)) as source, closing(sqlite3.connect(to)) as target:
        source.backup(target)
