"""Addresses from abroad are found whole, and numbers in official prose are none."""

import time

import pytest

from sovereign_pipeline.privacy.identifiers.forms import address_spans
from sovereign_pipeline_tests.examples import examples


def found(text: str) -> list[str]:
    return [text[span.start : span.end] for span in address_spans(text)]


@pytest.mark.parametrize("address", examples(__file__, "an_address_is_found_whole"))
def test_an_address_is_found_whole(address: str) -> None:
    assert found(f"I wrote to you from {address}") == [address]


@pytest.mark.parametrize(
    ("text", "address"),
    examples(__file__, "a_name_with_numbers_is_an_address_where_the_letter_says_so"),
)
def test_a_name_with_numbers_is_an_address_where_the_letter_says_so(text: str, address: str) -> None:
    assert found(text) == [address]


@pytest.mark.parametrize(
    "text",
    examples(__file__, "official_prose_holds_no_address"),
)
def test_official_prose_holds_no_address(text: str) -> None:
    assert found(text) == []


def test_strange_texts_take_no_long_time() -> None:
    started = time.process_time()
    for text in (
        "a" * 100_000,
        "1 " * 50_000,
        "Aa " * 30_000,
        "12 Rue de la " * 5_000,
        "Apt 1 " * 20_000,
        "1\n" * 50_000,
    ):
        found(text)
    assert time.process_time() - started < 10
