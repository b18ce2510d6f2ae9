"""Identifiers in odd forms are replaced, and what only looks like one stays.

`odd_forms.jsonl` and `attacks.jsonl` have a kind, a text, and the pieces of it that must be gone; `look_alikes.jsonl`
has the texts that stay. Numbers with check digits are valid by them and belong to nobody.
"""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.privacy.identifiers.recognizers import structured_spans
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline_tests.examples import examples


def rows_of(file: str) -> list[Any]:
    return [json.loads(line) for line in Path(__file__).with_name(file).read_text().splitlines()]


def rest_and_kinds(text: str) -> tuple[str, set[str]]:
    """The text without what was found, and the kinds of what was."""
    folded = normalise(text)
    spans = structured_spans(folded.with_tabs)
    rest = text
    for start, end in sorted((folded.original_span(span.start, span.end) for span in spans), reverse=True):
        rest = rest[:start] + "…" + rest[end:]
    return rest, {span.kind for span in spans}


FORMS = [*rows_of("odd_forms.jsonl"), *rows_of("attacks.jsonl")]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form[1].replace("\n", " / "))
def test_an_identifier_in_an_odd_form_is_found(form: list[str]) -> None:
    kind, text, *hidden = form
    rest, kinds = rest_and_kinds(text)
    assert not [piece for piece in hidden if piece in rest]
    assert kind in kinds


@pytest.mark.parametrize("text", rows_of("look_alikes.jsonl"))
def test_what_only_looks_like_one_stays(text: str) -> None:
    assert rest_and_kinds(text) == (text, set())


@pytest.mark.parametrize("piece", examples(__file__, "a_long_text_of_one_form_takes_time_in_proportion"))
def test_a_long_text_of_one_form_takes_time_in_proportion(piece: str) -> None:
    def seconds(length: int) -> float:
        text = "1 " + piece * (length // len(piece)) + " 1"
        began = time.process_time()
        structured_spans(normalise(text).with_tabs)
        return time.process_time() - began

    assert min(seconds(60_000), seconds(60_000)) < 8 * max(seconds(15_000), 0.02)
