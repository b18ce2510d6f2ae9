"""What a state means elsewhere: who is an incumbent, who may be continued from, what lists and questions answer."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import RecipeError, SovereignError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.record.catalog import incumbent_of, list_adapters
from sovereign_pipeline.record.keys import write_key
from sovereign_pipeline.release.standing import differences
from sovereign_pipeline.training.continuation import parent_digests
from sovereign_pipeline_tests.release.conftest import Office

pytestmark = pytest.mark.slow

PASSPHRASE = "lamp oil and seven wicks"


def test_the_incumbent_is_what_is_in_production_else_the_last_that_may_be_used(office: Office) -> None:
    first, second, third = (office.adapter() for _ in range(3))

    def incumbent(weights: str | None = None) -> str | None:
        adapter = incumbent_of(office.registry, "lamps", weights, ())
        return adapter.id if adapter is not None else None

    assert incumbent() == third.id
    office.move("retire", third)
    assert incumbent() == second.id
    office.to_production(first)
    assert incumbent() == first.id
    office.move("recall", second)
    # Earlier adapters count in the state that they had when a candidate was registered: its scores stay as they are.
    assert incumbent(third.adapter_sha256) == second.id
    assert incumbent(second.adapter_sha256) == first.id


def test_nothing_is_continued_from_a_retired_adapter(office: Office) -> None:
    adapter = office.adapter()
    office.bench.recipe["training"]["start_from"] = adapter.id
    parent_digests(office.bench.workplace())
    office.move("retire", adapter)
    with pytest.raises(RecipeError, match=f"{adapter.id} is retired, so training cannot continue from it"):
        parent_digests(office.bench.workplace())


def test_lists_show_the_state(office: Office) -> None:
    first, second = office.adapter(), office.adapter()
    office.move("approve", first)
    assert [each["state"] for each in list_adapters(office.registry)] == ["approved", "registered"]
    office.move("reject", second)
    assert {each["id"]: each["state"] for each in list_adapters(office.registry, "lamps")}[second.id] == "rejected"


def test_what_changed_between_two_versions(office: Office) -> None:
    first, second = office.adapter(), office.adapter()
    found = differences(office.registry, first.id, second.id)
    assert found["adapter_sha256"] == (first.adapter_sha256, second.adapter_sha256)
    assert "dataset_digest" in found
    assert not {"base_model_digest", "method"} & set(found)


@pytest.fixture
def keys_of(office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The officers' encrypted key files, and the file with the passphrase."""
    directory = tmp_path / "sticks"
    directory.mkdir(mode=0o700)
    for name, signer in office.officers.items():
        write_key(directory / f"{name}.key", signer, PASSPHRASE)
    (directory / "passphrase").write_text(PASSPHRASE)
    (directory / "passphrase").chmod(0o600)
    office.bench.institution.write()
    for variable, path in (("HOME", "home"), ("DATA", "data"), ("VAULT", "vault")):
        monkeypatch.setenv(f"SOVEREIGN_{variable}", str(office.bench.institution.root / path))
    return directory


def _call(keys_of: Path, officer: str, *arguments: str) -> Result:
    key = ("--key", str(keys_of / f"{officer}.key"), "--passphrase-file", str(keys_of / "passphrase"))
    return CliRunner().invoke(app, ["adapters", *arguments, *key])


def test_officers_decide_on_the_command_line(office: Office, keys_of: Path) -> None:
    adapter = office.adapter()
    asked = _call(keys_of, "layla", "request", adapter.id, "approve", "--reason", "It writes as we do.")
    assert asked.exit_code == 0, asked.output
    for shown in ("It writes as we do.", "evidence: record", "Signing as Layla Haddad", "0 of 2 approvals"):
        assert shown in asked.output
    listed = CliRunner().invoke(app, ["adapters", "status", "--json"])
    (request,) = json.loads(listed.stdout)["requests"]
    refused = _call(keys_of, "layla", "approve", request["request"][:12])
    assert isinstance(refused.exception, SovereignError)
    assert "nobody may approve their own request" in str(refused.exception)
    assert "1 of 2 approvals" in _call(keys_of, "omar", "approve", request["request"][:12]).output
    assert "the transition was made" in _call(keys_of, "ines", "approve", request["request"][:12]).output
    history = json.loads(CliRunner().invoke(app, ["adapters", "history", adapter.id, "--json"]).stdout)
    assert history[0]["approved_by"] == ["Omar Nasser", "Ines Farah"]
    assert (history[0]["requested_by"], history[0]["to"]) == ("Layla Haddad", "approved")
    assert CliRunner().invoke(app, ["adapters", "production", "lamps"]).stdout.strip().endswith("in production.")
    assert "retired" in _call(keys_of, "ines", "retire", adapter.id, "--reason", "Superseded.").output


def test_a_wrong_passphrase_signs_nothing(office: Office, keys_of: Path) -> None:
    adapter = office.adapter()
    (keys_of / "passphrase").write_text("lamp oil and six wicks")
    refused = _call(keys_of, "layla", "request", adapter.id, "approve", "--reason", "It is needed.")
    assert isinstance(refused.exception, SovereignError)
    assert "the passphrase does not decrypt this key" in str(refused.exception)
    assert json.loads(CliRunner().invoke(app, ["adapters", "status", "--json"]).stdout)["requests"] == []


@pytest.mark.parametrize("day", ["2027-02-30", "yesterday", ""])
def test_a_day_that_is_none_is_refused(office: Office, keys_of: Path, day: str) -> None:
    office.adapter()
    answer = CliRunner().invoke(app, ["adapters", "production", "lamps", "--at", day])
    assert isinstance(answer.exception, SovereignError)
    assert "is not a valid date" in str(answer.exception)
