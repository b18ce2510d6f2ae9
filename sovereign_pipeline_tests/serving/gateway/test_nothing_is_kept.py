"""No prompt, answer, token or caller's name in anything that the gateway writes: files, logs, metrics, errors."""

import logging
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.serving.gateway.journal import read_hour
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import Bench, ScriptedEngine, adapter

PROMPT, ANSWER, SYSTEM, STOP, USER = "zirconium", "palimpsest", "quillwort", "xylograph", "velocipede"
WORDS = (PROMPT, ANSWER, SYSTEM, STOP, USER)
ASK: dict[str, Any] = {
    "model": "lamps",
    "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}],
    "stop": [STOP],
    "user": USER,
}


class Faulty(ScriptedEngine):
    """Fails as a bug does: with the prompt in the message."""

    async def answer(self, digest: str, messages: Any, sampling: Any, cache_group: str = "") -> Any:
        raise ValueError(str(messages))


@pytest.mark.security_case(
    "Prompts and answers are looked for in files, logs, metrics and errors of the gateway", "none is there"
)
def test_no_text_of_a_request_is_kept(
    bench: Bench, client: Client, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG, "sovereign_pipeline")
    written: list[str] = []

    def ask(caller: Any, **changes: Any) -> Any:
        return caller.post("/v1/chat/completions", json={**ASK, **changes})

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
        ask(caller, stop=[PROMPT] * 9),
        ask(caller, response_format={"type": PROMPT}),
        caller.post("/v1/chat/completions", content=PROMPT.encode()),
        caller.post(f"/v1/{PROMPT}", json=ASK),
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
        watcher.post("/v1/chat/completions", json={**ASK, **changes})
    page = watcher.get("/metrics").text
    assert 'sovereign_gateway_requests_total{adapter="lamps-1.0.0",line="lamps",outcome="complete"} 2.0' in page
    assert 'sovereign_gateway_requests_total{adapter="",line="",outcome="refused_404"} 2.0' in page
    assert 'sovereign_gateway_requests_total{adapter="",line="",outcome="refused_400"} 1.0' in page
    assert 'gen_ai_server_time_to_first_token_count{adapter="lamps-1.0.0",line="lamps"} 2.0' in page
    assert 'gen_ai_server_time_per_output_token_count{adapter="lamps-1.0.0",line="lamps"} 8.0' in page
    assert 'sovereign_engine_up{base_model="smollm2-135m-instruct"} 1.0' in page
    assert 'sovereign_engine_adapters{base_model="smollm2-135m-instruct"} 1.0' in page
    assert client(other).get("/metrics").status_code == 404


def test_how_an_answer_ended_is_counted(bench: Bench, client: Client) -> None:
    bench.serve(adapter("lamps"))
    bench.engine.lost_after = 2
    watcher = client(bench.token(metrics=True))
    for stream in (True, False):
        watcher.post("/v1/chat/completions", json={**ASK, "stream": stream})
    page = watcher.get("/metrics").text
    assert 'adapter="lamps-1.0.0",line="lamps",outcome="lost"} 2.0' in page
    assert "refused_503" not in page, "counted once"
    (file,) = bench.journal.glob("*.jsonl")
    assert [each.outcome for each in read_hour(file)[0]] == ["lost", "lost"]
