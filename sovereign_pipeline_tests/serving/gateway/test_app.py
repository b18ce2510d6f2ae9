"""The official client of OpenAI's API against the gateway, over a real port."""

import contextlib
import json
import math
import socket
import threading
from collections.abc import Callable
from typing import Any

import openai
import pytest
from openai import OpenAI

from sovereign_pipeline.serving.deployment import Deployed
from sovereign_pipeline.serving.gateway.app import Condition, condition_of
from sovereign_pipeline.serving.rollout import in_force
from sovereign_pipeline.serving.rollout.flag import FLAGS_FILE, root_of, sequences
from sovereign_pipeline.serving.rollout.in_force import Choice
from sovereign_pipeline.serving.rollout.telemetry import Tally
from sovereign_pipeline_tests.serving.gateway.conftest import Client, Running
from sovereign_pipeline_tests.serving.gateway.scripted import PROMPT_TOKENS, WORDS, Bench, adapter
from sovereign_pipeline_tests.serving.rollout.conftest import LINE, Desk
from sovereign_pipeline_tests.waiting import wait_until

ASK: Any = [{"role": "user", "content": "The lamp is out."}]
Start = Callable[[], Running]


def client_of(running: Running, token: str) -> OpenAI:
    return OpenAI(base_url=f"{running.url}/v1", api_key=token, max_retries=0, timeout=20)


def test_it_answers_whole(bench: Bench, running: Start) -> None:
    bench.serve(adapter("lamps", level="CONFIDENTIAL"))
    client = client_of(running(), bench.token())
    raw = client.chat.completions.with_raw_response.create(model="lamps", messages=ASK, seed=3, stop=["END"])
    answer = raw.parse()
    assert answer.choices[0].message.content == "".join(WORDS)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None and answer.usage.total_tokens == PROMPT_TOKENS + len(WORDS)
    assert answer.system_fingerprint == raw.headers["x-sovereign-adapter"] == "lamps-1.0.0"
    assert raw.headers["x-sovereign-classification"] == "CONFIDENTIAL"
    assert answer.metadata == {"classification": "CONFIDENTIAL"}
    assert bench.engine.asked[0].sampling.seed == 3 and bench.engine.asked[0].sampling.stop == ("END",)


def test_it_streams(bench: Bench, running: Start) -> None:
    bench.serve(adapter("lamps"))
    client = client_of(running(), bench.token())
    chunks = list(
        client.chat.completions.create(model="lamps", messages=ASK, stream=True, stream_options={"include_usage": True})
    )
    assert [each.choices[0].delta.content for each in chunks[1:-2]] == list(WORDS)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == len(WORDS)


def test_completions_are_answered_too(bench: Bench, running: Start) -> None:
    bench.serve(adapter("lamps", instruction="Answer letters."))
    client = client_of(running(), bench.token())
    assert client.completions.create(model="lamps", prompt="Out.").choices[0].text == "".join(WORDS)
    chunks = list(client.completions.create(model="lamps", prompt="Out.", stream=True))
    assert "".join(each.choices[0].text for each in chunks) == "".join(WORDS)
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert bench.engine.asked[0].messages == [{"role": "user", "content": "Answer letters.\n\nOut."}]


def test_models_are_listed(bench: Bench, running: Start) -> None:
    bench.serve(adapter("lamps"))
    client = client_of(running(), bench.token())
    assert [each.id for each in client.models.list()] == ["lamps"]
    assert client.models.retrieve("lamps").id == "lamps"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("buoys")


def test_errors_are_the_clients_own_kinds(bench: Bench, running: Start) -> None:
    bench.serve(adapter("lamps"))
    gateway = running()
    client = client_of(gateway, bench.token())
    with pytest.raises(openai.AuthenticationError):
        client_of(gateway, "sk-other").models.list()
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="buoys", messages=ASK)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as odd:
        client.chat.completions.create(model="lamps", messages=ASK, temperature=99)
    assert odd.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as tools:
        client.chat.completions.create(
            model="lamps", messages=ASK, tools=[{"type": "function", "function": {"name": "f"}}]
        )
    assert tools.value.param == "tools"


@pytest.mark.security_case("The engine is lost in mid-stream", "an error event, no [DONE]: the client raises")
def test_an_engine_that_is_lost_in_a_stream_is_an_error(bench: Bench, running: Start) -> None:
    bench.serve(adapter("lamps"))
    client = client_of(running(), bench.token())
    for attribute in ("lost_after", "ends_after"):
        setattr(bench.engine, attribute, 2)
        got = []
        with pytest.raises(openai.APIError) as lost:
            for chunk in client.chat.completions.create(model="lamps", messages=ASK, stream=True):
                got.append(chunk.choices[0].delta.content)
        assert got == ["", *WORDS[:2]]
        assert lost.value.code == "engine_lost"
        setattr(bench.engine, attribute, None)
    bench.engine.lost_after = 0
    with pytest.raises(openai.InternalServerError):
        client.chat.completions.create(model="lamps", messages=ASK, stream=True)


def test_what_a_caller_gives_up_is_counted_with_its_time(
    bench: Bench, running: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A staged adapter that is too slow is not one that answered nothing."""
    bench.serve(adapter("lamps"))
    staged = bench.serve(adapter("lamps", "1.1.0"), in_production=False)
    choice = Choice(staged.adapter, staged.digest, "staged", True, "0" * 64, staged.adapter, None, 1)
    monkeypatch.setattr(bench, "choose", lambda *_: choice)
    bench.engine.silent_after = 0
    impatient = client_of(running(), bench.token()).with_options(timeout=0.5)
    for stream in (False, True):
        with pytest.raises(openai.APITimeoutError):
            impatient.chat.completions.create(model="lamps", messages=ASK, stream=stream)
    wait_until(lambda: bench.engine.given_up == 2, lambda: "the answers were not given up")
    bench.telemetry.write()
    (path,) = bench.telemetry.directory.rglob("*.json")
    (counted,) = Tally.model_validate_json(path.read_bytes()).drawn["staged"].values()
    assert (counted.answers, counted.given_up, counted.timed, counted.complete, counted.lost) == (2, 2, 2, 0, 0)
    assert 0.05 < math.exp(counted.log_seconds / 2) < 30


def test_a_caller_that_goes_away_frees_the_engine(bench: Bench, running: Start) -> None:
    bench.serve(adapter("lamps"))
    bench.engine.words, bench.engine.seconds = ["word "] * 1000, 0.02
    client = client_of(running(), bench.token())
    stream = client.chat.completions.create(model="lamps", messages=ASK, stream=True)
    for _ in range(3):
        next(stream)
    stream.close()
    wait_until(lambda: bench.engine.given_up == 1, lambda: "the stream was not given up")

    bench.engine.silent_after = 0  # nothing is sent, so only listening tells that the caller has gone
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).chat.completions.create(model="lamps", messages=ASK)
    wait_until(lambda: bench.engine.given_up == 2, lambda: "the whole answer was not given up")
    with pytest.raises(openai.APITimeoutError):
        list(client.with_options(timeout=0.5).chat.completions.create(model="lamps", messages=ASK, stream=True))
    wait_until(lambda: bench.engine.given_up == 3, lambda: "the stream before its first piece was not given up")


def test_what_runs_is_let_end_before_the_gateway_does(bench: Bench, running: Start) -> None:
    bench.serve(adapter("lamps"))
    bench.engine.seconds = 0.2
    gateway = running()
    client = client_of(gateway, bench.token())
    stream = client.chat.completions.create(model="lamps", messages=ASK, stream=True)
    next(stream)
    gateway.tell_to_end()
    assert "".join(each.choices[0].delta.content or "" for each in stream) == "".join(WORDS)
    gateway.stop()
    assert gateway.ended == ["last"]
    with pytest.raises(openai.APIConnectionError):
        client.models.list()


def test_what_takes_too_long_to_end_gets_an_error_event(bench: Bench, running: Start) -> None:
    bench.serve(adapter("lamps"))
    bench.limits = {"drain_seconds": 0.5}
    bench.engine.words, bench.engine.seconds = ["word "] * 1000, 0.05
    gateway = running()
    client = client_of(gateway, bench.token())
    stream = client.chat.completions.create(model="lamps", messages=ASK, stream=True)
    next(stream)
    threading.Timer(0.1, gateway.tell_to_end).start()
    with pytest.raises(openai.APIError) as ended:
        list(stream)
    assert ended.value.code == "gateway_stopping"


@pytest.mark.security_case("A request to the gateway has headers without end", "the connection is closed at 64 KiB")
def test_headers_have_an_end(bench: Bench, running: Start) -> None:
    with socket.create_connection(("127.0.0.1", running().port), timeout=30) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                connection.sendall(b"a" * 65536)
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = connection.recv(1000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


def test_a_caller_that_does_not_read_is_given_up(bench: Bench, running: Start) -> None:
    bench.serve(adapter("lamps"))
    bench.limits = {"first_token_seconds": 0.5}
    bench.engine.words = ["word " * 10_000] * 1000
    body = json.dumps({"model": "lamps", "messages": ASK, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {bench.token()}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", running().port), timeout=30) as connection:
        connection.sendall(head.encode() + body)
        wait_until(lambda: bench.engine.given_up == 1, lambda: "the answer is still computed")


OPEN_WEBUI = {
    "Accept": "*/*",
    "User-Agent": "Python/3.11 aiohttp/3.12",
    "X-OpenWebUI-User-Name": "Layla%20Haddad",
    "X-OpenWebUI-User-Id": "5d2a",
    "X-OpenWebUI-User-Email": "layla@institution.example",
    "X-OpenWebUI-User-Role": "admin",
    "X-OpenWebUI-Chat-Id": "77",
}
LIBRECHAT = {
    "Accept": "application/json",
    "User-Agent": "OpenAI/JS 5.12.2",
    "X-Stainless-Lang": "js",
    "X-Stainless-Runtime": "node",
    "X-Stainless-Retry-Count": "0",
}
HISTORY = [
    {"role": "user", "content": "The lamp is out."},
    {"role": "assistant", "content": "Which one?"},
    {"role": "user", "content": [{"type": "text", "text": "The third."}]},
]
TITLE = "### Task:\nGenerate a concise title.\n### Chat History:\n<chat_history>USER: The lamp is out.</chat_history>"


@pytest.fixture
def caller(bench: Bench, client: Client) -> Any:
    bench.serve(adapter("lamps"))
    return client(bench.token("INTERNAL"))


def events(answer: Any) -> list[Any]:
    assert answer.status_code == 200, answer.text
    lines = [line.removeprefix("data: ") for line in answer.text.split("\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_open_webui(bench: Bench, caller: Any) -> None:
    caller.headers.update(OPEN_WEBUI)
    models = caller.get("/v1/models").json()
    assert models["object"] == "list" and [each["id"] for each in models["data"]] == ["lamps"]
    chat = {
        "stream": True,
        "model": "lamps",
        "messages": HISTORY,
        "stream_options": {"include_usage": True},
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": 42,
        "stop": ["</answer>"],
        "max_tokens": 256,
        "frequency_penalty": 0,
        "presence_penalty": 0,
    }
    chunks = events(caller.post("/v1/chat/completions", json=chat))
    assert "".join(each["choices"][0]["delta"].get("content", "") for each in chunks[:-1]) == "".join(WORDS)
    assert chunks[-1]["usage"]["total_tokens"] > 0
    for task in ({"max_completion_tokens": 1000}, {"max_tokens": 1000}):
        title = {"model": "lamps", "messages": [{"role": "user", "content": TITLE}], "stream": False, **task}
        answer = caller.post("/v1/chat/completions", json=title)
        assert answer.json()["choices"][0]["message"]["content"] == "".join(WORDS)
    assert len(bench.engine.asked) == 3


def test_a_stream_that_its_user_stops_is_given_up(bench: Bench, caller: Any, running: Any) -> None:
    """Open WebUI's stop button closes the connection."""
    import http.client

    from sovereign_pipeline_tests.waiting import wait_until

    bench.engine.words, bench.engine.seconds = ["word "] * 1000, 0.02
    connection = http.client.HTTPConnection("127.0.0.1", running().port, timeout=20)
    body = json.dumps({"model": "lamps", "messages": HISTORY, "stream": True})
    headers = {"Authorization": caller.headers["Authorization"], "Content-Type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    response = connection.getresponse()
    assert response.read(20)
    response.close()
    connection.close()
    wait_until(lambda: bench.engine.given_up == 1, lambda: "the stream was not given up")


def test_librechat(bench: Bench, caller: Any) -> None:
    caller.headers.update(LIBRECHAT)
    assert caller.get("/v1/models").status_code == 200
    chat = {
        "model": "lamps",
        "user": "66f2c0ffee",
        "temperature": 1,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "n": 1,
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [{"role": "developer", "content": "Be brief."}, *HISTORY],
    }
    chunks = events(caller.post("/v1/chat/completions", json=chat))
    assert chunks[-1]["usage"]["completion_tokens"] == len(WORDS)
    assert bench.engine.asked[0].messages[0] == {"role": "system", "content": "Be brief."}
    title = {
        "model": "lamps",
        "temperature": 0.2,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "max_tokens": 16,
        "user": "66f2c0ffee",
        "stream": False,
        "messages": [{"role": "system", "content": "Write a title of five words."}, HISTORY[0]],
    }
    assert caller.post("/v1/chat/completions", json=title).status_code == 200
    assert bench.engine.asked[1].sampling.max_tokens == 16


def test_a_forwarded_role_gives_nothing(bench: Bench, caller: Any) -> None:
    bench.serve(adapter("buoys", level="SECRET"))
    caller.headers.update(OPEN_WEBUI)
    answer = caller.post("/v1/chat/completions", json={"model": "buoys", "messages": HISTORY})
    assert answer.status_code == 404


def test_nothing_is_in_production(desk: Desk) -> None:
    flags = desk.gateway()
    assert condition_of(Deployed(), (), flags) == Condition()
    assert not condition_of(Deployed(refused={LINE: "a row was changed"}), (), flags).answers


def test_what_is_in_production_must_be_loaded(desk: Desk) -> None:
    adapter, flags = desk.in_production(), desk.gateway()
    assert condition_of(Deployed(), (), flags) == Condition(answers=False)
    assert condition_of(Deployed(), {adapter.adapter_digest}, flags) == Condition()


def test_a_newer_flag_that_is_not_taken_is_behind(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_force, "SECONDS_BETWEEN_LOOKS", 0.0)
    adapter, flags = desk.in_production(), desk.gateway()
    assert not condition_of(Deployed(), {adapter.adapter_digest}, flags).is_behind
    desk.in_production()
    number = sequences(desk.settings, LINE)[-1]
    (root_of(desk.settings) / LINE / f"{number:08d}" / FLAGS_FILE).write_text("{}")
    assert condition_of(Deployed(), {adapter.adapter_digest}, flags) == Condition(is_behind=True)
