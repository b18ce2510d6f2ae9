"""A row that was put in, changed or removed past this program decides nothing, and is named."""

import datetime
import sqlite3

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.record import checkpoints
from sovereign_pipeline.record.audit_log import REGISTERED, append, entries
from sovereign_pipeline.record.catalog import find_adapter, incumbent_of, list_adapters, registered_as
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.verification import verify_adapter, verify_dataset
from sovereign_pipeline_tests.ledger.owner import change, without_triggers
from sovereign_pipeline_tests.registry.bench import Bench


def _insert_copy(registry: Registry, **changes: str) -> None:
    """Insert a second adapter beside the first, as anybody with write access can: no trigger forbids it."""
    columns = [column.name for column in Adapter.__table__.columns]
    chosen = ", ".join(changes.get(name, name) for name in columns)
    with registry.engine.connect() as connection, connection.begin():
        connection.execute(text(f"INSERT INTO adapter ({', '.join(columns)}) SELECT {chosen} FROM adapter"))


def test_an_inserted_adapter_is_neither_listed_nor_the_next_incumbent(bench: Bench, database: str) -> None:
    bench.register()
    registry = bench.open_registry()
    _insert_copy(registry, id="'lamps-9.0.0'", version="'9.0.0'", record_digest="'0'", adapter_sha256="'1'")
    named = "adapter lamps-9.0.0 was put in past this program"
    for read in (
        lambda: list_adapters(registry),
        lambda: find_adapter(registry, "lamps-9.0.0"),
        lambda: registered_as(registry, "0"),
        lambda: incumbent_of(registry, "lamps", None, ()),
        lambda: verify_adapter(registry, open_store(bench.settings), bench.settings, "lamps-1.0.0"),
    ):
        with pytest.raises(IntegrityError, match=named):
            read()
    bench.recipe["training"]["sft"] = {"learning_rate": 1e-4}
    with pytest.raises(IntegrityError, match=named):
        bench.register()


def test_another_review_date_in_a_column_that_was_dropped_and_added_is_found(bench: Bench, database: str) -> None:
    adapter = bench.register()
    registry = bench.open_registry()
    later = adapter.review_date + datetime.timedelta(days=3650)
    with registry.engine.connect() as connection, connection.begin():
        connection.execute(text("ALTER TABLE adapter DROP COLUMN review_date"))
        connection.execute(text(f"ALTER TABLE adapter ADD COLUMN review_date DATE NOT NULL DEFAULT '{later}'"))
    with pytest.raises(IntegrityError, match=f"adapter {adapter.id} differs from its entry"):
        find_adapter(registry, adapter.id)


def test_a_row_that_was_removed_gives_its_version_to_nobody(bench: Bench, database: str) -> None:
    bench.register()
    registry = bench.open_registry()
    change(registry.engine, "DELETE FROM adapter")
    bench.recipe["training"]["sft"] = {"learning_rate": 1e-4}
    with pytest.raises(IntegrityError, match=r"adapter lamps-1\.0\.0 is gone"):
        bench.register()


OTHER_VALUES = {
    "id": "lamps-1.0.1",
    "version": "1.0.1",
    "review_date": "2099-01-01",
    "registered_at": "2001-01-01 00:00:00.000000",
    "framework_versions": "{}",
    "evaluation": "{}",
    "gate_records": "[]",
}


@pytest.mark.parametrize("column", [column.name for column in Adapter.__table__.columns if column.name != "line"])
def test_every_column_of_an_adapter_is_held(bench: Bench, column: str) -> None:
    bench.register()
    engine = bench.open_registry().engine
    with without_triggers(engine):
        engine.dispose()
        with sqlite3.connect(bench.settings.home / "registry.db") as connection:
            connection.execute(f"UPDATE adapter SET {column} = ?", (OTHER_VALUES.get(column, "0" * 64),))
    with pytest.raises(IntegrityError, match="adapter lamps"):
        incumbent_of(bench.open_registry(), "lamps", None, ())


@pytest.mark.parametrize(
    "statement", ["UPDATE dataset SET rows_held_out = 0", "UPDATE base_model SET licence = 'free'"]
)
def test_a_changed_row_of_a_base_model_or_dataset_is_found(bench: Bench, statement: str) -> None:
    adapter = bench.register()
    registry = bench.open_registry()
    change(registry.engine, statement)
    store = open_store(bench.settings)
    with pytest.raises(IntegrityError, match="differs from its entry"):
        verify_dataset(registry, store, bench.settings, adapter.dataset_digest)


def test_a_registration_is_one_entry_that_names_its_rows(bench: Bench) -> None:
    adapter = bench.register()
    (entry,) = [each for each in entries(bench.open_registry()) if each.action == REGISTERED]
    assert (entry.subjects["adapter"], entry.subjects["record"]) == (adapter.id, adapter.record_digest)
    assert set(entry.subjects["rows"]) == {"adapter", "dataset", "base_model"}


@pytest.mark.security_case(
    "an entry of the ledger is inserted past this program, with all that belongs to it", "refused"
)
def test_an_entry_that_nobody_announced_is_refused(bench: Bench, database: str) -> None:
    """Whoever may insert can append an entry that follows all others: columns, bytes and tree are as they should be."""
    bench.register()
    registry = bench.open_registry()
    with Session(registry.engine) as session:
        append(session, "clerk", "adapter registered", {"line": "lamps", "adapter": "lamps-9.0.0", "rows": {}})
        session.commit()
    newest = len(entries(registry))
    for act in (bench.open_registry, lambda: registry.writing().__enter__()):
        with pytest.raises(
            IntegrityError, match=f"1 entry of the ledger, from {newest} on, that no act of this program"
        ):
            act()


@pytest.mark.security_case("an entry of the audit log is inserted that is no leaf of the ledger's tree", "refused")
@pytest.mark.parametrize("sequence", [999, 0, -7])
def test_an_entry_beside_the_tree_is_refused(bench: Bench, database: str, sequence: int) -> None:
    """Checkpoints cover the tree's leaves: what is decided by an entry in columns must be one."""
    bench.register()
    registry = bench.open_registry()
    statement = (
        "INSERT INTO audit_entry SELECT :number, at, actor, action, subjects, :hash, :hash FROM audit_entry "
        "WHERE sequence = 1"
    )
    with registry.engine.begin() as connection:
        connection.execute(text(statement), {"number": sequence, "hash": "e" * 64})
    for act in (bench.open_registry, lambda: registry.writing().__enter__()):
        with pytest.raises(IntegrityError, match="somebody put some in past this program"):
            act()


def test_an_act_that_died_before_its_checkpoint_was_kept_is_found_and_goes_on(
    bench: Bench, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = bench.open_registry()

    def die(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "note_committed", die)
        with pytest.raises(KeyboardInterrupt), registry.writing() as session:
            append(session, "clerk", "something", {})
    registry = bench.open_registry()
    with registry.writing() as session:
        append(session, "clerk", "something else", {})
    assert [each.action for each in entries(registry)] == ["something", "something else"]


def test_two_acts_that_died_one_after_the_other_do_not_shut_the_home(
    bench: Bench, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first is committed and has no checkpoint; the second announced itself and is not committed."""
    registry = bench.open_registry()
    with registry.writing() as session:
        append(session, "clerk", "something", {})

    def die(*given: object) -> None:
        raise KeyboardInterrupt

    for place in ("note_committed", "copy_entries"):
        with monkeypatch.context() as patch:
            patch.setattr(checkpoints, place, die)
            with pytest.raises(KeyboardInterrupt), registry.writing() as session:
                append(session, "clerk", place, {})
    registry = bench.open_registry()
    with registry.writing() as session:
        append(session, "clerk", "something else", {})
    assert [each.action for each in entries(registry)] == ["something", "note_committed", "something else"]
