"""What a document's shingles are: the stated definition, in both scripts, whatever the spelling."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.split.shingles import blocks_of, mixed, normal_form
from sovereign_pipeline_tests.split.chain import shingles_of

EXAMPLES = json.loads(Path(__file__).with_name("similarity.json").read_text(encoding="utf-8"))


def document(request: str, response: str = "", **changes: Any) -> Document:
    fields: dict[str, Any] = {
        "id": "D",
        "source": "s",
        "case": "C",
        "department": "d",
        "author": "a",
        "date": "2024-01-01",
        "classification": "PUBLIC",
        "language": "en",
        "subject": "s",
        "request": request,
        "response": response,
    }
    return Document(**{**fields, **changes})


def string_shingles(one: Document) -> set[Any]:
    """The stated definition, without hashes: words for Latin script, characters for Arabic."""
    text = normal_form(one)
    if any("\u0620" <= character <= "\u06d3" for character in text):
        return {text[start : start + 9] for start in range(max(1, len(text) - 8))}
    words = text.split()
    return {tuple(words[start : start + 5]) for start in range(max(1, len(words) - 4))}


def string_jaccard(one: Document, other: Document) -> float:
    left, right = string_shingles(one), string_shingles(other)
    return len(left & right) / len(left | right)


def test_placeholders_count_by_kind_and_not_by_number() -> None:
    one = document("NAME_1 asks on behalf of NAME_2 for ACCOUNT_1.", "وNAME_3 كذلك")
    other = document("NAME_7 asks on behalf of NAME_9 for ACCOUNT_4.", "وNAME_12 كذلك")
    assert normal_form(one) == normal_form(other)
    assert normal_form(one) != normal_form(document("NAME_1 asks on behalf of NAME_2 for PHONE_1.", "وNAME_3 كذلك"))


def test_spelling_variants_of_one_arabic_text_are_the_same() -> None:
    plain = document("رقم الملف 2024 لدى الوزارة")
    variant = document("رَقْم الملـــف ٢٠٢٤ لدى \u200fالوزارة")
    assert normal_form(plain) == normal_form(variant)


def test_wide_letters_and_case_do_not_matter() -> None:
    assert normal_form(document("ＡＢＣ Harbour")) == normal_form(document("abc HARBOUR"))


@pytest.mark.security_case(
    "A letter is repeated in confusable, invisible or encoded characters",
    "split and not_contaminated compare the same words",
)
@pytest.mark.parametrize(("plain", "variant"), EXAMPLES["the same"])
def test_what_a_reader_takes_for_the_same_is_the_same(plain: str, variant: str) -> None:
    assert plain != variant
    assert normal_form(document(plain)) == normal_form(document(variant))


@pytest.mark.parametrize("text", ["Закон о портах", "законный путь", "μικρό λιμάνι", "पत्र भेजें", "海の許可"])
def test_texts_of_other_scripts_equal_themselves_alone(text: str) -> None:
    words = normal_form(document(text)).split()
    assert len(words) >= 1
    assert all(words)
    assert normal_form(document(text)) != normal_form(document(text[: len(text) // 2]))


@pytest.mark.parametrize("text", ["", "…", "one", "one two three four", "ما"])
def test_a_text_shorter_than_a_shingle_equals_only_itself(text: str) -> None:
    shingles = [shingles_of(document(text)), shingles_of(document(text)), shingles_of(document("something else"))]
    assert shingles[0].size == 1
    assert shingles[0].tolist() == shingles[1].tolist()
    assert shingles[0].tolist() != shingles[2].tolist()


words_of_few = st.lists(st.sampled_from("abcdefg"), max_size=30).map(" ".join)


@given(words_of_few, words_of_few)
def test_jaccard_is_that_of_the_strings(one: str, other: str) -> None:
    left, right = document(one), document(other)
    sets = [set(shingles_of(each).tolist()) for each in (left, right)]
    assert len(sets[0] & sets[1]) / len(sets[0] | sets[1]) == string_jaccard(left, right)
    assert [each.size for each in map(shingles_of, (left, right))] == [len(each) for each in sets]


@given(st.lists(st.integers(0, 2**64 - 1), unique=True, max_size=50))
def test_different_numbers_stay_different_when_mixed(values: list[int]) -> None:
    assert np.unique(mixed(np.array(values, np.uint64))).size == len(values)


OLD = "The lamp at the quay is out."
NEW = "Please see below."


@pytest.mark.parametrize("mark", EXAMPLES["marks of a quotation"])
def test_what_stands_behind_a_mark_is_a_block(mark: str) -> None:
    blocks = [block.strip() for block in blocks_of(f"{NEW}\n\n{mark}\n{OLD}")]
    assert blocks[0] == NEW
    assert blocks[-1] == OLD


def test_a_header_in_one_line_parts_too() -> None:
    blocks = blocks_of(f"{NEW} From: A Sent: Monday To: B Subject: Lamp {OLD}")
    assert blocks[0].strip() == NEW
    assert OLD in blocks[-1]


def test_lines_of_one_depth_are_one_block_also_around_an_answer() -> None:
    assert blocks_of("> one\n> two\nmy answer\n> three\n> > deeper\nmore") == [
        "one\ntwo\nthree",
        "my answer\nmore",
        "deeper",
    ]


@pytest.mark.parametrize("content", EXAMPLES["no quotation"])
def test_a_letter_that_quotes_nothing_is_one_block(content: str) -> None:
    assert blocks_of(content) == [content]


def test_a_long_text_without_an_end_is_read_in_time() -> None:
    for content in ("On " * 20_000, "from: " * 20_000, "> " * 20_000, "في " * 20_000, "-" * 50_000 + "_" * 50_000):
        started = time.process_time()
        blocks_of(content)
        assert time.process_time() - started < 10
