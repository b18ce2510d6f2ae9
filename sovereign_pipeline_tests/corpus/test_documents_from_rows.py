"""Sources: every format, every kind of broken row, nothing lost."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.corpus.values import is_wanted
from sovereign_pipeline_tests.conftest import LADDER, letter
from sovereign_pipeline_tests.corpus.sources import outcomes_of, read, reader_of, write
from sovereign_pipeline_tests.examples import examples


def test_columns_constants_floor_filter_links_and_markup(tmp_path: Path) -> None:
    row = {
        "uin": 17, "heading": "Lamps", "member": 4, "day": "2024-02-03T00:00:00", "question": "Why?",
        "answer": "<p>Because &amp; so.</p><p>Done.</p>", "clipped": False, "grouped": ["18", 19],
    }  # fmt: skip
    path = write(tmp_path / "questions.jsonl", row, {**row, "uin": 18, "clipped": True})
    columns = {
        "id": "uin", "case": "heading", "author": "member", "date": "day", "subject": "heading", "request": "question",
        "response": "answer",
    }  # fmt: skip
    recipe: dict[str, Any] = dict(
        columns=columns,
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


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=60), min_size=1, max_size=8))
def test_whatever_the_bytes_are_no_row_is_lost(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "letters.jsonl"
    lines.insert(0, b"{}" + b" " * 4096)  # a file that looks like another format or encoding is refused whole
    path.write_bytes(b"".join(line.replace(b"\n", b" ") + b"\n" for line in lines))
    reader = reader_of(path, {})
    _, quarantined = outcomes_of(reader)
    told = [line.removeprefix(b"\xef\xbb\xbf") for line in lines]
    assert len(quarantined) == reader.count.rows == sum(1 for line in told if line.strip(b" \t\r\n\x0b\x0c"))


@pytest.mark.parametrize("misspelt", [{"columns": {"classification": "clasification"}}, {"where": {"clipt": False}}])
def test_a_misspelt_column_is_never_taken_for_an_empty_one(tmp_path: Path, misspelt: dict[str, Any]) -> None:
    path = write(tmp_path / "letters.jsonl", letter(1, classification="SECRET"))
    documents, (broken,) = read(path, classification_floor="PUBLIC", **misspelt)
    assert not documents
    assert broken.reason.startswith("no column: cl")


@pytest.mark.parametrize(("wanted", "alike", "others"), examples(__file__, "conditions"))
def test_a_condition_holds_for_every_spelling_of_its_value(wanted: Any, alike: list[Any], others: list[Any]) -> None:
    assert not [value for value in alike if not is_wanted(value, wanted)]
    assert not [value for value in others if is_wanted(value, wanted)]
    assert is_wanted(Decimal("7.00"), 7)


def test_a_condition_that_no_row_fulfils_lists_the_states_and_no_names(tmp_path: Path) -> None:
    path = write(
        tmp_path / "letters.jsonl", *(letter(n, state=("Closed", "closed", "", "Salim")[n % 4]) for n in range(8))
    )
    reader = reader_of(path, {"where": {"state": "open"}})
    outcomes_of(reader)
    with pytest.raises(
        SourceError, match=r"none of 8 rows\. 'state' contains closed \(4\), nothing \(2\), 1 value not"
    ) as said:
        reader.reject_unlike_recipe()
    assert "alim" not in str(said.value)


def test_a_row_without_author_or_department_is_read_unless_the_split_goes_by_author(tmp_path: Path) -> None:
    path = write(tmp_path / "letters.jsonl", letter(1, author="", department=None), letter(2))
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
    path = write(tmp_path / "a.jsonl", letter(0), letter(1, date="yesterday", language="en"))
    documents, _ = read(path, constants={"language": "ar", "date": "2024-05-05"})
    assert [(document.language, document.date) for document in documents] == [("ar", "2024-05-05")] * 2


@pytest.mark.parametrize(("own", "constant", "level"), [(0, 2, 2), (2, 0, 2), (1, 1, 1)])
def test_the_higher_level_of_row_and_constant_holds(tmp_path: Path, own: int, constant: int, level: int) -> None:
    path = write(tmp_path / "a.jsonl", letter(0, classification=LADDER[own]))
    (document,), _ = read(path, constants={"classification": LADDER[constant]})
    assert document.classification == LADDER[level]


def test_a_constant_that_says_the_file_has_no_author_is_refused_where_it_has_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", letter(0, author="One Person"))
    with pytest.raises(SourceError, match="states that the file has no author, but the column 'author' contains one"):
        read(path, constants={"author": ""})
