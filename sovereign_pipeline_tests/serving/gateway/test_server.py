"""`sovereign serve`, as an administrator starts it: a real engine, a real registry, and the official client."""

import asyncio
import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import OpenAI
from sqlalchemy import select
from starlette.testclient import TestClient

from sovereign_pipeline.base.errors import InputError, NotFoundError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.policy.serving import Role
from sovereign_pipeline.record import tree
from sovereign_pipeline.record.catalog import FLAG_CHANGED
from sovereign_pipeline.record.tables import AuditEntry
from sovereign_pipeline.record.trust_changes import demonstration_trust
from sovereign_pipeline.release.recall import Question, waive_recall
from sovereign_pipeline.serving.engines.engine import EngineRequest
from sovereign_pipeline.serving.gateway.auth import Tokens, add_token, callers_of, revoke_token
from sovereign_pipeline.serving.gateway.server import repeated, serve
from sovereign_pipeline.serving.high_water_marks import HighWaterMarks
from sovereign_pipeline.serving.rollout.publishing import follow
from sovereign_pipeline.serving.rollout.rollback import rollback
from sovereign_pipeline.workplace import open_workplace
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.officers import recall
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import Bench, ScriptedEngine, adapter, answered_in
from sovereign_pipeline_tests.serving.served_office import ServedOffice
from sovereign_pipeline_tests.serving.tiny_adapters import other_base
from sovereign_pipeline_tests.tracing import Trace
from sovereign_pipeline_tests.waiting import SECONDS, free_port, processes_of, wait_until

ASK: Any = [{"role": "user", "content": "zirconium"}]


class Served:
    """The command, in a process of its own."""

    def __init__(self, office: ServedOffice, **changes: Any) -> None:
        """changes: of the office's settings."""
        self.settings = replace(office.office.bench.settings, **changes)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        program = "from sovereign_pipeline.cli.main import main; main()"
        command = [sys.executable, "-c", program, "serve", "--port", str(self.port), "--threads", "1"]
        environment = {**os.environ, **self.settings.to_environment()}
        self.log = self.settings.home / "served.log"
        self.trace = Trace.where_possible(self.settings.home.with_name(f"trace-{self.port}.txt"))
        traced = self.trace.before if self.trace is not None else ()
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(
                [*traced, *command], env=environment, cwd=PROJECT_ROOT, stdout=stream, stderr=stream
            )
        wait_until(self._is_ready, self.log.read_text)

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        with contextlib.suppress(OSError, urllib.error.URLError):
            return bool(urllib.request.urlopen(f"{self.url}/readyz", timeout=5).status == 200)
        return False

    def client(self, token: str) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=token, max_retries=0, timeout=SECONDS)

    def kill_engine(self, base_model: str = "tiny") -> None:
        engines = processes_of("local_child", under=self.process.pid)
        (engine,) = {*engines} & {*processes_of(f'/{base_model}"', under=self.process.pid)}
        engine.kill()

    def get(self, path: str, token: str = "") -> str:
        asked = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked) as answer:
            return str(answer.read(), "utf-8")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(SECONDS)
        if self.trace is not None:
            assert self.trace.elsewhere == [] and self.trace.processes > 1  # the gateway, and its engine


@pytest.fixture
def served(served_office: ServedOffice) -> Iterator[Served]:
    many = {"requests_per_minute": 100_000, "tokens_per_minute": 10_000_000}  # asked again and again until it changes
    served_office.office.bench.institution.rules["serving"] = {"limits": many}
    served_office.in_production()
    served = Served(served_office)
    yield served
    served.stop()


def names(client: OpenAI) -> list[str]:
    """None of them as long as the gateway has not yet compared the caller's token with the ledger."""
    try:
        return [each.id for each in client.models.list()]
    except openai.AuthenticationError:
        return []


@pytest.mark.slow
def test_a_line_is_asked_from_its_promotion_to_its_end(served: Served, served_office: ServedOffice) -> None:
    office = served_office.office
    granted = Role(clearance="SECRET", versions=True, admin=True)
    text, token = add_token(served.settings, office.registry, "Layla Haddad", granted, 1, "root")
    client = served.client(text)
    wait_until(lambda: names(client) == ["lamps", "lamps-1.0.0"], served.log.read_text)

    def ask(**changes: Any) -> Any:
        return client.chat.completions.create(model="lamps", messages=ASK, max_tokens=8, **changes)

    whole = ask()
    streamed = list(ask(stream=True, stream_options={"include_usage": True}))
    joined = "".join(each.choices[0].delta.content or "" for each in streamed if each.choices)
    assert joined == whole.choices[0].message.content and whole.choices[0].message.content
    assert streamed[-1].usage == whole.usage and whole.usage.completion_tokens == 8
    assert whole.choices[0].finish_reason == "length" and whole.system_fingerprint == "lamps-1.0.0"
    with pytest.raises(openai.BadRequestError, match="tokens"):
        client.chat.completions.create(model="lamps", messages=[{"role": "user", "content": "x " * 20_000}])

    (line,) = json.loads(served.get("/admin/state", text))["lines"]
    assert [(each["adapter"], each["stage"], each["is_loaded"]) for each in line["adapters"]] == [
        ("lamps-1.0.0", "production", True)
    ]
    assert line["rollout"]["production"] == line["review"]["adapter"] == "lamps-1.0.0"
    log = served.log.read_text()
    assert f"try a line at {served.url}/\n" in log and f"see what is served at {served.url}/admin\n" in log
    assert re.search(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} served: lamps-1.0.0$", log, re.MULTILINE)
    assert line["adapters"][0]["days"] == 0 and line["adapters"][0]["complete"] == 2

    second = served_office.in_production()  # another version, which takes the first one's place

    wait_until(lambda: ask().system_fingerprint == second.id, served.log.read_text)
    wait_until(lambda: "lamps-1.0.0" not in names(client), served.log.read_text)

    running = ask(stream=True)
    begun = next(iter(running))
    rollback(served.settings, "lamps", None, office.officers["omar"], "It answers in verse.")  # asks no registry
    wait_until(lambda: ask().system_fingerprint == "lamps-1.0.0", served.log.read_text)
    assert begun.system_fingerprint == second.id and list(running)[-1].choices[0].finish_reason == "length"
    wait_until(lambda: office.states()[second.id] == "superseded", served.log.read_text)

    revoke_token(served.settings, office.registry, token.id, "root")
    with pytest.raises(openai.AuthenticationError):
        ask()
    other, _ = add_token(served.settings, office.registry, "Omar Nasser", granted, 1, "root")

    def has_seen_all() -> bool:
        """The gateway logged its answer to the rollback, too, and verified it."""
        with office.registry.reading() as session:
            changes = select(AuditEntry.subjects).where(AuditEntry.action == FLAG_CHANGED)
            *_, flag = session.scalars(changes.order_by(AuditEntry.sequence))
            size = tree.size_of(session)
        return flag["cause"] == "transition" and HighWaterMarks.of(served.settings).ledger[0] == size

    wait_until(has_seen_all, served.log.read_text)
    served.stop()
    away = Served(served_office, registry_url="postgresql://127.0.0.1:1/registry")
    client = away.client(other)
    assert ask().system_fingerprint == "lamps-1.0.0"
    away.stop()
    assert (served.settings.serving / "answers").is_dir()
    kept = [served.log, *served.settings.serving.rglob("*")]
    for path in kept:
        if path.is_file():
            content = path.read_text(errors="replace")
            assert "zirconium" not in content and joined not in content and text not in content, path
    assert "Traceback" not in served.log.read_text()


@pytest.mark.slow
def test_no_request_fails_while_the_version_changes(
    served: Served, served_office: ServedOffice, tmp_path: Path
) -> None:
    """Two promotions between two looks, and a rollback, while callers ask two gateways, each with an engine of its own.

    They share the home, and of it the flags alone; then the engine of one of them is killed.
    """
    office = served_office.office
    other = Served(served_office, serving=tmp_path / "other")
    gateways, clients = (served, other), []
    told: tuple[list[str], list[str]] = ([], [])
    failed: list[str] = []
    is_over = threading.Event()
    for each in gateways:
        text, _ = add_token(each.settings, office.registry, "Layla Haddad", Role(clearance="SECRET"), 1, "root")
        clients.append(each.client(text))
    wait_until(lambda: all(names(client) == ["lamps"] for client in clients), served.log.read_text)

    def ask(number: int) -> str:
        answer = clients[number].chat.completions.create(model="lamps", messages=ASK, max_tokens=8)
        return str(answer.system_fingerprint)

    def ask_again_and_again(number: int) -> None:
        while not is_over.is_set():
            try:
                told[number].append(ask(number))
            except openai.APIError as error:
                failed.append(str(error))

    callers = [threading.Thread(target=ask_again_and_again, args=(number,)) for number in (0, 0, 1, 1)]
    for caller in callers:
        caller.start()
    try:
        second, third = served_office.in_production(), served_office.in_production()
        wait_until(lambda: all(each[-1] == third.id for each in told), served.log.read_text)
        rollback(served.settings, "lamps", None, office.officers["omar"], "It answers in verse.")
        wait_until(lambda: all(each[-1] == second.id for each in told), served.log.read_text)
    finally:
        is_over.set()
        for caller in callers:
            caller.join(SECONDS)
    assert not failed
    assert [each[0] for each in told] == ["lamps-1.0.0"] * 2

    other.kill_engine()

    def is_back() -> bool:
        with contextlib.suppress(openai.APIError):
            return ask(1) == second.id
        return False

    wait_until(is_back, served.log.read_text)
    assert ask(0) == second.id
    other.stop()


@pytest.mark.slow
def test_a_line_of_another_base_model_is_answered_and_its_engine_dies(
    served: Served, served_office: ServedOffice, tmp_path: Path
) -> None:
    """While the engine of the first base model streams."""
    office = served_office.office
    granted = Role(clearance="SECRET", metrics=True, admin=True)
    text, _ = add_token(served.settings, office.registry, "Layla Haddad", granted, 1, "root")
    client = served.client(text)
    served_office.put_base_model("other", other_base(served_office.tiny, tmp_path))
    office.bench.recipe["training"]["base_model"] = "other"
    served_office.in_production("buoys")

    def ask(line: str, tokens: int = 8, **changes: Any) -> Any:
        return client.chat.completions.create(model=line, messages=ASK, max_tokens=tokens, **changes)

    def answers(line: str) -> bool:
        with contextlib.suppress(openai.APIError):
            return bool(ask(line).usage.completion_tokens == 8)
        return False

    wait_until(lambda: answers("buoys") and answers("lamps"), served.log.read_text)
    log = served.log.read_text()
    assert "loading the base model tiny" in log and "loading the base model other" in log
    assert json.loads(served.get("/readyz")) == {"status": "ok"}
    engines = json.loads(served.get("/admin/state", text))["engines"]
    assert [(each["base_model"], each["computes"]) for each in engines] == [("tiny", True), ("other", True)]

    whole = ask("lamps", 300).choices[0].message.content
    stream, lost = ask("lamps", 300, stream=True), ask("buoys", 400, stream=True)
    begun = next(iter(stream)).choices[0].delta.content or ""
    next(iter(lost))
    served.kill_engine("other")
    with pytest.raises(openai.APIError, match="ended before"):
        list(lost)
    assert 'sovereign_engine_up{base_model="other"} 0.0' in served.get("/metrics", text)
    health = json.loads(served.get("/readyz"))
    assert health["status"] == "degraded" and "buoys" not in health["detail"]
    assert begun + "".join(each.choices[0].delta.content or "" for each in stream) == whole
    wait_until(lambda: answers("buoys"), served.log.read_text)
    assert json.loads(served.get("/readyz")) == {"status": "ok"}
    log = served.log.read_text()
    assert "Unknown child process" not in log and "Traceback" not in log


@pytest.mark.slow
def test_nothing_is_served_where_no_adapter_may_be(served_office: ServedOffice) -> None:
    served_office.adapter()
    with pytest.raises(NotFoundError, match="No adapter may be served"):
        settings = served_office.office.bench.settings
        serve(settings, free_port(), None, lambda _: None, partial(open_workplace, settings))


@pytest.mark.slow
def test_a_gateway_starts_while_its_only_line_is_recalled(served_office: ServedOffice) -> None:
    office, only = served_office.office, served_office.in_production()
    follow(office.registry, office.bench.workplace())
    key = office.officers["layla"]
    recalled = recall(office.registry, Question(source="letters"), key)
    text, _ = add_token(office.bench.settings, office.registry, "Layla Haddad", Role(clearance="SECRET"), 1, "root")
    served = Served(served_office)
    client = served.client(text)

    def answers() -> bool:
        with contextlib.suppress(openai.APIError):
            answer = client.chat.completions.create(model="lamps", messages=ASK, max_tokens=8)
            return bool(answer.system_fingerprint == only.id)
        return False

    try:
        assert json.loads(served.get("/readyz"))["status"] == "degraded"
        with pytest.raises(openai.NotFoundError) as refused:
            client.models.retrieve("lamps")
        assert refused.value.code == "model_withdrawn"
        waive_recall(office.registry, recalled.id, only.id, key, "Retrained next week.")
        wait_until(answers, served.log.read_text)
    finally:
        served.stop()


@pytest.mark.parametrize("url", ["nonsense", "postgresql://127.0.0.1:1/registry"])
def test_a_registry_that_is_down_is_said(institution: DemoInstitution, url: str) -> None:
    institution.write()
    settings = replace(institution.settings, registry_url=url)
    demonstration_trust(settings.data / "trust", settings.keys)
    with pytest.raises(InputError):
        serve(settings, free_port(), None, lambda _: None, partial(open_workplace, settings))


@pytest.mark.security_case(
    (
        "The gateway is configured to trust a proxy header without a secret, with a short one, or with "
        "one that other accounts can read"
    ),
    "it does not start",
)
def test_a_proxy_that_is_half_set_up_is_refused(institution: DemoInstitution, tmp_path: Path) -> None:
    workplace = institution.workplace()
    settings = replace(institution.settings, serving_user_header="X-Remote-User")
    tokens = Tokens(tmp_path / "tokens.json")

    def refused(secret: Path | None, message: str) -> None:
        with pytest.raises(InputError, match=message):
            callers_of(replace(settings, serving_proxy_secret=secret), workplace.institution, tokens)

    refused(None, "no secret proves that the proxy has sent it")
    path = tmp_path / "secret"
    refused(path, "the file does not exist")
    path.write_text("short\n")
    path.chmod(0o600)
    refused(path, "fewer than 32 characters")
    path.write_text("x" * 32)
    path.chmod(0o640)
    refused(path, "other accounts can read")
    path.chmod(0o600)
    assert callers_of(replace(settings, serving_proxy_secret=path), workplace.institution, tokens)


def test_a_problem_is_logged_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    outcomes, is_over = iter(["down", "down", "", "", "down", "up side down", ""]), threading.Event()

    def act() -> None:
        if outcome := next(outcomes, None):
            raise InputError(outcome)
        if outcome is None:
            is_over.set()

    async def repeat() -> None:
        repeating = asyncio.ensure_future(repeated("tokens", act, 0.01)())
        await asyncio.to_thread(is_over.wait)
        repeating.cancel()

    asyncio.run(repeat())
    end = "tokens: the problem is resolved"
    assert caplog.messages == ["tokens: down", end, "tokens: down", "tokens: up side down", end]


PROMPT, ANSWER, SYSTEM, STOP, USER = "zirconium", "palimpsest", "quillwort", "xylograph", "velocipede"
WORDS = (PROMPT, ANSWER, SYSTEM, STOP, USER)
SECRET_ASK: dict[str, Any] = {
    "model": "lamps",
    "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}],
    "stop": [STOP],
    "user": USER,
}


class Faulty(ScriptedEngine):
    """Fails as a bug does: with the prompt in the message."""

    async def answer(self, request: EngineRequest) -> Any:
        raise ValueError(str(request.messages))


@pytest.mark.security_case(
    "Someone searches the gateway's files, logs, metrics and errors for prompts and answers", "they contain none"
)
def test_no_text_of_a_request_is_kept(
    bench: Bench, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, "sovereign_pipeline")
    written: list[str] = []

    def ask(caller: Any, **changes: Any) -> Any:
        return caller.post("/v1/chat/completions", json={**SECRET_ASK, **changes})

    bench.engine.words = [ANSWER, ANSWER]
    bench.serve(adapter("lamps"))
    token = bench.token(metrics=True)
    caller = client(token)
    for stream in (True, False):
        assert ANSWER in ask(caller, stream=stream).text
    refused = [
        ask(caller, model=PROMPT),
        ask(caller, messages=[{"role": PROMPT, "content": PROMPT}]),
        ask(caller, messages=[{"role": "user", "content": PROMPT, f"{PROMPT} {PROMPT}": 1}]),
        ask(caller, temperature=PROMPT),
        ask(caller, stop=[PROMPT] * 17),
        ask(caller, response_format={"type": PROMPT}),
        caller.post("/v1/chat/completions", content=PROMPT.encode()),
        caller.post(f"/v1/{PROMPT}", json=SECRET_ASK),
        client(PROMPT).get("/v1/models"),
        caller.post("/v1/feedback", json={"id": PROMPT, "thumb": "up"}),
        caller.post("/v1/feedback", json={"id": f"chatcmpl-{'0' * 32}", "thumb": "down", "reason": PROMPT}),
        caller.get("/v1/models", headers={"Host": PROMPT}),
    ]
    bench.engine.lost_after = 1
    refused += [ask(caller, stream=False)]
    written.append(ask(caller, stream=True).text.replace(ANSWER, "", 1))
    written.append(caller.get("/metrics").text)
    bench.engine = Faulty(adapters=bench.engine.adapters)
    faulty = client(token)
    refused += [ask(faulty, stream=True), ask(faulty, stream=False)]
    assert all(each.status_code >= 400 for each in refused)

    written += [each.text + str(each.headers) for each in refused]
    written += [caplog.text, *capfd.readouterr()]
    written += [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    assert any("ValueError at" in each for each in written), "a bug is told by its place"
    for word in (*WORDS, token):
        assert not [each for each in written if word in each], word


def test_metrics_count_by_line_adapter_and_outcome_alone(bench: Bench, client: Client) -> None:
    bench.serve(adapter("lamps"))
    watcher, other = client(bench.token(metrics=True)), bench.token()
    for changes in ({}, {"stream": True}, {"model": "buoys"}, {"model": "x" * 200}, {"temperature": 9}):
        watcher.post("/v1/chat/completions", json={**SECRET_ASK, **changes})
    page = watcher.get("/metrics").text
    assert 'sovereign_gateway_requests_total{adapter="lamps-1.0.0",line="lamps",outcome="complete"} 2.0' in page
    assert 'sovereign_gateway_requests_total{adapter="",line="",outcome="refused_404"} 2.0' in page
    assert 'sovereign_gateway_requests_total{adapter="",line="",outcome="refused_400"} 1.0' in page
    assert 'gen_ai_server_time_to_first_token_count{adapter="lamps-1.0.0",line="lamps"} 2.0' in page
    assert 'gen_ai_server_time_per_output_token_count{adapter="lamps-1.0.0",line="lamps"} 8.0' in page
    assert 'sovereign_engine_up{base_model="smollm2-135m-instruct"} 1.0' in page
    assert 'sovereign_engine_adapters{base_model="smollm2-135m-instruct"} 1.0' in page
    assert client(other).get("/metrics").status_code == 404


def test_how_an_answer_ended_is_counted(bench: Bench, caller: TestClient) -> None:
    bench.engine.lost_after = 2
    for stream in (True, False):
        caller.post("/v1/chat/completions", json={**SECRET_ASK, "stream": stream})
    page = caller.get("/metrics").text
    assert 'adapter="lamps-1.0.0",line="lamps",outcome="lost"} 2.0' in page
    assert "refused_503" not in page, "counted once"
    (file,) = bench.journal.glob("*.jsonl")
    assert [each.outcome for each in answered_in(file)] == ["lost", "lost"]
