"""Tools at the gateway: what the engine is asked for, and what the caller gets of what it writes."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from sovereign_pipeline.corpus.document import ToolCall
from sovereign_pipeline.serving.engines.text import Prompts
from sovereign_pipeline.serving.gateway import parameters
from sovereign_pipeline.serving.gateway.parameters import AnswerForm, CallReader, assert_enforceable
from sovereign_pipeline_tests.base_models.chat_templates import tokenizer_with
from sovereign_pipeline_tests.base_models.test_tool_form import FORMS, write_calls
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


WRITTEN = [
    *("[", "{", "}", "$", "a", " ", "\n", "<", "<tool_", "call>", "[TOOL", "_CALLS] ["),
    *(write_calls(form, [ToolCall(name="f", arguments={"a": 1})]) for form in FORMS.values()),
]


@pytest.mark.parametrize("template", FORMS)
@given(pieces=st.lists(st.sampled_from(WRITTEN), max_size=6))
@example([" [", '{"a": 1}, {"a": 2}] Both are free.'])
@example(["Write ${HOME}/x", ", then start."])
def test_how_an_answer_is_cut_does_not_decide_what_is_a_call(template: str, pieces: list[str]) -> None:
    def read(cut: list[str]) -> tuple[str, list[ToolCall]]:
        reader = CallReader(FORMS[template])
        text = "".join(map(reader.feed, cut))
        rest, calls = reader.end()
        return text + rest, calls

    text = "".join(pieces)
    assert read(pieces) == read([*text]) == read([text])
    if not FORMS[template].mark and not text.lstrip().startswith("{"):
        assert read([text]) == (text, [])


def nested(levels: int) -> dict[str, Any]:
    return {"a": nested(levels - 1)} if levels > 1 else {}


def tool_with(schema: dict[str, Any], name: str = "f") -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object", **schema}}}


def chain(links: int, between: int = 0) -> dict[str, Any]:
    """A schema whose definitions refer to each other. It would end the process if it were compiled."""
    defs: dict[str, Any] = {f"d{number}": {"$ref": f"#/$defs/d{number + 1}"} for number in range(links)}
    for name in defs:
        for _ in range(between):
            defs[name] = {"items": defs[name]}
    return {"properties": {"x": {"$ref": "#/$defs/d0"}}, "$defs": {**defs, f"d{links}": {"type": "string"}}}


def properties(count: int) -> dict[str, Any]:
    return {"properties": {f"p{number}": {"type": "string"} for number in range(count)}}


def called_with(arguments: Any) -> dict[str, Any]:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return {"messages": [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]}


@pytest.mark.parametrize(
    ("param", "sent"),
    [
        ("tools.0.function.parameters", {"tools": [tool_with(chain(300))]}),
        ("tools.0.function.parameters", {"tools": [tool_with(chain(120, 20))]}),
        ("tools.0.function.parameters", {"tools": [tool_with({"enum": ["a" * 70_000]})]}),
        ("tools.1.function.parameters", {"tools": [tool_with(properties(300)), tool_with(properties(201), "g")]}),
        (
            "response_format",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": properties(501)}}},
        ),
        ("tools", {"tools": [tool_with(nested(50))]}),
        ("messages", called_with(nested(50))),
        ("messages.1.tool_calls.0.function.arguments", called_with(json.dumps(nested(51)))),
    ],
)
def test_what_is_too_large_is_refused_by_name(bench: Bench, calling: TestClient, param: str, sent: Any) -> None:
    answer = ask(calling, **sent)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert not bench.engine.asked
    assert ask(calling, tools=[tool_with(chain(60)), tool_with(properties(100), "g")]).status_code == 200
    assert ask(calling, **called_with(json.dumps(nested(50)))).status_code == 200


def test_a_call_that_is_nested_too_deep_or_unreadable_is_left_out(bench: Bench, calling: TestClient) -> None:
    for arguments, calls in ((nested(300), 0), (nested(50), 1), ({"a": "\ud800"}, 0)):
        written = json.dumps({"name": "f", "arguments": arguments})
        bench.engine.words = [f"<tool_call>\n{written}\n</tool_call>"]
        answer = ask(calling, tools=[tool_with({})])
        assert len(parts_of(answer, False)["calls"]) == calls


@pytest.mark.security_case(
    "The arguments of a call that a caller sends contain 1e400 or half a character, which no journal can record",
    "400, and the engine is not asked",
)
@pytest.mark.parametrize("arguments", ['{"a": 1e400}', r'"{\"a\": 1e400}"', r'"{\"a\": \"\\ud800\"}"'])
def test_arguments_that_cannot_be_journalled_are_refused(bench: Bench, calling: TestClient, arguments: str) -> None:
    body = json.dumps({"model": "lamps", "stream": True, **called_with("sent")})
    headers = {"Content-Type": "application/json"}
    statuses = [
        calling.post("/v1/chat/completions", content=body.replace('"sent"', each), headers=headers).status_code
        for each in ('{"a": 1e4}', arguments)
    ]
    assert statuses == [200, 400] and len(bench.engine.asked) == 1


def test_schemas_are_compiled_within_the_rate_and_once_a_request(
    bench: Bench, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []

    def counted(form: AnswerForm) -> None:
        compiled.append(form)
        assert_enforceable(form)

    monkeypatch.setattr(parameters, "assert_enforceable", counted)
    bench.limits, bench.engine.form = {"requests_per_minute": 3}, FORMS["chatml-tools"]
    bench.serve(adapter("lamps"))
    caller = client(bench.token())
    assert ask(caller, tools=TOOLS, n=2).status_code == 200 and len(compiled) == 1
    answers = [ask(caller, tools=[tool_with({"properties": {"a": {"not": {}}}})]) for _ in range(3)]
    assert [each.status_code for each in answers] == [400, 429, 429] and len(compiled) == 2


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
    text = write_calls(form.form, calls * (1 if form.form.separator is None else 2))
    wrong = write_calls(form.form, [ToolCall(name="fee_for_vessel", arguments={"metres": "long"})])
    assert takes(text, True) and takes(text, False) and takes("I look <b>: أنظر", False)
    assert takes(f"I look.\n{text}", False) and not takes("I look.", True)
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
