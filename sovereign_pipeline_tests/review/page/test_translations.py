"""Every sentence in both languages, and the direction of a text."""

import json
import re

import pytest

from sovereign_pipeline.review.page.context import TURN_HEADINGS
from sovereign_pipeline.review.page.rendering import CRITERION_MEANINGS, HERE, REFUSALS, direction
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.review.page.client import PageClient, signed_in


def test_every_sentence_of_the_pages_has_its_arabic(browser: PageClient, reviews: ReviewBench) -> None:
    source = "".join(file.read_text() for file in (HERE / "templates").glob("*.html"))
    sentences = {*re.findall(r'say\("([^"~]+)"\)', source), *CRITERION_MEANINGS, *CRITERION_MEANINGS.values()}
    sentences |= {title for _, _, title in REFUSALS} | set(TURN_HEADINGS.values())
    arabic = json.loads((HERE / "arabic.json").read_text(encoding="utf-8"))
    assert sentences <= arabic.keys() | {"Answer "}
    signed_in(browser, reviews)
    browser.cookies.set("language", "ar")
    assert '<html lang="ar" dir="rtl">' in browser.see()
    assert "سجّل وتابع" in browser.page


@pytest.mark.parametrize(
    ("text", "expected"),
    examples(__file__, "a_text_is_read_in_the_direction_of_most_of_its_letters"),
)
def test_a_text_is_read_in_the_direction_of_most_of_its_letters(text: str, expected: str) -> None:
    assert direction(text) == expected
