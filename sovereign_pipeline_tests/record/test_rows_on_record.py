"""A row that was put in, changed or removed past this program decides nothing, and is named."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, select, text, update

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.record import checkpoints, replay
from sovereign_pipeline.record.audit_log import append, content_of_row, entries, exact_bytes
from sovereign_pipeline.record.catalog import (
    adapters_in_brief,
    find_adapter,
    incumbent_of,
    list_adapters,
    registered_as,
)
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.tables import Adapter, AuditEntry, Blob, LedgerEntry
from sovereign_pipeline_tests.record.lamps import cut_to, die, light, light_past_the_program
from sovereign_pipeline_tests.record.lamps import exact_bytes as exact_bytes_of
from sovereign_pipeline_tests.record.owner import change
from sovereign_pipeline_tests.registry.bench import Bench


def insert_copy(registry: Registry, **changes: str) -> None:
    """Insert a second adapter beside the first, as far as anybody with write access can."""
    columns = [column.name for column in Adapter.__table__.columns]
    chosen = ", ".join(changes.get(name, name) for name in columns)
    change(registry, f"INSERT INTO adapter ({', '.join(columns)}) SELECT {chosen} FROM adapter")


@pytest.mark.security_case("An adapter's row is inserted, with a matching entry and tree", "rejected")
def test_an_inserted_adapter_is_neither_listed_nor_the_next_incumbent(bench: Bench, database: str) -> None:
    bench.register()
    registry = bench.open_registry()
    insert_copy(registry, id="'lamps-9.0.0'", version="'9.0.0'", record_digest="'0'", adapter_sha256="'1'")
    for read in (
        lambda: list_adapters(registry),
        lambda: find_adapter(registry, "lamps-9.0.0"),
        lambda: registered_as(registry, "0"),
        lambda: incumbent_of(registry, "lamps", None, ()),
        bench.open_registry,
    ):
        with pytest.raises(IntegrityError):
            read()
    bench.recipe["training"]["sft"] = {"learning_rate": 1e-4}
    with pytest.raises(IntegrityError):
        bench.register()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE adapter SET review_date = '2099-01-01'",
        "UPDATE dataset SET rows_held_out = 0",
        "UPDATE base_model SET licence = 'free'",
        "DELETE FROM adapter",
    ],
)
def test_a_changed_row_is_found(bench: Bench, statement: str) -> None:
    bench.register()
    change(bench.open_registry(), statement)
    with pytest.raises(IntegrityError):
        bench.open_registry()


def test_every_column_of_an_adapter_is_in_what_its_entry_names(bench: Bench) -> None:
    adapter = bench.register()
    empty = {column.name for column in Adapter.__table__.columns if getattr(adapter, column.name) is None}
    assert {*json.loads(content_of_row(adapter))} | empty == {*Adapter.__table__.columns.keys()}


@pytest.mark.security_case("A blob without an entry, a table or a column is added to the database", "no effect")
def test_what_no_entry_names_is_never_read(bench: Bench) -> None:
    bench.register()
    registry = bench.open_registry()
    before = list_adapters(registry)
    replay.forget_all()
    with registry.engine.begin() as connection:
        connection.execute(insert(Blob).values(sha256="0" * 64, data=b"{}"))
        connection.execute(text("CREATE TABLE adapter AS SELECT 'lamps-9.0.0' AS id"))
        connection.execute(text("ALTER TABLE entry ADD COLUMN classification TEXT DEFAULT 'PUBLIC'"))
    assert list_adapters(bench.open_registry()) == before


@pytest.mark.security_case("Another program inserts a ledger entry with everything that belongs to it", "rejected")
@pytest.mark.parametrize("while_running", [False, True])
def test_an_entry_that_nobody_signed_is_refused(
    bench: Bench, while_running: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may insert can append an entry that follows all others: bytes, tree and a head by a key of its own."""
    bench.register()
    registry = bench.open_registry()
    if while_running:
        with monkeypatch.context() as patch:
            patch.setattr(replay, "forget_all", lambda: None)
            light_past_the_program(registry, 9)
    else:
        light_past_the_program(registry, 9)
    for act in (bench.open_registry, lambda: registry.writing().__enter__(), lambda: registry.reading().__enter__()):
        with pytest.raises(IntegrityError):
            act()


@pytest.mark.security_case("A blob is changed in the database while a process is running", "no effect")
def test_a_running_process_goes_on_with_what_it_has_verified(bench: Bench) -> None:
    bench.register()
    registry = bench.open_registry()
    before = adapters_in_brief(registry)
    with registry.engine.begin() as connection:
        connection.execute(update(Blob).values(data=b"{}"))
    assert adapters_in_brief(registry) == before
    with pytest.raises(IntegrityError):
        list_adapters(registry)  # what is large is read when it is asked for
    replay.forget_all()  # as the next process
    with pytest.raises(IntegrityError):
        adapters_in_brief(registry)


@pytest.fixture
def snapshot(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The state after five acts, in a file: after two more, a process that starts replays those two alone."""
    monkeypatch.setattr(replay, "ENTRIES_AT_ONCE", 5)
    registry = bench.open_registry()
    light(registry, *range(7))
    assert registry.snapshot is not None and registry.snapshot.is_file()
    replay.forget_all()
    return registry.snapshot


def lamps_in(registry: Registry) -> list[int]:
    query = select(AuditEntry.subjects).order_by(AuditEntry.sequence)
    with registry.reading() as session:
        return [each["lamp"] for each in session.scalars(query)]


def test_a_state_that_was_kept_is_the_one_of_a_full_replay(bench: Bench, snapshot: Path) -> None:
    assert lamps_in(bench.open_registry()) == [*range(7)]
    assert lamps_in(open_registry(bench.settings, from_first_entry=True)) == [*range(7)]
    light(bench.open_registry(), *range(7, 12))
    replay.forget_all()
    assert lamps_in(bench.open_registry()) == [*range(12)]


@pytest.mark.security_case(
    "An entry that a stored snapshot covers is changed", "no effect; verification names the entry"
)
def test_what_a_kept_state_covers_is_not_read_again_and_verifying_does(bench: Bench, snapshot: Path) -> None:
    registry = bench.open_registry()
    with registry.engine.begin() as connection:
        first = update(LedgerEntry).where(LedgerEntry.sequence == 1)
        connection.execute(first.values(data=exact_bytes_of(registry)[0].replace(b'"lamp":0', b'"lamp":9')))
    replay.forget_all()
    assert lamps_in(bench.open_registry()) == [*range(7)]
    with pytest.raises(IntegrityError, match="entry 1"):
        open_registry(bench.settings, from_first_entry=True)


@pytest.mark.security_case("A stored snapshot is changed, or replaced by another ledger's", "it is not used")
@pytest.mark.parametrize("other", ["changed", "cut", "empty", "of another ledger"])
def test_a_state_that_the_ledgers_key_did_not_sign_is_not_used(
    bench: Bench, snapshot: Path, other: str, tmp_path: Path
) -> None:
    content = snapshot.read_bytes()
    if other == "of another ledger":
        elsewhere = open_registry(
            replace(
                bench.settings,
                home=tmp_path / "other",
                keys=tmp_path / "keys",
                registry_url=f"sqlite:///{tmp_path}/other.db",
            )
        )
        light(elsewhere, *range(70, 77))
        content = (tmp_path / "other" / "ledger" / "state").read_bytes()
        replay.forget_all()
    changed = content.replace(b'"lamp": 1', b'"lamp": 9')
    assert changed != content or other == "of another ledger"
    snapshot.write_bytes({"changed": changed, "cut": content[:-100], "empty": b""}.get(other, content))
    assert lamps_in(bench.open_registry()) == [*range(7)]


def test_verifying_replaces_a_kept_state_or_removes_it_without_the_key(bench: Bench, snapshot: Path) -> None:
    whole = snapshot.read_bytes()
    snapshot.write_bytes(whole[:-100])
    open_registry(bench.settings, from_first_entry=True).keep_anew()
    assert len(snapshot.read_bytes()) >= len(whole)
    assert lamps_in(bench.open_registry()) == [*range(7)]
    checkpoints.key_file(bench.settings).unlink()
    open_registry(bench.settings, from_first_entry=True).keep_anew()
    assert not snapshot.exists()


def test_an_act_that_cannot_be_replayed_is_not_committed(bench: Bench) -> None:
    registry = bench.open_registry()
    light(registry, 1)
    with pytest.raises(IntegrityError), registry.writing() as session:
        append(session, "clerk", "rows named", {"rows": {"adapter": {"lamps-9.0.0": "0" * 64}}})
    light(bench.open_registry(), 2)
    replay.forget_all()
    assert lamps_in(bench.open_registry()) == [1, 2]


@pytest.mark.security_case(
    "An older copy of the registry is restored under a running process", "rejected at the next read"
)
def test_a_running_process_does_not_go_back(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = bench.open_registry()
    light(registry, 1)
    view = registry.view
    light(registry, 2, 3)
    with monkeypatch.context() as patch:
        patch.setattr(replay, "forget_all", lambda: None)
        cut_to(registry, 2)
    assert registry.view is view
    with pytest.raises(IntegrityError), registry.reading():
        pass
    replay.forget_all()
    with pytest.raises(IntegrityError), registry.reading():
        pass


OTHER_PROCESS = """
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline_tests.record.lamps import light
light(open_registry(Settings.from_environment()), 2)
"""


def test_what_others_write_while_a_process_reads_is_no_damage(bench: Bench) -> None:
    registry = bench.open_registry()
    light(registry, 1)
    environment = {**os.environ, **registry.settings.to_environment()}
    with registry.reading():
        subprocess.run([sys.executable, "-c", OTHER_PROCESS], env=environment, cwd=PROJECT_ROOT, check=True)
        assert lamps_in(open_registry(bench.settings)) == [1]
    assert lamps_in(registry) == [1, 2]


def test_a_database_that_swallows_entries_stops_the_act(bench: Bench) -> None:
    registry = bench.open_registry()
    light(registry, 1)
    with registry.engine.begin() as connection:
        connection.execute(text("CREATE TRIGGER quiet BEFORE INSERT ON entry BEGIN SELECT RAISE(IGNORE); END"))
    with pytest.raises(IntegrityError):
        light(registry, 2)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_replaying_from_anywhere_leads_to_the_same_state(bench: Bench, restarts: list[bool]) -> None:
    registry = bench.open_registry()
    for number, is_restarted in enumerate(restarts):
        light(registry, number)
        if is_restarted:
            replay.forget_all()
    with registry.reading() as session:
        going_on = [exact_bytes(each) for each in session.scalars(select(AuditEntry).order_by(AuditEntry.sequence))]
    replay.forget_all()
    with registry.reading() as session:
        anew = [exact_bytes(each) for each in session.scalars(select(AuditEntry).order_by(AuditEntry.sequence))]
    assert going_on == anew


def test_two_acts_that_died_one_after_the_other_do_not_shut_the_home(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is committed and has no checkpoint; the second is not committed."""
    registry = bench.open_registry()
    with registry.writing() as session:
        append(session, "clerk", "something", {})

    for place in ("note_committed", "copy_entries"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, place, die)
            with pytest.raises(KeyboardInterrupt), registry.writing() as session:
                append(session, "clerk", place, {})
    registry = bench.open_registry()
    with registry.writing() as session:
        append(session, "clerk", "something else", {})
    assert [each.action for each in entries(registry)] == ["something", "note_committed", "something else"]
