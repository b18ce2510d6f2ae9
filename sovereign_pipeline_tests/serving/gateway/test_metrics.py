"""Spans reach the institution's collector, say what was used, and hold no text and nobody's name."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.serving.gateway.metrics import Collector
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import PROMPT_TOKENS, WORDS, Bench, adapter

ASK: dict[str, Any] = {"model": "lamps", "messages": [{"role": "user", "content": "zirconium"}], "user": "velocipede"}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Received:
    """What a collector was sent."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        received = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def spans(self) -> list[Span]:
        requests = [ExportTraceServiceRequest.FromString(body) for body in self.bodies]
        return [
            span
            for request in requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def received() -> Iterator[Received]:
    received = Received()
    yield received
    received.server.shutdown()
    received.server.server_close()


def attributes(span: Span) -> dict[str, Any]:
    values = {each.key: each.value for each in span.attributes}
    return {key: getattr(value, str(value.WhichOneof("value"))) for key, value in values.items()}


@pytest.mark.security_case(
    "Someone searches a trace collector's data for prompts, answers, callers and answer ids", "it contains none"
)
@pytest.mark.security_case(
    "The environment names a proxy, and a caller requests no tracing",
    "spans go only to the collector, one for each answer",
)
def test_each_answer_is_a_span_of_what_it_used(
    bench: Bench, client: Client, received: Received, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    collector = Collector(received.url)
    bench.tracer = collector.tracer
    bench.serve(adapter("lamps", level="INTERNAL"))
    token = bench.token()
    caller = client(token)
    whole = caller.post("/v1/chat/completions", json=ASK, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
    streamed = caller.post("/v1/chat/completions", json={**ASK, "stream": True}, headers={"traceparent": "zirconium"})
    bench.engine.lost_after = 1
    lost = caller.post("/v1/chat/completions", json=ASK, headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
    collector.close()
    assert (whole.status_code, streamed.status_code, lost.status_code) == (200, 200, 503)

    first, second, third = received.spans()
    assert (first.name, first.kind) == ("chat lamps", Span.SPAN_KIND_SERVER)
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    assert second.trace_id.hex() != TRACE and not second.parent_span_id
    stated = attributes(first)
    assert 0 <= stated.pop("gen_ai.response.time_to_first_chunk") < 10
    assert [each.string_value for each in stated.pop("gen_ai.response.finish_reasons").values] == ["stop"]
    assert stated == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "sovereign_pipeline",
        "gen_ai.request.model": "lamps",
        "gen_ai.request.max_tokens": 512,
        "gen_ai.request.temperature": 0.0,
        "gen_ai.request.top_p": 1.0,
        "gen_ai.response.model": "lamps-1.0.0",
        "gen_ai.usage.input_tokens": PROMPT_TOKENS,
        "gen_ai.usage.output_tokens": len(WORDS),
        "sovereign.classification": "INTERNAL",
    }
    assert first.status.code == Status.STATUS_CODE_UNSET
    assert (third.status.code, attributes(third)["error.type"]) == (Status.STATUS_CODE_ERROR, "engine_lost")
    sent = b"".join(received.bodies)
    id = whole.json()["id"].removeprefix("chatcmpl-")
    for text in ("zirconium", "velocipede", "lamp ", "mended", token, "a caller", id, "planted"):
        assert text.encode() not in sent


def test_a_collector_that_is_down_hinders_no_answer(bench: Bench, client: Client) -> None:
    collector = Collector("http://127.0.0.1:1/v1/traces")
    bench.tracer = collector.tracer
    bench.serve(adapter("lamps"))
    assert client(bench.token()).post("/v1/chat/completions", json=ASK).status_code == 200
    collector.close()


@pytest.mark.parametrize("url", ["collector:4318", "file:///etc/passwd", "http:///v1/traces"])
def test_another_kind_of_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="SOVEREIGN_OTLP_URL"):
        Collector(url)
