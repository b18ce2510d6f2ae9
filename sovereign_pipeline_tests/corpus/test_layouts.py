"""ShareGPT, Alpaca and HH rows by the recipe: what becomes request and reply, what is quarantined, nothing lost."""

import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.text import folded
from sovereign_pipeline.corpus.document import Document, Quarantined
from sovereign_pipeline_tests.corpus import sources
from sovereign_pipeline_tests.examples import examples

Row = dict[str, Any]
IMPORTED = {
    "name": "imported",
    "constants": {"author": "", "department": "", "date": "2024-01-01", "language": "en"},
    "classification_floor": "PUBLIC",
    "id_from_row": True,
    "case_from_row": True,
    "licence": "invented",
    "retention": "1 year",
}


def read(path: Path, **recipe: Any) -> tuple[list[Document], list[Quarantined]]:
    return sources.read(path, 20_000, **{**IMPORTED, **recipe})


def read_rows(tmp_path: Path, rows: list[Any], **recipe: Any) -> tuple[list[Document], list[Quarantined]]:
    """The same rows as JSONL and as one JSON array must give the same."""
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    as_lines, as_array = read(path, **recipe), read(sources.write(tmp_path / "rows.json.gz", *rows), **recipe)
    assert as_lines == as_array
    return as_lines


def turns(*said: str, names: tuple[str, str] = ("from", "value")) -> list[Row]:
    speakers = ["human", "gpt"] if names[0] == "from" else ["user", "assistant"]
    return [{names[0]: speakers[place % 2], names[1]: text} for place, text in enumerate(said)]


def test_sharegpt_of_one_exchange_is_request_and_reply(tmp_path: Path) -> None:
    said = ("Is it out? ", "It is.")
    rows = [{"conversations": turns(*said)}, {"messages": turns(*said, names=("role", "content"))}]
    documents, _ = read_rows(tmp_path, rows, layout="sharegpt")
    for number, document in enumerate(documents, start=1):
        assert (document.request, document.response, document.subject) == ("Is it out?", "It is.", "")
        assert (document.id, document.case, document.author) == (f"imported-{number}", f"imported-{number}", "")
    assert len(documents) == 2


@pytest.mark.parametrize(("layout", "role", "row", "expected"), examples(__file__, "turns_stay_turns"))
def test_turns_stay_turns(tmp_path: Path, layout: str, role: str, row: Row, expected: Row) -> None:
    (document,), _ = read_rows(tmp_path, [row], layout=layout, role=role)
    assert not document.is_letter
    stored = json.loads(json.dumps(document.model_dump()))
    assert {name: stored[name] for name in expected} == expected
    assert ("tools" in stored) is ("tools" in expected)


def test_sharegpt_pairs_and_labels(tmp_path: Path) -> None:
    chosen, rejected = ({"from": "gpt", "value": text} for text in ("Yes, it is.", "No."))
    pairs: list[Row] = [{"chosen": "Yes, it is.", "rejected": "No."}, {"chosen": chosen, "rejected": rejected}]
    rows = [{"conversations": turns("Out?"), **pair} for pair in pairs]
    documents, _ = read_rows(tmp_path, rows, layout="sharegpt", role="preferences")
    assert [(each.request, each.response, each.rejected) for each in documents] == [("Out?", "Yes, it is.", "No.")] * 2
    labelled = [{"messages": turns("Out?", "Yes."), "label": label} for label in (True, False, "TRUE", 0)]
    documents, _ = read_rows(tmp_path, labelled, layout="sharegpt", role="labels")
    assert [document.label for document in documents] == [True, False, True, False]
    assert all(document.is_preference for document in documents)


def test_alpaca_joins_instruction_and_input(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Translate.", "input": "lamp", "output": "مصباح"},
        {"Instruction": "Say hello.", "Input": "", "OUTPUT": "Hello."},
    ]
    documents, _ = read_rows(tmp_path, rows, layout="alpaca")
    assert [document.request for document in documents] == ["Translate.\n\nlamp", "Say hello."]
    pair = {"instruction": "Say hello.", "chosen": "Hello.", "rejected": "No."}
    (document,), _ = read_rows(tmp_path, [pair], layout="alpaca", role="preferences")
    assert (document.response, document.rejected) == ("Hello.", "No.")


def test_every_form_of_hh_gives_the_same_pair(tmp_path: Path) -> None:
    one = {"chosen": "\n\nHuman: Out?\n\nAssistant: Yes.", "rejected": "\n\nHuman: Out?\n\nAssistant: No."}
    forms = [*examples(__file__, "every_form_of_hh"), one]
    (*documents, short), _ = read_rows(tmp_path, forms, layout="hh", role="preferences")
    expected = [("user", "Out?"), ("assistant", "Where?"), ("user", "Pier."), ("assistant", "Mended.")]
    for document in documents:
        assert [(each.role, each.content) for each in document.messages] == expected
        assert document.rejected == "No."
    assert len(documents) == len(forms) - 1 and short.request == "Out?"


def message(speaker: str, text: str) -> Row:
    """A message as ChatGPT exports it."""
    return {"author": {"role": speaker}, "content": {"parts": [text]}}


@pytest.mark.parametrize(("layout", "role", "row", "reason"), examples(__file__, "a_broken_row_is_quarantined"))
def test_a_broken_row_is_quarantined_and_its_neighbours_are_read(
    tmp_path: Path, layout: str, role: str, row: Any, reason: str
) -> None:
    good: Row = {
        "conversations": turns("Out?") if role == "preferences" else turns("Out?", "Yes."),
        "instruction": "Say.",
        "output": "Yes.",
        "prompt": "Out?",
        "chosen": "Yes.",
        "rejected": "No.",
        "label": True,
        "mapping": {
            "a": {"message": message("user", "Out?"), "parent": None},
            "b": {"message": message("assistant", "Yes."), "parent": "a"},
        },
    }
    documents, (broken,) = read_rows(tmp_path, [good, row, good], layout=layout, role=role)
    assert [document.id for document in documents] == ["imported-1", "imported-3"]
    assert broken.row == 2
    assert broken.reason.startswith(reason)


def test_without_the_recipes_word_a_row_gets_neither_id_nor_case(tmp_path: Path) -> None:
    row = {"instruction": "Say.", "output": "y"}
    _, (broken,) = read_rows(tmp_path, [row], layout="alpaca", id_from_row=False, case_from_row=False)
    assert broken.reason == "missing field: id, case"
    _, (broken,) = read_rows(tmp_path, [row], layout="alpaca", constants={"language": "en"})
    assert broken.reason == "missing field: date"


def test_own_ids_cases_and_conditions_of_an_imported_file_are_used(tmp_path: Path) -> None:
    rows = [
        {"n": number, "file": f"F-{number % 2}", "keep": number != 2, "instruction": "Say.", "output": f"y{number}"}
        for number in range(4)
    ]
    documents, quarantined = read_rows(
        tmp_path, rows, layout="alpaca", columns={"id": "n", "case": "file"}, where={"keep": True}
    )
    assert not quarantined
    assert [(document.id, document.case) for document in documents] == [("0", "F-0"), ("1", "F-1"), ("3", "F-1")]


@pytest.mark.parametrize(("content", "message"), examples(__file__, "no_array_of_elements"))
def test_an_array_whose_elements_cannot_be_told_apart_stops_the_source(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "rows.json"
    path.write_text(content.replace("{long}", "x" * 200_000))
    with pytest.raises(SourceError, match=message) as refused:
        read(path, layout="alpaca")
    assert "rows.json" in str(refused.value)
    assert "Say" not in str(refused.value)


def test_an_element_of_wrong_bytes_or_too_many_is_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    good = b'{"instruction": "Say.", "output": "y"}'
    long = b'{"instruction": "Say.", "output": "' + b"x" * 30_000 + b'"}'
    path.write_bytes(b"\xef\xbb\xbf [" + b" ,\n".join([good, b'{"instruction": "L\xe4"}', long, good]) + b" ]\n")
    documents, quarantined = read(path, layout="alpaca")
    assert [document.id for document in documents] == ["imported-1", "imported-4"]
    assert [(each.row, each.reason) for each in quarantined] == [(2, "not UTF-8"), (3, "longer than 20,000 bytes")]


@pytest.mark.parametrize(("recipe", "message"), examples(__file__, "a_recipe_that_contradicts_its_layout_is_refused"))
def test_a_recipe_that_contradicts_its_layout_is_refused(tmp_path: Path, recipe: Row, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "rows.jsonl", **recipe)


# ── properties ───────────────────────────────────────────────────────────────────────────────────────────────────────

word = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | word,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(word, inner, max_size=3),
    max_leaves=5,
)
turn = st.builds(
    lambda names, speaker, text: {names[0]: speaker, names[1]: text},
    st.sampled_from([("from", "value"), ("role", "content")]),
    st.sampled_from(["human", "gpt", "user", "assistant", "system", "function_call", "observation"]) | values,
    word | values | st.sampled_from(['{"name": "fee", "arguments": "{}"}', '[{"name": "fee"}]', '{"name": NaN}']),
)
conversation = st.lists(turn, max_size=4) | values
KEYS = examples(__file__, "keys")
tree = st.dictionaries(
    st.sampled_from("ab"), st.fixed_dictionaries({}, optional={"parent": st.sampled_from("ab") | values})
)
any_row = st.fixed_dictionaries({}, optional={key: conversation | word | tree for key in KEYS}) | values


LAYOUTS = [(layout, role) for layout in ("sharegpt", "alpaca") for role in ("letters", "preferences", "labels")]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(any_row, min_size=1, max_size=6),
    st.sampled_from([*LAYOUTS, ("hh", "preferences"), ("chatgpt", "letters")]),
)
def test_however_rows_are_broken_each_is_a_document_or_quarantined(
    tmp_path: Path, rows: list[Any], layout_and_role: tuple[str, str]
) -> None:
    layout, role = layout_and_role
    assume(len(rows) > 1 or not isinstance(rows[0], list))  # one array is taken for a file of the wrong name
    documents, quarantined = read_rows(tmp_path, rows, layout=layout, role=role)
    assert len(documents) + len(quarantined) == len(rows)
    assert {document.id for document in documents} | {f"imported-{each.row}" for each in quarantined} == {
        f"imported-{number}" for number in range(1, len(rows) + 1)
    }


printable = st.characters(codec="utf-8", exclude_categories=["C", "Z"], include_characters=" ")
said = st.text(printable, min_size=1, max_size=20).filter(
    lambda text: (
        unicodedata.is_normalized("NFC", text)
        and text == text.strip()
        and folded(text)
        and not re.search("(Human|Assistant):", text)
    )
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(said, min_size=2, max_size=6).filter(lambda texts: len(texts) % 2 == 0), said)
def test_no_word_of_a_conversation_is_lost_or_changed_in_any_layout(
    tmp_path: Path, texts: list[str], other: str
) -> None:
    *asked, reply = texts
    (shared,), _ = read_rows(tmp_path, [{"conversations": turns(*texts)}], layout="sharegpt")
    transcript = "".join(f"\n\n{('Human', 'Assistant')[place % 2]}: {text}" for place, text in enumerate(asked))
    sides = {"chosen": f"{transcript}\n\nAssistant: {reply}", "rejected": f"{transcript}\n\nAssistant: {other}"}
    (pair,), _ = read_rows(tmp_path, [sides], layout="hh", role="preferences")
    assert [message.content for message in shared.messages] == texts
    assert (pair.messages, pair.rejected) == (shared.messages, other)
