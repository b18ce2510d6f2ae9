"""Requests as front ends, careless and hostile programs send them: answered, or refused in OpenAI's form."""

import json
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from starlette.testclient import TestClient

from sovereign_pipeline.base.errors import EngineRefused, PromptTooLong
from sovereign_pipeline.serving.engines.engine import Sampling
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import HERE, USER, Bench, adapter, ask

MESSAGES: dict[str, Any] = {**dict(examples(__file__, "messages")), "too many": [USER] * 1001}
BODIES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"x"',
    "not UTF-8": b'{"model": "\xff"}',
    "deep": b"[" * 100_000,
    "infinite": b'{"model": "lamps", "messages": [{"role": "user", "content": "x"}], "temperature": Infinity}',
    "no number": b'{"model": "lamps", "messages": [{"role": "user", "content": "x"}], "temperature": NaN}',
    "5,000 digits": b'{"model": "lamps", "messages": [{"role": "user", "content": "x"}], "seed": ' + b"9" * 5000 + b"}",
    "compressed": bytes.fromhex("1f8b0800000000000003"),
    "nul": b"\0",
}


@pytest.fixture(scope="module")
def refused_caller(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """Of one gateway for everything that is refused."""
    bench = Bench(tmp_path_factory.mktemp("serving"))
    bench.limits = {"requests_per_minute": 1e6}
    bench.serve(adapter("lamps"))
    headers = {"Authorization": f"Bearer {bench.token()}"}
    return TestClient(bench.app(), raise_server_exceptions=False, base_url=HERE, headers=headers)


def refusal(answer: Any) -> dict[str, Any]:
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"]
    return error


@pytest.mark.parametrize("stream", [False, True])
def test_what_changes_nothing_is_ignored_and_reported(bench: Bench, caller: TestClient, stream: bool) -> None:
    harmless = dict(examples(__file__, "harmless"))
    answer = ask(caller, **harmless, stream=stream)
    assert answer.status_code == 200, answer.text
    assert bench.engine.asked[0].sampling == Sampling(max_tokens=512)
    reported = answer.headers["x-sovereign-ignored"].split(", ")
    assert reported == [name for name, value in harmless.items() if value is not None and name != "user"] + ["user"]
    assert "x-sovereign-ignored" not in ask(caller, temperature=0.5, stop="END", seed=None).headers


@pytest.mark.parametrize(("field", "value", "reported"), examples(__file__, "within_messages"))
def test_what_changes_nothing_within_messages_is_ignored_too(
    bench: Bench, caller: TestClient, field: str, value: Any, reported: str
) -> None:
    answer = ask(caller, **{field: value})
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-sovereign-ignored"] == reported
    assert bench.engine.asked[0].messages == [USER]


@pytest.mark.parametrize(("sent", "effect"), examples(__file__, "used"))
def test_a_value_has_its_effect(bench: Bench, caller: TestClient, sent: dict[str, Any], effect: dict[str, Any]) -> None:
    answer = ask(caller, **sent)
    assert answer.status_code == 200, answer.text
    sampling = bench.engine.asked[0].sampling
    assert {name: getattr(sampling, name) for name in effect} == {
        name: tuple(value) if isinstance(value, list) else value for name, value in effect.items()
    }


@pytest.mark.parametrize(("field", "value"), examples(__file__, "refused"))
def test_what_would_not_be_done_is_refused_by_its_field(refused_caller: TestClient, field: str, value: Any) -> None:
    content = json.dumps({"model": "lamps", "messages": [USER], field: value}).encode()
    answer = refused_caller.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    error = refusal(answer)
    assert error["type"] == "invalid_request_error"
    assert field in (error["param"] or "") + error["message"]
    assert not [each for each in ("Input should", "Value error", "pydantic", "valid ") if each in error["message"]]


@pytest.mark.parametrize("messages", MESSAGES)
def test_odd_messages_are_refused_and_not_repeated(refused_caller: TestClient, messages: str) -> None:
    content = json.dumps({"model": "lamps", "messages": MESSAGES[messages]}).encode()
    answer = refused_caller.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert "Layla" not in answer.text and "data:," not in answer.text
    assert refusal(answer)["param"].startswith("messages")


@pytest.mark.security_case(
    (
        "A request body is not JSON, or contains 100,000 nested lists, a number of 5,000 digits, or "
        "more bytes than the limit"
    ),
    "400 or 413 in OpenAI's format",
)
@pytest.mark.parametrize("body", BODIES)
def test_an_odd_body_is_refused(refused_caller: TestClient, body: str) -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        for kind in ("application/json", "text/plain", "application/x-www-form-urlencoded", ""):
            answer = refused_caller.post(path, content=BODIES[body], headers={"Content-Type": kind})
            assert 400 <= answer.status_code < 500, answer.text
            refusal(answer)


@pytest.mark.parametrize("model", ["", "../lamps", "lamps\0", "LAMPS", "lamps ", "%", "*", "__base__", "base"])
def test_a_model_is_a_name_and_no_path(refused_caller: TestClient, model: str) -> None:
    answer = ask(refused_caller, model=model)
    assert answer.status_code == 404 and refusal(answer)["code"] == "model_not_found"


def test_a_body_that_is_too_long_is_refused_whether_it_says_so_or_not(bench: Bench, client: Client) -> None:
    bench.limits = {"body_bytes": 1000}
    caller = client(bench.token())
    long = b" " * 1001
    told = caller.post("/v1/chat/completions", content=long)
    untold = caller.post("/v1/chat/completions", content=iter([long[:600], long[600:]]))
    lying = caller.post("/v1/chat/completions", content=b"{}", headers={"Content-Length": "9" * 5000})
    for answer in (told, untold, lying):
        assert answer.status_code == 413 and refusal(answer)["code"] == "request_too_large"
    odd = caller.post("/v1/chat/completions", content=b"{}", headers={"Content-Length": "-1"})
    assert 400 <= odd.status_code < 500


@pytest.mark.parametrize(("place", "messages", "asked"), examples(__file__, "instructions"))
def test_a_system_message_stands_behind_the_lines_instruction(
    bench: Bench, caller: TestClient, place: str, messages: Any, asked: Any
) -> None:
    """Unless the line says `system: replace`."""
    bench.served[0] = replace(bench.served[0], instruction="Answer letters.")
    caller.app.state.gateway.handler.replaced = {"lamps"} if place == "replace" else frozenset()  # type: ignore[attr-defined]
    assert ask(caller, messages=messages).status_code == 200
    assert bench.engine.asked[-1].messages == asked


def test_more_tokens_than_one_answer_may_have_are_capped_and_reported(bench: Bench, client: Client) -> None:
    bench.limits = {"tokens": 100, "tokens_by_default": 500}
    bench.serve(adapter("lamps"))
    caller = client(bench.token())
    for field in ("max_tokens", "max_completion_tokens"):
        assert "x-sovereign-ignored" not in ask(caller, **{field: 100}).headers
        assert ask(caller, **{field: 101}).headers["x-sovereign-ignored"] == f"{field};capped=100"
    ask(caller)
    ask(caller, max_tokens=50, max_completion_tokens=60)
    assert [each.sampling.max_tokens for each in bench.engine.asked] == [100, 100, 100, 100, 100, 50]


def test_what_the_engine_refuses_is_told_by_the_code_that_front_ends_know(bench: Bench, caller: TestClient) -> None:
    for error, code in ((EngineRefused, "refused_by_engine"), (PromptTooLong, "context_length_exceeded")):
        bench.engine.error = error("The conversation has 9000 tokens.")
        for stream in (False, True):
            answer = ask(caller, stream=stream)
            assert answer.status_code == 400 and refusal(answer)["code"] == code
            assert "9000 tokens" in answer.text


def test_a_front_ends_first_token_may_take_longer_than_the_others(bench: Bench, client: Client) -> None:
    """And the other way round: the time to the first token does not bound the gap between tokens."""
    bench.engine.seconds = 0.3
    bench.serve(adapter("lamps"))
    for limits in (
        {"first_token_seconds": 30, "pause_seconds": 0.1},
        {"first_token_seconds": 0.1, "pause_seconds": 30},
    ):
        bench.limits = limits
        answer = ask(client(bench.token()), stream=limits["pause_seconds"] == 30)
        assert answer.status_code == 504 and refusal(answer)["code"] == "answer_timeout"
    assert bench.engine.given_up == 2
    bench.limits = {"first_token_seconds": 30, "pause_seconds": 30}
    assert ask(client(bench.token())).status_code == 200
    bench.engine.seconds, bench.engine.pause_after = 0.0, 1
    bench.limits = {"first_token_seconds": 1, "pause_seconds": 30}
    assert ask(client(bench.token())).status_code == 200


def test_an_answer_that_takes_too_long_ends_in_an_error_event(bench: Bench, client: Client) -> None:
    bench.limits = {"answer_seconds": 0.5}
    bench.engine.words, bench.engine.seconds = ["word "] * 1000, 0.05
    bench.serve(adapter("lamps"))
    answer = ask(client(bench.token()), stream=True)
    events = answer.text.strip().split("\n\n")
    assert '"code":"answer_timeout"' in events[-1] and "[DONE]" not in answer.text


def test_every_answer_carries_the_strict_headers(bench: Bench, caller: TestClient) -> None:
    for path, status in {"/healthz": 200, "/openapi.json": 200, "/nowhere": 404, "/v1/completions": 405}.items():
        answer = caller.get(path)
        headers = answer.headers
        assert answer.status_code == status and (status == 200 or refusal(answer))
        assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
        assert "server" not in headers


def test_no_line_of_a_stream_ends_within_an_event(bench: Bench, caller: TestClient) -> None:
    bench.engine.words = ["a\u2028b", "c\u0085d", "e\nf", "سراج 🪔"]
    answer = ask(caller, stream=True)
    assert all(line == "" or line.startswith("data: ") for line in answer.text.splitlines())


@pytest.mark.parametrize(("level", "header"), [("SECRET", "SECRET"), ("سري", "%D8%B3%D8%B1%D9%8A")])
def test_a_level_in_any_writing_stands_in_a_header(bench: Bench, client: Client, level: str, header: str) -> None:
    bench.levels = (level,)
    bench.serve(adapter("lamps", level=level))
    caller = client(bench.token(level))
    for stream in (True, False):
        answer = ask(caller, stream=stream)
        assert answer.headers["x-sovereign-classification"] == header and "x" not in answer.headers
    assert answer.json()["metadata"] == {"classification": level}


CASES = 100
"""Of each operation and mode: as the document says, and not so."""
CHECKS: list[Any] = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    negative_data_rejection,
    ignored_auth,
]


@pytest.mark.slow
@pytest.mark.security_case(
    "Schemathesis generates 1,000 valid and invalid requests from the gateway's OpenAPI document",
    "no 5xx; every response conforms to the document",
)
def test_every_answer_is_as_the_document_says(bench: Bench) -> None:
    bench.limits = {"requests_per_minute": 1e9, "tokens_per_minute": 1e12}
    bench.serve(adapter("lamps"))
    headers = {"Authorization": f"Bearer {bench.token(metrics=True, admin=True)}", "Host": "127.0.0.1"}
    app = bench.app()
    document = app.openapi()
    for path in ("/v1/chat/completions", "/v1/completions"):  # so that requests reach what is behind the name
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        body["schema"]["properties"]["model"] = {"enum": ["lamps"]}
        if "messages" in body["schema"]["properties"]:
            body["schema"]["properties"]["messages"] = {"enum": [[USER]]}
    schema = schemathesis.openapi.from_dict(document)
    schema.app = app
    schema.config.update(base_url=HERE)
    seen: Counter[tuple[str, int]] = Counter()

    def examine(cases: st.SearchStrategy[Any]) -> None:
        @given(case=cases)
        @settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
        def each(case: Any) -> None:
            response = case.call(headers=headers)
            seen[case.operation.label, response.status_code] += 1
            case.validate_response(response, checks=CHECKS, headers=headers)

        each()

    for result in schema.get_all_operations():
        operation = result.ok()  # type: ignore[union-attr]  # there is no operation that cannot be read
        examine(operation.as_strategy(generation_mode=GenerationMode.POSITIVE))
        if operation.method == "post":  # the others take nothing that could be wrong
            examine(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    assert seen.total() >= 1000 and seen["POST /v1/chat/completions", 200] > 20, seen
