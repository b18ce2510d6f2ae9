"""Conversations in datasets: rows in the ecosystem's form, as they are served, and counted with all their texts."""

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.corpus.document import Document, Message, ToolCall
from sovereign_pipeline.dataset.contamination import NOT_CONTAMINATED
from sovereign_pipeline.dataset.jsonl import (
    CARD,
    CARD_FOR_HUBS,
    CARD_FOR_PEOPLE,
    CONVERSATION_ROWS,
    MESSAGES_ROWS,
    TRAINING_ROWS,
    as_served,
    conversation_row,
    document_of,
    message_of,
    row_ids,
    turn_of,
)
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.dataset.tokens import BaseTokenizer
from sovereign_pipeline.record.stage import Stage, Verdict
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split import TRAIN
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline_tests.conftest import QUESTIONS, DemoInstitution, letter
from sovereign_pipeline_tests.corpus.test_document import CONVERSATION, TOOL
from sovereign_pipeline_tests.dataset.chain import GATE, Rows, card_of, dataset_stage, rows_of, tampering
from sovereign_pipeline_tests.split.chain import documents_of, materialize

SYSTEM, USER, CALL, RESULT, UNTRAINED = (turn_of(Message.model_validate(each)) for each in CONVERSATION[:5])
REPLY = {"role": "assistant", "content": "I see."}


def as_conversation(document: Document) -> Document:
    """Turn every second document into one with tool calls, of which half have other arguments and no tools."""
    number = int(document.id[-2:], 16)
    if number % 2:
        return document
    request, reply = document.messages
    is_dated = number % 4 == 0
    arguments = {"tons": number, "day": "2024-05-01"} if is_dated else {"owner": {"name": f"Owner {number}"}}
    call = ToolCall(name="fee_for_vessel", arguments=arguments)
    turns = (Message(role="assistant", tool_calls=(call,)), Message(role="tool", content=f'{{"fee": {number}}}'))
    return document.model_copy(update={"messages": (request, *turns, reply), "tools": () if is_dated else (TOOL,)})


@pytest.mark.parametrize(
    ("changes", "instruction", "replaces", "expected"),
    [
        ({}, "Answer.", False, {"first": ["user", "Answer.\n\nBe brief.\n\nVessels\n\nWhat does Salma pay?"]}),
        ({}, "Answer.", True, {"first": ["system", "Be brief."]}),
        ({}, "", False, {"first": ["system", "Be brief."]}),
        (
            {"messages": CONVERSATION[1:]},
            "Answer.",
            True,
            {"first": ["user", "Answer.\n\nVessels\n\nWhat does Salma pay?"]},
        ),
        ({"rejected": "No."}, "", False, {"prompt": 6, "chosen": [REPLY], "rejected": [{**REPLY, "content": "No."}]}),
        ({"label": False}, "", False, {"prompt": 6, "completion": [REPLY], "label": False}),
    ],
)
def test_a_conversation_is_a_row_as_it_is_served(
    changes: Any, instruction: str, replaces: bool, expected: dict[str, Any]
) -> None:
    columns = {**letter(1), "source": "enquiries", "subject": "Vessels"}
    del columns["request"], columns["response"]
    document = Document.model_validate({**columns, "messages": CONVERSATION, "tools": [TOOL], **changes})
    row: dict[str, Any] = {**conversation_row(document, instruction, replaces)}
    assert (row["id"], row["tools"]) == (document.id, [TOOL])
    if "first" in expected:
        first, *rest = row["messages"]
        assert [first["role"], first["content"]] == expected["first"]
        assert rest[-5:] == [CALL, RESULT, UNTRAINED, {"role": "user", "content": "{not JSON"}, REPLY]
    else:
        assert {**row, "prompt": len(row["prompt"])} == {"id": document.id, "tools": [TOOL], **expected}
    served = as_served(list(map(turn_of, document.messages)), instruction, replaces).messages
    assert [message_of(turn).role for turn in served] == [each.role for each in document_of(row).messages]
    assert document_of(row).rejected == document.rejected


def test_calls_and_results_are_in_the_form_of_chat_templates() -> None:
    assert {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": CONVERSATION[2]["tool_calls"][0]}],
    } == CALL
    assert CONVERSATION[4] == UNTRAINED
    for each in CONVERSATION:
        assert turn_of(message_of(turn_of(Message.model_validate(each)))) == turn_of(Message.model_validate(each))


def made(institution: DemoInstitution, stage: Stage, build: Any = None) -> tuple[Artifact, dict[str, Verdict]]:
    stage = dataset_stage(stage, build, change=as_conversation)
    return materialize(institution.workplace(), stage)


def conversations_on_the_training_side(institution: DemoInstitution) -> list[Document]:
    split = institution.workplace().store.current("lamps", LEAKAGE_SAFE_SPLIT.kind)
    assert split is not None
    documents = documents_of(institution.workplace().store.open(split), TRAIN)
    return [document for document in documents if not document.is_letter]


@pytest.mark.parametrize("others", [True, False])
def test_conversations_stand_beside_the_letters(institution: DemoInstitution, others: bool) -> None:
    institution.rows = institution.rows[:: 1 if others else 2]
    institution.recipe["training"]["format"] = "messages"
    dataset, verdicts = made(institution, TRAINING_DATASET)
    assert all(verdict.passed for verdict in verdicts.values()), verdicts
    documents = conversations_on_the_training_side(institution)
    rows = [conversation_row(document, "Answer this letter.") for document in documents]
    assert rows_of(dataset, CONVERSATION_ROWS) == rows
    letters = rows_of(dataset, TRAINING_ROWS) if others else []
    assert row_ids(dataset) == {str(row["id"]) for row in (*letters, *rows)}
    card = card_of(dataset)
    files = [TRAINING_ROWS, MESSAGES_ROWS, CONVERSATION_ROWS] if others else [CONVERSATION_ROWS]
    assert [file.path for file in (card.file, *card.also)] == files
    assert {entry.path for entry in dataset.manifest.files} == {*files, CARD, CARD_FOR_PEOPLE, CARD_FOR_HUBS}
    assert card.documents == card.tokens.training.rows == len(letters) + len(rows)
    assert card.characters["conversation"].max == max(sum(map(len, each.texts.values())) for each in documents)


@pytest.mark.parametrize("is_tampered", [False, True])
@pytest.mark.parametrize(
    ("fixture", "replies"), [("with_preferences", ("chosen", "rejected")), ("with_labels", ("completion",))]
)
def test_pairs_and_feedback_in_conversations_are_rows(
    request: pytest.FixtureRequest, fixture: str, replies: tuple[str, ...], is_tampered: bool
) -> None:
    def tamper(rows: Rows, held_out: Rows) -> Rows:
        for row in rows:
            assert all(len(row[name]) == 1 for name in replies)
            assert [turn["role"] for turn in row["prompt"]] == ["user", "assistant", "tool"]
        return [{**rows[0], replies[0]: [{"role": "assistant", "content": ""}]}, *rows[1:]] if is_tampered else rows

    build = tampering(PREFERENCE_DATASET, CONVERSATION_ROWS, tamper, card_too=False)
    _, verdicts = made(request.getfixturevalue(fixture), PREFERENCE_DATASET, build)
    assert verdicts[GATE].passed is not is_tampered, verdicts[GATE].message
    assert ("is empty in 1 row" in verdicts[GATE].message) is is_tampered
    assert (f"row 1 of {CONVERSATION_ROWS} differs from the row" in verdicts[GATE].message) is is_tampered


@pytest.mark.parametrize("place", ["call", "result", "tools"])
def test_items_and_held_out_texts_are_found_in_calls_results_and_tools(
    institution: DemoInstitution, place: str
) -> None:
    def tamper(rows: Rows, held_out: Rows) -> Rows:
        row = next(each for each in rows if "tools" in each)
        found = f"{QUESTIONS[0]['question']}\n{held_out[0]['output']}"
        if place == "call":
            row["messages"][1]["tool_calls"][0]["function"]["arguments"] = {"owner": [found]}
        elif place == "result":
            row["messages"][2]["content"] = json.dumps({"fee": found})
        else:
            row["tools"][0]["function"]["description"] = found
        return rows

    build = tampering(TRAINING_DATASET, CONVERSATION_ROWS, tamper, card_too=False)
    _, verdicts = made(institution, TRAINING_DATASET, build)
    verdict = verdicts[NOT_CONTAMINATED]
    assert not verdict.passed
    assert verdict.evidence["suites"]["suite"]["rows"] == 1
    if place != "tools":  # tools are the institution's, the same in many rows
        assert verdict.evidence["held_out"]["rows"] == 1


def test_a_system_message_that_all_conversations_share_contaminates_nothing(institution: DemoInstitution) -> None:
    system = Message(role="system", content=" ".join(f"rule{number} holds" for number in range(40)))

    def instructed(document: Document) -> Document:
        return document.model_copy(update={"messages": (system, *document.messages)})

    stage = dataset_stage(TRAINING_DATASET, change=instructed)
    dataset, verdicts = materialize(institution.workplace(), stage)
    assert system.content in rows_of(dataset, CONVERSATION_ROWS)[0]["messages"][0]["content"]
    assert verdicts[NOT_CONTAMINATED].passed, verdicts[NOT_CONTAMINATED].message


def test_a_row_that_the_template_rejects_is_named(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    tokenizer = BaseTokenizer(workplace)
    tokenizer.loaded[0].chat_template = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(InputError):
        tokenizer.lengths([{"id": "R-1", "messages": [SYSTEM, USER, REPLY]}])


@pytest.mark.slow
@pytest.mark.parametrize("by", ["directory", "file"])
def test_trl_and_datasets_read_the_rows_without_loss(institution: DemoInstitution, tmp_path: Path, by: str) -> None:
    from datasets import load_dataset
    from trl.data_utils import apply_chat_template, is_conversational

    dataset, _ = made(institution, TRAINING_DATASET)
    cache = str(tmp_path / "cache")
    if by == "directory":
        loaded = load_dataset(str(dataset.path), "conversations", cache_dir=cache)["train"]
    else:
        loaded = load_dataset("json", data_files=str(dataset.file(CONVERSATION_ROWS)), cache_dir=cache)["train"]
    rows = rows_of(dataset, CONVERSATION_ROWS)
    assert [{**row, "tools": row.get("tools")} for row in rows] == loaded.to_list()
    tokenizer, _ = BaseTokenizer(institution.workplace()).loaded
    for row in loaded:
        assert is_conversational(row)
        assert apply_chat_template(row, tokenizer, row["tools"])["text"].count("<|im_end|>") == len(row["messages"])
