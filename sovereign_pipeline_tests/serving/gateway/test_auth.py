"""Who is let in, and what is within whose reach: by level, by line, by version, by token and by the proxy's word."""

import datetime
import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.policy.serving import FrontEnd, Role
from sovereign_pipeline.record.audit_log import Parsed, entries
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.serving.engines.engine import EngineState
from sovereign_pipeline.serving.gateway.app import Condition
from sovereign_pipeline.serving.gateway.auth import (
    ADDED,
    REVOKED,
    Token,
    TokenFile,
    Tokens,
    add_token,
    file_of,
    read_tokens,
    revoke_token,
)
from sovereign_pipeline_tests.conftest import LADDER, DemoInstitution
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import PROXY, SECRET, Bench, adapter, answered_in, ask, named


@pytest.mark.security_case(
    "A caller requests an adapter above their clearance, or of another line",
    "404, identical to the one for a missing model, and no list contains it",
)
@pytest.mark.parametrize(("clearance", "level"), list(itertools.product(LADDER, LADDER)), ids=str)
def test_the_clearance_must_reach_the_level(bench: Bench, client: Client, clearance: str, level: str) -> None:
    bench.serve(adapter("lamps", level=level))
    reaches = LADDER.index(clearance) >= LADDER.index(level)
    caller = client(bench.token(clearance, versions=True))
    names = ["lamps", "lamps-1.0.0"] if reaches else []
    assert [each["id"] for each in caller.get("/v1/models").json()["data"]] == names
    nobody = ask(caller, model="buoys")
    for model in ("lamps", "lamps-1.0.0"):
        answer = ask(caller, model=model)
        assert answer.status_code == (200 if reaches else 404)
        if reaches:
            assert answer.headers["x-sovereign-classification"] == level
        else:
            assert (answer.content, sorted(answer.headers.items())) == (
                nobody.content,
                sorted(nobody.headers.items()),
            )
            assert caller.get(f"/v1/models/{model}").content == caller.get("/v1/models/buoys").content


@pytest.mark.security_case(
    "Two versions of a line have the same weights and different levels, and a caller requests the line",
    "clearance, headers and logs are those of the version that the flag assigns",
)
def test_versions_with_the_same_weights_keep_their_own_levels(bench: Bench, client: Client) -> None:
    production = bench.serve(adapter("lamps", "1.0.1", "SECRET"))
    bench.serve(replace(adapter("lamps", level="CONFIDENTIAL"), digest=production.digest, in_reserve=True))
    assert ask(client(bench.token("CONFIDENTIAL"))).status_code == 404
    caller = client(bench.token("SECRET", versions=True))
    assert [each["id"] for each in caller.get("/v1/models").json()["data"]] == ["lamps", "lamps-1.0.1"]
    for model in ("lamps", "lamps-1.0.1"):
        headers = ask(caller, model=model).headers
        assert (headers["x-sovereign-adapter"], headers["x-sovereign-classification"]) == ("lamps-1.0.1", "SECRET")
    answered = [each.adapter for file in bench.journal.glob("*.jsonl") for each in answered_in(file)]
    assert answered == ["lamps-1.0.1"] * 2


def test_a_caller_has_the_lines_and_versions_of_the_grant(bench: Bench, client: Client) -> None:
    bench.serve(adapter("lamps"))
    bench.serve(adapter("lamps", "1.1.0"), in_production=False)
    bench.serve(adapter("buoys"))
    of_lamps = client(bench.token(lines=("lamps",)))
    with_versions = client(bench.token(lines=("lamps",), versions=True))
    assert [ask(of_lamps, model=model).status_code for model in ("lamps", "buoys", "lamps-1.0.0")] == [200, 404, 404]
    listed = [each["id"] for each in with_versions.get("/v1/models").json()["data"]]
    assert listed == ["lamps", "lamps-1.0.0", "lamps-1.1.0"]
    staged = ask(with_versions, model="lamps-1.1.0")
    assert staged.json()["system_fingerprint"] == staged.headers["x-sovereign-adapter"] == "lamps-1.1.0"
    assert ask(with_versions, model="lamps").json()["system_fingerprint"] == "lamps-1.0.0"
    assert ask(with_versions, model="buoys-1.0.0").status_code == 404


def test_a_level_that_the_ladder_no_longer_has_is_above_all(bench: Bench, client: Client) -> None:
    bench.serve(adapter("lamps", level="COSMIC"))
    bench.serve(adapter("buoys", level="PUBLIC"))
    assert ask(client(bench.token("SECRET")), model="lamps").status_code == 404
    assert ask(client(bench.token("COSMIC")), model="buoys").status_code == 404


def test_what_is_not_loaded_is_said_to_who_may_use_it_alone(bench: Bench, client: Client) -> None:
    served = bench.serve(adapter("lamps", level="SECRET"))
    del bench.engine.adapters[served.digest]
    loading = ask(client(bench.token("SECRET")), model="lamps")
    assert loading.status_code == 503 and int(loading.headers["retry-after"]) > 0
    assert ask(client(bench.token("PUBLIC")), model="lamps").status_code == 404


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Bearer ", "Basic dTpw", "Bearer sk-other", "Token sk-other", "Bearer " + "x" * 5000],
)
@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/chat/completions", "/metrics", "/nowhere", "/docs", "/admin/state"]
)
def test_nobody_without_a_token_learns_anything(bench: Bench, client: Client, header: str | None, path: str) -> None:
    bench.serve(adapter("lamps"))
    bench.token()
    for method in ("GET", "POST"):
        headers = {"Authorization": header} if header is not None else {}
        answer = client().request(method, path, headers=headers, content=b"{")
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"


def test_two_tokens_are_none(bench: Bench, client: Client) -> None:
    header = ("Authorization", f"Bearer {bench.token()}")
    assert client().get("/v1/models", headers=[header]).status_code == 200
    assert client().get("/v1/models", headers=[header, header]).status_code == 401


def test_an_expired_or_revoked_token_is_none_and_a_damaged_file_lets_nobody_in(bench: Bench, client: Client) -> None:
    expired, valid = bench.token(days=-1), bench.token()
    assert client(expired).get("/v1/models").status_code == 401
    caller = client(valid)
    assert caller.get("/v1/models").status_code == 200
    (bench.directory / "tokens.json").write_text("{")
    answer = caller.get("/v1/models")
    assert answer.status_code == 500 and answer.json()["error"]["code"] == "internal_error"


def behind_proxy(bench: Bench) -> None:
    bench.behind_proxy(
        desk=Role(clearance="SECRET", lines=("lamps",), versions=True),
        all=Role(clearance="PUBLIC"),
        watch=Role(clearance="PUBLIC", metrics=True),
    )


SENT = named("layla", "desk, unknown")


def test_the_proxy_names_callers_and_roles_and_clearances_do_not_add_up(bench: Bench, client: Client) -> None:
    behind_proxy(bench)
    bench.serve(adapter("lamps", level="SECRET"))
    bench.serve(adapter("buoys", level="SECRET"))
    bench.serve(adapter("notices", level="PUBLIC"))
    proxied = client(client=(PROXY, 5000))
    seen = {
        roles: [
            each["id"] for each in proxied.get("/v1/models", headers={**SENT, "X-Remote-Roles": roles}).json()["data"]
        ]
        for roles in ("desk", "all", "desk,all", "", "none")
    }
    assert seen == {
        "desk": ["lamps", "lamps-1.0.0"],
        "all": ["notices"],
        "desk,all": ["lamps", "lamps-1.0.0", "notices"],
        "": [],
        "none": [],
    }
    assert proxied.get("/metrics", headers=SENT).status_code == 404
    assert proxied.get("/metrics", headers={**SENT, "X-Remote-Roles": "watch"}).status_code == 200


@pytest.mark.security_case(
    "A local program sends the header with which the institution's proxy names callers of the gateway",
    "401: address and secret must be the proxy's; a repeated header names nobody",
)
@pytest.mark.parametrize(
    ("address", "changes"),
    [
        ("127.0.0.1", {}),
        (PROXY, {"X-Proxy-Secret": ""}),
        (PROXY, {"X-Proxy-Secret": SECRET + "x"}),
        (PROXY, {"X-Proxy-Secret": None}),
        (PROXY, {"X-Remote-User": ""}),
        (PROXY, {"X-Remote-User": "x" * 300}),
        ("127.0.0.1", {"X-Forwarded-For": "10.0.0.9", "Forwarded": "for=10.0.0.9"}),
    ],
    ids=str,
)
def test_nobody_else_speaks_for_the_proxy(
    bench: Bench, client: Client, address: str, changes: dict[str, str | None]
) -> None:
    behind_proxy(bench)
    sent = {name: value for name, value in {**SENT, **changes}.items() if value is not None}
    assert client(client=(address, 5000)).get("/v1/models", headers=sent).status_code == 401


@pytest.mark.parametrize("twice", SENT)
def test_a_header_of_the_proxy_that_is_sent_twice_gives_nothing(bench: Bench, client: Client, twice: str) -> None:
    behind_proxy(bench)
    bench.serve(adapter("lamps"))
    headers = [*SENT.items(), (twice, SENT[twice])]
    answer = client(client=(PROXY, 5000)).get("/v1/models", headers=headers)
    assert answer.status_code == 401 or answer.json()["data"] == []


def test_a_host_or_page_elsewhere_is_not_answered(bench: Bench, client: Client) -> None:
    caller = client(bench.token())
    for headers in (
        {"Host": "rebound.example"},
        {"Origin": "http://rebound.example"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        answer = caller.get("/v1/models", headers=headers)
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "foreign_host"


def test_health_names_nothing_and_readiness_follows_the_engine(bench: Bench, client: Client) -> None:
    bench.serve(adapter("lamps"))
    anybody = client()
    assert anybody.get("/healthz").json() == anybody.get("/readyz").json() == {"status": "ok"}
    bench.engine.well = False
    answer = anybody.get("/readyz")
    assert answer.status_code == 503 and "lamps" not in answer.text
    assert anybody.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("condition", "engines", "status", "told"),
    [
        (Condition(), [EngineState("vllm", "granite", "1" * 64, False, 0)], 200, "do not compute: 1"),
        (Condition(is_behind=True), [], 200, "newer flag"),
        (Condition(withdrawn=1), [], 200, "withdrawn by an officer"),
        (Condition(unloaded=1), [], 200, "not loaded: 1"),
        (Condition(unreached_seconds=60.0), [], 200, "registry"),
        (Condition(unreached_seconds=90_000.0), [], 503, "registry"),
        (Condition(answers=False), [], 503, "no_line_served"),
    ],
)
def test_readiness_says_that_no_line_answers_or_a_flag_waits(
    bench: Bench, client: Client, condition: Condition, engines: list[EngineState], status: int, told: str
) -> None:
    bench.serve(adapter("lamps"))
    bench.condition, bench.other_engines = condition, engines
    anybody = client()
    answer = anybody.get("/readyz")
    assert answer.status_code == status and told in answer.text
    assert status == 503 or answer.json()["status"] == "degraded"
    assert "lamps" not in answer.text and "granite" not in answer.text
    assert anybody.get("/healthz").json() == {"status": "ok"}
    page, is_reached = client(bench.token(metrics=True)).get("/metrics").text, condition.unreached_seconds is None
    assert f"sovereign_registry_up {is_reached:.1f}" in page


def test_the_engine_is_told_callers_of_one_clearance_from_those_of_another(bench: Bench, client: Client) -> None:
    bench.serve(adapter("lamps"))
    for clearance in ("SECRET", "CONFIDENTIAL", "SECRET"):
        asked = {"model": "lamps", "messages": [{"role": "user", "content": "x"}]}
        assert client(bench.token(clearance)).post("/v1/chat/completions", json=asked).status_code == 200
    assert [each.cache_group for each in bench.engine.asked] == ["SECRET", "CONFIDENTIAL", "SECRET"]


NOW = datetime.datetime.now(datetime.UTC)
WHO = "Layla Haddad"
FRONT_END = FrontEnd(user_header="X-Person", concurrent=40, per_minute=600)
GRANT = Role(clearance="INTERNAL", lines=("lamps",), users=True, front_end=FRONT_END)


def added(registry: Registry) -> tuple[str, Token]:
    return add_token(registry.settings, registry, WHO, GRANT, 30, "root")


def entries_of_tokens(registry: Registry) -> list[Parsed]:
    return [each for each in entries(registry) if each.action in (ADDED, REVOKED)]


def tokens_of(registry: Registry) -> Tokens:
    return Tokens(file_of(registry.settings))


def test_a_token_stands_for_its_grant_until_it_expires(registry: Registry) -> None:
    text, token = added(registry)
    tokens = tokens_of(registry)
    caller = tokens.caller(text, NOW)
    assert caller is not None and caller.grants == (token,) and dict(GRANT).items() <= dict(token).items()
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


@pytest.mark.security_case(
    "Another account reads or writes the gateway's tokens", "every caller is rejected with a message"
)
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
    (
        "A token is added to the gateway's file or gets a higher clearance or a later expiry, or an "
        "older file is restored"
    ),
    "the gateway rejects it at the next comparison with the ledger",
)
@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "e" * 64},
        {"clearance": "SECRET"},
        {"lines": None},
        {"versions": True},
        {"front_end": FrontEnd(concurrent=4000)},
        {"front_end": FRONT_END.model_copy(update={"user_header": None})},
        {"metrics": True},
        {"admin": True},
        {"users": False},
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


@pytest.mark.security_case(
    (
        "A token is added, raised or revived in the gateway's file between two comparisons with the "
        "ledger, or while the registry is down"
    ),
    "it grants no access",
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
    assert list(tokens.compare_with(registry).values()) == ["a ledger entry revokes this token"]
    assert tokens.caller(text, NOW) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"tokens": [{}]}', b"\xff", b"[" * 100_000])
def test_a_damaged_file_lets_nobody_in(registry: Registry, content: bytes) -> None:
    text, _ = added(registry)
    tokens = tokens_of(registry)
    assert tokens.caller(text, NOW) is not None
    file_of(registry.settings).write_bytes(content)
    with pytest.raises(IntegrityError, match="not a valid token file"):
        tokens.caller(text, NOW)


def test_a_record_without_its_lines_does_not_mean_every_line(registry: Registry) -> None:
    text, _ = added(registry)
    content = json.loads(file_of(registry.settings).read_bytes())
    for record in content["tokens"]:
        del record["lines"]
    file_of(registry.settings).write_text(json.dumps(content))
    with pytest.raises(IntegrityError):
        tokens_of(registry).caller(text, NOW)


def test_an_id_must_name_one_token(registry: Registry) -> None:
    _, token = added(registry)
    for id in ("", "a", token.sha256[:7], "f" * 12, "*"):
        with pytest.raises(NotFoundError, match="matches no token or more than one"):
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
    front_end = ("--user-header", "X-OpenWebUI-User-Id", "--concurrent", "40", "--user-per-minute", "30")
    made = json.loads(sovereign("add", WHO, "--clearance", "INTERNAL", *front_end, "--json").stdout)
    assert (made["users"], made["limits"]) == ("X-OpenWebUI-User-Id", "concurrent 40, user_per_minute 30")


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("add", WHO, "--clearance", "COSMIC"), "COSMIC"),
        (("add", WHO, "--clearance", "PUBLIC", "--line", "buoys"), "buoys"),
        (("add", "", "--clearance", "PUBLIC"), "name of the caller"),
        (("add", "a\nb\x1b[31m", "--clearance", "PUBLIC"), "invisible character"),
        (("add", "\u202egnirts", "--clearance", "PUBLIC"), "invisible character"),
        (("add", WHO, "--clearance", "PUBLIC", "--user-header", "X: 1"), "--user-header"),
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
    assert listed.exit_code == 1 and "no ledger entry" in listed.stdout
