"""Find the labels of values in `labels.json`, such as "passport no", in English and Arabic text."""

import importlib
import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.forms import FRAGMENTS, section

# --- the table --------------------------------------------------------------------------------------------------------

_SHAPES = section("shapes")
_SPOKEN, _LINK, _END = (FRAGMENTS[name] for name in ("NUMBER_IN_WORDS", "LINK", "END"))
_HALVES = rf"(?:OMR ?|RO ?|USD ?|[$€£] ?)?\d{{1,8}}(?:\s?(?:[+&=x×]|\band\b|و)\s?\d{{1,7}})*{_END}"
_BREAK = r"[ \t\r>|]*\n[ \t\r>|]*"
_GAP = rf"(?:[ _.-]{{0,2}}|{_BREAK})"
_NUMBER = rf"(?:(?:{_GAP}| ?[(\[])(?:(?:nos?|nr|num|numbers?|code|ids?|ref)(?![a-z\d])|#|№|n[°º]))"
_ARABIC_NUMBER = r"(?:ال)?رقم(?:ه|ها|ي|نا|كم|هم)?"
_OPENING = r"[\s+(\[{\"'“”«#*_>|]*"


@dataclass(frozen=True)
class Label:
    """A label such as "civil number" in all its wordings, and the form of the value before or after the label."""

    kind: Kind
    shape: str
    """Name of the value's pattern in the section `shapes` of `forms.toml`."""
    numbered: bool = False
    """True if the label counts only next to a word such as "number" or next to a colon."""
    halves: bool = False
    """True if arithmetic signs, "and" or a currency may separate the value's first four digits from the last four."""
    check: str = ""
    """Module of python-stdnum that verifies a value after the label; empty for no verification."""
    by: ClassVar[Literal["label"]] = "label"

    @cached_property
    def value(self) -> re.Pattern[str]:
        return re.compile(_SHAPES[self.shape], re.IGNORECASE)

    @cached_property
    def link_and_value(self) -> re.Pattern[str]:
        spoken = f"|{_SPOKEN}(?!\\w)" if self.shape in _OF_DIGITS or self.shape == "plate" else ""
        return re.compile(rf"{_LINK}(?P<value>{_SHAPES[self.shape]}{spoken})", re.IGNORECASE)

    def value_behind(self, text: str, end: int) -> tuple[int, int] | None:
        """Return the span of the value after a label that ends at `end`, or None if no valid value follows."""
        match = self.link_and_value.match(text, end)
        if match is None and self.shape in _OF_DIGITS:
            ahead = text[end : end + _AHEAD]
            if (digits := _NUMBER_WITH_LETTERS.sub(_as_digits, ahead)) != ahead:
                match = self.link_and_value.match(text[:end] + digits + text[end + _AHEAD :], end)
        is_valid = match and (not self.check or importlib.import_module(self.check).is_valid(match["value"]))
        return match.span("value") if match and is_valid else None


_OF_DIGITS = (
    "id number", "passport", "account", "card", "phone", "social security", "licence", "pin", "register",
    "plate number",
)  # fmt: skip
_AHEAD = 60
# "1O4S 7B3Z": letters count as digits in a word with two digits among its first four characters.
_NUMBER_WITH_LETTERS = re.compile(r"(?<!\w)(?=(?:[A-Za-z|]?\d){2})[\dOoQDIl|iLSsBZzGgq]{4,20}(?!\w)")
_READ_AS_DIGITS = str.maketrans("OoQDIl|iLSsBZzGgq", "00001111155822699")


def _as_digits(number: re.Match[str]) -> str:
    return number.group().translate(_READ_AS_DIGITS)


LINK_AND_HALVES = re.compile(rf"{_LINK}(?P<value>{_HALVES})", re.IGNORECASE)
UP_TO_A_NUMBER = re.compile(rf"{_LINK}{_OPENING}", re.IGNORECASE)
"""Pattern of the text that may separate a label from a number in an unusual form."""


class LabelFound(NamedTuple):
    """A label in a text, and its half-open span."""

    label: Label
    start: int
    end: int


def labels_in(small: str) -> list[LabelFound]:
    """Return the labels in a text folded by `small_letters`. Labels that begin inside another label are left out."""
    found = set(_english_labels(f"{small}  "))
    if _ARABIC_LETTER.search(small):
        found.update(_arabic_labels(small))
    kept: list[LabelFound] = []
    start = end = 0
    for each in sorted(found, key=lambda each: (each.start, -each.end)):
        if each.start == start or each.start >= end:
            kept.append(each)
            start, end = each.start, max(end, each.end)
    return kept


def labels_between(labels: Sequence[LabelFound], start: int, end: int) -> Sequence[LabelFound]:
    """Return those labels that begin in text[start:end]. `labels` must be in reading order."""
    first = bisect_left(labels, start, key=lambda found: found.start)
    return labels[first : bisect_left(labels, end, first, key=lambda found: found.start)]


def small_letters(text: str) -> str:
    """Return the text in lower case, with every form of the Arabic letter alef replaced by the plain form. The length
    stays the same."""
    small = text.lower()
    if len(small) != len(text):
        small = "".join(each if len(each) == 1 else each[0] for each in map(str.lower, text))
    return small.translate(_ALEFS)


_ALEFS = str.maketrans("إأآ", "ااا")
_ARABIC_LETTER = re.compile("[ء-ي]")
_ARABIC_WORD_BEGINS = re.compile(r"(?<![ء-ي])[وفبلك]{0,2}(?:ال|ل)?\Z")
_ARABIC_NUMBER_BEFORE = re.compile(rf"(?<![ء-ي])[وفبلك]{{0,2}}{_ARABIC_NUMBER}[ _](?:ال|ل)?\Z")


def _english_labels(small: str) -> Iterator[LabelFound]:
    for word in _BEGINNING.finditer(small):
        for label, pattern in _BY_LETTERS[word[1]]:
            if match := _compiled(pattern).match(small, word.start()):
                yield LabelFound(label, word.start(), match.end())


def _arabic_labels(small: str) -> Iterator[LabelFound]:
    for word, labels in _BY_ARABIC_WORD.items():
        start = small.find(word)
        while start >= 0:
            if begin := _ARABIC_WORD_BEGINS.search(small, max(0, start - 5), start):
                number = _ARABIC_NUMBER_BEFORE.search(small, max(0, start - 14), start)
                for label, pattern in labels:
                    match = _compiled(pattern).match(small, start)
                    if match and (number or not label.numbered or match["number"]):
                        yield LabelFound(label, (number or begin).start(), match.end())
            start = small.find(word, start + 1)


# --- the table's language ---------------------------------------------------------------------------------------------


def _english(phrase: str) -> str:
    """Return the pattern of an English phrase in `labels.json`. In a phrase, `a|b` means either word, `a?` an optional
    word, and `*` up to three words. Words in capitals are abbreviations, which may have dots."""
    pattern = ""
    slots = phrase.split()
    for place, slot in enumerate(slots):
        if slot == "*":
            pattern += r"(?: \w+){0,3}?"
            continue
        own = rf"(?:{'|'.join(map(_written, _words(slot)))})" + (
            "(?:['’]s)?" if place == len(slots) - 1 else "(?:['’]s?|s['’]?)?"
        )
        gap = _GAP if place else ""
        pattern += rf"(?:{gap}{own})?" if slot.endswith("?") and place else gap + own
    return pattern


def _written(word: str) -> str:
    """Return the pattern of an English word or of an abbreviation. A word may be shortened with a dot ("acc."). An
    abbreviation may have dots or spaces."""
    if word.isupper():
        return r"\.?".join(word.lower()) + "|" + " ".join(word.lower())
    rest = ""
    for letter in reversed(word[3:-1]):
        rest = rf"(?:{letter}{rest})?"
    return re.escape(word) + (rf"|{word[:3]}{rest}\." if len(word) > 4 and word.isalpha() else "")


def _arabic(phrase: str) -> str:
    """Return the pattern of an Arabic phrase. Each word may have the article and a possessive suffix."""
    pattern = ""
    for place, slot in enumerate(phrase.translate(_ALEFS).split()):
        own = rf"(?:{'|'.join(map(_inflected, _words(slot)))})"
        own = rf"(?:[ _]{{1,2}}|{_BREAK})(?:[بلو]?ال|لل|ب)?{own}" if place else own
        pattern += rf"(?:{own})?" if slot.endswith("?") and place else own
    return pattern


def _inflected(word: str) -> str:
    stem = re.escape(word.removesuffix("ة"))
    return rf"{stem}(?:[ةه]|ت(?:ه|ها|ي|نا|كم|هم|ك))" if word.endswith("ة") else rf"{stem}(?:ه|ها|ي|نا|كم|هم|ك)?"


def _words(slot: str) -> list[str]:
    return sorted(slot.removesuffix("?").split("|"), key=len, reverse=True)


def _phrases(rows: Sequence[str]) -> Iterator[str]:
    """Yield each phrase. If the first word of a phrase is optional, also yield the phrase without that word."""
    for phrase in rows:
        first, _, rest = phrase.partition(" ")
        yield phrase
        if first.endswith("?"):
            yield rest


_ByWord = dict[str, list[tuple[Label, str]]]
_compiled = cache(re.compile)
"""Function that compiles a pattern when it is first used. Compiling all patterns takes a tenth of a second. Programs
that do not scrub save this time."""


def _read_table() -> tuple[tuple[Label, ...], _ByWord, _ByWord]:
    """Return the labels in `labels.json`, a dict from the first three letters to English patterns, and a dict from the
    first word to Arabic patterns."""
    labels: list[Label] = []
    english: _ByWord = {}
    arabic: _ByWord = {}
    for row in json.loads(Path(__file__).with_name("labels.json").read_bytes()):
        facts = {key: row[key] for key in ("numbered", "halves", "check") if key in row}
        label = Label(row["kind"], row["shape"], **facts)
        labels.append(label)
        for phrase in _phrases(row["en"]):
            or_colon = r"|(?=\s?[:=])" if " " in phrase else ""
            number = f"(?:{_NUMBER}{or_colon})" if label.numbered else f"{_NUMBER}?"
            pattern = rf"{_english(phrase)}{number}(?![a-z])\.?"
            words = _words(phrase.split()[0])
            abbreviations = [dot.join(word) for word in words for dot in ". " if word.isupper()]
            for letters in {word[:3].lower() for word in (*words, *abbreviations)}:
                english.setdefault(letters, []).append((label, pattern))
        for phrase in _phrases(row["ar"]):
            pattern = rf"{_arabic(phrase)}(?![ء-ي])(?P<number>(?:[ _]|{_BREAK}){_ARABIC_NUMBER}(?![ء-ي]))?"
            for word in _words(phrase.translate(_ALEFS).split()[0]):
                arabic.setdefault(word.removesuffix("ة"), []).append((label, pattern))
    return tuple(labels), english, arabic


LABELS, _BY_LETTERS, _BY_ARABIC_WORD = _read_table()
_IN_ORDER = groupby(sorted(_BY_LETTERS, key=lambda letters: (letters[0], -len(letters))), key=itemgetter(0))
_LETTERS = "|".join(f"{first}(?:{'|'.join(re.escape(each[1:]) for each in of_it)})" for first, of_it in _IN_ORDER)
_BEGINNING = re.compile(rf"(?<![^\W_])(?=({_LETTERS}))")
"""Pattern of the first two or three letters of any word that may begin a label."""
