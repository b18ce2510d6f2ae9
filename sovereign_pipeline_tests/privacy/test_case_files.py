"""One case file: numbers, who is whom, findings that overlap, and the way back to the originals."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.privacy.case_files import Place, ScrubbedCase, filled
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.spans import Span, without_overlaps
from sovereign_pipeline_tests.privacy.conftest import document, scrub


def test_one_value_has_one_placeholder_throughout_a_case_whatever_its_writing(patterns_only: Scrubber) -> None:
    first = document("Civil No. 8765 4321, phone +968 9123 4567. Said Al Busaidi", id="A")
    second = document("Mr Al-Busaidi, civil number ٨٧٦٥٤٣٢١, 91234567", id="B", date="2024-05-01")
    a, b = scrub(patterns_only, first, second).documents
    assert a.request == "Civil No. NID_1, phone PHONE_1. NAME_1"
    assert b.request == "Mr NAME_1, civil number NID_1, PHONE_1"


def test_numbers_follow_date_then_row_then_field_and_rows_keep_their_place(patterns_only: Scrubber) -> None:
    later = document("CR 1111111", id="A", date="2024-06-01")
    same_day = document("CR 3333333", id="B", date="2024-01-01", response="CR 4444444", subject="CR 2222222")
    next_row = document("CR 5555555", id="C", date="2024-01-01", rejected="CR 6666666")
    documents = scrub(patterns_only, later, same_day, next_row).documents
    assert [each.id for each in documents] == ["A", "B", "C"]
    texts = [text for each in documents for text in each.texts.values() if text]
    assert texts == ["CR CR_6", "CR CR_1", "CR CR_2", "CR CR_3", "CR CR_4", "CR CR_5"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tamsin Jane Oakes Quarshie wrote.", "NAME_1 wrote."),
        ("Salim Said Al Harthi Quarshie came.", "NAME_1 came."),
        ("Mr Tamsin Oakes, Quarshie and others", "Mr NAME_2, NAME_1 and others"),
    ],
)
def test_a_known_family_name_behind_a_name_that_was_found_without_it_is_part_of_it(
    patterns_only: Scrubber, text: str, expected: str
) -> None:
    first, second = document("Ms Quarshie called.", id="A"), document(text, id="B", date="2024-05-01")
    documents = scrub(patterns_only, first, second).documents
    assert [each.request for each in documents] == ["Ms NAME_1 called.", expected]


def test_the_author_is_replaced_and_known_in_the_text(patterns_only: Scrubber) -> None:
    scrubbed = scrub(patterns_only, document("I spoke with Salma on Sunday.", author="Salma Al Harthi")).documents[0]
    assert scrubbed.author == "NAME_1"
    assert scrubbed.request == "I spoke with NAME_1 on Sunday."


def test_a_value_is_found_again_without_its_label(patterns_only: Scrubber) -> None:
    scrubbed = scrub(
        patterns_only, document("civil number 92345678", response="Bring 92345678. Plate 4521 AB; 4521 AB.")
    )
    assert scrubbed.documents[0].response == "Bring NID_1. Plate PLATE_1; PLATE_1."


def test_an_ambiguous_surname_is_listed_with_its_row(patterns_only: Scrubber) -> None:
    case = scrub(patterns_only, document("Faisal Al Balushi and Marwa Al Balushi. Mr Al Balushi pays.", id="R-9"))
    assert case.documents[0].request == "NAME_1 and NAME_2. Mr NAME_3 pays."
    assert [each["rows"] for each in case.findings.ambiguous] == [["R-9"]]


VALUES = st.sampled_from(
    [
        "civil number 87654321",
        "Civil No. ٨٧٦٥ ٤٣٢١",
        "Said Al Busaidi",
        "Mr Al-Busaidi",
        "السّيد سعيـد البوسعيدي",
        "\u2067هاتف ٩٢٣٤١١٨٧\u2069",
        "+968\u00a09234\u00a01187",
        "IBAN OM820270310045566770012",
        "a.b@example.om",
        "House 14, Way 3021, Al Khuwair",
        "plate 4521 AB",
        "born on 4 May 1983",
        "PRM/2024/017",
        "OMR 35.500",
    ]
)
TEXTS = st.lists(st.one_of(VALUES, st.text(alphabet="ab Zé.,;()0123456789\nسل\u064b\u200f", max_size=12)), max_size=6)


def restored(case: ScrubbedCase) -> list[dict[str, str]]:
    """Put the originals back, row by row and field by field, in the order of the mapping."""

    def restore(document: Document, name: str, text: str) -> str:
        originals = [
            (row.placeholder, row.original) for row in case.mapping if (row.row, row.field) == (document.id, name)
        ]
        done = ""
        for placeholder, original in originals:
            before, text = text.split(placeholder, 1)
            done += before + original
        return done + text

    return [
        {name: restore(each, name, text) for name, text in {**each.texts, "author": each.author}.items()}
        for each in case.documents
    ]


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3))
def test_scrub_then_reveal_is_the_identity(patterns_only: Scrubber, drawn: list[tuple[list[str], list[str]]]) -> None:
    documents = [
        document(" ".join(request), response=" ".join(response), id=f"R-{number}", author="Salma Al Harthi")
        for number, (request, response) in enumerate(drawn)
    ]
    case = scrub(patterns_only, *documents)
    assert restored(case) == [{**each.texts, "author": each.author} for each in documents]
    again = scrub(patterns_only, *documents)
    assert again == case


REGISTRATIONS = st.lists(st.integers(1_000_000, 1_000_009), min_size=1, max_size=5)


@given(st.lists(REGISTRATIONS, min_size=1, max_size=4), st.lists(REGISTRATIONS, min_size=1, max_size=4))
@settings(max_examples=30, deadline=None)
def test_numbers_are_given_in_reading_order_and_anew_in_every_case(
    patterns_only: Scrubber, first: list[list[int]], second: list[list[int]]
) -> None:
    """What is read n-th as a new value has number n, whatever it is and whatever other cases hold."""
    cases = [
        [
            document(" and ".join(f"CR {number}" for number in numbers), id=f"{name}-{row}", case=name)
            for row, numbers in enumerate(letters)
        ]
        for name, letters in (("A/2024/1", first), ("A/2024/2", second))
    ]
    for letters, scrubbed in zip((first, second), patterns_only.scrub(cases), strict=True):
        order = list(dict.fromkeys(number for numbers in letters for number in numbers))
        for numbers, after in zip(letters, scrubbed.documents, strict=True):
            assert after.request == " and ".join(f"CR CR_{order.index(number) + 1}" for number in numbers)


def test_what_a_model_takes_for_an_organisation_gives_way_in_part() -> None:
    text = "Pelham, Orrin and Tasker"
    firm = Span(0, len(text), "ORGANISATION", text, labelled=False)
    person = Span(8, 13, "NAME", "Orrin")
    kept = without_overlaps([firm, person])
    assert [(span.kind, text[span.start : span.end]) for span in kept] == [
        ("ORGANISATION", "Pelham"),
        ("NAME", "Orrin"),
        ("ORGANISATION", "and Tasker"),
    ]


def test_what_is_left_of_a_name_beside_an_identifier_stays() -> None:
    text = "Bertil Aronsson at lamps dot example"
    name, address = Span(0, 15, "NAME", text[:15]), Span(7, len(text), "EMAIL", "address")
    assert [(span.kind, text[span.start : span.end]) for span in without_overlaps([name, address])] == [
        ("NAME", "Bertil"),
        ("EMAIL", "Aronsson at lamps dot example"),
    ]
    shorter = Span(0, 6, "NAME", "Bertil", labelled=False)
    assert without_overlaps([name, shorter]) == [name]


def test_places_that_were_cut_fill_the_text_as_before() -> None:
    """A phone and a number in a tag within a name: nothing is left of their places, and their order stays."""
    text = 'Sa<b title="+968 9123 4567 / CR 1000001">id Al Busaidi'
    once = filled(text, [Place(0, len(text), "NAME_1"), Place(12, 26, "PHONE_1"), Place(29, 39, "CR_1")])
    assert once.text == "NAME_1PHONE_1CR_1" and filled(text, once.places) == once
