"""Open the registry (SQLite or PostgreSQL): schema, transactions, reading without writing, and a role's rights."""

import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.record import audit_log, checkpoints, in_force, tables, tree
from sovereign_pipeline.record.audit_log import BEFORE_THE_FIRST, HINT, unreadable_row
from sovereign_pipeline.record.notes import Note
from sovereign_pipeline.record.tables import Table

FORMAT = 1
"""Of the schema. A later version of this program that changes the schema raises it."""
WAIT_SECONDS = 30  # for another process that writes; a registration takes milliseconds
SECONDS_BETWEEN_TRIES = 0.05
POSTGRESQL_DISK_FULL = "53100"
POSTGRESQL_LOCK = 0x50E7E16E  # any number that no other program on the server uses


@dataclass(frozen=True)
class Registry:
    """An open registry."""

    engine: Engine
    settings: Settings

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session over one state of the database, whose objects stay usable after it is closed.

        One state, because rows are compared with the entries of the audit log. SQLite gives it by itself.
        """
        engine = self.engine
        if engine.dialect.name == "postgresql":
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with Session(engine, expire_on_commit=False) as session:
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction, the only writing one while it lasts; committed at the end, rolled back on any error.

        What it appends to the ledger is in the second copy before it is committed, and in a signed checkpoint
        afterwards. Raises IntegrityError where the registry is older than its last checkpoint, or a disk is full.
        """
        with checkpoints.only_writer(self.settings):
            with (
                _full_disk_named(),
                _writing_connection(self.engine) as connection,
                Session(connection, expire_on_commit=False) as session,
            ):
                checkpoints.prepare(session, self.settings)
                audit_log.watch(session)
                session.info[BEFORE_THE_FIRST] = partial(in_force.put_on_record, settings=self.settings)
                yield session
                audit_log.assert_none_left(session)
                appended = session.info.get(tree.APPENDED, [])
                if appended:
                    checkpoints.announce(session, self.settings)
                checkpoints.copy_entries(session, self.settings, appended)
            if appended:
                with self.reading() as committed:
                    checkpoints.note_committed(committed, self.settings)

    def checkpoint(self) -> Note:
        """The signed checkpoint of what is committed: signed now where it is not yet, and the key is here.

        Raises NotFoundError before the first act.
        """
        with checkpoints.only_writer(self.settings), self.reading() as session:
            return checkpoints.newest(session, self.settings)


class RegistryNewer(InputError):
    """The registry was made by another version of this program."""


def open_registry(settings: Settings) -> Registry:
    """Connect, and create the schema in an empty database; safe when several processes do so at once.

    Raises InputError when the database cannot be opened, or was made by a newer version of this program, and
    IntegrityError when its tables no longer refuse changes, or it is older than its last checkpoint.
    """
    try:
        engine = _engine(settings)
        found = format_of(engine)
    except (ArgumentError, DatabaseError, ImportError, sqlite3.DatabaseError) as error:
        raise cannot_be_opened(error) from None
    if found is None:
        _create(engine, settings)
    elif found != FORMAT:
        raise other_format(found)
    with engine.connect() as connection:
        tables.assert_in_place(connection)
    registry = Registry(engine, settings)
    checkpoints.assert_not_older(registry)
    return registry


def cannot_be_opened(error: Exception) -> InputError:
    return InputError(
        f"The registry cannot be opened ({type(error).__name__}).",
        "Check that SOVEREIGN_REGISTRY_URL is a database URL whose driver is installed, that the database is "
        "running, and that the file is a registry.",
    )


def parsed_url(variable: str, address: str) -> URL:
    """The parts of a database's address. Raises InputError, which repeats none of it: it may be of the password."""
    try:
        return make_url(address)
    except (ArgumentError, ValueError):
        raise InputError(
            f"The database cannot be opened: {variable} is no address of one.",
            "Write postgresql+psycopg://ROLE:PASSWORD@HOST:PORT/DATABASE; in a password, '@' is %40, ':' is %3A, and "
            "'/' is %2F.",
        ) from None


def registry_url(settings: Settings) -> URL:
    """The parts of the registry's address. Raises InputError."""
    return parsed_url(VARIABLES["registry_url"], settings.registry_url)


def is_there(settings: Settings) -> bool:
    """Whether opening the registry finds one or says what is wrong; a file that is not there is made on opening."""
    try:
        url = registry_url(settings)
    except InputError:
        return True
    return url.get_backend_name() != "sqlite" or Path(url.database or "").is_file()


def _engine(settings: Settings) -> Engine:
    url = registry_url(settings)
    if url.get_backend_name() != "sqlite":
        return create_engine(url)
    Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": WAIT_SECONDS})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # transactions are begun below, so that tables are made inside them too
        _switch_to_wal(connection)
        for pragma in ("foreign_keys=ON", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").fetchall()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log. SQLite refuses without waiting when several processes do so; here they wait."""
    until = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").fetchall()
            return
        except sqlite3.OperationalError as error:
            is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY  # the low byte: the primary code
            if not is_busy or time.monotonic() > until:
                raise
            time.sleep(SECONDS_BETWEEN_TRIES)


@contextmanager
def _writing_connection(engine: Engine) -> Iterator[Connection]:
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": POSTGRESQL_LOCK})
        yield connection


@contextmanager
def _full_disk_named() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        code = getattr(error.orig, "sqlite_errorcode", None)
        if code != sqlite3.SQLITE_FULL and getattr(error.orig, "sqlstate", None) != POSTGRESQL_DISK_FULL:
            raise
        raise IntegrityError(
            "The disk of the registry is full: nothing was recorded, and nothing was done.", "Make room on it."
        ) from None


def format_of(engine: Engine) -> int | None:
    """Return the format of a database's schema, or None for an empty database."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("registry_format"):
            return None
        found: int | None = connection.scalar(text("SELECT version FROM registry_format"))
        return found


def other_format(found: int | None) -> RegistryNewer:
    return RegistryNewer(
        f"The registry has format {found}, and this version reads format {FORMAT}.",
        "Use the version of this program that made it.",
    )


def _create(engine: Engine, settings: Settings) -> None:
    with checkpoints.only_writer(settings), _writing_connection(engine) as connection:
        if inspect(connection).has_table("registry_format"):  # another process was first
            return
        Table.metadata.create_all(connection)
        for table in Table.metadata.sorted_tables:
            if not table.info.get("may_change"):
                for statement in tables.statements(connection.dialect.name, table.name, tables.keys_of(table)):
                    connection.exec_driver_sql(statement.replace("%", "%%") if "%:" in statement else statement)
        connection.execute(text("CREATE TABLE registry_format (version INTEGER NOT NULL)"))
        connection.execute(text("INSERT INTO registry_format VALUES (:version)"), {"version": FORMAT})


@contextmanager
def registry_read_only(settings: Settings) -> Iterator[Registry]:
    """The registry as it is. Raises as `database.open_registry` does.

    Raises ConflictError at the end where a file of SQLite was written to meanwhile, since what was read is not one
    state of it.
    """
    with _engine_read_only(settings) as engine:
        try:
            found = format_of(engine)
        except (DatabaseError, sqlite3.DatabaseError) as error:
            raise cannot_be_opened(error) from None
        if found != FORMAT:
            raise other_format(found)
        with engine.connect() as connection:
            tables.assert_in_place(connection)
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
def _engine_read_only(settings: Settings) -> Iterator[Engine]:
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


TOO_MUCH = ("UPDATE", "DELETE", "TRUNCATE", "TRIGGER")
"""Rights at a table that only grows which no service needs."""


def beyond_a_service(connection: Connection) -> list[str]:
    """What the connected role may do and a service need not, each in words; empty in SQLite."""
    return [] if connection.dialect.name == "sqlite" else list(_beyond(connection))


def _beyond(connection: Connection) -> Iterator[str]:
    role, is_superuser = connection.execute(
        text("SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user")
    ).one()
    if is_superuser:
        yield f"{role} is a superuser"
        return
    tables = [table.name for table in Table.metadata.sorted_tables if not table.info.get("may_change")]
    owned = connection.scalars(
        text(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relname = ANY(:tables) "
            "AND relnamespace = current_schema()::regnamespace AND pg_has_role(current_user, relowner, 'MEMBER')"
        ),
        {"tables": tables},
    ).all()
    if owned:
        yield f"{role} owns {len(owned)} of its {len(tables)} tables"
        return
    for right in TOO_MUCH:
        may = connection.scalars(
            text("SELECT t FROM unnest(CAST(:tables AS text[])) AS t WHERE has_table_privilege(t, :right)"),
            {"tables": tables, "right": right},
        ).all()
        if may:
            yield f"{role} has {right} on {', '.join(sorted(may))}"
