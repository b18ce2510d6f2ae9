"""Text as the recognizers read it, and where each of its characters stands in the original.

What belongs here: what makes one text look like another without changing what a person reads: digits of any script,
full-width and other compatibility forms, marks and invisible characters, letters of other scripts that look the same,
and characters written as HTML entities, percent-encoding or escapes. What does not: the encodings themselves
(`encodings.py`), anything that knows what an identifier is.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from sovereign_pipeline.base.text import BLANK_LETTERS, LOOKALIKES, TATWEEL
from sovereign_pipeline.privacy.encodings import Places, decoded

_LINE_BREAKS = "\n\v\f\x1c\x1d\x1e\x85\u2028\u2029"
_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\u2043\ufe58"
_SHAPED_LETTERS = (0x1F150, 0x1F170, 0x1F1E6)  # white in circles, white in squares, of flags: NFKC leaves them
_UNSEEN_IN_ASCII = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹₀₁₂₃₄₅₆₇₈₉"
_NUMBER_OF_SUPERSCRIPTS = re.compile(f"[{_SUPERSCRIPTS}]{{4,}}")  # fewer are exponents and footnotes
_LOOKALIKE = re.compile(f"[{''.join(LOOKALIKES)}]")
_LOOKALIKES = str.maketrans(LOOKALIKES)
_HEAD = re.compile(r"(?=.*[^\W\d_])(?:\D|(?<!\d)(?:19|20)\d\d(?!\d))*")  # years alone are no figures
_WORD = re.compile(r"[^\W_]+")
_LATIN_OR_DIGIT = re.compile(r"[A-Za-z0-9]")
# "1O45 7832": letters between digits that are read as digits.
_LETTER_AS_DIGIT = re.compile(r"\d[OoIl]{1,3}(?=\d)")
_DIGIT_OF_LETTER = str.maketrans("OoIl", "0011")


@dataclass(frozen=True)
class NormalisedText:
    """A text and its folded form."""

    original: str
    text: str
    """Folded."""
    starts: tuple[int, ...] | None = None
    """Where in `original` the source of each character of `text` begins; None when every position is its own."""
    ends: tuple[int, ...] | None = None
    """Where it ends, with the marks that belong to it."""

    @property
    def with_tabs(self) -> str:
        """The folded text with its tabs, where they part the cells of a table; everything else at its place."""
        if "\t" not in self.original or "\n" not in self.text:
            return self.text
        places = self.starts if self.starts is not None else range(len(self.text))
        tabbed = "".join(
            "\t" if folded == " " and self.original[place] == "\t" else folded
            for folded, place in zip(self.text, places, strict=True)
        )
        lines, with_tabs = self.text.split("\n"), tabbed.split("\n")
        in_table = rows_of_tables(with_tabs, "\t")
        return "\n".join(
            tabbed if is_row else line for line, tabbed, is_row in zip(lines, with_tabs, in_table, strict=True)
        )

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """The half-open span of `original` behind text[start:end]; marks on its last letter are part of it."""
        if self.starts is None or self.ends is None:
            return start, end
        return self.starts[start], self.ends[end - 1]


def rows_of_tables(lines: Sequence[str], mark: str) -> list[bool]:
    """Which lines are rows of tables whose cells a mark parts: neighbours with as many marks in each, that are three
    or more or have a head without figures."""
    rows: list[bool] = []
    for count, group in groupby(lines, key=lambda line: line.count(mark)):
        block = list(group)
        is_table = len(block) > 2 or (len(block) == 2 and any(map(_HEAD.fullmatch, block)))
        rows += [count > 0 and is_table] * len(block)
    return rows


def normalise(original: str) -> NormalisedText:
    """Fold a text: what looks the same is the same, and what is not seen is gone. Line breaks become newlines, other
    spaces plain spaces."""
    text, places = decoded(original)
    if text.isascii() and _UNSEEN_IN_ASCII.search(text) is None:
        return _result(original, _with_digits(text.replace("\t", " ")), places)
    folds = {character: _folded(character) for character in set(text)}
    if not _NUMBER_OF_SUPERSCRIPTS.search(text):
        folds.update({each: each for each in _SUPERSCRIPTS if each in folds})
    if all(len(fold) == 1 for fold in folds.values()):
        changed = {ord(each): fold for each, fold in folds.items() if each != fold}
        return _result(original, _with_digits(_without_lookalikes(text.translate(changed))), places)
    folded, places = _replaced(text, places, folds)
    return _result(original, _with_digits(_without_lookalikes(folded)), places)


def _result(original: str, text: str, places: Places | None) -> NormalisedText:
    if places is None:
        return NormalisedText(original, text)
    starts, ends = places
    return NormalisedText(original, text, tuple(starts), tuple(ends))


def _replaced(text: str, places: Places | None, folds: dict[str, str]) -> tuple[str, Places]:
    old_starts, old_ends = places if places is not None else (range(len(text)), range(1, len(text) + 1))
    starts: list[int] = []
    ends: list[int] = []
    for character, start, end in zip(text, old_starts, old_ends, strict=True):
        fold = folds[character]
        for _ in fold:
            starts.append(start)
            ends.append(end)
        if not fold and ends and ends[-1] == start and _belongs_to_letter_before(character):
            ends[-1] = end
    return "".join(map(folds.__getitem__, text)), (starts, ends)


@lru_cache(maxsize=1 << 16)
def _folded(character: str) -> str:
    """What one character is read as; empty for one that is not seen."""
    if character in _LINE_BREAKS:
        return "\n"
    if character in " \t\r":
        return " " if character == "\t" else character
    category = unicodedata.category(character)
    if category in ("Cf", "Cc", "Mn", "Me") or character in BLANK_LETTERS or character == TATWEEL:
        return ""
    if category == "Zs":
        return " "
    if character in _DASHES:
        return "-"
    digit = unicodedata.digit(character, None)
    if digit is not None:
        return str(digit)
    for first in _SHAPED_LETTERS:
        if first <= ord(character) < first + 26:
            return chr(ord("A") + ord(character) - first)
    plain = unicodedata.normalize("NFKC", character)
    if plain == character or "\u2044" in plain:  # a fraction is no number beside the one before it
        return character
    if category[0] in "LN" or (len(plain) == 1 and plain.isascii()):
        return "".join(map(_folded, plain)) if plain != character else character
    return character


def _belongs_to_letter_before(character: str) -> bool:
    return character == TATWEEL or unicodedata.category(character) in ("Mn", "Me")


def _without_lookalikes(text: str) -> str:
    """With Latin letters for those that imitate them, in words that hold Latin letters or digits or nothing else; of
    the same length."""
    if _LOOKALIKE.search(text) is None:
        return text
    return _WORD.sub(_without_imitations, text)


def _without_imitations(word: re.Match[str]) -> str:
    letters = word.group()
    plain = letters.translate(_LOOKALIKES)
    if plain == letters:
        return letters
    return plain if plain.isascii() or _LATIN_OR_DIGIT.search(letters) or letters[0] >= "\u0600" else letters


def _with_digits(text: str) -> str:
    return _LETTER_AS_DIGIT.sub(lambda letters: letters.group().translate(_DIGIT_OF_LETTER), text)
