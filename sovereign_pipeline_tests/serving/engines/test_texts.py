"""Pieces of text: no character is split, stop texts are cut exactly, and all pieces are the whole."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.serving.engines.text import TextPieces

TEXTS = st.text(alphabet="ab آمن🙂👩‍👩‍👧é\n", max_size=24)


def bytes_as_tokens(ids: list[int]) -> str:
    """As a byte-level tokenizer decodes: every token one byte of UTF-8."""
    return bytes(ids).decode("utf-8", errors="replace")


def pieces(text: str, stops: Sequence[str] = ()) -> list[str]:
    given = TextPieces(bytes_as_tokens, stops)
    found = []
    for byte in text.encode():
        found.append(given.add(byte))
        if given.is_stopped:
            return found
    return [*found, given.rest()]


@given(TEXTS)
def test_pieces_are_the_text_and_split_no_character(text: str) -> None:
    found = pieces(text)
    assert "".join(found) == text
    assert all("\N{REPLACEMENT CHARACTER}" not in piece for piece in found)


@given(
    st.text(alphabet="abc", max_size=12),
    st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3),
    st.integers(1, 5),
)
def test_stop_text_that_is_complete_first_ends_the_answer(text: str, stops: list[str], length: int) -> None:
    """However long the tokens are."""
    complete = [
        (end, text[:end].rindex(stop)) for end in range(1, len(text) + 1) for stop in stops if text[:end].endswith(stop)
    ]
    expected = text[: min(complete)[1]] if complete else text
    assert "".join(pieces(text, stops)) == expected
    tokens = [text[start : start + length] for start in range(0, len(text), length)]
    given_pieces = TextPieces(lambda ids: "".join(tokens[each] for each in ids), stops)
    found = ""
    for token in range(len(tokens)):
        found += given_pieces.add(token)
        if given_pieces.is_stopped:
            break
    assert found + given_pieces.rest() == expected


def test_nothing_of_a_stop_text_is_given_before_it_is_known() -> None:
    assert pieces("lamp END", ["END"]) == ["l", "a", "m", "p", " ", "", "", ""]
    assert pieces("EN", ["END"]) == ["", "", "EN"]


def test_character_without_its_end_comes_last() -> None:
    given = TextPieces(bytes_as_tokens, [])
    assert [given.add(byte) for byte in "🙂".encode()[:3]] == ["", "", ""]
    assert given.rest() == "\N{REPLACEMENT CHARACTER}"
