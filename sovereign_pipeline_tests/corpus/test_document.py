"""Documents: what is stored of a letter and of a conversation, and which texts they hold."""

import json
from pathlib import Path
from typing import Any

import pytest
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


NAMED: list[dict[str, Any]] = [
    {"role": "user", "content": "Sir?", "name": "Salma"},
    {"role": "assistant", "tool_calls": [{"name": "look", "id": "of Salma"}]},
    {"role": "tool", "content": "Hm.", "name": "look", "tool_call_id": "of Salma"},
    CONVERSATION[-1],
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
        "message 3 call 1": '{"owner": "Salma", "tons": 12.5, "is_new": true}',
        "message 4": CONVERSATION[3]["content"],
        "message 5": "She pays 20 rials.",
        "message 6": "{not JSON",
        "message 7": "I see.",
        "rejected": "No.",
        "tools": json.dumps([TOOL]),
    }


def test_names_of_users_and_ids_of_calls_are_texts() -> None:
    texts = document(messages=NAMED).texts
    assert {name: text for name, text in texts.items() if "Salma" in text} == {
        "message 1 name": "Salma",
        "message 2 call 1 id": "of Salma",
        "message 3 call id": "of Salma",
    }


@pytest.mark.parametrize("messages", [CONVERSATION, NAMED])
def test_other_texts_of_a_conversation(messages: list[dict[str, Any]]) -> None:
    given = document(messages=messages)
    texts = {name: text.replace("Salma", "NAME_1") for name, text in given.texts.items()}
    assert given.with_texts(texts).texts == texts
    assert given.with_texts(given.texts) == given


def test_json_stays_json_with_other_texts() -> None:
    texts = {name: text.replace("Salma", "NAME_1") for name, text in document().texts.items()}
    changed = document().with_texts(texts)
    assert changed.messages[2].tool_calls[0].arguments == {"owner": "NAME_1", "tons": 12.5, "is_new": True}
    assert changed.tools == document().tools
