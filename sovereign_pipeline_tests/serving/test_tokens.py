"""Tokens: what is kept of them, what the ledger says, and what a gateway believes."""

import datetime
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.tables import AuditEntry
from sovereign_pipeline.serving.gateway.auth import (
    ADDED,
    REVOKED,
    Grant,
    Token,
    TokenFile,
    Tokens,
    add_token,
    file_of,
    read_tokens,
    revoke_token,
)
from sovereign_pipeline_tests.conftest import DemoInstitution

NOW = datetime.datetime.now(datetime.UTC)
WHO = "Layla Haddad"
GRANT = Grant("INTERNAL", frozenset({"lamps"}))


@pytest.fixture
def registry(institution: DemoInstitution) -> Registry:
    institution.write()
    return open_registry(institution.settings)


def added(registry: Registry) -> tuple[str, Token]:
    return add_token(registry.settings, registry, WHO, GRANT, 30, "root")


def entries_of_tokens(registry: Registry) -> list[AuditEntry]:
    return [each for each in entries(registry) if each.action in (ADDED, REVOKED)]


def tokens_of(registry: Registry) -> Tokens:
    return Tokens(file_of(registry.settings))


def test_a_token_stands_for_its_grant_until_it_expires(registry: Registry) -> None:
    text, token = added(registry)
    tokens = tokens_of(registry)
    caller = tokens.caller(text, NOW)
    assert caller is not None and caller.grants == (GRANT,)
    assert tokens.caller(text, token.expires_at) is None
    for other in ("", text[:-1], text + "x", token.sha256, token.id, "sk-sov-" + "\xff"):
        assert tokens.caller(other, NOW) is None


def test_nothing_that_is_kept_has_the_token_and_the_ledger_has_no_name(registry: Registry) -> None:
    text, token = added(registry)
    kept = [path for path in registry.settings.home.parent.rglob("*") if path.is_file()]
    assert file_of(registry.settings) in kept
    assert not [path for path in kept if text.encode() in path.read_bytes()]
    (entry,) = entries_of_tokens(registry)
    assert entry.action == ADDED and entry.subjects["token"] == token.sha256
    assert WHO not in json.dumps(entry.subjects)
    assert added(registry)[1].facts()["who"] != token.facts()["who"], "one name, two commitments"


@pytest.mark.security_case("Another account reads or writes the gateway's tokens", "nobody is let in, with a message")
def test_the_file_is_private(registry: Registry) -> None:
    text, _ = added(registry)
    path = file_of(registry.settings)
    assert path.stat().st_mode & 0o777 == 0o600 and path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o640)
    with pytest.raises(IntegrityError, match=r"tokens\.json: other accounts"):
        tokens_of(registry).caller(text, NOW)
    path.chmod(0o600)
    path.parent.chmod(0o750)
    with pytest.raises(InputError, match="other accounts can enter"):
        added(registry)


def test_a_revoked_token_ends_at_once_for_a_gateway_that_runs(registry: Registry) -> None:
    (text, token), (other, _) = added(registry), added(registry)
    tokens = tokens_of(registry)
    assert tokens.caller(text, NOW) is not None
    revoke_token(registry.settings, registry, token.id, "root")
    assert tokens.caller(text, NOW) is None
    assert tokens.caller(other, NOW) is not None
    assert [each.action for each in entries_of_tokens(registry)] == [ADDED, ADDED, REVOKED]
    assert tokens.compare_with(registry) == {}, "one that was revoked as it should be alarms nobody"
    assert tokens.caller(text, NOW) is None
    revoke_token(registry.settings, registry, token.id, "root")
    assert len(entries_of_tokens(registry)) == 3, "once is enough"


def test_a_token_is_revoked_while_the_registry_is_down_and_entered_later(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, token = added(registry)

    def down(self: Registry) -> None:
        raise InputError("The registry cannot be opened (planted).", "Start it.")

    with monkeypatch.context() as planted:
        planted.setattr(Registry, "writing", down)
        with pytest.raises(InputError, match="planted"):
            revoke_token(registry.settings, registry, token.id, "root")
    assert tokens_of(registry).caller(text, NOW) is None
    revoke_token(registry.settings, registry, token.id, "root")
    assert [each.action for each in entries_of_tokens(registry)] == [ADDED, REVOKED]


@pytest.mark.security_case(
    "A token is written into the gateway's file, given a higher clearance or a later end, or an older file is put back",
    "the gateway refuses it once it has compared the file with the ledger",
)
@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "e" * 64},
        {"clearance": "SECRET"},
        {"lines": None},
        {"versions": True},
        {"metrics": True},
        {"admin": True},
        {"users": True},
        {"who": "Omar Nasser"},
        {"expires_at": NOW + datetime.timedelta(days=9000)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_the_ledger_does_not_say_is_refused(registry: Registry, change: dict[str, object]) -> None:
    text, token = added(registry)
    tokens = tokens_of(registry)
    assert tokens.compare_with(registry) == {}
    changed = token.model_copy(update=change)
    file_of(registry.settings).write_text(TokenFile(tokens=(changed,)).model_dump_json())
    assert list(tokens.compare_with(registry)) == [changed.id]
    assert tokens.caller(text, NOW) is None


def test_an_older_file_revives_nobody(registry: Registry) -> None:
    text, token = added(registry)
    path = file_of(registry.settings)
    older = path.read_bytes()
    revoke_token(registry.settings, registry, token.id, "root")
    path.write_bytes(older)
    tokens = tokens_of(registry)
    assert list(tokens.compare_with(registry).values()) == ["the ledger says that it was revoked"]
    assert tokens.caller(text, NOW) is None


@pytest.mark.security_case(
    "A token is written into the gateway's file, or raised or revived there, between two comparisons with the ledger, "
    "or while the registry is away",
    "nobody is let in by it",
)
def test_between_two_comparisons_nothing_is_let_in_that_was_not_compared(registry: Registry) -> None:
    text, token = added(registry)
    tokens, path = tokens_of(registry), file_of(registry.settings)
    assert tokens.compare_with(registry) == {}
    older = path.read_bytes()
    path.write_text(TokenFile(tokens=(token.model_copy(update={"clearance": "SECRET"}),)).model_dump_json())
    assert tokens.caller(text, NOW) is None
    path.write_bytes(older)
    assert tokens.caller(text, NOW) is not None
    other, _ = added(registry)
    assert tokens.caller(other, NOW) is None, "until it was compared"
    revoke_token(registry.settings, registry, token.id, "root")
    tokens.compare_with(registry)
    assert tokens.caller(other, NOW) is not None
    path.write_bytes(older)
    assert tokens.caller(text, NOW) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"tokens": [{}]}', b"\xff", b"[" * 100_000])
def test_a_damaged_file_lets_nobody_in(registry: Registry, content: bytes) -> None:
    text, _ = added(registry)
    tokens = tokens_of(registry)
    assert tokens.caller(text, NOW) is not None
    file_of(registry.settings).write_bytes(content)
    with pytest.raises(IntegrityError, match="not the file of the gateway's tokens"):
        tokens.caller(text, NOW)


def test_an_id_must_name_one_token(registry: Registry) -> None:
    _, token = added(registry)
    for id in ("", "a", token.sha256[:7], "f" * 12, "*"):
        with pytest.raises(NotFoundError, match="no such token"):
            revoke_token(registry.settings, registry, id, "root")
    assert read_tokens(file_of(registry.settings)) == (token,)


@pytest.fixture
def sovereign(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> "Sovereign":
    institution.write()
    for name, value in institution.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    return Sovereign(institution.settings.home)


class Sovereign:
    """The command line in this process."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["serve", "tokens", *arguments])


def test_the_command_line_adds_lists_and_revokes(sovereign: Sovereign) -> None:
    made = json.loads(sovereign("add", WHO, "--clearance", "INTERNAL", "--line", "lamps", "--json").stdout)
    assert made["token"].startswith("sk-sov-") and made["lines"] == "lamps"
    listed = sovereign("list", "--json")
    assert made["token"] not in listed.stdout
    (row,) = json.loads(listed.stdout)
    assert (row["id"], row["who"], row["state"]) == (made["id"], WHO, "valid")
    assert sovereign("revoke", made["id"]).exit_code == 0
    assert json.loads(sovereign("list", "--json").stdout)[0]["state"] == "revoked"


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("add", WHO, "--clearance", "COSMIC"), "COSMIC"),
        (("add", WHO, "--clearance", "PUBLIC", "--line", "buoys"), "buoys"),
        (("add", "", "--clearance", "PUBLIC"), "name of the caller"),
    ],
)
def test_what_is_wrong_is_refused(sovereign: Sovereign, arguments: tuple[str, ...], what: str) -> None:
    done = sovereign(*arguments)
    assert isinstance(done.exception, InputError) and what in done.exception.message


def test_the_list_ends_1_for_a_token_that_is_not_on_record(sovereign: Sovereign, institution: DemoInstitution) -> None:
    sovereign("add", WHO, "--clearance", "PUBLIC")
    path = file_of(institution.settings)
    path.write_text(path.read_text().replace("PUBLIC", "SECRET"))
    listed = sovereign("list")
    assert listed.exit_code == 1 and "no entry of the ledger" in listed.stdout
