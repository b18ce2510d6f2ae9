"""Parts of names across scripts and spellings: what is a common spelling, what could be one, what is another name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.privacy.names.persons import Likeness, folded_word, is_arabic, likeness, skeleton
from sovereign_pipeline_tests.examples import examples


def pairs(table: str) -> list[tuple[str, str]]:
    rows = examples(__file__, table)
    return [(folded_word(arabic), latin) for arabic, *spellings in rows for latin in spellings]


# Given names and tribal names as they are written in the Gulf; every Latin spelling is a common one of the Arabic.
SAME = pairs("same")
# Names that are easily confused, and are others.
OTHER = pairs("other")


@pytest.mark.parametrize(("arabic", "latin"), SAME)
def test_a_common_spelling_is_certain(arabic: str, latin: str) -> None:
    assert likeness(arabic, latin) is likeness(latin, arabic) is Likeness.CERTAIN


@pytest.mark.parametrize(("arabic", "latin"), OTHER)
def test_another_name_is_none(arabic: str, latin: str) -> None:
    assert likeness(arabic, latin) is likeness(latin, arabic) is Likeness.NONE


@pytest.mark.parametrize(
    ("arabic", "latin"),
    [("عثمان", "osman"), ("زيد", "zayed"), ("حامد", "hamad"), ("الكندي", "kindi"), ("جمال", "gamal"), ("على", "ali")],
)
def test_a_rare_spelling_is_possible_and_no_more(arabic: str, latin: str) -> None:
    assert likeness(arabic, latin) is Likeness.POSSIBLE


@pytest.mark.parametrize(("one", "other"), examples(__file__, "two_spellings_of_one_script_are_possible"))
def test_two_spellings_of_one_script_are_possible(one: str, other: str) -> None:
    assert likeness(one, other) is likeness(other, one) is Likeness.POSSIBLE
    assert skeleton(one) == skeleton(other)


@pytest.mark.parametrize(("one", "other"), examples(__file__, "two_names_of_one_script_are_none"))
def test_two_names_of_one_script_are_none(one: str, other: str) -> None:
    assert likeness(one, other) is Likeness.NONE


PARTS = st.sampled_from([part for pair in (*SAME, *OTHER) for part in pair])


@given(PARTS, PARTS)
def test_likeness_is_symmetric_and_certain_only_across_scripts(one: str, other: str) -> None:
    assert likeness(one, other) is likeness(other, one)
    if likeness(one, other) is Likeness.CERTAIN:
        assert is_arabic(one) != is_arabic(other)
    elif one != other and is_arabic(one) == is_arabic(other) and likeness(one, other):
        assert skeleton(one) == skeleton(other)
