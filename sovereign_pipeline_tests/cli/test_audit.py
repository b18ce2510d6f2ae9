"""`sovereign audit` as an administrator, a witness and an auditor use it, each on their own machine."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import insert
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError, NotFoundError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.tables import Blob, LedgerEntry, SealedEntry
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.record.lamps import cut_to, light

Ask = Callable[..., Result]


@pytest.fixture
def ask(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> Ask:
    for name, value in institution.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    institution.settings.home.mkdir()
    return lambda *arguments: CliRunner().invoke(app, ["audit", *map(str, arguments)])


@pytest.fixture
def desk(tmp_path: Path) -> Path:
    """Where files that are carried between machines lie."""
    path = tmp_path / "desk"
    path.mkdir()
    return path


def test_a_checkpoint_is_witnessed_and_an_entry_proven_by_files(
    institution: DemoInstitution, ask: Ask, desk: Path
) -> None:
    registry = open_registry(institution.settings)
    assert isinstance(ask("checkpoint").exception, NotFoundError)
    light(registry, 1, 2, 3)
    log = json.loads(ask("checkpoint", "--json").stdout)["log"]
    public = ask("witness-key", "court.example/audit", desk / "court" / "key").stdout.strip()
    assert (desk / "court" / "key").stat().st_mode & 0o777 == 0o600
    policy = institution.settings.data / "trust" / "witnesses.policy"
    policy.parent.mkdir(parents=True)
    policy.write_text(f"log {log}\nwitness court {public}\nquorum court\n")
    assert isinstance(ask("verify").exception, IntegrityError)

    assert ask("checkpoint", "--request", desk / "request").exit_code == 0
    signed = ask(
        "witness", desk / "request", "--key", desk / "court" / "key", "--log", log, "--answer", desk / "answer"
    )
    assert signed.exit_code == 0, signed.exception
    assert "Cosigned by: court" in ask("checkpoint", "--answer", desk / "answer").stdout
    light(registry, 4)
    facts = json.loads(ask("verify", "--json").stdout)
    assert (facts["entries"], facts["checkpoint"], facts["witnessed"], list(facts["witnesses"])) == (4, 4, 3, ["court"])
    assert "3 entries witnessed: court 20" in ask("verify").stdout

    assert ask("prove", 2, "--file", desk / "2.tlog-proof").exit_code == 0
    shown = ask("check-proof", desk / "2.tlog-proof", "--log", log, "--policy", policy)
    assert "entry 2 of sovereign-pipeline/ledger/" in shown.stdout and "witnessed by court" in shown.stdout
    entry = json.loads(ask("check-proof", desk / "2.tlog-proof", "--log", log, "--json").stdout)["entry"]
    assert (entry["sequence"], entry["action"]) == (2, "lamp 2 lit")
    (desk / "4.tlog-proof").write_text(ask("prove", 4).stdout)
    unseen = ask("check-proof", desk / "4.tlog-proof", "--log", log, "--policy", policy)
    assert isinstance(unseen.exception, IntegrityError)
    assert isinstance(ask("prove", 5).exception, NotFoundError)

    stale = ask("witness", desk / "request", "--key", desk / "court" / "key", "--log", log)
    assert isinstance(stale.exception, ConflictError)
    assert "cosigned covers 3 entries" in str(stale.exception)
    assert ask("checkpoint", "--request", desk / "next").exit_code == 0
    assert (desk / "next").read_text().startswith("old 3\n")
    assert ask("witness", desk / "next", "--key", desk / "court" / "key", "--log", log).exit_code == 0
    assert isinstance(ask("checkpoint", "--request", desk / "next").exception, InputError)


def test_an_older_registry_is_refused_by_every_command(institution: DemoInstitution, ask: Ask, desk: Path) -> None:
    registry = open_registry(institution.settings)
    light(registry, 1, 2, 3)
    cut_to(registry, 1)
    for arguments in (["verify"], ["checkpoint"], ["prove", "1"], ["export", desk / "log.jsonl"]):
        refused = ask(*arguments)
        assert isinstance(refused.exception, IntegrityError)
        assert "missing: entries 2 to 3" in str(refused.exception)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check-proof", "{file}", "--log", "nonsense"],
        ["witness", "{file}", "--key", "{file}", "--log", "nonsense"],
        ["witness-key", "two words", "{file}"],
    ],
)
def test_a_careless_call_is_one_paragraph(ask: Ask, desk: Path, arguments: list[str]) -> None:
    (desk / "file").write_bytes(b"\xff\0nonsense")
    refused = ask(*(each.format(file=desk / "file") for each in arguments))
    assert isinstance(refused.exception, InputError | IntegrityError), refused.exception


@pytest.mark.security_case(
    "Rows without an entry are written to the registry's database",
    "readers ignore them; `audit verify` counts them and exits with status 1",
)
def test_rows_beside_the_log_are_counted(institution: DemoInstitution, ask: Ask) -> None:
    registry = open_registry(institution.settings)
    light(registry, 1, 2)
    assert json.loads(ask("verify", "--json").stdout)["rows_without_an_entry"] == {}
    with registry.engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.execute(insert(Blob).values(sha256="0" * 64, data=b"x"))
        connection.execute(insert(SealedEntry).values(manifest_sha256="1" * 64, sequence=1))
        connection.execute(insert(SealedEntry).values(manifest_sha256="2" * 64, sequence=9))
        connection.execute(insert(LedgerEntry).values([{"sequence": each, "data": b"x"} for each in (0, -5)]))
    verified = ask("verify", "--json")
    assert verified.exit_code == 1
    assert json.loads(verified.stdout)["rows_without_an_entry"] == {"blob": 1, "sealed": 2, "entry": 2}
