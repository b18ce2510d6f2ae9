"""Whoever writes the database without any key changes no answer: of the command line, the pages, or the gateway."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import IntegrityError, SovereignError
from sovereign_pipeline.base.files import canonical_json, digest_of
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.record import checkpoints, replay
from sovereign_pipeline.record.audit_log import FIRST as NONE_BEFORE
from sovereign_pipeline.record.database import kept_state
from sovereign_pipeline.serving.deployment import Sources
from sovereign_pipeline_tests.evidence.conftest import FIRST
from sovereign_pipeline_tests.record.lamps import leaves_in, light, light_past_the_program, rewrite
from sovereign_pipeline_tests.web.conftest import Site

pytestmark = pytest.mark.slow

COMMANDS = (
    ("adapters", "list"),
    ("adapters", "show", FIRST),
    ("adapters", "history", FIRST),
    ("adapters", "production", "lamps"),
    ("adapters", "verify", FIRST),
    ("recall", "list"),
    ("recall", "--source", "letters"),
    ("audit", "verify"),
)
PAGES = ("/registry", "/registry/lines/lamps", f"/registry/{FIRST}")
Leaves = list[bytes]


def of_action(leaves: Leaves, action: str) -> int:
    return next(place for place, leaf in enumerate(leaves) if json.loads(leaf)["action"] == action)


def without_recall(leaves: Leaves) -> Leaves:
    del leaves[of_action(leaves, "recall opened")]
    return leaves


def with_lower_level(leaves: Leaves) -> Leaves:
    place = of_action(leaves, "adapter registered")
    leaves[place] = leaves[place].replace(b'"line":"lamps"', b'"line":"lamqs"')
    return leaves


def swapped(leaves: Leaves) -> Leaves:
    leaves[2], leaves[3] = leaves[3], leaves[2]
    return leaves


def chained_anew(leaves: Leaves) -> Leaves:
    """As the program would have written them: numbers and hashes are right."""
    last = NONE_BEFORE
    for place, leaf in enumerate(leaves):
        entry = json.loads(leaf) | {"sequence": place + 1, "previous": last}
        entry["hash"] = last = digest_of({name: value for name, value in entry.items() if name != "hash"})
        leaves[place] = canonical_json(entry)
    return leaves


def put(connection: Connection, leaves: Leaves) -> None:
    """Entries alone: numbers, tree and the newest head stay."""
    for number, leaf in enumerate(leaves, 1):
        connection.execute(text("UPDATE entry SET data = :data WHERE sequence = :n"), {"data": leaf, "n": number})
    connection.execute(text("DELETE FROM entry WHERE sequence > :n"), {"n": len(leaves)})


def chain(connection: Connection, leaves: Leaves) -> None:
    """Entries, numbers, tree and head as they would be, signed by another log."""
    rewrite(connection, chained_anew(leaves), checkpoints.new_log())


Change = Callable[[Site, Connection], object]


def sql(*statements: str) -> Change:
    return lambda site, connection: [connection.execute(text(each)) for each in statements]


def remove_recall(site: Site, connection: Connection) -> None:
    number = 1 + of_action(leaves_in(connection), "recall opened")
    connection.execute(text(f"DELETE FROM entry WHERE sequence = {number}"))


CHANGES: dict[str, Change] = {
    "bytes changed": lambda _, connection: put(connection, with_lower_level(leaves_in(connection))),
    "order swapped": lambda _, connection: put(connection, swapped(leaves_in(connection))),
    "order swapped and chained": lambda _, connection: chain(connection, swapped(leaves_in(connection))),
    "recall removed": remove_recall,
    "recall removed and numbers closed": lambda _, connection: put(connection, without_recall(leaves_in(connection))),
    "recall removed and chained": lambda _, connection: chain(connection, without_recall(leaves_in(connection))),
    "newest removed": sql("DELETE FROM entry WHERE sequence = (SELECT max(sequence) FROM entry)"),
    "all removed": sql(*(f"DELETE FROM {each}" for each in ("entry", "node", "blob", "ledger_key", "sealed"))),
    "one added": sql("INSERT INTO entry SELECT max(sequence) + 1, data, head FROM entry"),
    "one added after a gap": sql("INSERT INTO entry SELECT max(sequence) + 9, data, head FROM entry"),
    "one added with chain and tree": lambda site, _: light_past_the_program(site.registry, 9),
    "head removed": sql("UPDATE entry SET head = NULL"),
    "row changed": sql("UPDATE blob SET data = replace(data, 'lamps', 'lamqs')"),
    "rows removed": sql("DELETE FROM blob"),
    "number for bytes": sql("UPDATE blob SET data = 9223372036854775807"),
    "number for an entry": sql("UPDATE entry SET data = 20000000000 WHERE sequence = 1"),
}
ONE_READER = (("recall", "list"),)
"""All commands open the registry alike: one change is shown to all of them, and each other change to one."""


@pytest.fixture
def restored(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """The site, whose database, checkpoints and marks of what was seen are put back afterwards."""
    monkeypatch.setenv("SOVEREIGN_HOME", str(site.settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(site.settings.data))
    monkeypatch.setattr(Sources, "_verify_ledger", lambda *_: None)  # what is left is what each look compares
    database = site.settings.home / "registry.db"
    directories = [site.settings.ledger, site.settings.serving]
    for number, directory in enumerate(directories):
        directory.mkdir(mode=0o700, exist_ok=True)
        shutil.copytree(directory, tmp_path / str(number))
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(":memory:")) as kept:
        source.backup(kept)
        yield site
        replay.forget_all()
        site.registry.engine.dispose()
        kept.backup(source)
    for number, directory in enumerate(directories):
        shutil.rmtree(directory)
        shutil.copytree(tmp_path / str(number), directory)
    replay.forget_all()


def outcome(arguments: tuple[str, ...]) -> str | SovereignError:
    """What a command prints, or its error."""
    answer = CliRunner().invoke(app, arguments)
    if answer.exception is None or isinstance(answer.exception, SystemExit):
        return answer.stdout
    assert isinstance(answer.exception, SovereignError), (arguments, answer.exception)
    return answer.exception


@pytest.mark.security_case(
    (
        "Someone with write access to the database, but no key, changes, removes, adds or reorders "
        "entries and their content"
    ),
    "every command, page and restarted gateway rejects it; a running one rejects it or keeps its verified state",
)
@pytest.mark.parametrize("change", CHANGES)
def test_every_reader_refuses_a_changed_missing_or_extra_entry(restored: Site, change: str) -> None:
    site = restored
    reader = site.client(site.token("SECRET"))
    before = {page: reader.get(page) for page in PAGES}
    assert {each.status_code for each in before.values()} == {200}
    running = Sources(site.settings)
    found = running.find()
    with site.registry.engine.begin() as connection:
        CHANGES[change](site, connection)

    for page in PAGES:  # a process that runs
        answer = reader.get(page)
        told = [(each in answer.text, each in before[page].text) for each in (FIRST, "recall-1", "PUBLIC")]
        assert answer.status_code == 409 or all(now == then for now, then in told), page
    with suppress(SovereignError):
        assert all(each in found.verified for each in running.find().verified)

    for arguments in COMMANDS if change == "recall removed and chained" else ONE_READER:  # processes that start
        replay.forget_all()
        assert isinstance(outcome(arguments), IntegrityError), arguments
    replay.forget_all()
    for page in PAGES:
        answer = reader.get(page)
        assert answer.status_code >= 400 and FIRST not in answer.text, page
    replay.forget_all()
    with pytest.raises(SovereignError):
        Sources(site.settings).find()


@pytest.mark.security_case(
    "The registry's stored snapshot is replaced by an older one, one signed by another key, or junk",
    "no effect: later entries are replayed, or the snapshot is not used",
)
@pytest.mark.parametrize("state", ["older", "forged", "junk", "empty", "sparse", "longer", "pipe"])
def test_a_kept_state_that_was_replaced_changes_no_answer(restored: Site, state: str) -> None:
    site, path = restored, kept_state(restored.settings)
    commands = COMMANDS[1:2] + ONE_READER
    log = checkpoints.signer(site.settings)
    assert log is not None
    with site.registry.reading():
        site.registry.view.keep(path, log)
    older = path.read_bytes()
    light(site.registry, 1)
    replay.forget_all()
    before = {each: outcome(each) for each in commands}
    forged = _forged(site, path)
    junk = b"\xff" * 4_096
    path.write_bytes({"older": older, "forged": forged, "empty": b"", "longer": older}.get(state, junk))
    if state == "pipe":
        path.unlink()
        os.mkfifo(path)
    if state in ("sparse", "longer"):
        os.truncate(path, 1 << 40)  # more than any memory
    for each in commands:
        replay.forget_all()
        assert outcome(each) == before[each]
    replay.forget_all()
    Sources(site.settings).find()


def _forged(site: Site, path: Path) -> bytes:
    """A state without any recall, signed as whoever lacks the log's key can."""
    replay.forget_all()
    with site.registry.reading():
        view = site.registry.view
        with view.changing() as connection:
            for table in ("recall_waiver", "recall_adapter", "recall"):
                connection.execute(text(f"DELETE FROM {table}"))
        view.keep(path, checkpoints.new_log())
    replay.forget_all()
    return path.read_bytes()
