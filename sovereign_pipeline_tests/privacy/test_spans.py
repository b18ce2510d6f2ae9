"""Which of two findings that overlap is kept, and what makes two values one."""

from sovereign_pipeline.privacy.spans import Span, value_key, without_overlaps


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


def test_the_key_ignores_how_a_value_is_written() -> None:
    assert value_key("IBAN", "om52 0180") == value_key("IBAN", "OM52-0180")


def test_what_is_left_of_a_name_beside_an_identifier_stays() -> None:
    text = "Bertil Aronsson at lamps dot example"
    name, address = Span(0, 15, "NAME", text[:15]), Span(7, len(text), "EMAIL", "address")
    assert [(span.kind, text[span.start : span.end]) for span in without_overlaps([name, address])] == [
        ("NAME", "Bertil"),
        ("EMAIL", "Aronsson at lamps dot example"),
    ]
    shorter = Span(0, 6, "NAME", "Bertil", labelled=False)
    assert without_overlaps([name, shorter]) == [name]
