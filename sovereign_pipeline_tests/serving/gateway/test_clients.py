"""What front ends and client libraries send is answered, or rejected by the parameter's name."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sovereign_pipeline.corpus.document import ToolCall
from sovereign_pipeline.serving.engines.engine import Answer, EngineRequest
from sovereign_pipeline_tests.base_models.test_tool_form import HERMES, write_calls
from sovereign_pipeline_tests.serving.gateway.clients import (
    ANSWERED,
    CALLS,
    REQUESTS,
    Library,
    Sent,
    gateway,
    is_whole,
    send,
)
from sovereign_pipeline_tests.serving.gateway.conftest import Client, Running
from sovereign_pipeline_tests.serving.gateway.scripted import WORDS, Bench, ScriptedEngine, adapter

CITY = {"city": "Nizwa"}
FORM = {"lamp": "the third", "is_mended": True}


@pytest.mark.parametrize("sent", REQUESTS, ids=lambda sent: f"{sent.client}: {sent.what}")
def test_a_client_is_answered_or_told_what_it_cannot_have(tmp_path: Path, sent: Sent) -> None:
    bench, caller = gateway(tmp_path / "serving")
    assert [each["id"] for each in caller.get("/v1/models", headers=sent.headers).json()["data"]] == ["lamps"]
    got = send(caller, sent)
    assert got.outcome == sent.outcome
    if got.outcome != ANSWERED:
        return
    assert is_whole(got)
    wants_usage = not sent.body.get("stream") or "stream_options" in sent.body
    assert (got.usage is not None) == wants_usage
    most = sent.body.get("max_completion_tokens", sent.body.get("max_tokens", 512))
    assert bench.engine.asked[-1].sampling.max_tokens == min(most, 2048)
    assert ("max_tokens;capped=2048" in got.ignored) == (most > 2048)


def test_a_forwarded_role_gives_nothing(bench: Bench, client: Client) -> None:
    bench.serve(adapter("buoys", level="SECRET"))
    sent = REQUESTS[0]
    assert sent.headers["X-OpenWebUI-User-Role"] == "admin"
    caller = client(bench.token("INTERNAL"))
    answer = caller.post("/v1/chat/completions", json={**sent.body, "model": "buoys"}, headers=sent.headers)
    assert answer.status_code == 404


class FormsEngine(ScriptedEngine):
    """Answers the line `forms`, and requests with a grammar, with a JSON object, and tools with a call of the first."""

    async def answer(self, request: EngineRequest) -> Answer:
        is_form = bool(request.grammar) or self.adapters[request.digest].startswith("forms")
        self.words: Sequence[str] = ('{"lamp": "the third", ', '"is_mended": true}') if is_form else WORDS
        if request.tools:
            function = request.tools[0]["function"]
            call = ToolCall(name=function["name"], arguments=CITY if function["name"] == "find" else FORM)
            is_answered = request.messages[-1]["role"] == "tool"
            self.words = WORDS if is_answered else [*write_calls(HERMES, [call])]
        return await super().answer(request)


@dataclass
class WatchedBench(Bench):
    """Notes the ignored parameters of each request."""

    ignored: list[list[str]] = field(default_factory=list)

    def app(self) -> FastAPI:
        app = super().app()
        app.add_middleware(Watched, ignored=self.ignored)
        return app


@dataclass
class Watched:
    app: ASGIApp
    ignored: list[list[str]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def note(message: Message) -> None:
            if message["type"] == "http.response.start" and scope["method"] == "POST":
                headers = dict(message["headers"])
                self.ignored.append(sorted(filter(None, headers.get(b"x-sovereign-ignored", b"").decode().split(", "))))
            await send(message)

        await self.app(scope, receive, note)


@pytest.mark.slow
@pytest.mark.parametrize("name", CALLS)
def test_a_library_is_answered_or_raises_its_own_error(tmp_path: Path, name: str) -> None:
    bench = WatchedBench(tmp_path / "serving", FormsEngine(form=HERMES))
    bench.limits = {"requests_per_minute": 1000}
    bench.serve(adapter("lamps"))
    bench.serve(adapter("forms"))
    running = Running(bench)
    with closing(Library(name, running.url, bench.token(), tmp_path)) as library:
        assert library.cases == [each.what for each in CALLS[name]]
        for expected in CALLS[name]:
            got = library.call(expected.what)
            assert got["elsewhere"] == [], expected
            if expected.outcome == ANSWERED:
                assert got["errors"] == [] and got["answer"] in ("".join(WORDS), FORM, CITY), expected
                assert all(each == sorted(expected.ignored) for each in bench.ignored), expected
            else:
                assert expected.error == got["errors"][0][0], expected
                assert expected.outcome in [param or "rejected" for _, param in got["errors"]], expected
                assert bench.ignored == [sorted(expected.ignored)], expected  # and it asked once
            bench.ignored.clear()
    running.stop()
