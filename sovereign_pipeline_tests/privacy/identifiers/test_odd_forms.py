"""Identifiers in odd forms are replaced, and what only looks like one stays."""

import time

import pytest

from sovereign_pipeline.privacy.identifiers.recognizers import structured_spans
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline_tests.privacy.identifiers.odd_forms import LOOK_ALIKES, ODD_FORMS, OddForm


def rest_and_kinds(text: str) -> tuple[str, set[str]]:
    """The text without what was found, and the kinds of what was."""
    folded = normalise(text)
    spans = structured_spans(folded.with_tabs)
    rest = text
    for start, end in sorted((folded.original_span(span.start, span.end) for span in spans), reverse=True):
        rest = rest[:start] + "…" + rest[end:]
    return rest, {span.kind for span in spans}


@pytest.mark.parametrize("form", ODD_FORMS, ids=[form.text.replace("\n", " / ") for form in ODD_FORMS])
def test_an_identifier_in_an_odd_form_is_found(form: OddForm) -> None:
    rest, kinds = rest_and_kinds(form.text)
    assert not [piece for piece in form.hidden if piece in rest]
    assert form.kind in kinds


@pytest.mark.parametrize("text", LOOK_ALIKES)
def test_what_only_looks_like_one_stays(text: str) -> None:
    assert rest_and_kinds(text) == (text, set())


@pytest.mark.parametrize(
    "piece",
    [
        "9234 - 1187 / ",
        "1.2 - 3 . 4 ",
        "| 1234567 | 4521 AB |\n",
        "Name | CR no. | x\n",
        "Name, CR, Plate\n1, 1234567, 12 B\n",
        "1234567 (passport ",
        "vessel number ",
        "card **** ",
        "784-1983-",
        "national id national id: ",
        "Name\tPassport\tCR\nS. H.\t1234567\t3\n",
        "1234\t5678\n",
        "rooms 9201 9203, ",
        "HS code 9403.20.90 and ",
        "people who were born ",
        "born in the year in the year ",
        "emirates id 784-1983-1234567-4",
    ],
)
def test_a_long_text_of_one_form_takes_time_in_proportion(piece: str) -> None:
    def seconds(length: int) -> float:
        text = "1 " + piece * (length // len(piece)) + " 1"
        began = time.process_time()
        structured_spans(normalise(text).with_tabs)
        return time.process_time() - began

    assert min(seconds(60_000), seconds(60_000)) < 8 * max(seconds(15_000), 0.02)
