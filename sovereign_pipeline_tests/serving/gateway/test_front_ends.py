"""The calls that two real front ends make, as their servers send them: Open WebUI and LibreChat.

Both keep one connection with a token and forward whom they serve in headers, which nobody here believes.
"""

import json
from typing import Any

import pytest

from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import WORDS, Bench, adapter

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
