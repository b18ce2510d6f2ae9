"""Open the registry (SQLite or PostgreSQL), create its schema, run transactions, and check a role's database rights."""

import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import URL, Connection, Engine, NullPool, create_engine, event, inspect, make_url, text
from sqlalchemy import Table as SqlTable
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import IntegrityError as Contradiction
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError, SovereignError
from sovereign_pipeline.base.files import keyed_digest, read_secret
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.record import audit_log, checkpoints, in_force, tree
from sovereign_pipeline.record.audit_log import BEFORE_THE_FIRST
from sovereign_pipeline.record.notes import Note
from sovereign_pipeline.record.replay import View, content_in, view_of
from sovereign_pipeline.record.tables import STORE, Table, stored_classes, stored_tables

FORMAT = 3
"""Version of the database schema. Increase it with every change of the schema."""
WAIT_SECONDS = 30  # maximum wait for another writing process; a registration takes milliseconds
SECONDS_BETWEEN_TRIES = 0.05
FORMAT_TABLE = "registry_format"
_SILENT = ("BUSY", "CANTOPEN", "IOERR", "LOCKED", "NOMEM", "PERM", "PROTOCOL", "READONLY")
SQLITE_SILENT = {getattr(sqlite3, f"SQLITE_{name}") for name in _SILENT}
"""Primary SQLite error codes for failed access to a file. Codes about a file's content, such as `SQLITE_NOTADB`, are
left out."""
POSTGRESQL_DISK_FULL, POSTGRESQL_LOCKED = "53100", "55P03"
POSTGRESQL_LOCK = 0x50E7E16E  # any number that no other program uses on the server


@dataclass(frozen=True)
class Registry:
    engine: Engine
    settings: Settings
    identity: tuple[object, ...]
    """Unique identifier of this database."""
    snapshot: Path | None
    """Path of the stored snapshot of the replayed state. If None, every entry is replayed."""
    under_any_trust: bool = False
    """True skips the comparison of the data root's trust root and classification levels with the logged ones."""

    @property
    def view(self) -> View:
        """The state that results from the entries, shared by all readers of this database in this process."""
        return view_of(*self.identity, self.snapshot)

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """Open a session on the newest committed state. Loaded objects stay usable after the session is closed. A
        nested call in the same thread sees the state of the outer session.

        Raises IntegrityError if the ledger's key did not sign the database's entries, if the entries are older than the
        last checkpoint, or if `in_force.assert_not_put_back` rejects the trust root or the classification levels.
        Raises RegistryUnreached if the database does not answer.
        """
        view = self.view
        with _errors_named(), view.lock, ExitStack() as stack:
            if view.disk is not None:
                connection = view.draft or stack.enter_context(view.connect())
                yield stack.enter_context(_session(view, connection, view.disk))
                return
            disk: Connection
            for _ in range(2):  # twice, because another process may write the first checkpoint in between
                kept = checkpoints.all_kept(self.settings)  # read first: another process may write meanwhile
                stack.close()
                view.disk = disk = stack.enter_context(self._connected())
                stack.callback(setattr, view, "disk", None)
                view.catch_up(disk, partial(checkpoints.verifier, disk, self.settings), self.snapshot)
                if kept or not view.growth.size:
                    break
            session = stack.enter_context(_session(view, stack.enter_context(view.connect()), disk))
            checkpoints.verified(session, self.settings, kept)
            if not self.under_any_trust:
                in_force.assert_not_put_back(session, self.settings)
            yield session

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """Open a write transaction. Only one can be open at a time. The transaction is committed at the end, or rolled
        back on any error.

        Added rows are a draft that only readers in the same thread see. At the end, the new entries are written to the
        second copy and committed to the database. Then they are replayed from the database, and a new signed checkpoint
        covers them.

        Raises IntegrityError if the registry is older than its last checkpoint or a disk is full, ConflictError if
        another process writes for more than `WAIT_SECONDS`, and RegistryUnreached if the file was moved or replaced.
        """
        view = self.view
        # The view's lock comes first: while this process waits for its readers, other processes can write.
        with view.lock, checkpoints.only_writer(self.settings):
            self._assert_in_place()
            with _errors_named(), _writing_connection(self.engine) as disk:
                if view.disk is not None:
                    raise RuntimeError("a registry cannot be written inside one of its own reading or writing sessions")
                view.catch_up(disk, partial(checkpoints.verifier, disk, self.settings), self.snapshot)
                with view.drafting(disk) as draft, _session(view, draft, disk) as session:
                    checkpoints.prepare(session, self.settings)
                    audit_log.watch(session, view.drafted)
                    session.info[BEFORE_THE_FIRST] = partial(in_force.put_on_record, settings=self.settings)
                    yield session
                    audit_log.assert_none_left(session)
                    size, appended = tree.size_of(session), session.info.get(tree.APPENDED)
                    if appended:
                        checkpoints.write_entries(session, self.settings, view.drafted)
                        checkpoints.copy_entries(session, self.settings, appended.entries)
                if appended:
                    view.rehearse(disk)
            if appended:
                with self.reading() as committed:
                    if tree.size_of(committed) < size:
                        raise audit_log.damaged_registry(size, "was not stored by the database")
                    checkpoints.note_committed(committed, self.settings)
                if self.snapshot is not None and view.is_due and (signer := checkpoints.signer(self.settings)):
                    with suppress(OSError):  # a state that cannot be stored is replayed next time
                        view.keep(self.snapshot, signer)

    def _assert_in_place(self) -> None:
        """Raise RegistryUnreached if the SQLite file was moved or replaced. Open connections write to the old file."""
        if not (is_there(self.settings) and _identity(self.settings) == self.identity):
            raise RegistryUnreached(
                f"{registry_url(self.settings).database}: the registry was moved or replaced while this program ran.",
                "Start the program again. After `sovereign databases move`, set SOVEREIGN_REGISTRY_URL first.",
            )

    def keep_anew(self) -> None:
        """Replace a stored snapshot by the view's current state. If this process has no access to the ledger's key,
        remove the snapshot. Does nothing if there is no snapshot or no write access."""
        snapshot, signer = kept_state(self.settings), checkpoints.signer(self.settings)
        with self.view.lock, suppress(OSError):  # a process that only verifies has no write access
            if signer is None:
                snapshot.unlink(missing_ok=True)
            elif snapshot.exists():
                self.view.keep(snapshot, signer)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        engine = self.engine
        if engine.dialect.name == "postgresql":
            engine = engine.execution_options(isolation_level="REPEATABLE READ")
        with engine.connect() as disk:
            yield disk

    def checkpoint(self) -> Note:
        """Return the signed checkpoint of the committed state. If this process has no access to the ledger's key,
        return the last written checkpoint. Raises NotFoundError before the first act."""
        with self.view.lock, checkpoints.only_writer(self.settings), self.reading() as session:
            return checkpoints.newest(session, self.settings)


@contextmanager
def _session(view: View, connection: Connection, disk: Connection) -> Iterator[Session]:
    """Open a session that reads `stored_classes` from the database itself, and all other tables from the view."""
    with Session(connection, binds=dict.fromkeys(stored_classes(), disk), expire_on_commit=False) as session:
        session.info[tree.GROWTH], session.info[audit_log.LAST] = view.growth.copy(), view.last
        before, STORE.read = STORE.read, lru_cache(maxsize=256)(partial(content_in, disk, view.drafted))
        try:
            yield session
        finally:
            STORE.read = before


def is_on_postgresql(url: str) -> bool:
    return url.startswith(("postgresql:", "postgresql+"))


def place_of(url: str) -> tuple[object, ...]:
    """Return the host, port, database name and `host` option of a URL, to compare the databases of two URLs."""
    parsed = make_url(url)
    return parsed.host, parsed.port, parsed.database, str(parsed.query.get("host", ""))


def name_of_home(settings: Settings) -> str:
    """Return the name that an MLflow or Dagster database stores to show which SOVEREIGN_HOME it belongs to. Restoring a
    backup does not change the name."""
    return keyed_digest(read_secret(settings.home_key), "home", b"").hex()


def claim_for_home(settings: Settings, variable: str, found: str | None, *, is_used: bool) -> None:
    """Raise ConflictError if a database belongs to another SOVEREIGN_HOME or to another program. Two installations that
    share a database would treat each other's runs and models as their own.

    Args:
        variable: environment variable with the database's URL.
        found: name of a SOVEREIGN_HOME (`name_of_home`) that is stored in the database; None if there is none.
        is_used: True if the database has content.
    """
    if found == name_of_home(settings) or (found is None and not is_used):
        return
    owner = "the database of another SOVEREIGN_HOME" if found is not None else "in use by another program"
    raise ConflictError(
        f"{variable}: this database is {owner}, and {settings.home} cannot share it.",
        "Create a separate database for each SOVEREIGN_HOME on the server.",
    )


def kept_state(settings: Settings) -> Path:
    return settings.ledger / "state"


def _identity(settings: Settings) -> tuple[object, ...]:
    """Return an identifier of a database. A new SQLite file at the same path has a different identifier."""
    url = registry_url(settings)
    if url.get_backend_name() != "sqlite":
        return settings.home, settings.registry_url
    found = Path(url.database or "").stat()
    return settings.home, settings.registry_url, found.st_dev, found.st_ino


class RegistryUnreached(InputError):
    """Raised if the registry's database cannot be reached. Wrong tables or entries in a database raise other errors."""


class RegistryLocked(ConflictError, RegistryUnreached):
    """Raised if another connection keeps the database locked."""


def open_registry(settings: Settings, from_first_entry: bool = False, under_any_trust: bool = False) -> Registry:
    """Connect to the registry, and create the schema in an empty database. Safe to call in several processes at once.

    Args:
        from_first_entry: True to replay every entry without a snapshot.
        under_any_trust: value of `Registry.under_any_trust`; True if the caller replaces the trust root.

    Raises RegistryUnreached if the database does not answer, InputError if the database is not a registry or has
    another format, and the errors of `Registry.reading`.
    """
    try:
        engine = _engine(settings)
        found = format_of(engine)
        if found is None:
            with checkpoints.only_writer(settings), _errors_named(), _writing_connection(engine) as connection:
                if not inspect(connection).has_table(FORMAT_TABLE):  # else another process was first
                    _create_tables(connection)
    except (ArgumentError, DatabaseError, ImportError, sqlite3.DatabaseError) as error:
        raise cannot_be_opened(error) from None
    if found not in (None, FORMAT):
        raise other_format(found)
    snapshot = None if from_first_entry else kept_state(settings)
    registry = Registry(engine, settings, _identity(settings), snapshot, under_any_trust)
    checkpoints.assert_not_older(registry)
    return registry


def cannot_be_opened(error: Exception) -> InputError:
    return (RegistryUnreached if _is_silent(error) else InputError)(
        f"The registry cannot be opened ({type(error).__name__}).",
        "Check that SOVEREIGN_REGISTRY_URL is a database URL whose driver is installed, that the database is "
        "running, and that the file is a registry.",
    )


def parsed_url(variable: str, address: str) -> URL:
    """Parse a database URL. Raises InputError for a malformed URL; the error does not quote the URL, because it may
    contain a password."""
    try:
        return make_url(address)
    except (ArgumentError, ValueError):
        raise InputError(
            f"The database cannot be opened: {variable} is not a database URL.",
            "Write postgresql+psycopg://ROLE:PASSWORD@HOST:PORT/DATABASE; in a password, '@' is %40, ':' is %3A, and "
            "'/' is %2F.",
        ) from None


def registry_url(settings: Settings) -> URL:
    return parsed_url(VARIABLES["registry_url"], settings.registry_url)


def is_there(settings: Settings) -> bool:
    """Return False if the registry is an SQLite file that does not exist yet, otherwise True."""
    try:
        url = registry_url(settings)
    except InputError:
        return True
    return url.get_backend_name() != "sqlite" or Path(url.database or "").is_file()


def _engine(settings: Settings) -> Engine:
    url = registry_url(settings)
    if url.get_backend_name() != "sqlite":
        return _on_server(url)
    Path(url.database or "").parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": WAIT_SECONDS})

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: Any) -> None:
        connection.isolation_level = None  # `_begin` begins transactions, so that they include the creation of tables
        _switch_to_wal(connection)
        for pragma in ("foreign_keys=ON", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").fetchall()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("writes", False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _on_server(url: URL, read_only: bool = False) -> Engine:
    """Return an engine for a database server. Its connections use UTF-8, and the schema `public` unless the URL's
    options name another schema. A role's own defaults could lead to tables of another schema. A connection is closed
    when its session ends, because a process opens the registry many times and the server allows few connections."""
    engine = create_engine(url, connect_args={"client_encoding": "UTF8"}, poolclass=NullPool)
    settings = ["SET search_path TO public"] if "search_path" not in str(url.query.get("options", "")) else []
    settings += ["SET default_transaction_read_only TO on"] if read_only else []

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, record: Any) -> None:
        # These are statements, because poolers such as PgBouncer reject connection options.
        with connection.cursor() as cursor:
            for setting in settings:
                cursor.execute(setting)
        connection.commit()

    return engine


def _switch_to_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log. Retries for up to `WAIT_SECONDS` while another process is switching."""
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
            connection.execute(text(f"SET LOCAL lock_timeout = {1000 * WAIT_SECONDS}"))
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": POSTGRESQL_LOCK})
        yield connection


@contextmanager
def _errors_named() -> Iterator[None]:
    """Convert database errors: raise RegistryUnreached if the database does not answer, RegistryLocked if the database
    is locked, and IntegrityError otherwise. Violated constraints are not converted."""
    try:
        yield
    except Contradiction:
        raise
    except (DBAPIError, PoolTimeout) as error:
        raise _named(error) from None


def _named(error: DBAPIError | PoolTimeout) -> SovereignError:
    orig = getattr(error, "orig", None)
    code, state = getattr(orig, "sqlite_errorcode", None), getattr(orig, "sqlstate", None)
    if code == sqlite3.SQLITE_FULL or state == POSTGRESQL_DISK_FULL:
        return IntegrityError(
            "The disk of the registry is full, so nothing was logged or done.", "Free space on this disk."
        )
    if code == sqlite3.SQLITE_BUSY or state == POSTGRESQL_LOCKED:
        return RegistryLocked(
            f"Another connection has kept the registry locked for {WAIT_SECONDS} seconds, so nothing was logged.",
            "Try again. If the registry stays locked, end the program that locks it (on PostgreSQL, see pg_locks).",
        )
    if _is_silent(error):
        return RegistryUnreached(
            f"The registry does not answer ({type(orig or error).__name__}).", "Start its database, or try again."
        )
    return IntegrityError(
        f"The registry's database is damaged, or rejects a statement of this program ({type(orig).__name__}). The "
        f"database's tables or the role's rights were changed.",
        "Run `sovereign doctor`, which lists the rights of each role. Restore a damaged file from a backup.",
    )


def _is_silent(error: Exception) -> bool:
    """Return True if a database did not answer, and False if it answered with an error about its content."""
    orig = getattr(error, "orig", error)
    if isinstance(orig, sqlite3.Error):
        return getattr(orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in SQLITE_SILENT
    return isinstance(error, OperationalError | InterfaceError | PoolTimeout)


def format_of(engine: Engine) -> int | None:
    """Return the format of a registry's schema, or None if the database has no such schema."""
    with engine.connect() as connection:
        if not inspect(connection).has_table(FORMAT_TABLE):
            return None
        found: int | None = connection.scalar(text(f"SELECT version FROM {FORMAT_TABLE}"))
        return found


def other_format(found: int | None) -> InputError:
    return InputError(
        f"The registry has format {found}, but this version of the program reads only format {FORMAT}.",
        "Use the version of the program that created the registry.",
    )


def _create_tables(connection: Connection) -> None:
    Table.metadata.create_all(connection, tables=stored_tables())
    connection.execute(text(f"CREATE TABLE {FORMAT_TABLE} (version INTEGER NOT NULL)"))
    connection.execute(text(f"INSERT INTO {FORMAT_TABLE} VALUES (:version)"), {"version": FORMAT})


def copy_registry(
    settings: Settings, to: Settings, copy: Callable[[Sequence[SqlTable], Connection, Connection], int]
) -> int:
    """Create a registry's tables in an empty database, and call `copy(tables, source, target)`, which copies all rows.
    Returns the result of `copy`. The caller must lock the ledger before this call, and open the new registry after this
    call. Opening verifies the copied rows."""
    engine = _engine(to)
    with _engine_read_only(settings) as source, source.connect() as read, _writing_connection(engine) as write:
        _create_tables(write)
        copied = copy(stored_tables(), read, write)
    engine.dispose()
    return copied


@contextmanager
def registry_read_only(settings: Settings) -> Iterator[Registry]:
    """Open the registry for reading only. Raises the errors of `open_registry`, and InputError if the SQLite file is
    missing. On leaving the context, raises ConflictError if another process wrote to an SQLite file that had no
    write-ahead log, because the data that was read may mix two states."""
    with _engine_read_only(settings) as engine:
        try:
            found = format_of(engine)
        except (DatabaseError, sqlite3.DatabaseError) as error:
            raise cannot_be_opened(error) from None
        if found != FORMAT:
            raise other_format(found)
        registry = Registry(engine, settings, _identity(settings), None)
        checkpoints.assert_not_older(registry)
        yield registry


@contextmanager
def _engine_read_only(settings: Settings) -> Iterator[Engine]:
    try:
        url = registry_url(settings)
        if url.get_backend_name() == "sqlite":
            with _sqlite(Path(url.database or "")) as engine:
                yield engine
            return
        engine = _on_server(url, read_only=True)
    except (ArgumentError, ImportError) as error:
        raise cannot_be_opened(error) from None
    yield engine
    engine.dispose()


@contextmanager
def _sqlite(path: Path) -> Iterator[Engine]:
    """Open an SQLite file for reading without creating companion files.

    A write-ahead log beside the file means that the file is in use, or was copied while in use. SQLite then reads the
    file and the log. If SQLite cannot create its index beside them, the file and the log are copied to a temporary
    directory and read there.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: there is no registry.", "Set SOVEREIGN_HOME to the directory whose registry you want to verify."
        )
    log = path.with_name(f"{path.name}-wal")
    if not log.exists():
        before = _state(path)
        yield _reading(path, "mode=ro&immutable=1")
        if _state(path) != before or log.exists():
            raise ConflictError(
                f"{path}: another process wrote to the registry during the verification.", "Repeat the verification."
            )
    elif _opens(path):
        yield _reading(path, "mode=ro")
    else:
        with TemporaryDirectory() as directory:
            for each in (path, log):
                shutil.copyfile(each, Path(directory) / each.name)
            yield _reading(Path(directory) / path.name, "mode=ro")


def _opens(path: Path) -> bool:
    """Return True if SQLite can read a file together with its write-ahead log in place."""
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
        connection.isolation_level = None  # `_begin` begins transactions, so that they read one state

    @event.listens_for(engine, "begin")
    def _begin(connection: object) -> None:
        connection.exec_driver_sql("BEGIN")  # type: ignore[attr-defined]

    return engine


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size


TOO_MUCH = ("UPDATE", "DELETE", "TRUNCATE", "TRIGGER")
"""Rights on the registry's tables, or on single columns of them, that no service needs."""
_RIGHTS = text(
    "SELECT role.rolname, kind, relation.relname FROM pg_class relation, pg_roles role, "
    "unnest(CAST(:kinds AS text[])) AS kind "
    "WHERE relation.relnamespace = current_schema()::regnamespace AND relation.relname = ANY(:tables) "
    "AND NOT role.rolsuper AND NOT starts_with(role.rolname, 'pg_') "
    "AND NOT pg_has_role(role.oid, relation.relowner, 'MEMBER') "
    "AND (has_table_privilege(role.oid, relation.oid, kind) "
    "OR (kind = 'UPDATE' AND has_any_column_privilege(role.oid, relation.oid, kind))) ORDER BY 1, 2, 3"
)
_MAY_CREATE = text(
    "SELECT role.rolname FROM pg_roles role, pg_namespace schema WHERE schema.nspname = current_schema() "
    "AND NOT role.rolsuper AND NOT starts_with(role.rolname, 'pg_') "
    "AND NOT pg_has_role(role.oid, schema.nspowner, 'MEMBER') AND NOT EXISTS (SELECT FROM pg_class relation "
    "WHERE relation.relnamespace = schema.oid AND relation.relname = ANY(:tables) "
    "AND pg_has_role(role.oid, relation.relowner, 'MEMBER')) "
    "AND has_schema_privilege(role.oid, schema.oid, 'CREATE') ORDER BY 1"
)
_OWNED = text(
    "SELECT count(*) FROM pg_class WHERE relkind IN ('r', 'p') AND relname = ANY(:tables) "
    "AND relnamespace = current_schema()::regnamespace AND pg_has_role(current_user, relowner, 'MEMBER')"
)


def beyond_a_service(connection: Connection) -> list[str]:
    """Return a description of each database right that a service does not need. Covers the connected role, and all
    other roles except owners and superusers. Returns an empty list for SQLite."""
    return [] if connection.dialect.name == "sqlite" else list(_beyond(connection))


def _beyond(connection: Connection) -> Iterator[str]:
    role, is_superuser = connection.execute(
        text("SELECT current_user, rolsuper FROM pg_roles WHERE rolname = current_user")
    ).one()
    tables = [*(table.name for table in stored_tables()), FORMAT_TABLE]
    if is_superuser:
        yield f"{role} is a superuser"
    elif owned := connection.scalar(_OWNED, {"tables": tables}):
        yield f"{role} owns {owned} of the registry's {len(tables)} tables"
    schema = connection.scalar(text("SELECT current_schema()"))
    granted = connection.execute(_RIGHTS, {"tables": tables, "kinds": list(TOO_MUCH)}).all()
    for (role, kind), rows in groupby(granted, key=lambda row: row[:2]):
        yield f"{role} has {kind} on {', '.join(row[2] for row in rows)}"
    for each in connection.scalars(_MAY_CREATE, {"tables": tables}):
        # The role could create an operator, which the owner's queries would then run with the owner's rights.
        yield f"{each} has CREATE on the schema {schema}"
