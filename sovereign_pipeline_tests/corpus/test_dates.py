"""Dates as institutions write them: read in the recipe's format, and the format found by a whole column."""

import datetime

import pytest

from sovereign_pipeline.corpus.document import RowRejected
from sovereign_pipeline.corpus.values import day_of, days_in, formats_of_column, is_hijri
from sovereign_pipeline.policy.corpus import DateForm
from sovereign_pipeline_tests.examples import examples


@pytest.mark.parametrize(("text", "format", "day"), examples(__file__, "dates"))
def test_a_date_is_read_in_its_format(text: str, format: str, day: str) -> None:
    assert day_of(text, (format,)) == day
    assert format in formats_of_column({text: 1})[0] or format.startswith("mm.dd")


@pytest.mark.parametrize("text", examples(__file__, "no_dates"))
def test_what_is_no_date_of_this_calendar_is_rejected(text: str) -> None:
    assert not days_in(text)
    with pytest.raises(RowRejected) as rejected:
        day_of(text, ("dd/mm/yyyy", "unix"))
    assert text not in str(rejected.value)


@pytest.mark.parametrize(("values", "formats"), examples(__file__, "columns"))
def test_a_whole_column_decides_its_format(values: dict[str, int], formats: list[list[str]]) -> None:
    assert [*map(list, formats_of_column(values))] == formats


def test_a_year_of_the_hijri_calendar_is_told() -> None:
    assert not [text for text in examples(__file__, "hijri") if not is_hijri(text) or days_in(text)]
    assert not [text for text in examples(__file__, "not_hijri") if is_hijri(text)]


def test_no_format_is_found_by_which_letters_are_of_later_years() -> None:
    later = (datetime.date.today().year + 10) % 100
    assert formats_of_column({f"13/11/{later}": 9, f"29/12/{later}": 1}) == ()


@pytest.mark.parametrize(("written", "usual"), examples(__file__, "spellings"))
def test_a_recipe_may_spell_a_format_as_people_do(written: str, usual: str) -> None:
    assert DateForm.model_validate({"format": written}).formats == (usual,)


@pytest.mark.parametrize("written", ["dd.mm", "%d.%m.%Y", "yyyy", "dd.dd.yyyy", ""])
def test_what_is_no_format_is_rejected(written: str) -> None:
    with pytest.raises(ValueError, match="not a date format"):
        DateForm.model_validate({"format": written})
