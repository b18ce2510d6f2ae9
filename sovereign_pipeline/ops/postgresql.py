"""Dump and restore PostgreSQL databases with PostgreSQL's client programs (pg_dump and pg_restore)."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from sqlalchemy import Connection, create_engine, text
from sqlalchemy.exc import SQLAlchemyError

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.ops.backup_archive import DamagedBackup
from sovereign_pipeline.record.database import parsed_url

# Maps libpq's keyword for a part of the URL to the client programs' environment variable. Other keywords have none.
_OF_LIBPQ: Mapping[str, str] = {
    **{key: f"PG{key.upper()}" for key in ("host", "port", "user", "password", "options", "passfile", "gssencmode")},
    **{key: f"PG{key.upper()}" for key in ("sslmode", "sslrootcert", "sslcert", "sslkey", "sslcrl", "connect_timeout")},
    "dbname": "PGDATABASE",
    "hostaddr": "PGHOSTADDR",
    "application_name": "PGAPPNAME",
    "channel_binding": "PGCHANNELBINDING",
    "target_session_attrs": "PGTARGETSESSIONATTRS",
}
# pg_restore needs a connection string. The server's name is not in this string, but in environment variables.
_ADDRESS_IN_ENVIRONMENT = "application_name=sovereign-backup"

# Lists every relation and routine that a dump can contain, except those of an extension or of a table's column.
_CONTENT = """
SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW'
                    WHEN 'f' THEN 'FOREIGN TABLE' ELSE 'TABLE' END AS kind, c.oid::regclass::text AS name
FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p', 'f', 'v', 'm', 'S') AND nspname !~ '^pg_' AND nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                  AND deptype IN ('e', 'i'))
UNION ALL
SELECT 'ROUTINE', p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND deptype = 'e')
"""


@dataclass(frozen=True)
class Database:
    variable: str
    """Environment variable with the database's URL. Messages call the database by this name."""
    url: str = field(repr=False)
    """URL of the database, which may contain a password."""

    @contextmanager
    def connected(self) -> Iterator[Connection]:
        """Open a transaction that sees one snapshot of the database and does not block writers. Raises InputError if
        the database cannot be opened."""
        try:
            engine = create_engine(parsed_url(self.variable, self.url), isolation_level="REPEATABLE READ")
            connection = engine.connect()
        except (SQLAlchemyError, ImportError) as error:
            raise InputError(
                f"{self.variable}: the database cannot be opened ({type(error).__name__}).",
                "Check the URL, that its driver is installed, and that the server is running.",
            ) from None
        try:
            with connection, connection.begin():
                yield connection
        finally:
            engine.dispose()


def assert_can_dump(database: Database) -> None:
    """Raise InputError if pg_dump is missing or differs from the server's version, or if the URL cannot be used."""
    _environment(database)
    with database.connected() as connection:
        _assert_fits(_program("pg_dump", database), _version_of(connection), database)


@contextmanager
def one_state(database: Database) -> Iterator[str]:
    """Export a snapshot of the database's current state for `dump`, and yield the snapshot's id. Writers are not
    blocked."""
    with database.connected() as connection:
        name: str = connection.execute(text("SELECT pg_export_snapshot()")).scalar_one()
        yield name


def dump(database: Database, to: Path, state: str | None = None) -> None:
    """Dump a database into a new file. Raises InputError if `assert_can_dump` does, or if the dump fails.

    Args:
        state: a snapshot id of `one_state`; None dumps the current state.
    """
    assert_can_dump(database)
    options = ["--format=custom", "--no-publications", "--no-subscriptions", "--lock-wait-timeout=30s"]
    if state is not None:
        options.append(f"--snapshot={state}")
    with os.fdopen(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        _run(database, [_program("pg_dump", database), *options], file)


def assert_empty(database: Database) -> None:
    with database.connected() as connection:
        _assert_empty(database, connection)


def restore(database: Database, dumped: Path) -> None:
    """Restore a dump into an empty database in one transaction. The role in the URL owns the restored tables. Raises
    InputError if the database is not empty, the server is older than the dump, or pg_restore is missing or fails."""
    with database.connected() as connection:
        _assert_empty(database, connection)
        version = _version_of(connection)
    program = _program("pg_restore", database)
    came_from = _version_in(database, program, dumped)
    if came_from > version:
        raise InputError(
            f"{database.variable}: this server is PostgreSQL {version}, but the backup was taken from {came_from}.",
            f"Restore on a server of version {came_from} or newer.",
        )
    _assert_fits(program, version, database)
    options = ("--exit-on-error", "--single-transaction", "--no-owner", f"--dbname={_ADDRESS_IN_ENVIRONMENT}")
    with Path(os.devnull).open("wb") as nothing:
        _run(database, [program, *options, str(dumped)], nothing)


def empty(database: Database) -> None:
    """Drop every table, view, sequence and routine of a database, except those of extensions."""
    with database.connected() as connection:
        for kind, name in connection.execute(text(_CONTENT)).all():
            connection.exec_driver_sql(f"DROP {kind} IF EXISTS {name} CASCADE".replace("%", "%%"))


def _assert_empty(database: Database, connection: Connection) -> None:
    found = connection.execute(text(_CONTENT)).all()
    if found:
        raise InputError(
            f"{database.variable}: the database is not empty (it contains {found[0].name}). A backup can be restored "
            f"only into an empty database.",
            "Create an empty database, and set the variable to its URL.",
        )


def _version_of(connection: Connection) -> int:
    number: int = connection.execute(text("SELECT current_setting('server_version_num')::integer")).scalar_one()
    return number // 10_000


def _version_in(database: Database, program: str, dumped: Path) -> int:
    """Return the major version of the server that the dump came from."""
    with tempfile.TemporaryFile() as listed:
        _run(database, [program, "--list", str(dumped)], listed)
        listed.seek(0)
        found = re.search(rb"^; +Dumped from database version: (\d+)", listed.read(), re.MULTILINE)
    if found is None:
        raise DamagedBackup("The backup's dump does not state the server's version.")
    return int(found[1])


def _program(name: str, database: Database) -> str:
    """Return the path of a client program of PostgreSQL. Raises InputError if the program is not installed."""
    program = shutil.which(name)
    if program is None:
        raise InputError(
            f"{name} is not installed, and {database.variable} names a database on a PostgreSQL server.",
            "Install PostgreSQL's client programs in the server's version (Debian: postgresql-client), and add their "
            "directory to PATH.",
        )
    return program


def _assert_fits(program: str, version: int, database: Database) -> None:
    """Raise InputError if a client program and the server have different major versions.

    A newer pg_dump writes a format that the server's pg_restore cannot read. A newer pg_restore sends settings that an
    older server does not know.
    """
    shown = subprocess.run((program, "--version"), capture_output=True, text=True, check=False).stdout
    found = re.search(r"\(PostgreSQL\) (\d+)", shown)
    if found is None or int(found[1]) != version:
        has = f"of version {found[1]}" if found else "of an unknown version"
        raise InputError(
            f"{program} is {has}, but the server of {database.variable} is of version {version}.",
            f"Install PostgreSQL's client programs of version {version}, and put their directory first in PATH "
            f"(in Debian: postgresql-client-{version}, /usr/lib/postgresql/{version}/bin).",
        )


def _environment(database: Database) -> dict[str, str]:
    """Return the environment variables with which the programs connect to the database. Raises InputError for an
    unsupported URL parameter."""
    url = parsed_url(database.variable, database.url)
    named: dict[str, Any] = {"host": url.host, "port": url.port, "user": url.username, "password": url.password}
    given = {**named, "dbname": url.database, **url.query}
    for key, value in given.items():
        if key not in _OF_LIBPQ or isinstance(value, tuple):
            raise InputError(
                f"{database.variable}: '{key}' in this URL is not supported for backups, or is repeated.",
                f"Use each of these at most once: {', '.join(_OF_LIBPQ)}.",
            )
    variables = {_OF_LIBPQ[key]: str(value) for key, value in given.items() if value not in (None, "")}
    own = {name: value for name, value in os.environ.items() if name != "PGSERVICE"}  # PGSERVICE would override these
    return {**own, **variables, "LC_ALL": "C"}


def _run(database: Database, command: list[str], to: IO[bytes]) -> None:
    """Run a program and write its output to a file. If the program fails, raise InputError with its first error.

    The output passes through this process, so that a broken pipe ends the program if this process is killed.
    """
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            [*command, "--no-password"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(database),
        ) as process,
    ):
        try:
            assert process.stdout is not None
            shutil.copyfileobj(process.stdout, to)
            status = process.wait()
        except BaseException:
            process.kill()
            raise
        if status == 0:
            return
        errors.seek(0)
        told = errors.read().decode("utf-8", "replace")
    name = Path(command[0]).name
    lines = [line.partition(" error: ")[2] for line in told.splitlines() if " error: " in line]
    raise InputError(
        f"{database.variable}: {name} failed: {lines[0][:300] if lines else f'exit status {status}'}",
        "For a backup, the role in the URL must be able to read every table. For a restore, this role must be able to "
        "create tables, and every role with rights on the tables must exist. pg_restore must not be older than the "
        "server that was backed up.",
    )
