"""Opening a registry without writing anything: for whoever verifies a copy, or has no right to write.

Nothing is created, no lock is taken and no key is needed.
"""

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import Engine, NullPool, create_engine, event
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger import triggers
from sovereign_pipeline.ledger.database import FORMAT, Registry, cannot_be_opened, format_of, other_format, registry_url
from sovereign_pipeline.ledger.log import checkpoints
from sovereign_pipeline.ledger.rows_on_record import HINT, unreadable_row


@contextmanager
def registry_read_only(settings: Settings) -> Iterator[Registry]:
    """The registry as it is. Raises as `database.open_registry` does.

    Raises ConflictError at the end where a file of SQLite was written to meanwhile, since what was read is not one
    state of it.
    """
    with _engine(settings) as engine:
        try:
            found = format_of(engine)
        except (DatabaseError, sqlite3.DatabaseError) as error:
            raise cannot_be_opened(error) from None
        if found != FORMAT:
            raise other_format(found)
        with engine.connect() as connection:
            triggers.assert_in_place(connection)
        registry = Registry(engine, settings)
        with _unreadable_rows_named(registry):
            checkpoints.assert_not_older(registry)
            yield registry


@contextmanager
def _unreadable_rows_named(registry: Registry) -> Iterator[None]:
    """Where reading fails because a column holds what it cannot hold, that is what is wrong, and not this program."""
    try:
        yield
    except OperationalError as error:
        if getattr(error.orig, "sqlite_errorcode", None) != sqlite3.SQLITE_ERROR:  # of the server or the disk
            raise cannot_be_opened(error) from None
        raise IntegrityError("The registry's tables are not those that this program made.", HINT) from None
    except (TypeError, ValueError, LookupError, AttributeError, DatabaseError):
        with registry.reading() as session:
            unreadable = unreadable_row(session)
        if unreadable is None:
            raise
        raise IntegrityError(f"The registry: {unreadable} holds what no act of this program writes.", HINT) from None


@contextmanager
def _engine(settings: Settings) -> Iterator[Engine]:
    try:
        url = registry_url(settings)
        if url.get_backend_name() == "sqlite":
            with _sqlite(Path(url.database or "")) as engine:
                yield engine
            return
        engine = create_engine(url, connect_args={"options": "-c default_transaction_read_only=on"})
    except (ArgumentError, ImportError) as error:
        raise cannot_be_opened(error) from None
    yield engine
    engine.dispose()


@contextmanager
def _sqlite(path: Path) -> Iterator[Engine]:
    """A file that nobody writes to is read as it lies, without the files that SQLite makes beside one.

    With a write-ahead log beside it, it is in use, or was copied while it was. SQLite then reads both; where it may not
    make its index beside them, nobody has them open, and both are read in another directory.
    """
    if not path.is_file():
        raise InputError(f"{path}: there is no registry.", "Name the home whose registry is verified.")
    log = path.with_name(f"{path.name}-wal")
    if not log.exists():
        before = _state(path)
        yield _reading(path, "mode=ro&immutable=1")
        if _state(path) != before or log.exists():
            raise ConflictError(f"{path}: the registry was written to meanwhile.", "Verify it again.")
    elif _opens(path):
        yield _reading(path, "mode=ro")
    else:
        with TemporaryDirectory() as directory:
            for each in (path, log):
                shutil.copyfile(each, Path(directory) / each.name)
            yield _reading(Path(directory) / path.name, "mode=ro")


def _opens(path: Path) -> bool:
    """Whether SQLite can read a file with its write-ahead log where they lie."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return True


def _reading(path: Path, how: str) -> Engine:
    engine = create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(f"{path.absolute().as_uri()}?{how}", uri=True),
        poolclass=NullPool,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: sqlite3.Connection, record: object) -> None:
        connection.isolation_level = None  # transactions are begun below, so that one state is read

    @event.listens_for(engine, "begin")
    def _begin(connection: object) -> None:
        connection.exec_driver_sql("BEGIN")  # type: ignore[attr-defined]

    return engine


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size
