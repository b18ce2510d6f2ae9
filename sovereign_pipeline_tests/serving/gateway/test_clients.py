"""What front ends and client libraries send is answered, or rejected by the parameter's name."""

from pathlib import Path

import pytest

from sovereign_pipeline_tests.serving.gateway.clients import ANSWERED, REQUESTS, Sent, gateway, is_whole, send
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import Bench, adapter


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
