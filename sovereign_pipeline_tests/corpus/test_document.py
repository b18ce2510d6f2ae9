"""Documents: what is stored of a letter and of a conversation, and which texts they hold."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.corpus.document import Document, exchange, read_documents, write_documents
from sovereign_pipeline_tests.examples import examples

COLUMNS, CONVERSATION, NAMED = (examples(__file__, each) for each in ("columns", "conversation", "named"))
(TOOL,) = examples(__file__, "tools")


def document(**changes: Any) -> Document:
    return Document.model_validate({**COLUMNS, "messages": CONVERSATION, "tools": [TOOL], **changes})


def letter(**changes: Any) -> Document:
    return Document.model_validate({**COLUMNS, "request": "Sir?", "response": "Madam.", **changes})


def test_a_letter_and_a_conversation_are_stored_in_their_own_forms(tmp_path: Path) -> None:
    documents = [letter(rejected="No."), document()]
    assert write_documents(tmp_path / "documents.jsonl", documents) == 2
    rows = [json.loads(line) for line in (tmp_path / "documents.jsonl").read_text().splitlines()]
    assert list(rows[0]) == [*COLUMNS, "request", "response", "rejected", "label", "links"]
    assert list(rows[1]) == [*COLUMNS, "messages", "tools", "rejected", "label", "links"]
    assert rows[1]["messages"][0] == {"role": "system", "content": "Be brief."}
    assert list(read_documents(tmp_path / "documents.jsonl")) == documents
    assert letter().messages == exchange("Sir?", "Madam.")


@pytest.mark.parametrize("line", ["{}", "{", "[]", '"a"'])
def test_a_stored_row_that_is_no_document_is_an_integrity_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "documents.jsonl"
    write_documents(path, [document()])
    with path.open("a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(IntegrityError, match="line 2"):
        list(read_documents(path))


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
    assert {name: text for name, text in document(messages=NAMED).texts.items() if "Salma" in text} == {
        "message 1 name": "Salma",
        "message 2 call 1 id": "of Salma",
        "message 3 call id": "of Salma",
    }


@pytest.mark.parametrize("messages", [CONVERSATION, NAMED])
def test_other_texts_of_a_conversation(messages: list[dict[str, Any]]) -> None:
    given = document(messages=messages)
    texts = {name: text.replace("Salma", "NAME_1") for name, text in given.texts.items()}
    changed = given.with_texts(texts)
    assert changed.texts == texts and changed.tools == given.tools
    assert given.with_texts(given.texts) == given
    if messages is CONVERSATION:
        assert changed.messages[2].tool_calls[0].arguments == {"owner": "NAME_1", "tons": 12.5, "is_new": True}
