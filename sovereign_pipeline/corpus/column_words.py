"""Recognise fields by the names of columns, and letters by their words. The words are in `column_words.txt`."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from sovereign_pipeline.corpus.folding import folded

MOST_WORDS_OF_A_KNOWN_NAME = 3
_ARTICLE = "ال"
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[^\W\d_]+")


def plain(name: str) -> str:
    """Return a name without spaces and punctuation, in one letter case."""
    return "".join(each for each in folded(name) if each.isalnum())


def names_of(field: str) -> tuple[str, ...]:
    """Return the usual names of a field's column in the form of `plain`, the likeliest first."""
    return tuple(map(plain, _lists()[f"{field}.names"].split()))


def is_a_known_name(column: str) -> bool:
    """Return whether a whole cell is a usual column name."""
    return plain(column) in _known_names()


def resembles_a_name(column: str) -> bool:
    """Return whether a cell of a first line contains a usual word of column names. Returns False for a cell with
    digits, because such a cell may be a value."""
    words = [plain(word) for word in _WORD.findall(column)]
    if any(map(str.isdigit, column)) or not 0 < len(column.split()) <= MOST_WORDS_OF_A_KNOWN_NAME:
        return False
    return is_a_known_name(column) or any(word in _known_names() for word in words)


def names_field(column: str, field: str) -> bool:
    """Return whether a column's name contains a word for a field, as `Our reply` does for the response. A word under
    `FIELD.not` excludes the name: `Letter date` is no request. A name with words of both sides names the response, as
    in `Reply to complaint`.
    """
    is_text = field in ("request", "response")
    words = _words(column.split(" of ")[0] if is_text else column)
    if words & _list("text.not" if is_text else f"{field}.not") or not words & _list(f"{field}.words"):
        return False
    return field != "request" or not words & _list("response.words")


def may_be_request(column: str) -> bool:
    """Return whether a column's name fits requests as well as replies, such as `Letter` or `Text`."""
    words = _words(column)
    return bool(words & _list("request.weak")) and not words & (_list("response.words") | _list("text.not"))


def has_phrase(text: str, kind: str) -> bool:
    """Return whether a text contains a salutation, or a phrase of replies."""
    return _phrases(kind).search(folded(text)) is not None


def _words(column: str) -> frozenset[str]:
    """Return the words of a name, without the Arabic article and the plural's `s`."""
    words = {plain(word) for word in _WORD.findall(column)}
    words |= {word.removeprefix(_ARTICLE) for word in words}
    return frozenset(words | {word.removesuffix("s") for word in words if len(word) > 3})


@cache
def _lists() -> Mapping[str, str]:
    lines = Path(__file__).with_name("column_words.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.split(": ", 1) for line in lines if not line.startswith("#"))
    return {name: words for name, words in pairs}


@cache
def _list(name: str) -> frozenset[str]:
    return frozenset(map(plain, _lists().get(name, "").split()))


@cache
def _phrases(kind: str) -> re.Pattern[str]:
    phrases = _lists()[f"{kind}.phrases"].split("|")
    return re.compile(r"\b(?:" + "|".join(re.escape(folded(each)) for each in phrases) + r")\b")


@cache
def _known_names() -> frozenset[str]:
    of_fields = ("request", "response", "rejected", "subject", "date", "case", "department", "author", "language", "id")
    return frozenset(name for field in (*of_fields, "header") for name in names_of(field))
