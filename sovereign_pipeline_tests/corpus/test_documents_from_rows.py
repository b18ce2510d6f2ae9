"""Sources: every format, every kind of broken row, nothing lost."""

import json
import unicodedata
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.corpus.document import Document, read_documents, write_documents
from sovereign_pipeline.corpus.values import is_wanted
from sovereign_pipeline_tests.conftest import LADDER, letter
from sovereign_pipeline_tests.corpus.sources import changed_document, outcomes_of, read, reader_of, write


def test_columns_constants_floor_filter_links_and_markup(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    row = {
        "uin": 17,
        "heading": "Lamps",
        "member": 4,
        "day": "2024-02-03T00:00:00",
        "question": "Why?",
        "answer": "<p>Because &amp; so.</p><p>Done.</p>",
        "clipped": False,
        "grouped": ["18", 19],
    }
    write(path, row, {**row, "uin": 18, "clipped": True})
    recipe: dict[str, Any] = dict(
        columns={
            "id": "uin",
            "case": "heading",
            "author": "member",
            "date": "day",
            "subject": "heading",
            "request": "question",
            "response": "answer",
        },
        constants={"language": "en", "department": "lamps"},
        classification_floor="INTERNAL",
        where={"clipped": False},
        links="grouped",
        markup="html",
    )
    reader = reader_of(path, recipe)
    (document,), quarantined = outcomes_of(reader)
    assert not quarantined
    assert reader.count.not_selected == 1
    assert document.response == "Because & so.\nDone."
    assert (document.classification, document.date, document.links) == ("INTERNAL", "2024-02-03", ("18", "19"))


def test_a_floor_raises_and_never_lowers(tmp_path: Path) -> None:
    path = tmp_path / "letters.jsonl"
    write(path, letter(1, classification="PUBLIC"), letter(2, classification="SECRET"))
    documents, _ = read(path, classification_floor="CONFIDENTIAL")
    assert [document.classification for document in documents] == ["CONFIDENTIAL", "SECRET"]


def test_preferences_need_a_rejected_reply(tmp_path: Path) -> None:
    path = tmp_path / "letters.jsonl"
    write(path, letter(1, rejected="No idea."), letter(2))
    (document,), (broken,) = read(path, role="preferences")
    assert document.rejected == "No idea."
    assert broken.reason == "missing field: rejected"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"absent\.jsonl: the source file does not exist"):
        read(tmp_path / "absent.jsonl")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=8))
def test_whatever_the_bytes_are_no_row_is_lost(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "letters.jsonl"
    lines.insert(0, b"{}" + b" " * 4096)  # a file that looks like another format or encoding is refused whole
    path.write_bytes(b"".join(line.replace(b"\n", b" ") + b"\n" for line in lines))
    reader = reader_of(path, {})
    _, quarantined = outcomes_of(reader)
    told = [line.removeprefix(b"\xef\xbb\xbf") for line in lines]
    assert len(quarantined) == reader.count.rows == sum(1 for line in told if line.strip(b" \t\r\n\x0b\x0c"))


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(text, text), max_size=5))
def test_documents_come_back_as_they_were_written(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    documents = [
        Document(**{**letter(number), "source": "letters", "request": request, "response": response})
        for number, (request, response) in enumerate(pairs)
    ]
    write_documents(tmp_path / "documents.jsonl", documents)
    normal = [
        changed_document(
            document, {name: unicodedata.normalize("NFC", getattr(document, name)) for name in ("request", "response")}
        )
        for document in documents
    ]
    assert list(read_documents(tmp_path / "documents.jsonl")) == normal


@pytest.mark.parametrize("misspelt", [{"columns": {"classification": "clasification"}}, {"where": {"clipt": False}}])
def test_a_misspelt_column_is_never_taken_for_an_empty_one(tmp_path: Path, misspelt: dict[str, Any]) -> None:
    path = tmp_path / "letters.jsonl"
    write(path, letter(1, classification="SECRET"))
    documents, (broken,) = read(path, classification_floor="PUBLIC", **misspelt)
    assert not documents
    assert broken.reason.startswith("no column: cl")


SPELLINGS: list[tuple[Any, Any, bool]] = [
    *(
        (False, value, True)
        for value in (False, "0", 0, 0.0, "0.0", "no", " No ", "N", "FALSE", "f", "", " ", None, "لا")
    ),
    *((False, value, False) for value in (True, 1, "yes", "maybe", "2", "Y")),
    *((True, value, True) for value in (True, "1", 1, 1.0, "1.0", "yes", "YES", "t", "true ", "نعم")),
    *((True, value, False) for value in (False, 0, "", None, "no", "maybe")),
    *((7, value, True) for value in (7, "7", " 7 ", 7.0, "7.0", "٧", Decimal("7.00"))),
    *((7, value, False) for value in (8, "70", "007", "", None, "7a")),
    *(("answered", value, True) for value in ("answered", " Answered", "ANSWERED ")),
    *(("answered", value, False) for value in ("unanswered", "", None)),
    *(("007", value, False) for value in (7, "7")),
    *((1, value, True) for value in (True, 1, "1")),
    *(("true", value, True) for value in (True, "True")),
    *((0, value, False) for value in (True, "", None)),
    *((None, value, True) for value in (None, "", " ", "null", "NaN", "-", "--", "#N/A", "\\N")),
    *((None, value, False) for value in (0, False, "0")),
]


@pytest.mark.parametrize(("wanted", "value", "is_selected"), SPELLINGS)
def test_a_condition_holds_for_every_spelling_of_its_value(value: Any, wanted: Any, is_selected: bool) -> None:
    assert is_wanted(value, wanted) is is_selected


def test_a_condition_that_no_row_fulfils_lists_the_states_and_no_names(tmp_path: Path) -> None:
    path = tmp_path / "letters.jsonl"
    write(path, *(letter(n, state=("Closed", "closed", "", "Salim")[n % 4]) for n in range(8)))
    reader = reader_of(path, {"where": {"state": "open"}})
    outcomes_of(reader)
    with pytest.raises(
        SourceError, match=r"none of 8 rows\. 'state' contains closed \(4\), nothing \(2\), 1 value not"
    ) as said:
        reader.reject_unlike_recipe()
    assert "alim" not in str(said.value)


@pytest.mark.parametrize(("value", "label"), [(1.0, True), ("T", True), ("no", False), ("0.0", False), (False, False)])
def test_labels_are_read_in_every_spelling(tmp_path: Path, value: Any, label: bool) -> None:
    path = tmp_path / "letters.jsonl"
    write(path, letter(1, label=value), letter(2, label="x"))
    (document,), (broken,) = read(path, role="labels")
    assert document.label is label
    assert broken.reason == "label is neither true nor false, yes nor no, 1 nor 0"


def test_a_row_without_author_or_department_is_read_unless_the_split_goes_by_author(tmp_path: Path) -> None:
    path = tmp_path / "letters.jsonl"
    write(path, letter(1, author="", department=None), letter(2))
    documents, quarantined = read(path)
    assert [(each.author, each.department) for each in documents] == [("", ""), ("Officer 2", "lamps")]
    assert not quarantined
    _, quarantined = outcomes_of(reader_of(path, {}, needs_author=True))
    assert [each.reason for each in quarantined] == ["missing field: author"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_number_of_json_keeps_its_spelling(tmp_path: Path, name: str) -> None:
    rows = ",\n".join(json.dumps({**letter(n), "case": f"#{n}"}) for n in range(4))
    for number, written in enumerate(("2024.1", "2024.10", "1e3", "12345678901234567890.25")):
        rows = rows.replace(f'"#{number}"', written)
    (tmp_path / name).write_text(rows.replace(",\n", "\n") if name == "a.jsonl" else f"[{rows}]")
    documents, _ = read(tmp_path / name)
    assert [document.case for document in documents] == ["2024.1", "2024.10", "1000", "12345678901234567890.25"]


def test_a_constant_is_the_value_of_every_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, letter(0), letter(1, date="yesterday", language="en"))
    documents, _ = read(path, constants={"language": "ar", "date": "2024-05-05"})
    assert [(document.language, document.date) for document in documents] == [("ar", "2024-05-05")] * 2


@pytest.mark.parametrize(("own", "constant", "level"), [(0, 2, 2), (2, 0, 2), (1, 1, 1)])
def test_the_higher_level_of_row_and_constant_holds(tmp_path: Path, own: int, constant: int, level: int) -> None:
    path = tmp_path / "a.jsonl"
    write(path, letter(0, classification=LADDER[own]))
    (document,), _ = read(path, constants={"classification": LADDER[constant]})
    assert document.classification == LADDER[level]


def test_a_constant_that_says_the_file_has_no_author_is_refused_where_it_has_one(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    write(path, letter(0, author="One Person"))
    with pytest.raises(SourceError, match="states that the file has no author, but the column 'author' contains one"):
        read(path, constants={"author": ""})
