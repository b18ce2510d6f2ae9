"""The official client of OpenAI's API against the gateway, over a real port."""

import contextlib
import json
import math
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import openai
import pytest
from openai import OpenAI

from sovereign_pipeline.serving.deployable import WithdrawnAdapter
from sovereign_pipeline.serving.deployment import Deployed
from sovereign_pipeline.serving.gateway import server
from sovereign_pipeline.serving.gateway.app import Condition, condition_of
from sovereign_pipeline.serving.rollout import in_force
from sovereign_pipeline.serving.rollout.flag import FLAGS_FILE, root_of, sequences
from sovereign_pipeline.serving.rollout.in_force import Choice
from sovereign_pipeline.serving.rollout.telemetry import Tally
from sovereign_pipeline_tests.serving.gateway.conftest import Client, Running
from sovereign_pipeline_tests.serving.gateway.scripted import LINE, PROMPT_TOKENS, WORDS, Bench, adapter
from sovereign_pipeline_tests.serving.rollout.conftest import Desk
from sovereign_pipeline_tests.waiting import SECONDS, wait_until

ASK: Any = [{"role": "user", "content": "The lamp is out."}]
Start = Callable[[], Running]


def client_of(running: Running, token: str) -> OpenAI:
    return OpenAI(base_url=f"{running.url}/v1", api_key=token, max_retries=0, timeout=SECONDS)


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


def test_several_choices_are_streamed_and_told_apart(bench: Bench, running: Start) -> None:
    bench.serve(adapter("lamps"))
    create = client_of(running(), bench.token()).chat.completions.create
    several: Any = {"model": "lamps", "messages": ASK, "n": 3, "seed": 5, "logprobs": True, "top_logprobs": 2}
    whole = create(**several)
    chunks = list(create(**several, stream=True, stream_options={"include_usage": True}))
    assert {each.sampling.seed for each in bench.engine.asked[:3]} == {5, 6, 7}
    for index, choice in enumerate(whole.choices):
        parts = [each.choices[0] for each in chunks[:-1] if each.choices[0].index == index]
        assert choice.index == index and choice.message.content == "".join(WORDS)
        assert "".join(each.delta.content or "" for each in parts) == "".join(WORDS)
        assert [each.finish_reason for each in parts if each.finish_reason] == ["stop"]
        assert choice.logprobs is not None and choice.logprobs.content is not None
        streamed = [token for each in parts if each.logprobs for token in each.logprobs.content or ()]
        assert streamed == choice.logprobs.content
        assert [(each.token, len(each.top_logprobs)) for each in streamed] == [(word, 2) for word in WORDS]
    for used in (whole.usage, chunks[-1].usage):
        assert used is not None and (used.prompt_tokens, used.completion_tokens) == (PROMPT_TOKENS, 3 * len(WORDS))


def test_a_choice_that_is_lost_ends_the_others(bench: Bench, running: Start) -> None:
    bench.serve(adapter("lamps"))
    bench.engine.lost_after = 2
    create = client_of(running(), bench.token()).chat.completions.create
    with pytest.raises(openai.InternalServerError):
        create(model="lamps", messages=ASK, n=3)
    with pytest.raises(openai.APIError):
        list(create(model="lamps", messages=ASK, n=3, stream=True))
    assert bench.engine.running == 0


def test_completions_are_answered_too(bench: Bench, running: Start) -> None:
    bench.serve(adapter("lamps", instruction="Answer letters."))
    client = client_of(running(), bench.token())
    assert client.completions.create(model="lamps", prompt="Out.").choices[0].text == "".join(WORDS)
    logprobs = client.completions.create(model="lamps", prompt="Out.", logprobs=1).choices[0].logprobs
    assert logprobs is not None and logprobs.tokens == [*WORDS] and logprobs.text_offset == [0, 4, 9, 12, 18]
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


@pytest.mark.security_case(
    "The engine is lost during a stream", "an error event without [DONE], so that the client raises"
)
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
    bench.engine.silent_after = 0  # nothing is sent, so only listening tells that the caller has gone
    impatient = client_of(running(), bench.token()).with_options(timeout=2)
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


@pytest.mark.security_case("A request to the gateway has endless headers", "the connection is closed at 64 KiB")
def test_headers_have_an_end(bench: Bench, running: Start) -> None:
    with socket.create_connection(("127.0.0.1", running().port), timeout=SECONDS) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Long: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                connection.sendall(b"a" * 65536)
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = connection.recv(1000)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400")


@pytest.mark.security_case(
    "Someone without a token sends invalid requests and `Upgrade` headers, again and again",
    "nothing is logged about them",
)
def test_requests_without_a_token_write_no_log(running: Start, caplog: pytest.LogCaptureFixture) -> None:
    upgrade = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    port = running().port
    for status, request in ((b"200", upgrade), (b"400", b"\x16\x03\x01 HTTP\r\n\r\n")):
        with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
            connection.sendall(request)
            assert connection.recv(1000).startswith(b"HTTP/1.1 " + status)
    assert caplog.messages == []


@pytest.mark.security_case(
    "300 connections send partial headers, at once or one byte at a time, and then nothing",
    "each is closed after ten seconds, or after thirty in the body",
)
def test_headers_have_a_time(bench: Bench, running: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SECONDS_FOR_HEADERS", 1.0)
    bench.serve(adapter("lamps"))
    port, token = running().port, bench.token()
    with contextlib.ExitStack() as stack:
        open_ones = [
            stack.enter_context(contextlib.closing(socket.create_connection(("127.0.0.1", port), timeout=SECONDS)))
            for _ in range(30)
        ]
        for number, each in enumerate(open_ones):
            each.sendall((b"", b"GET /healthz HT", b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")[number % 3])
        answered_before = open_ones.pop()
        answered_before.sendall(b"\r\n")
        assert answered_before.recv(10_000).startswith(b"HTTP/1.1 200")
        answered_before.sendall(b"GET /healthz HT")
        assert_closed_while_it_sends(open_ones[2])
        for each in (*open_ones, answered_before):
            with contextlib.suppress(ConnectionError):
                while each.recv(1000):
                    pass
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as refused:
        # A longer body than the rest that is sent: a whole one would begin the next request, which has its own limit.
        refused.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n{")
        assert refused.recv(10_000).startswith(b"HTTP/1.1 401")
        assert_closed_while_it_sends(refused)  # the rest of a body that was answered has no more time either
    body = json.dumps({"model": "lamps", "messages": ASK}).encode()
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as slow:
        slow.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        )
        time.sleep(1.5)
        slow.sendall(body)
        assert slow.recv(10_000).startswith(b"HTTP/1.1 200")


def assert_closed_while_it_sends(connection: socket.socket) -> None:
    """A byte now and then gives no more time."""
    with pytest.raises(ConnectionError):
        for _ in range(10 * SECONDS):
            connection.sendall(b"X")
            time.sleep(0.1)


@pytest.mark.security_case(
    (
        "A request has both Content-Length and Transfer-Encoding, so that proxy and gateway could read "
        "different requests"
    ),
    "400, and the connection is closed",
)
@pytest.mark.parametrize("path", ["/healthz", "/v1/chat/completions"])
def test_a_request_of_two_lengths_is_refused(bench: Bench, running: Start, path: str) -> None:
    with socket.create_connection(("127.0.0.1", running().port), timeout=SECONDS) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
            "0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        )
        got = b""
        with contextlib.suppress(ConnectionError):
            while more := connection.recv(10_000):
                got += more
    assert got.startswith(b"HTTP/1.1 400") and got.count(b"HTTP/1.1") == 1


def test_a_caller_that_does_not_read_is_given_up(bench: Bench, running: Start) -> None:
    bench.serve(adapter("lamps"))
    bench.limits = {"pause_seconds": 0.5}
    bench.engine.words = ["word " * 10_000] * 1000
    body = json.dumps({"model": "lamps", "messages": ASK, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {bench.token()}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", running().port), timeout=SECONDS) as connection:
        connection.sendall(head.encode() + body)
        wait_until(lambda: bench.engine.given_up == 1, lambda: "the answer is still computed")


def test_nothing_is_in_production(desk: Desk) -> None:
    flags = desk.gateway()
    assert condition_of(Deployed(), (), flags) == Condition()
    assert not condition_of(Deployed(refused={LINE: "a row was changed"}), (), flags).answers


def test_what_is_in_production_must_be_loaded(desk: Desk) -> None:
    adapter, flags = desk.in_production(), desk.gateway()
    assert condition_of(Deployed(), (), flags) == Condition(answers=False, unloaded=1)
    assert condition_of(Deployed(), {adapter.id}, flags) == Condition()
    unreached = condition_of(Deployed(unreached_at=time.monotonic() - 9), {adapter.id}, flags)
    assert unreached.answers and 9 <= (unreached.unreached_seconds or 0) < 60


def test_what_is_recalled_is_withdrawn_and_no_fault_of_the_gateway(desk: Desk) -> None:
    adapter, flags = desk.in_production(), desk.gateway()
    facts = {"adapter": adapter.id, "line": LINE, "digest": adapter.adapter_digest, "classification": "PUBLIC"}
    deployed = Deployed(refused={adapter.id: "it is under recall-1"}, withdrawn=(WithdrawnAdapter(**facts),))
    assert condition_of(deployed, (), flags) == Condition(withdrawn=1)
    staged = desk.staged()
    refused = replace(deployed, refused={**deployed.refused, staged.id: "a row was changed"})
    assert condition_of(refused, (), desk.gateway()) == Condition(withdrawn=1, unloaded=1)
    changed = replace(deployed, refused={**deployed.refused, "buoys": "a row was changed"})
    assert not condition_of(changed, (), flags).answers


@pytest.mark.security_case(
    "A line's adapter is recalled, and callers of every clearance request it",
    "permitted callers learn that an officer withdrew it; to all others it does not exist",
)
@pytest.mark.parametrize("model", ["lamps", "lamps-1.0.0"])
def test_callers_are_told_that_an_officer_withdrew_a_model(bench: Bench, client: Client, model: str) -> None:
    lamps = bench.serve(adapter("lamps", level="CONFIDENTIAL"))
    bench.serve(adapter("buoys"))
    body = {"model": model, "messages": ASK}
    may, may_not = client(bench.token("SECRET", versions=True)), client(bench.token("INTERNAL", versions=True))
    assert may.post("/v1/chat/completions", json=body).status_code == 200
    bench.withdraw(lamps)
    for caller, code in ((may, "model_withdrawn"), (may_not, "model_not_found")):
        for answer in (caller.post("/v1/chat/completions", json=body), caller.get(f"/v1/models/{model}")):
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)
            assert not {"recall", "CONFIDENTIAL"} & {*answer.text.split()}
    assert "withdrawn by an officer" in may.get(f"/v1/models/{model}").text


def test_a_withdrawn_staged_adapter_does_not_explain_why_a_line_is_missing(bench: Bench, client: Client) -> None:
    production = bench.serve(adapter("lamps"))
    bench.withdraw(bench.serve(adapter("lamps", "1.1.0"), in_production=False))
    bench.lose(production)
    caller = client(bench.token("SECRET", versions=True))
    for model, code in (("lamps", "model_not_found"), ("lamps-1.1.0", "model_withdrawn")):
        answer = caller.get(f"/v1/models/{model}")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)


def test_a_newer_flag_that_is_not_taken_is_behind(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_force, "SECONDS_BETWEEN_LOOKS", 0.0)
    adapter, flags = desk.in_production(), desk.gateway()
    assert not condition_of(Deployed(), {adapter.id}, flags).is_behind
    desk.in_production()
    number = sequences(desk.settings, LINE)[-1]
    (root_of(desk.settings) / LINE / f"{number:08d}" / FLAGS_FILE).write_text("{}")
    assert condition_of(Deployed(), {adapter.id}, flags) == Condition(is_behind=True)
