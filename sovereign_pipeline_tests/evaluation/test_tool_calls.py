"""Calls that a model writes at held-out turns, against the true ones and against their schema."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.corpus.document import ToolCall
from sovereign_pipeline.evaluation.arms.models import Answer, Models
from sovereign_pipeline.evaluation.records import ToolCallSelection
from sovereign_pipeline.evaluation.tool_calls import fits, score_tool_calls, tool_call_result
from sovereign_pipeline.policy.evaluation import ToolCalls
from sovereign_pipeline_tests.evaluation.conftest import INSTRUCTION
from sovereign_pipeline_tests.evaluation.documents import conversation, document
from sovereign_pipeline_tests.examples import examples

TEMPLATE = (PROJECT_ROOT / "data" / "models" / "chatml-tools.jinja").read_text(encoding="utf-8")
TRUE = {"thing": "The boat 1", "number": 1}


@dataclass(frozen=True)
class Scripted(Models):
    """Models that write given texts, whatever they are asked."""

    written: Sequence[str] = ()

    @property
    def max_length(self) -> int:
        return 4096

    def answer(self, prompts: Sequence[str], arm: Any, *arguments: Any, **named: Any) -> list[Answer]:
        texts = [*self.written] if arm == "candidate" else [""] * len(prompts)
        return [Answer(text, 1, True) for text in texts]


@pytest.fixture
def with_tools(unchanged: Models, monkeypatch: pytest.MonkeyPatch) -> Models:
    monkeypatch.setattr(unchanged.tokenizer, "chat_template", TEMPLATE)
    return unchanged


def call(arguments: object, name: str = "when") -> str:
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def scripted(models: Models, *written: str) -> Scripted:
    return Scripted(models.loaded, models.tokenizer, models.end_of_turn, written=written)


@pytest.mark.parametrize(
    ("written", "called", "valid", "exact"), examples(__file__, "a_call_is_exact_valid_or_neither")
)
def test_a_call_is_exact_valid_or_neither(
    with_tools: Models, written: str, called: bool, valid: bool, exact: bool
) -> None:
    models = scripted(with_tools, written, "On day 1.", call(TRUE))
    held_out = [conversation(1), document(2)]
    samples, answers, selection = score_tool_calls(models, [], held_out, INSTRUCTION, ToolCalls(), 2, 7)
    assert selection == ToolCallSelection(trained=0, held_out=1, too_long=0)
    assert [(each.turn, each.expected) for each in samples] == [(1, True), (2, False), (3, False)]
    first = samples[0]
    assert [by["candidate"] for by in (first.called, first.valid, first.exact)] == [called, valid, exact]
    assert [each.called for each in samples[1:]] == [
        {"base": False, "candidate": False},
        {"base": False, "candidate": True},
    ]
    result = tool_call_result(samples)
    assert (result.exact["base"].candidate, result.false_calls["base"].candidate) == (float(exact), 0.5)
    assert [each.id for each in answers] == [f"V-001, turn {turn}" for turn in (1, 2, 3)]


@pytest.mark.parametrize(
    ("parameters", "expected"),
    examples(__file__, "a_schema_is_read_without_the_network_and_a_broken_one_fits_no_call"),
)
def test_a_schema_is_read_without_the_network_and_a_broken_one_fits_no_call(
    monkeypatch: pytest.MonkeyPatch, parameters: Any, expected: bool
) -> None:
    opened: list[object] = []
    monkeypatch.setattr("urllib.request.urlopen", lambda *arguments, **named: opened.append(arguments))
    tool = {"type": "function", "function": {"name": "when", "parameters": parameters}}
    assert (fits(ToolCall(name="when", arguments=TRUE), [tool]), opened) == (expected, [])


def test_turns_are_limited_and_those_without_room_are_counted(with_tools: Models) -> None:
    held_out = [conversation(number) for number in range(4)]
    limited = scripted(with_tools, "", "")
    samples, _, selection = score_tool_calls(limited, [], held_out, INSTRUCTION, ToolCalls(max_turns=2), 2, 7)
    assert (len(samples), selection) == (2, ToolCallSelection(trained=0, held_out=4, too_long=0))
    no_room, tight = replace(limited, written=()), ToolCalls(max_new_tokens=4000)
    found = score_tool_calls(no_room, [*held_out, document(9)], held_out, INSTRUCTION, tight, 2, 7)
    assert found == ([], [], ToolCallSelection(trained=4, held_out=4, too_long=12))


def test_without_tools_nothing_is_generated_and_a_template_without_a_form_is_an_error(unchanged: Models) -> None:
    models, tools = scripted(unchanged), ToolCalls()
    assert score_tool_calls(models, [document(2)], [document(1)], INSTRUCTION, tools, 2, 7) == ([], [], None)
    only_trained = ToolCallSelection(trained=1, held_out=0, too_long=0)
    found = score_tool_calls(models, [conversation(2)], [document(1)], INSTRUCTION, tools, 2, 7)
    assert found == ([], [], only_trained)
    with pytest.raises(InputError):
        score_tool_calls(models, [], [conversation(1)], INSTRUCTION, tools, 2, 7)
