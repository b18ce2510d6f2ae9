"""Documents: what is stored of a letter and of a conversation, and which texts they hold."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sovereign_pipeline.corpus.document import Document, exchange, read_documents, write_documents

COLUMNS = {
    "id": "A-1",
    "source": "enquiries",
    "case": "A",
    "department": "Fees",
    "author": "",
    "date": "2024-01-15",
    "classification": "INTERNAL",
    "language": "en",
    "subject": "Vessels",
}
TOOL = {
    "type": "function",
    "function": {
        "name": "fee_for_vessel",
        "description": "Fee of a vessel, asked by Amal.",
        "parameters": {"type": "object", "properties": {"title": {"type": "string", "enum": ["Dhow"]}}},
    },
}
CONVERSATION: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What does Salma pay?"},
    {
        "role": "assistant",
        "tool_calls": [{"name": "fee_for_vessel", "arguments": {"owner": "Salma", "tons": 12.50, "is_new": True}}],
    },
    {"role": "tool", "content": '{"owner": "Salma", "Salma Said": [96890000000, null]}'},
    {"role": "assistant", "content": "She pays 20 rials.", "weight": 0},
    {"role": "user", "content": "{not JSON"},
    {"role": "assistant", "content": "I see."},
]


def document(**changes: Any) -> Document:
    return Document.model_validate({**COLUMNS, "messages": CONVERSATION, "tools": [TOOL], **changes})


def letter(**changes: Any) -> Document:
    return Document.model_validate({**COLUMNS, "request": "Sir?", "response": "Madam.", **changes})


def test_a_letter_is_stored_with_request_and_response(tmp_path: Path) -> None:
    assert write_documents(tmp_path / "documents.jsonl", [letter(rejected="No.")]) == 1
    row = json.loads((tmp_path / "documents.jsonl").read_text())
    assert list(row) == [*COLUMNS, "request", "response", "rejected", "label", "links"]
    assert list(read_documents(tmp_path / "documents.jsonl")) == [letter(rejected="No.")]
    assert letter().messages == exchange("Sir?", "Madam.")


def test_a_conversation_is_stored_with_its_messages(tmp_path: Path) -> None:
    write_documents(tmp_path / "documents.jsonl", [document()])
    row = json.loads((tmp_path / "documents.jsonl").read_text())
    assert list(row) == [*COLUMNS, "messages", "tools", "rejected", "label", "links"]
    assert row["messages"][0] == {"role": "system", "content": "Be brief."}
    assert list(read_documents(tmp_path / "documents.jsonl")) == [document()]


@pytest.mark.parametrize(
    "changes",
    [
        {"tools": [TOOL]},
        {"messages": [CONVERSATION[0], *CONVERSATION[-2:]]},
        {"messages": [CONVERSATION[1], CONVERSATION[4]]},
        {"messages": [CONVERSATION[1], CONVERSATION[2]]},
    ],
    ids=["tools", "a system message", "a reply of weight 0", "a call"],
)
def test_more_than_two_texts_are_no_letter(changes: dict[str, Any]) -> None:
    assert not document(**changes).is_letter


@pytest.mark.parametrize(
    "changes",
    [
        {"messages": []},
        {"messages": CONVERSATION[:2]},
        {"messages": [{**CONVERSATION[2], "role": "user"}, CONVERSATION[-1]]},
        {"request": "Sir?", "response": "Madam."},
        {"request": "Sir?"},
    ],
    ids=["no message", "no reply", "a user calls", "both forms", "half of the other form"],
)
def test_what_is_no_document(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        document(**changes)


def test_the_texts_of_a_conversation() -> None:
    assert document(rejected="No.").texts == {
        "subject": "Vessels",
        "message 1": "Be brief.",
        "message 2": "What does Salma pay?",
        "message 3": "",
        "message 3 value 1": "Salma",
        "message 3 value 2": "12.5",
        "message 4 value 1": "Salma",
        "message 4 value 2": "Salma Said",
        "message 4 value 3": "96890000000",
        "message 5": "She pays 20 rials.",
        "message 6": "{not JSON",
        "message 7": "I see.",
        "rejected": "No.",
        "tools value 1": "Fee of a vessel, asked by Amal.",
        "tools value 2": "Dhow",
    }


def test_json_stays_json_with_other_texts() -> None:
    names = {"Salma": "NAME_1", "Salma Said": "NAME_2", "96890000000": "PHONE_1"}
    texts = {name: names.get(text, text) for name, text in document().texts.items()}
    changed = document().with_texts(texts)
    assert changed.messages[2].tool_calls[0].arguments == {"owner": "NAME_1", "tons": 12.5, "is_new": True}
    assert json.loads(changed.messages[3].content) == {"owner": "NAME_1", "NAME_2": ["PHONE_1", None]}
    assert changed.tools == document().tools


def test_a_text_that_repeats_a_key_is_searched_whole() -> None:
    content = '{"owner": "Salma", "owner": "Amal"}'
    messages = [CONVERSATION[1], {"role": "tool", "content": content}, CONVERSATION[-1]]
    assert document(messages=messages).texts["message 2"] == content


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda each: st.lists(each) | st.dictionaries(st.text(), each),
)


@given(JSON, st.dictionaries(st.text(), JSON))
def test_every_string_of_a_tool_can_be_changed_and_nothing_else_changes(result: Any, arguments: dict[str, Any]) -> None:
    call = {"role": "assistant", "tool_calls": [{"name": "look", "arguments": arguments}]}
    found = {"role": "tool", "content": json.dumps(result)}
    made = document(messages=[CONVERSATION[1], call, found, CONVERSATION[-1]], tools=[])
    assert made.with_texts(made.texts) == made
    numbered = {name: f"{number} {text}" for number, (name, text) in enumerate(made.texts.items())}
    assert list(made.with_texts(numbered).texts.values()) == list(numbered.values())
