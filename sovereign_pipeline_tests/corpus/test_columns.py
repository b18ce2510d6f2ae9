"""Columns that are spelled in another way than the recipe spells them, above all the one of the level."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import RecipeError, SourceError
from sovereign_pipeline.base.text import folded
from sovereign_pipeline.corpus.columns import ColumnNames
from sovereign_pipeline.corpus.document import Document, RowRejected
from sovereign_pipeline_tests.conftest import letter
from sovereign_pipeline_tests.corpus.sources import read, write
from sovereign_pipeline_tests.examples import examples


def respelt(row: dict[str, Any], **names: str) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in row.items()}


SPELLINGS = examples(__file__, "spellings")


@pytest.mark.security_case(
    ("One row has its level in `Classification`, the others in `classification`, and the source has a lower floor"),
    "both are the same column: the row keeps its level",
)
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_level_under_another_spelling_is_the_level(tmp_path: Path, spelling: str) -> None:
    rows = letter(1), respelt(letter(2, classification="SECRET"), classification=spelling)
    documents, quarantined = read(write(tmp_path / "letters.jsonl", *rows), classification_floor="PUBLIC")
    assert not quarantined
    assert [document.classification for document in documents] == ["PUBLIC", "SECRET"]


@pytest.mark.parametrize("suffix", [".csv", ".json", ".jsonl", ".parquet"])
def test_every_column_is_found_in_every_format_whatever_its_letter_case(tmp_path: Path, suffix: str) -> None:
    row = {name.upper(): value for name, value in letter(1, classification="SECRET", linked="R-7", open="no").items()}
    path = write(tmp_path / f"letters{suffix}", row)
    (document,), quarantined = read(path, links="Linked", where={"Open": "no"}, columns={"request": "Request"})
    assert not quarantined
    expected = Document(**letter(1, classification="SECRET"), source="letters", links=("R-7",))
    assert document == expected


@pytest.mark.security_case(
    ("A row has two columns for its level, `classification` and `Classification`, and the lower one would be read"),
    "a table is rejected, and a JSON row is quarantined; both columns are named",
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_with_two_spellings_of_one_column_is_refused_with_both_names(tmp_path: Path, suffix: str) -> None:
    path = write(tmp_path / f"letters{suffix}", {**letter(1), "Classification": "SECRET"})
    with pytest.raises(SourceError, match="'classification' and 'Classification' match the same name"):
        read(path)


@pytest.mark.security_case(
    "A JSON row has both `classification` and `Classification`", "the row is quarantined, and both columns are named"
)
def test_a_row_of_json_with_two_spellings_of_one_column_goes_to_quarantine(tmp_path: Path) -> None:
    path = write(tmp_path / "letters.jsonl", letter(1), {**letter(2), "Classification": "SECRET"})
    (document,), (broken,) = read(path, classification_floor="PUBLIC")
    assert document.id == "R-00001"
    assert broken.reason == "the columns 'classification' and 'Classification' match the same name in the recipe"


def test_two_spellings_of_a_column_that_is_not_read_do_not_matter(tmp_path: Path) -> None:
    path = write(tmp_path / "letters.csv", {**letter(1), "Note": "a", "note": "b"})
    documents, quarantined = read(path)
    assert (len(documents), quarantined) == (1, [])


@pytest.mark.security_case(
    "A row's level is in a misspelt column (`clasification`, a Cyrillic letter), and the source has a floor",
    "the row is quarantined, because other rows have the column",
)
@pytest.mark.parametrize("misspelt", ["clasification", "classifcation", "level"])
@pytest.mark.parametrize("given", [{"classification_floor": "PUBLIC"}, {"constants": {"classification": "PUBLIC"}}])
@pytest.mark.parametrize("first", [True, False])
def test_a_row_without_the_level_that_other_rows_have_goes_to_quarantine(
    tmp_path: Path, misspelt: str, given: dict[str, Any], first: bool
) -> None:
    rows = [respelt(letter(2, classification="SECRET"), classification=misspelt), letter(1)]
    path = write(tmp_path / "letters.jsonl", *(rows if first else rows[::-1]))
    (document,), (broken,) = read(path, **given)
    assert document.id == "R-00001"
    assert broken.reason == "the row has no column 'classification', where other rows state their level"


@pytest.mark.security_case(
    "A recipe maps two spellings of one word, such as Secret and secret, to different levels",
    "the recipe is rejected before a row is read",
)
@pytest.mark.parametrize("spelling", ["secret", "SECRET ", "Ｓｅｃｒｅｔ"])
def test_spellings_of_a_word_must_have_one_level(tmp_path: Path, spelling: str) -> None:
    levels = {"Secret": "SECRET", spelling: "PUBLIC"}
    with pytest.raises(RecipeError, match="All spellings of a word must have the same level"):
        read(write(tmp_path / "letters.jsonl", letter(1, classification="Secret")), levels=levels)


@pytest.mark.security_case(
    "A recipe maps a level of the ladder, in any spelling, to a lower level",
    "the recipe is rejected before a row is read",
)
@pytest.mark.parametrize("spelling", ["SECRET", "secret", "ＳＥＣＲＥＴ "])
def test_no_spelling_of_a_level_becomes_a_lower_one(tmp_path: Path, spelling: str) -> None:
    path = write(tmp_path / "letters.jsonl", letter(1, classification=spelling))
    with pytest.raises(RecipeError):
        read(path, levels={spelling: "PUBLIC"})
    (document,), broken = read(path, levels={spelling: "SECRET"})
    assert document.classification == "SECRET" and not broken


@given(st.lists(st.text(st.sampled_from("aAbB \u200b"), max_size=3), unique=True, max_size=6))
def test_no_value_is_lost_or_moved_to_another_name(columns: list[str]) -> None:
    names = ColumnNames(["a", "Ab"])
    values = {column: number for number, column in enumerate(columns)}
    try:
        applied = names.applied(values)
    except RowRejected:
        read_twice = [folded(column) for column in columns if folded(column) in ("a", "ab")]
        assert len(read_twice) > len(set(read_twice))
        return
    assert sorted(applied.values()) == sorted(values.values())
    assert all(folded(name) == folded(columns[number]) for name, number in applied.items())
