"""Spellings of one case file or author are one; other ones stay apart."""

import pytest

from sovereign_pipeline.base.text import folded, folded_author
from sovereign_pipeline_tests.examples import examples

SPELLINGS_OF_A_CASE = examples(__file__, "spellings_of_a_case")


@pytest.mark.parametrize("spelling", SPELLINGS_OF_A_CASE)
def test_spellings_of_one_case_file_are_one(spelling: str) -> None:
    assert folded(spelling) == "prm-2024/017"


@pytest.mark.security_case(
    "An author or a case file is spelled with other forms of Arabic letters or with confusables",
    "it is the same author or case file",
)
@pytest.mark.parametrize(("one", "other"), examples(__file__, "spellings_of_one_author_are_one"))
def test_spellings_of_one_author_are_one(one: str, other: str) -> None:
    assert folded(one) == folded(other)


@pytest.mark.parametrize("spelling", ["Salma Al-Harthi", "salma al – harthi", "Ѕalma Al Hаrthi"])
def test_a_hyphen_in_the_name_of_an_author_is_a_space(spelling: str) -> None:
    assert folded_author(spelling) == folded_author("Salma Al Harthi")
    assert folded_author(spelling) != folded_author("Salma Alharthi")


@pytest.mark.parametrize(
    ("one", "other"), [("PRM/2024/017", "PRM/2024/17"), ("A 1", "A1"), ("A/1", "A-1"), ("العام", "العامة"), ("", "-")]
)
def test_others_stay_apart(one: str, other: str) -> None:
    assert folded(one) != folded(other)
