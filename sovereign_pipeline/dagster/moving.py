"""Move an installation's databases from SQLite files in SOVEREIGN_HOME to the PostgreSQL servers that environment
variables name."""

import heapq
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import dagster as dg
from sqlalchemy import (
    Connection,
    NullPool,
    Table,
    create_engine,
    delete,
    func,
    insert,
    inspect,
    make_url,
    select,
    update,
)
from sqlalchemy.exc import SQLAlchemyError

from sovereign_pipeline.base.errors import ConflictError, InputError
from sovereign_pipeline.base.files import held_if_free
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.dagster.resources import HOME_IN_DAGSTER, open_instance
from sovereign_pipeline.ops import postgresql
from sovereign_pipeline.ops.postgresql import Database
from sovereign_pipeline.record.checkpoints import only_writer
from sovereign_pipeline.record.database import (
    copy_registry,
    is_on_postgresql,
    name_of_home,
    open_registry,
    registry_url,
)
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.registry.mlflow_mirror import FIRST_EXPERIMENT, HOME, mirrored

MOVED = ".moved"
"""Suffix that is added to the names of moved files. No program reads these files."""
ROWS_AT_ONCE = 1000


@dataclass(frozen=True)
class Moved:
    variable: str
    """Environment variable that names the new database."""
    rows: int
    """Number of copied rows; for Dagster, number of copied runs and events."""
    files: tuple[Path, ...]
    """New paths of the old files."""


def move(settings: Settings, progress: Progress) -> list[Moved]:
    """Copy each database whose variable names a PostgreSQL server, and rename the old files.

    The registry is verified in its new database against its checkpoints. After an error, the new databases are emptied,
    and the old files are used as before.

    Raises InputError if no variable names a server, there is nothing to move, or a new database is not empty or rejects
    a row. Raises ConflictError while `sovereign up` or a run is in progress, and IntegrityError for a damaged registry.
    """
    old = Settings(settings.home, settings.data, keys=settings.keys, ledger_copy=settings.ledger_copy)
    paths = {
        "mlflow_url": (settings.home / "mlflow" / "mlflow.db",),
        "dagster_url": (settings.dagster_home / "history", settings.dagster_home / "schedules"),
        "registry_url": (Path(registry_url(old).database or ""),),  # last, because the registry is locked until the end
    }
    urls = {setting: getattr(settings, setting) or "" for setting in paths}
    servers = {setting: Database(VARIABLES[setting], url) for setting, url in urls.items() if is_on_postgresql(url)}
    wanted = [setting for setting in paths if setting in servers and paths[setting][0].exists()]
    if not wanted:
        raise InputError(
            f"No database was moved: no variable names a PostgreSQL server for a database in {settings.home}.",
            f"Set one or more of {', '.join(VARIABLES[setting] for setting in paths)} to URLs of empty databases.",
        )
    for setting in wanted:
        postgresql.assert_empty(servers[setting])
    copies = {"mlflow_url": _move_mlflow, "dagster_url": _move_dagster, "registry_url": _move_registry}
    with ExitStack() as held:
        if not held.enter_context(held_if_free(settings.dagster_home / ".daemon")):
            raise ConflictError(f"The services of {settings.home} are running.", "Stop `sovereign up`.")
        begun, moved = list[str](), list[Moved]()
        try:
            for setting in wanted:
                begun.append(setting)
                if setting == "registry_url":
                    held.enter_context(only_writer(settings))
                progress(f"copying to the database of {VARIABLES[setting]}")
                rows = copies[setting](old, settings, progress)
                moved.append(Moved(VARIABLES[setting], rows, tuple(map(_moved, paths[setting]))))
        except BaseException as error:
            for setting in begun:
                postgresql.empty(servers[setting])
            if isinstance(error, SQLAlchemyError):  # its message may quote a row
                raise InputError(
                    f"{VARIABLES[begun[-1]]}: the server rejected a row or a table ({type(error).__name__}). Nothing "
                    "was moved.",
                    "The role must own the database, and the database's encoding must be UTF8.",
                ) from None
            raise
        for path in (each for setting in wanted for each in paths[setting] if each.exists()):
            for journal in ("-wal", "-shm", ""):
                file = path.with_name(path.name + journal)
                if file.exists():
                    file.rename(_moved(path).with_name(_moved(path).name + journal))
    return moved


def _moved(path: Path) -> Path:
    return path.with_name(path.name + MOVED)


def _move_registry(old: Settings, new: Settings, progress: Progress) -> int:
    open_registry(old, from_first_entry=True).engine.dispose()  # finds damage before anything is copied
    rows = copy_registry(old, new, copy_tables)
    open_registry(new, from_first_entry=True).engine.dispose()
    return rows


def _move_mlflow(old: Settings, new: Settings, progress: Progress) -> int:
    with mirrored(new) as client:  # creates the tables
        from mlflow.store.db.base_sql_model import Base

        with _reading(Path(make_url(old.mlflow_url).database or "")) as source, _writing(new.mlflow_url) as target:
            rows = copy_tables(Base.metadata.sorted_tables, source, target)
        client.set_experiment_tag(FIRST_EXPERIMENT, HOME, name_of_home(new))
    return rows


def _move_dagster(old: Settings, new: Settings, progress: Progress) -> int:
    """Copy runs and schedules row by row, and store each event again. SQLite numbers the events of each run separately;
    PostgreSQL numbers the events of all runs together."""
    from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES
    from dagster._core.storage.event_log.schema import AssetKeyTable, SqlEventLogStorageMetadata
    from dagster._core.storage.runs.schema import RunStorageSqlMetadata
    from dagster._core.storage.schedules.schema import ScheduleStorageSqlMetadata
    from dagster._core.storage.sqlite_storage import DagsterSqliteStorage

    assert new.dagster_url is not None
    found = DagsterSqliteStorage(str(old.dagster_home))
    working = found.run_storage.get_runs(dg.RunsFilter(statuses=NOT_FINISHED_STATUSES), limit=1)
    if working:
        raise ConflictError(
            f"The run {working[0].run_id} has not finished.", "Wait until the run has finished, or end it in Dagster."
        )
    rows = 0
    with open_instance(new) as instance:  # creates the tables
        for directory, metadata, leave in (
            ("history/runs.db", RunStorageSqlMetadata, {"secondary_indexes"}),
            ("schedules/schedules.db", ScheduleStorageSqlMetadata, {"secondary_indexes"}),
            ("history/runs/index.db", SqlEventLogStorageMetadata, _OF_EVENTS),
        ):
            tables = [each for each in metadata.sorted_tables if each.name not in leave]
            with _reading(old.dagster_home / directory) as source, _writing(new.dagster_url) as target:
                rows += copy_tables(tables, source, target)
        instance.run_storage.set_cursor_values({HOME_IN_DAGSTER: name_of_home(new)})
        for entry in _in_order(found, found.run_storage.get_run_records(ascending=True)):
            instance.event_log_storage.store_event(entry)
            rows += 1
            if rows % 10_000 == 0:
                progress(f"{rows:,} runs and events")
        with _reading(old.dagster_home / "history/runs/index.db") as source, _writing(new.dagster_url) as target:
            columns = (AssetKeyTable.c.asset_key, AssetKeyTable.c.wipe_timestamp)
            for key, wiped in source.execute(select(*columns).where(columns[1].is_not(None))):
                target.execute(update(AssetKeyTable).where(columns[0] == key).values(wipe_timestamp=wiped))
    return rows


_OF_EVENTS = {"secondary_indexes", "event_logs", "asset_keys", "asset_event_tags", "asset_check_executions"}
"""Tables that Dagster fills when an event is stored, so that they are not copied."""


def _in_order(storage: Any, runs: Sequence[dg.RunRecord]) -> Iterator[dg.EventLogEntry]:
    """Yield the events of all runs in order of time. A run's log is opened only when the events reach the run's
    creation time, so that few logs are open at once.

    Args:
        runs: the runs, in order of creation.
    """
    opened: list[tuple[float, int, Iterator[dg.EventLogEntry], dg.EventLogEntry]] = []

    def advance(number: int, log: Iterator[dg.EventLogEntry]) -> None:
        if (entry := next(log, None)) is not None:
            heapq.heappush(opened, (entry.timestamp, number, log, entry))

    for number, run in enumerate([*runs, None]):
        while opened and (run is None or opened[0][0] < run.create_timestamp.timestamp()):
            _, earlier, log, entry = heapq.heappop(opened)
            yield entry
            advance(earlier, log)
        if run is not None:
            advance(number, _log_of(storage, run.dagster_run.run_id))


def _log_of(storage: Any, run_id: str) -> Iterator[dg.EventLogEntry]:
    cursor, has_more = None, True
    while has_more:
        page = storage.event_log_storage.get_records_for_run(run_id, cursor, limit=ROWS_AT_ONCE)
        cursor, has_more = page.cursor, page.has_more
        yield from (each.event_log_entry for each in page.records)


def copy_tables(tables: Sequence[Table], source: Connection, target: Connection) -> int:
    """Replace the rows of the target's tables with the source's rows, and return the number of rows.

    Args:
        tables: tables of the target. Each table comes after the tables that it references. A table that the source
            lacks is left empty.
    """
    there, rows = {*inspect(source).get_table_names()}, 0
    for table in reversed(tables):
        target.execute(delete(table))
    for table in tables:
        if table.name not in there:
            continue
        found = source.execution_options(yield_per=ROWS_AT_ONCE).execute(select(table))
        for part in found.mappings().partitions():
            target.execute(insert(table), [dict(row) for row in part])
            rows += len(part)
        _continue_numbers(table, target)
    return rows


def _continue_numbers(table: Table, target: Connection) -> None:
    """Set the table's sequence so that the server numbers new rows after the copied rows."""
    column = table.autoincrement_column
    if column is None:
        return
    sequence = target.scalar(select(func.pg_get_serial_sequence(f'"{table.name}"', column.name)))
    if sequence is not None:
        highest = target.scalar(select(func.max(column))) or 0
        target.execute(select(func.setval(sequence, highest + 1, False)))


@contextmanager
def _reading(path: Path) -> Iterator[Connection]:
    engine = create_engine(f"sqlite:///file:{quote(str(path))}?mode=ro&uri=true", poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


@contextmanager
def _writing(url: str) -> Iterator[Connection]:
    engine = create_engine(url, poolclass=NullPool)
    with engine.begin() as connection:
        yield connection
