"""Each kind in both scripts and both digit sets, what must not be touched, and the checks of digits."""

import time

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS
from sovereign_pipeline.privacy.identifiers.recognizers import leftovers, structured_spans
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.spans import Span
from sovereign_pipeline_tests.examples import examples

ARABIC_INDIC = str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩")

ENGLISH = examples(__file__, "english")
ARABIC = examples(__file__, "arabic")


def found(text: str) -> list[tuple[str, str]]:
    normalised = normalise(text)
    return [
        (span.kind, text[slice(*normalised.original_span(span.start, span.end))])
        for span in structured_spans(normalised.text)
    ]


@pytest.mark.parametrize("eastern_digits", [False, True], ids=["western", "arabic-indic"])
@pytest.mark.parametrize(("kind", "sentence", "value"), ENGLISH + ARABIC)
def test_each_kind_is_cut_without_its_label(kind: str, sentence: str, value: str, eastern_digits: bool) -> None:
    if eastern_digits and kind not in ("IBAN", "EMAIL"):
        value = value.translate(ARABIC_INDIC)
    assert found(sentence.format(value)) == [(kind, value)]


@pytest.mark.parametrize(
    ("kind", "sentence", "value"), examples(__file__, "what_is_kept_by_default_is_found_when_it_is_asked_for")
)
def test_what_is_kept_by_default_is_found_when_it_is_asked_for(kind: str, sentence: str, value: str) -> None:
    text = sentence.format(value)
    asked = [(span.kind, text[span.start : span.end]) for span in structured_spans(text, KEPT_BY_DEFAULT)]
    assert asked == [(kind, value)]
    assert found(text) == []


@pytest.mark.parametrize(
    "text", ["at 12:45:18 sharp", "2024-03-09 07:15:00", "version 3.14.2", "12:45", "the years 2022-2023"]
)
def test_times_and_versions_are_neither_addresses_of_machines_nor_phones(text: str) -> None:
    assert found(text) == []


def test_the_examples_cover_every_structured_kind_in_both_scripts() -> None:
    structured = set(KINDS) - KEPT_BY_DEFAULT - {"NAME"}
    assert {kind for kind, _, _ in ENGLISH} == structured
    assert {kind for kind, _, _ in ARABIC} == structured


@pytest.mark.parametrize("text", examples(__file__, "what_the_model_must_learn_is_not_touched"))
def test_what_the_model_must_learn_is_not_touched(text: str) -> None:
    assert found(text) == []
    assert leftovers(normalise(text).text) == []


def test_an_iban_with_wrong_check_digits_is_still_taken_but_not_as_certain() -> None:
    right, wrong = (
        structured_spans(f"IBAN {iban}")[0] for iban in ("OM820270310045566770012", "OM830270310045566770012")
    )
    assert (right.kind, right.labelled) == ("IBAN", True)
    assert (wrong.kind, wrong.labelled) == ("IBAN", False)


def test_a_number_without_a_label_is_taken_by_its_length() -> None:
    assert found("Mine is 59014472, his 0123456789012.") == [("NID", "59014472"), ("ACCOUNT", "0123456789012")]


def test_an_address_with_a_place_does_not_become_a_name_or_two_spans() -> None:
    assert [kind for kind, _ in found("House 6, Way 1172, Barka. Thuraya")] == ["ADDRESS"]


@given(st.from_regex(r"(7[1-9]|9[1-9]|2[1-6])\d{6}", fullmatch=True, alphabet="0123456789"))
def test_every_omani_number_is_found_without_label_and_has_one_key_in_every_way_of_writing(number: str) -> None:
    ways = [number, f"{number[:4]} {number[4:]}", f"+968 {number}", f"00968{number}", number.translate(ARABIC_INDIC)]
    spans: list[Span] = []
    for way in ways:
        spans += structured_spans(normalise(f"x {way} y").text)
    assert [span.kind for span in spans] == ["PHONE"] * len(ways)
    assert {span.key for span in spans} == {number}


def test_the_library_agrees_on_a_number_of_every_group() -> None:
    for number in ("92123456", "71234567", "24123456"):
        assert phonenumbers.is_valid_number(phonenumbers.parse(number, "OM"))


@pytest.mark.parametrize(
    ("text", "kind"),
    examples(__file__, "the_stricter_reading_finds_what_is_malformed"),
)
def test_the_stricter_reading_finds_what_is_malformed(text: str, kind: str) -> None:
    assert kind in [span.kind for span in leftovers(text)]


def test_a_long_number_behind_a_slash_is_taken_but_a_file_number_of_six_digits_is_not() -> None:
    expected = [("ACCOUNT", "123456789"), ("NID", "01234567")]
    assert found("ref x/123456789, file PRM/2024/012345, file PRM/2024/01234567") == expected


def test_an_iban_in_small_letters_is_one() -> None:
    assert found("om820270310045566770012") == [("IBAN", "om820270310045566770012")]


def test_a_long_word_does_not_make_the_patterns_slow() -> None:
    started = time.process_time()
    for text in ("a" * 200_000 + " @", "1 " * 100_000, "A1" * 100_000, "Al Al " * 30_000):
        leftovers(text)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("text", "expected"),
    examples(__file__, "a_long_number_glued_to_letters_is_taken_and_an_amount_is_not"),
)
def test_a_long_number_glued_to_letters_is_taken_and_an_amount_is_not(text: str, expected: list[str]) -> None:
    assert [text[span.start : span.end] for span in structured_spans(text)] == expected
    assert [text[span.start : span.end] for span in leftovers(text)] == expected
