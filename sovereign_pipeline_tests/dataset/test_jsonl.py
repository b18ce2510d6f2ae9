"""Rows: one canonical form that is stable, and conversions that keep every character."""

import hashlib
import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.corpus.document import Document, read_jsonl, write_jsonl
from sovereign_pipeline.dataset.jsonl import (
    SftRow,
    label_row,
    messages_row,
    preference_row,
    read_label_rows,
    sft_row,
    sft_row_of,
    user_message,
)
from sovereign_pipeline_tests.conftest import letter

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
some_text = text.filter(bool)
scalar = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
nested = st.recursive(scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))
in_temporary_directory = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def document(**changes: Any) -> Document:
    return Document(source="letters", **letter(1, **changes))


@in_temporary_directory
@given(st.lists(st.dictionaries(text, nested, max_size=4), max_size=4))
def test_canonical_jsonl_comes_back_and_written_again_is_the_same_bytes(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    assert write_jsonl(one, rows) == len(rows)
    write_jsonl(other, read_jsonl(one))
    content = one.read_bytes()
    assert hashlib.sha256(content).hexdigest() == hashlib.sha256(other.read_bytes()).hexdigest()
    assert content.count(b"\n") == len(rows)
    assert b"\r" not in content
    assert unicodedata.is_normalized("NFC", content.decode())
    assert list(read_jsonl(one)) == [_normal(row) for row in rows]


def test_an_accent_behind_an_escape_that_ends_in_a_letter_comes_back(tmp_path: Path) -> None:
    rows = [{"text": "One\n\u0303two\t\u0308\r\u0301three\u001e\u0301"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == rows


@in_temporary_directory
@given(st.permutations(["id", "instruction", "input", "output"]), some_text)
def test_the_order_of_keys_is_kept_and_composed_letters_do_not_change_the_digest(
    tmp_path: Path, keys: list[str], word: str
) -> None:
    composed, decomposed = (dict.fromkeys(keys, unicodedata.normalize(form, word)) for form in ("NFC", "NFD"))
    write_jsonl(tmp_path / "composed.jsonl", [composed])
    write_jsonl(tmp_path / "decomposed.jsonl", [decomposed])
    assert (tmp_path / "composed.jsonl").read_bytes() == (tmp_path / "decomposed.jsonl").read_bytes()
    assert list(json.loads((tmp_path / "composed.jsonl").read_text())) == keys


@given(text, some_text, some_text)
def test_messages_and_back_keep_every_character(instruction: str, input: str, output: str) -> None:
    row = SftRow(id="R-1", instruction=instruction, input=input, output=output)
    turns = messages_row(row)
    assert [turn["role"] for turn in turns["messages"]] == ["user", "assistant"]
    assert turns["messages"][0]["content"] == user_message(instruction, input)
    assert sft_row_of(turns, instruction) == row


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "Other words.\n\nLamp"}, {"role": "assistant", "content": "y"}],
        [{"role": "assistant", "content": "Answer.\n\nLamp"}, {"role": "user", "content": "y"}],
        [{"role": "user", "content": "Answer.\n\nLamp"}],
    ],
)
def test_other_turns_are_not_turned_back(messages: Any) -> None:
    with pytest.raises(ValueError):
        sft_row_of({"id": "R-1", "messages": messages}, "Answer.")


def test_a_document_without_a_subject_has_its_request_alone() -> None:
    assert sft_row(document(subject=""), "Answer.")["input"] == letter(1)["request"]
    assert user_message("", "Lamp") == "Lamp"


@given(some_text, some_text, some_text, text)
def test_all_formats_show_the_same_user_message(request: str, response: str, rejected: str, instruction: str) -> None:
    letter_ = document(request=request, response=response)
    shown = messages_row(sft_row(letter_, instruction))["messages"][0]["content"]
    assert preference_row(letter_.model_copy(update={"rejected": rejected}), instruction)["prompt"] == shown
    labelled = label_row(letter_.model_copy(update={"label": True}), instruction)
    assert (labelled["prompt"], labelled["completion"], labelled["label"]) == (shown, response, True)


@pytest.mark.parametrize(
    "row",
    [
        {"id": "R-1", "prompt": "p", "completion": "c", "label": "true"},
        {"id": "R-1", "prompt": "p", "completion": "c", "label": 1},
        {"id": "R-1", "prompt": "p", "completion": None, "label": True},
        {"id": "R-1", "prompt": "p", "label": True},
        {"id": "R-1", "prompt": "p", "completion": "c", "label": True, "more": 1},
    ],
)
def test_what_is_no_labelled_row_is_named_by_file_and_line(tmp_path: Path, row: dict[str, Any]) -> None:
    good = {"id": "R-0", "prompt": "p", "completion": "c", "label": False}
    write_jsonl(tmp_path / "labels.jsonl", [good, row])
    rows = read_label_rows(tmp_path / "labels.jsonl")
    assert next(rows) == good
    with pytest.raises(IntegrityError, match=r"labels\.jsonl, line 2"):
        next(rows)


def _normal(value: Any) -> Any:
    """With every text in NFC; of two keys that become one, the later stands."""
    if isinstance(value, str):
        return unicodedata.normalize("NFC", value)
    if isinstance(value, list):
        return [_normal(each) for each in value]
    if isinstance(value, dict):
        return {_normal(key): _normal(each) for key, each in value.items()}
    return value
