"""Folding never loses the way back to the exact characters of the original."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline_tests.examples import examples

MARKED = st.text(alphabet="ab 0189٠١٩۴۵سلامي\u0640\u064b\u0651\u200f\u200e\u2066\u00a0\u202f–-é", max_size=60)


@given(MARKED)
def test_every_character_leads_back_to_the_one_it_was_folded_from(original: str) -> None:
    normalised = normalise(original)
    for position, character in enumerate(normalised.text):
        start, end = normalised.original_span(position, position + 1)
        source = original[start]
        if character.isdigit():
            assert unicodedata.decimal(source) == int(character)
        elif character in " -":
            assert unicodedata.category(source) in ("Zs", "Pd")
        else:
            assert source == character
        assert all(unicodedata.combining(mark) or mark == "\u0640" for mark in original[start + 1 : end])


@given(st.text(max_size=40))
def test_folded_text_holds_no_mark_and_no_foreign_digit(original: str) -> None:
    text = normalise(original).text
    assert not any(character in "\u0640\u064b\u0651\u200f\u00a0" for character in text)
    assert all(character in "0123456789" for character in text if unicodedata.decimal(character, None) is not None)


ENCODED = st.lists(
    st.sampled_from(
        ["a", "%41", "%2541", "&#65;", "&amp;#65;", "%D8%B3", "ﬁ", "ﷲ", "\u0336", "\u200b", "１", "а", " ", "%", "&"]
    ),
    max_size=20,
).map("".join)


@given(ENCODED)
def test_spans_of_an_encoded_text_follow_each_other_and_lie_in_the_original(original: str) -> None:
    normalised = normalise(original)
    spans = [normalised.original_span(place, place + 1) for place in range(len(normalised.text))]
    assert spans == sorted(spans)
    assert all(0 <= start < end <= len(original) for start, end in spans)


@pytest.mark.parametrize(("original", "read"), examples(__file__, "what_looks_the_same_is_read_the_same"))
def test_what_looks_the_same_is_read_the_same(original: str, read: str) -> None:
    assert normalise(original).text == read
