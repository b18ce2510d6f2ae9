"""The language of a text by its letters and its common words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.corpus.languages import is_in_other_script, language_in, other_language
from sovereign_pipeline_tests.examples import examples

ARABIC = "نفيدكم بأن المصباح القديم يعمل الآن"


@pytest.mark.parametrize(("language", "text"), examples(__file__, "sentences"))
def test_the_language_of_a_sentence_is_found(language: str, text: str) -> None:
    assert language_in([text]) == language
    assert other_language(text, language) is None
    assert other_language(text, "ar" if language == "en" else "en") == language


@pytest.mark.parametrize("text", examples(__file__, "no_other_language"))
def test_lists_and_short_texts_are_in_no_other_language(text: str) -> None:
    assert other_language(text, "en") is None
    assert language_in([text]) == "en"


def test_the_language_of_most_letters_is_that_of_a_document() -> None:
    assert language_in(["Lamp 12", ARABIC]) == "ar"
    assert language_in(["12", ""]) is None


def test_few_letters_or_an_unknown_language_tell_nothing_of_the_script() -> None:
    assert not is_in_other_script("Lamp 12", "ar")
    assert not is_in_other_script(ARABIC, "tlh")
    assert is_in_other_script(ARABIC, "en")
    assert not is_in_other_script(f"{ARABIC} Lamp", "ar")


@given(st.text(max_size=300), st.sampled_from(["en", "ar", "xx"]))
def test_any_text_has_a_language_or_none(text: str, language: str) -> None:
    assert other_language(text, language) != language and language_in([text]) != ""
