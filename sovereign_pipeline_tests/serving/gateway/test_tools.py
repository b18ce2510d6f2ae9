"""Tools at the gateway: what the engine is asked for, and what the caller gets of what it writes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from starlette.testclient import TestClient

from sovereign_pipeline.corpus.document import ToolCall
from sovereign_pipeline.serving.engines.text import Prompts
from sovereign_pipeline.serving.gateway.grammars import AnswerForm
from sovereign_pipeline_tests.base_models.chat_templates import tokenizer_with
from sovereign_pipeline_tests.base_models.test_tool_form import FORMS
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import USER, Bench, adapter, ask

TABLES: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
TOOLS = [TABLES["call"]]


@pytest.fixture
def calling(bench: Bench, client: Client) -> TestClient:
    """A caller of a line whose template writes calls."""
    bench.engine.form = FORMS["chatml-tools"]
    bench.serve(adapter("lamps"))
    return client(bench.token())


def parts_of(answer: Any, stream: bool) -> dict[str, Any]:
    """Content, calls by name and arguments, and finish reason."""
    if not stream:
        choice = answer.json()["choices"][0]
        calls = choice["message"].get("tool_calls", [])
        content = choice["message"]["content"]
    else:
        events = [json.loads(line[6:])["choices"][0] for line in answer.text.splitlines() if line.startswith("data: {")]
        content = "".join(each["delta"].get("content") or "" for each in events) or None
        calls, choice = [], events[-1]
        for piece in (call for each in events for call in each["delta"].get("tool_calls", ())):
            if piece["index"] == len(calls):
                assert piece["type"] == "function" and piece["function"]["arguments"] == ""
                calls.append(piece)
            else:
                calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]
    assert len({call["id"] for call in calls}) == len(calls)
    named = [[call["function"]["name"], json.loads(call["function"]["arguments"])] for call in calls]
    return {"content": content, "calls": named, "finish": choice["finish_reason"]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("row", TABLES["answers"], ids=lambda row: row["what"])
def test_calls_are_told_from_text(bench: Bench, calling: TestClient, row: dict[str, Any], stream: bool) -> None:
    for size in (None, 1):
        text = "".join(row["written"])
        bench.engine.words = row["written"] if size is None else [*text]
        bench.engine.ends_for = row.get("ends_for", "stop")
        answer = ask(calling, tools=TOOLS, stream=stream, **row.get("sent", {}))
        assert answer.status_code == 200, answer.text
        assert parts_of(answer, stream) == {name: row[name] for name in ("content", "calls", "finish")}


@pytest.mark.parametrize(("param", "sent"), TABLES["refused"])
def test_what_cannot_be_called_is_refused_by_name(calling: TestClient, param: str, sent: dict[str, Any]) -> None:
    content = json.dumps({"model": "lamps", "messages": [USER], **sent})
    answer = calling.post("/v1/chat/completions", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param


def test_json_is_not_mistaken_for_a_bare_call(bench: Bench, calling: TestClient) -> None:
    bench.engine.form = FORMS["llama3_1"]
    sent: Any = {"tools": TOOLS, "response_format": {"type": "json_object"}}
    assert ask(calling, **sent).json()["error"]["param"] == "response_format"
    bench.engine.words = [" {", '"name": "Nadia"}']
    assert parts_of(ask(calling, response_format={"type": "json_object"}), False)["content"] == ' {"name": "Nadia"}'
    bench.engine.words = ["\n{", '"name": "fee_for_vessel", "parameters": {"metres": 1}}']
    assert parts_of(ask(calling, tools=TOOLS), False)["calls"] == [["fee_for_vessel", {"metres": 1}]]


def test_a_conversation_with_results_reaches_the_engine_as_it_was_trained(bench: Bench, calling: TestClient) -> None:
    function = {"name": "fee_for_vessel", "arguments": '{"metres": 12.5}'}
    called = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
    }
    result = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": '{"fee": 40}'}]}
    assert ask(calling, messages=[USER, called, result], tools=TOOLS).status_code == 200
    (asked,) = bench.engine.asked
    assert asked.tools == TOOLS and asked.sampling.stop == ()
    read = {
        **called,
        "content": "",
        "tool_calls": [{"id": "c1", "type": "function", "function": {**function, "arguments": {"metres": 12.5}}}],
    }
    assert asked.messages == [USER, read, {**result, "content": '{"fee": 40}'}]


@pytest.mark.slow
@pytest.mark.parametrize("template", FORMS)
def test_the_grammar_takes_what_the_template_writes_and_nothing_else(template: str) -> None:
    from llguidance import LLMatcher, hf

    tokenizer = tokenizer_with(template)
    tokenizer.add_special_tokens({"additional_special_tokens": ["[TOOL_CALLS]", "[ARGS]", "<|tool_call|>"]})
    form, vocabulary = Prompts(tokenizer).call_form, hf.from_tokenizer(tokenizer)
    assert form is not None and form.form == FORMS[template]

    def takes(text: str, must_call: bool) -> bool:
        grammar = LLMatcher.grammar_from_lark(AnswerForm(tools=TOOLS, must_call=must_call).grammar(form))
        matcher, ids = LLMatcher(vocabulary, grammar), tokenizer(text, add_special_tokens=False)["input_ids"]
        return bool(matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting())

    calls = [ToolCall(name="fee_for_vessel", arguments={"metres": 12.5})]
    written = form.form.write(calls * (1 if form.form.separator is None else 2))
    wrong = form.form.write([ToolCall(name="fee_for_vessel", arguments={"metres": "long"})])
    assert takes(written, True) and takes(written, False) and takes("I look <b>: أنظر", False)
    assert takes(f"I look.\n{written}", False) and not takes("I look.", True)
    assert not takes(wrong, True) and not takes(f"\n {wrong}", False)


@pytest.mark.parametrize(
    ("choice", "opens", "calls"),
    [("auto", "TEXT | opening calls", 2), ("required", '"<tool_call>', 2), (TOOLS[0], '"<tool_call>', 1)],
)
def test_the_grammar_is_that_of_the_choice(
    bench: Bench, calling: TestClient, choice: Any, opens: str, calls: int
) -> None:
    other = {"type": "function", "function": {"name": "other"}}
    ask(calling, tools=[*TOOLS, other], tool_choice=choice)
    grammar = bench.engine.asked[0].grammar
    assert f"start: {opens}" in grammar and ("call)*" in grammar) == (calls == 2) == ("other" in grammar)
    assert len(bench.engine.asked[0].tools) == 2, "the model sees all of them"
    ask(calling, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False)
    assert "call)*" not in bench.engine.asked[1].grammar
