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

ENGLISH = [
    ("NID", "my civil number is {} and", "87654321"),
    ("NID", "Civil No. {}.", "8765 4321"),
    ("NID", "the civil number of my son is {}", "08812450"),
    ("NID", "ID card {}", "11870263"),
    ("RESIDENT_CARD", "resident card no. {},", "71440982"),
    ("RESIDENT_CARD", "Resident card {}", "110284573"),
    ("PASSPORT", "passport {}", "AB1234567"),
    ("PASSPORT", "passport no. {}", "1234567"),
    ("ACCOUNT", "from account {} on", "0123456789012"),
    ("ACCOUNT", "into account {} at", "0419 2280 0573 6"),
    ("IBAN", "IBAN {}.", "OM820270310045566770012"),
    ("IBAN", "to {} please", "OM52 0180 0004 1008 7345 201"),
    ("CARD", "paid with {} yesterday", "4111 1111 1111 1111"),
    ("CARD", "credit card {}", "4111111111111112"),
    ("PHONE", "call {} now", "+968 91234567"),
    ("PHONE", "my phone {}", "9123 4567"),
    ("PHONE", "office {}.", "24560317"),
    ("PHONE", "call {}", "+44 20 7946 0018"),
    ("EMAIL", "write to {}.", "salma.h@example.om"),
    ("ADDRESS", "I live at {}. Then", "House 14, Way 3021, Al Khuwair"),
    ("ADDRESS", "at {}.", "Flat 5, Building 117, Way 1842, Al Seeb"),
    ("PO_BOX", "P.O. Box {}.", "218, Postal Code 133"),
    ("PO_BOX", "PO Box {} Muscat", "218"),
    ("CR", "(CR {})", "1234567"),
    ("CR", "commercial registration no. {}", "1234567"),
    ("PLATE", "plate {} was", "4521 AB"),
    ("PLATE", "(vehicle {})", "77123 B"),
    ("DATE_OF_BIRTH", "born on {}", "4 May 1983"),
    ("DATE_OF_BIRTH", "date of birth: {}", "04/05/1983"),
    ("CREDENTIAL", "The password is {}.", "Lantern-7719x"),
    ("COORDINATES", "The boat lies at {}.", "23.62345, 58.59321"),
    ("SSN", "my SSN is {}.", "219-09-9999"),
    ("SSN", "({})", "219-09-9999"),
    ("DRIVING_LICENCE", "my driver's license number is {}", "F255921505900"),
    ("DRIVING_LICENCE", "driving licence no. {},", "70123456"),
    ("IP", "sent from {} at", "192.0.2.44"),
    ("PHONE", "call me at {} please", "(555) 238-0177"),
    ("PHONE", "reach us on {}.", "555 0142"),
    ("PHONE", "Mobile: {}", "555-238-0177x204"),
    ("PHONE", "at {} today", "01.42.68.53.00"),
    ("PO_BOX", "my zip code is {}", "99501"),
]
ARABIC = [
    ("NID", "الرقم المدني {}، وهو", "87654321"),
    ("NID", "رقمه المدني {}.", "60933174"),
    ("RESIDENT_CARD", "بطاقة مقيم رقم {}", "71440982"),
    ("PASSPORT", "جواز السفر رقم {}.", "SE8802417"),
    ("ACCOUNT", "إلى الحساب رقم {}.", "0394417720158"),
    ("IBAN", "إلى الآيبان {}،", "OM820270310045566770012"),
    ("CARD", "بالبطاقة {}", "4111 1111 1111 1111"),
    ("PHONE", "وهاتفه {} مغلق", "92660417"),
    ("PHONE", "هاتف {}،", "+968 92417603"),
    ("EMAIL", "وبريده {}،", "khareef@example.com"),
    ("ADDRESS", "المقيم في {}، قرار", "المنزل 88، السكة 2417، الحيل الجنوبية"),
    ("PO_BOX", "ص.ب {}.", "218، الرمز البريدي 325"),
    ("CR", "السجل التجاري رقم {}،", "1284406"),
    ("PLATE", "المركبة رقم {} على", "77123 ب"),
    ("PLATE", "المركبة رقم {} يقودها", "3318 م د"),
    ("DATE_OF_BIRTH", "من مواليد {}،", "3 يناير 1960"),
    ("CREDENTIAL", "كلمة المرور: {}", "Lantern-7719x"),
    ("COORDINATES", "والقارب عند {}", "23.62345, 58.59321"),
    ("SSN", "ولي {} أيضاً", "219-09-9999"),
    ("DRIVING_LICENCE", "رخصة القيادة رقم {}،", "70123456"),
    ("IP", "كتبت من {} أمس", "192.0.2.44"),
]


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
    [
        ("reach me: someone@host", "EMAIL"),
        ("ring +968 (9) 12", "PHONE"),
        ("om52018000041008", "IBAN"),
        ("ref:12345678", "NID"),
        ("x12/123456789", "ACCOUNT"),
    ],
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
    [
        ("see https://files.example/media/6436b48e877741000c68d867/report", ["877741000"]),
        ("Number of caseworkers3226293231", ["3226293231"]),
        ("reference NFRC240606737247.", ["240606737247"]),
        ("turnover of OMR 12345678.500 and 123456789,5 tonnes", []),
    ],
)
def test_a_long_number_glued_to_letters_is_taken_and_an_amount_is_not(text: str, expected: list[str]) -> None:
    assert [text[span.start : span.end] for span in structured_spans(text)] == expected
    assert [text[span.start : span.end] for span in leftovers(text)] == expected
