"""A checkpoint of what is committed is kept outside the database; a registry that is older, or another, is refused."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.record import audit_log, checkpoints, notes, replay
from sovereign_pipeline.record.checkpoints import assert_not_older
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline_tests.record.lamps import (
    cut_to,
    die,
    exact_bytes,
    kept,
    light,
    light_past_the_program,
    signer_of,
    tree_of,
)
from sovereign_pipeline_tests.registry.bench import Bench
from sovereign_pipeline_tests.waiting import wait_until


def test_every_act_is_in_a_signed_checkpoint_in_the_home(registry: Registry) -> None:
    settings = registry.settings
    assert not settings.keys.exists()
    light(registry, 1, 2, 3)
    note = notes.parse_note((settings.ledger / "checkpoint").read_text())
    signer = signer_of(registry)
    assert notes.is_signed(note, signer.verifier)
    head = notes.parse_tree_head(note.text)
    assert (head.origin, head.size, head.root) == (signer.name, 3, tree_of(exact_bytes(registry)).root())
    assert signer.name.startswith("sovereign-pipeline/ledger/")
    assert checkpoints.key_file(settings).stat().st_mode & 0o777 == 0o600
    assert settings.keys.stat().st_mode & 0o777 == 0o700
    assert not settings.keys.is_relative_to(settings.home)


def test_what_is_not_committed_is_in_no_checkpoint(registry: Registry) -> None:
    light(registry, 1)
    with pytest.raises(ZeroDivisionError), registry.writing() as session:
        audit_log.append(session, "officer", "lamp lit", {})
        raise ZeroDivisionError
    assert kept(registry.settings).size == 1
    with registry.writing():
        pass
    assert kept(registry.settings).size == 1
    light(registry, 2)
    assert kept(registry.settings).size == 2


def test_a_first_act_that_was_refused_for_its_keys_is_done_once_they_are_private(registry: Registry) -> None:
    registry.settings.keys.mkdir()
    registry.settings.keys.chmod(0o755)  # whatever the umask
    with pytest.raises(InputError, match="other accounts can enter"):
        light(registry, 1)
    registry.settings.keys.chmod(0o700)
    light(open_registry(registry.settings), 1)
    assert kept(registry.settings).size == 1


def test_a_first_act_between_reading_files_and_database_is_no_damage(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    light(registry, 1)
    before, read = [()], checkpoints.all_kept
    monkeypatch.setattr(checkpoints, "all_kept", lambda settings: before.pop() if before else read(settings))
    assert_not_older(registry)


@pytest.mark.security_case("An older copy of the registry is restored", "rejected; the missing entries are named")
def test_an_older_copy_is_refused_and_what_is_missing_is_named(database: str, registry: Registry) -> None:
    light(registry, 1, 2, 3, 4, 5)
    cut_to(registry, 3)
    before = (registry.settings.ledger / "checkpoint").read_bytes()
    for act in (
        lambda: light(registry, 6),
        lambda: open_registry(registry.settings),
        lambda: assert_not_older(registry),
    ):
        with pytest.raises(IntegrityError, match=r"older than its last checkpoint .* missing: entries 4 to 5"):
            act()
    assert (registry.settings.ledger / "checkpoint").read_bytes() == before
    assert len(exact_bytes(registry)) == 3


@pytest.mark.security_case("An older copy of the registry is restored and changed by another program", "rejected")
def test_a_fork_is_refused(database: str, registry: Registry) -> None:
    light(registry, 1, 2, 3)
    cut_to(registry, 2)
    light_past_the_program(registry, 4, 5, 6)
    for act in (
        lambda: light(registry, 7),
        lambda: open_registry(registry.settings),
        lambda: assert_not_older(registry),
    ):
        with pytest.raises(IntegrityError):
            act()


def test_an_empty_registry_in_the_place_of_one_is_refused(database: str, registry: Registry) -> None:
    light(registry, 1)
    replay.forget_all()
    with registry.engine.begin() as connection:
        for table in reversed(connection.dialect.get_table_names(connection)):
            cascade = " CASCADE" if registry.engine.dialect.name == "postgresql" else ""
            connection.execute(text(f"DROP TABLE {table}{cascade}"))
    with pytest.raises(IntegrityError, match="missing: entry 1"):
        open_registry(registry.settings)


def _signed_by_another(note: Path) -> str:
    other, head = checkpoints.new_log(), notes.parse_tree_head(notes.parse_note(note.read_text()).text)
    text = notes.TreeHead(other.name, head.size, head.root).to_text()
    return str(notes.Note(text, (notes.signed(text, other),)))


def _replaced(by: Callable[[Path], object]) -> Callable[[Settings], object]:
    def damage(settings: Settings) -> object:
        (settings.ledger / "checkpoint").unlink()
        return by(settings.ledger / "checkpoint")

    return damage


def _written(by: Callable[[Path], str]) -> Callable[[Settings], object]:
    return lambda settings: (settings.ledger / "checkpoint").write_text(by(settings.ledger / "checkpoint"))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_replaced(lambda note: None), "last checkpoint is missing"),
        (_written(lambda note: note.read_text().replace("\n2\n", "\n1\n")), "not signed with the ledger's key"),
        (_written(_signed_by_another), "not signed with the ledger's key"),
        (_written(lambda note: "2\n"), "not a signed checkpoint"),
        (_replaced(Path.mkdir), "not a signed checkpoint"),
        (_replaced(os.mkfifo), "not a signed checkpoint"),
        (
            lambda settings: checkpoints.key_file(settings).write_text(checkpoints.new_log().to_text()),
            "not the key of the registry's ledger",
        ),
        (lambda settings: checkpoints.key_file(settings).chmod(0o640), "other accounts can read this key"),
    ],
)
def test_a_checkpoint_or_key_that_is_not_the_ledgers_stops(
    bench: Bench, damage: Callable[[Settings], object], said: str
) -> None:
    registry = bench.open_registry()
    light(registry, 1, 2)
    damage(registry.settings)
    for act in (lambda: light(registry, 3), bench.open_registry):
        with pytest.raises(IntegrityError, match=said):
            act()


def test_without_the_key_it_is_read_and_not_written(bench: Bench) -> None:
    registry = bench.open_registry()
    light(registry, 1)
    checkpoints.key_file(registry.settings).unlink()
    assert_not_older(bench.open_registry())
    with pytest.raises(IntegrityError, match="the key that signs the ledger's checkpoints is missing"):
        light(registry, 2)
    assert len(exact_bytes(registry)) == 1


def test_writers_at_once_lose_nothing_and_keep_the_newest_checkpoint(database: str, registry: Registry) -> None:
    threads = [
        threading.Thread(target=light, args=(open_registry(registry.settings), *range(first, first + 5)))
        for first in (0, 5, 10, 15)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    head = kept(registry.settings)
    assert (head.size, head.root) == (20, tree_of(exact_bytes(registry)).root())


KILLED = """
import sys
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline_tests.record.lamps import light
registry = open_registry(Settings.from_environment())
for lamp in range(1_000_000):
    light(registry, lamp)
    print(lamp + 1, flush=True)
"""


@pytest.mark.slow
def test_a_writer_that_is_killed_loses_nothing_that_it_had_acknowledged(
    database: str, registry: Registry, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.touch()
    settings = replace(registry.settings, ledger_copy=copy)
    environment = {**os.environ, **settings.to_environment()}
    acknowledged = sum(_killed_after(5 + number, environment, tmp_path / f"{number}.out") for number in range(2))
    again = open_registry(settings)
    light(again, 0)
    leaves = exact_bytes(again)
    tree = tree_of(leaves)
    assert tree.size > acknowledged
    assert kept(settings) == notes.TreeHead(kept(settings).origin, tree.size, tree.root())
    audit_log.verify(leaves)


def _killed_after(acts: int, environment: dict[str, str], out: Path) -> int:
    """How many acts a process had acknowledged when it was killed."""
    with out.open("w") as stream:
        process = subprocess.Popen([sys.executable, "-c", KILLED], env=environment, cwd=PROJECT_ROOT, stdout=stream)

    def has_acknowledged_enough() -> bool:
        assert process.poll() is None, "the writer ended by itself"
        return len(out.read_text().split()) > acts

    wait_until(has_acknowledged_enough, lambda: "nothing was written")
    process.send_signal(signal.SIGKILL)
    process.wait()
    return out.read_text().count("\n")


def test_a_full_disk_stops_the_act_and_loses_nothing(bench: Bench) -> None:
    registry = bench.open_registry()
    light(registry, 1)
    registry.engine.dispose()
    with closing(sqlite3.connect(registry.settings.home / "registry.db")) as connection:
        connection.execute("VACUUM")  # or free pages would be used first
    with registry.engine.connect() as connection:
        pages = connection.execute(text("PRAGMA page_count")).scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(IntegrityError, match="disk of the registry is full"):
        light(registry, *range(2, 100))
    stopped = len(exact_bytes(registry))
    assert kept(registry.settings).size == stopped < 100
    registry.engine.dispose()
    light(bench.open_registry(), 0)
    assert kept(registry.settings).size == stopped + 1


def test_a_first_act_that_died_between_its_checkpoint_and_its_key_is_done_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "keep", die)
        with pytest.raises(KeyboardInterrupt):
            light(registry, 1)
    assert (registry.settings.ledger / "checkpoint").exists()
    assert checkpoints.signer(registry.settings) is None
    light(open_registry(registry.settings), 2)
    assert kept(registry.settings).size == 1
