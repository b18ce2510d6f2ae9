"""Opening a registry makes its tables, once, on both databases."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from sovereign_pipeline.base.errors import ConflictError, InputError
from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.record import database as record_database
from sovereign_pipeline.record.database import RegistryUnreached, open_registry, registry_url
from sovereign_pipeline_tests.record.lamps import kept, light
from sovereign_pipeline_tests.registry.bench import Bench
from sovereign_pipeline_tests.waiting import SECONDS


def test_a_registry_of_a_newer_version_is_refused(bench: Bench) -> None:
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


def test_an_act_waits_no_longer_than_half_a_minute_for_a_lock_of_others(
    bench: Bench, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record_database, "WAIT_SECONDS", 1)
    registry = bench.open_registry()
    other = create_engine(registry.engine.url)
    with other.connect() as connection:
        is_file = connection.dialect.name == "sqlite"
        lock = "BEGIN IMMEDIATE" if is_file else f"SELECT pg_advisory_lock({record_database.POSTGRESQL_LOCK})"
        connection.exec_driver_sql(lock)
        with pytest.raises(ConflictError):
            light(registry, 1)
    other.dispose()
    light(registry, 1)


def test_processes_that_open_a_new_registry_at_once_all_succeed(bench: Bench, postgresql: str) -> None:
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


def test_a_file_that_was_moved_or_replaced_is_not_written_by_a_program_that_has_it_open(bench: Bench) -> None:
    """Such as a gateway that runs on after `sovereign databases move`: the new ledger would lack its entries."""
    registry, file = bench.open_registry(), Path(registry_url(bench.settings).database or "")
    light(registry, 1)
    size, moved = kept(bench.settings).size, file.with_name("moved.db")
    file.rename(moved)
    with pytest.raises(RegistryUnreached):
        light(registry, 2)
    shutil.copyfile(moved, file)
    with pytest.raises(RegistryUnreached):
        light(registry, 2)
    assert kept(bench.settings).size == size
    moved.replace(file)
    light(registry, 2)
    assert kept(bench.settings).size == size + 1
