"""The registry only grows, whoever writes; opening it makes the tables of the models, once, on both databases."""

import os
import sqlite3
import subprocess
import sys
import threading

import pytest
from sqlalchemy import inspect, select, text
from sqlalchemy.exc import DBAPIError

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.record.database import FORMAT, Registry, format_of, open_registry
from sovereign_pipeline.record.tables import Adapter, AdapterReview, KnownIssue, Recall, RecallAdapter, RecallWaiver
from sovereign_pipeline_tests.registry.bench import Bench
from sovereign_pipeline_tests.waiting import SECONDS

TABLES = ("dataset", "base_model", "adapter")
# What `review/test_ballots.py` fills and tries to change.
LEDGER_TABLES = ("ledger_entry", "ledger_node", "ledger_key")
RELEASE_TABLES = ("release_request", "release_decision", "transition")
"""What `release/test_decisions.py` fills and tries to change."""
REVIEW_TABLES = ("audit_entry", "blind_review", "sign_in_link", "sign_in_use", "ballot", "guess", "review_closing")
LIFECYCLE_TABLES = (
    *("document", "held_dataset", "dataset_document", "dataset_source", "adapter_dataset", "adapter_base_model"),
    "held_adapter",
    *(each.__tablename__ for each in (Recall, RecallAdapter, RecallWaiver, KnownIssue, AdapterReview)),
)


def test_opening_makes_the_tables_of_the_models(bench: Bench, database: str) -> None:
    registry = bench.open_registry()
    assert format_of(registry.engine) == FORMAT
    assert set(inspect(registry.engine).get_table_names()) == {
        *(*TABLES, *LEDGER_TABLES, *REVIEW_TABLES, *RELEASE_TABLES, *LIFECYCLE_TABLES),
        "registry_format",
    }


def test_opening_an_existing_registry_keeps_what_is_in_it(bench: Bench, database: str) -> None:
    adapter = bench.register()
    with bench.open_registry().reading() as session:
        kept = session.scalars(select(Adapter)).one()
    assert (kept.id, kept.registered_at) == (adapter.id, adapter.registered_at)
    assert kept.registered_at.tzinfo is not None


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("statement", ["UPDATE {table} SET classification = 'PUBLIC'", "DELETE FROM {table}"])
def test_no_row_can_be_changed_or_deleted(bench: Bench, database: str, table: str, statement: str) -> None:
    bench.register()
    registry = bench.open_registry()
    statement = statement.replace("classification", "name") if table == "base_model" else statement
    _refused(registry, statement.format(table=table))


@pytest.mark.parametrize("table", TABLES)
def test_no_row_can_be_replaced_in_sqlite(bench: Bench, table: str) -> None:
    bench.register()
    _refused(bench.open_registry(), f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}")


def test_no_adapter_can_be_replaced_under_another_id_in_sqlite(bench: Bench) -> None:
    bench.register()
    registry = bench.open_registry()
    columns = [column.name for column in Adapter.__table__.columns]
    for new in ({"id": "'other'", "version": "'9.0.0'"}, {"id": "'other'", "record_digest": "'0'"}):
        chosen = ", ".join(new.get(name, name) for name in columns)
        _refused(registry, f"INSERT OR REPLACE INTO adapter ({', '.join(columns)}) SELECT {chosen} FROM adapter")


def test_another_program_is_refused_too(bench: Bench) -> None:
    bench.register()
    bench.open_registry().engine.dispose()
    with sqlite3.connect(bench.settings.home / "registry.db") as connection:
        with pytest.raises(sqlite3.IntegrityError, match="only grows"):
            connection.execute("UPDATE adapter SET classification = 'PUBLIC'")
        assert connection.execute("SELECT count(*) FROM adapter").fetchone() == (1,)


@pytest.mark.parametrize("table", TABLES)
def test_no_table_can_be_emptied_in_postgresql(bench: Bench, postgresql: str, table: str) -> None:
    bench.register()
    _refused(bench.open_registry(), f"TRUNCATE {table} CASCADE")


def test_sqlite_keeps_a_write_ahead_log(bench: Bench) -> None:
    with bench.open_registry().engine.connect() as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"


def test_a_registry_of_a_newer_version_is_refused(bench: Bench, database: str) -> None:
    registry = bench.open_registry()
    with registry.engine.begin() as connection:
        connection.execute(text("UPDATE registry_format SET version = 9999"))
    with pytest.raises(InputError, match="9999"):
        bench.open_registry()


@pytest.mark.parametrize(
    "url",
    ["postgresql://clerk:hunter2@127.0.0.1:1/registry", "oracle+nodriver://clerk:hunter2@host/x", "hunter2"],
)
def test_a_database_that_cannot_be_opened_is_one_paragraph_without_the_password(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("SOVEREIGN_REGISTRY_URL", url)
    with pytest.raises(InputError, match="cannot be opened") as refusal:
        open_registry(bench.settings)
    assert "hunter2" not in str(refusal.value)


def test_a_file_that_is_no_database_is_refused(bench: Bench) -> None:
    bench.settings.home.mkdir(parents=True, exist_ok=True)
    (bench.settings.home / "registry.db").write_text("not a database, but long enough to be looked at as one" * 20)
    with pytest.raises(InputError, match="cannot be opened"):
        bench.open_registry()


def test_processes_that_open_a_new_registry_at_once_all_succeed(bench: Bench, database: str) -> None:
    bench.settings.home.mkdir(parents=True, exist_ok=True)
    code = (
        "from sovereign_pipeline.record.database import open_registry\n"
        "from sovereign_pipeline.base.settings import Settings\n"
        "open_registry(Settings.from_environment())\n"
    )
    environment = {**os.environ, "SOVEREIGN_HOME": str(bench.settings.home)}
    started = [subprocess.Popen([sys.executable, "-c", code], env=environment, cwd=PROJECT_ROOT) for _ in range(3)]
    assert [process.wait(timeout=SECONDS) for process in started] == [0, 0, 0]


def test_nobody_is_refused_while_others_open_the_same_new_file(bench: Bench) -> None:
    """SQLite's switch to WAL does not wait by itself. In so many tries some meet."""
    refused: list[Exception] = []

    def open_it(settings: Settings, together: threading.Barrier) -> None:
        together.wait()
        try:
            open_registry(settings)
        except Exception as error:  # to be told by the test and not by its thread
            refused.append(error)

    for number in range(12):
        settings = Settings(home=bench.settings.home / f"new-{number}", data=bench.settings.data)
        together = threading.Barrier(4)
        threads = [threading.Thread(target=open_it, args=(settings, together)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not refused


def _refused(registry: Registry, statement: str) -> None:
    def rows() -> list[tuple[object, ...]]:
        with registry.engine.connect() as connection:
            return [tuple(row) for table in TABLES for row in connection.execute(text(f"SELECT * FROM {table}"))]

    before = rows()
    assert before
    with pytest.raises(DBAPIError, match="only grows"), registry.writing() as session:
        session.execute(text(statement))
    assert rows() == before
