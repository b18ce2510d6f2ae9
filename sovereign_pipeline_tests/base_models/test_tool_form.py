"""How templates write tool calls is learned from what they render, and what a model wrote is read accordingly."""

import json
from collections.abc import Sequence

import pytest

from sovereign_pipeline.base_models.tool_form import CALL_ID, ToolForm, for_template, tool_form_of
from sovereign_pipeline.corpus.document import ToolCall
from sovereign_pipeline_tests.base_models.chat_templates import tokenizer_with
from sovereign_pipeline_tests.examples import examples

HERMES = ToolForm("", '<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>", "\n", "")
FORMS = {
    "chatml-tools": HERMES,
    "qwen2_5": HERMES,
    "qwen3": HERMES,
    "granite": HERMES,
    "granite_list": ToolForm("<|tool_call|>[", '{"name": "', '", "arguments": ', "}", ", ", "]"),
    "llama3_1": ToolForm("", '{"name": "', '", "parameters": ', "}", None, ""),
    "mistral": ToolForm("[TOOL_CALLS] [", '{"name": "', '", "arguments": ', f', "id": "{CALL_ID}"}}', ", ", "]"),
    "mistral_args": ToolForm("", "[TOOL_CALLS]", "[ARGS]", "", "", ""),
}
CALLS = [
    ToolCall(name="fee_for_vessel", arguments={"length": 12.5, "berth": "Quay {2}\n", "crew": [{"rôle": "نوتي"}]}),
    ToolCall(name="permit_status", arguments={}),
]


DEEP = f'<tool_call>{{"name": "f", "arguments": {{"a": {"[" * 9_000}{"]" * 9_000}}}}}</tool_call>'


def write_calls(form: ToolForm, calls: Sequence[ToolCall]) -> str:
    """Return calls as a template of this form renders them."""
    each = (f"{form.head}{call.name}{form.middle}{json.dumps(call.arguments)}{form.tail}" for call in calls)
    return form.begin + (form.separator or "").join(each) + form.end


@pytest.mark.parametrize("template", FORMS)
def test_the_form_of_calls_is_learned_from_the_template(template: str) -> None:
    assert tool_form_of(tokenizer_with(template)) == FORMS[template]


@pytest.mark.parametrize("template", ["llama3", "gemma3", "lfm2", "qwen3_5_think", "gemma4"])
def test_a_template_without_tools_calls_or_json_arguments_has_no_form(template: str) -> None:
    assert tool_form_of(tokenizer_with(template)) is None


@pytest.mark.parametrize("template", FORMS)
@pytest.mark.parametrize("before", ["", "I shall look.", "<think>\nA call {} is <tool_call> it.\n</think>"])
def test_what_a_model_writes_is_read_back(template: str, before: str) -> None:
    form = FORMS[template]
    calls = CALLS if form.separator is not None else CALLS[:1]
    text = f"{before}\n{write_calls(form, calls)}"
    bare = not form.mark and before.startswith("I")
    assert form.parse(text) == ((text, []) if bare else (before, calls))
    cut = text.rstrip()[: text.rindex("{") + 1]
    assert form.parse(cut) == (cut, [])


@pytest.mark.parametrize(("template", "text", "content"), examples(__file__, "written_otherwise"))
def test_what_a_small_model_writes_otherwise_is_still_a_call(template: str, text: str, content: str) -> None:
    assert FORMS[template].parse(text) == (content, [ToolCall(name="f", arguments={"a": 1})])


def test_a_call_may_have_any_id() -> None:
    form = ToolForm("", "[TOOL_CALLS]", f"[CALL_ID]{CALL_ID}[ARGS]", "", "", "")
    text = "".join(
        f"[TOOL_CALLS]{call.name}[CALL_ID]a9B8c7D6{number}[ARGS]{json.dumps(call.arguments)}"
        for number, call in enumerate(CALLS)
    )
    assert form.parse(text) == ("", CALLS)


@pytest.mark.parametrize(("template", "text"), [*examples(__file__, "no_whole_call"), ("qwen3", DEEP)])
def test_what_is_no_whole_call_is_content(template: str, text: str) -> None:
    assert FORMS[template].parse(text) == (text, [])


def test_calls_are_numbered_and_results_follow_their_calls() -> None:
    calls = [{"id": f"call_{name}", "function": {"name": name, "arguments": '{"a": 1}'}} for name in "fg"]
    turns = for_template(
        [
            {"role": "assistant", "content": None, "tool_calls": calls, "weight": 0},
            {"role": "tool", "tool_call_id": "call_g", "content": "second"},
            {"role": "tool", "content": "first"},
        ]
    )
    assert [call["id"] for call in turns[0]["tool_calls"]] == ["call00001", "call00002"]
    assert turns[0]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert turns[0].keys() == {"role", "content", "tool_calls"} and turns[0]["content"] == ""
    assert [turn["tool_call_id"] for turn in turns[1:]] == ["call00002", "call00001"]
