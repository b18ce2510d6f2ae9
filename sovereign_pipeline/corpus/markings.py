"""Find classification markings in headers, subjects, lines of text, and the names of folders and files."""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import PurePath
from typing import Any

from sovereign_pipeline.base.text import COMPARED
from sovereign_pipeline.corpus.document import RowRejected
from sovereign_pipeline.policy.institution import ClassificationLadder

_USUAL = """restricted;confidential;secret;top secret;strictly confidential;highly confidential;company confidential;
official sensitive;for official use only;protected;سري;سرية;سري جدا;سري للغاية;سري وشخصي;محظور;مقيد;محدود;مكتوم"""
"""Usual words of markings. A document with a word of this list that is neither in the ladder nor in the recipe's
`levels` is quarantined."""
_LABEL = re.compile(
    r"^(?:(?:(?:this|the|an?|e|mail|email|document|letter|message|file|page|security|protective|overall|is) )*"
    r"(?:classification|classified|markings?|marked|sensitivity)(?: (?:level|as|is|of|this|the|document|letter))* "
    r"|(?:(?:هذا|هذه|الوثيقه|المستند|الخطاب|الرساله|درجه|مستوي) )*"
    r"(?:التصنيف|تصنيف|السريه|مصنفه?)(?: (?:الامني|الوثيقه|المستند|الخطاب|هو|هي))* )"
)
"""Pattern of words that may precede a marking, such as `Classification level`."""
_PAGE = r"(?:(?:page|p|صفحه|الصفحه|ص) )?\d+(?: (?:of|من) \d+)?"
_AROUND = re.compile(rf"^{_PAGE} | {_PAGE}$")
_SPACED = re.compile(r"\w(?: \w)+")
_BRACKETS = re.compile(r"[\[({【]([^\[\](){}【】]{1,200})[\])}】]")
_COLUMNS = re.compile(r"\s[-\u2013\u2014|/]+\s|[|\t\u2022]|\s{2,}")
_DIVIDERS = re.compile(rf"{_COLUMNS.pattern}|[:,;/\u060c\u061b]")
_WORDS_OF_NAMES = re.compile(r"[-_.\s]+")
_WORD = re.compile(r"\w+")
_QUOTE = "> \t\u00a0\u200f\u200e"
_SUBJECT = re.compile(
    r"(?:^|[\s*>])(?:subject|الموضوع)[ \t*]*[:：][ \t*]*(\S[^\n]{0,400})", re.IGNORECASE | re.MULTILINE
)
_LINES_WITH_MARKINGS = 5
_LONGEST_LINE, _MOST_WORDS = 80, 8


class Markings:
    """Finds the ladder's levels, and the recipe's words for them, in markings.

    The lowest level counts only where markings usually are. Elsewhere, its word may be ordinary text. It could not
    raise the level of a document, but it would give a level to a document without a marking.
    """

    def __init__(self, ladder: ClassificationLadder, words: Mapping[str, str] = {}) -> None:
        self._ladder = ladder
        self._levels: dict[str, str | None] = dict.fromkeys(map(_plain, _USUAL.split(";")))
        self._levels |= {_plain(word): level for word, level in words.items()}
        self._levels |= {_plain(level): level for level in ladder.levels}
        self._squeezed = {phrase.replace(" ", ""): phrase for phrase in self._levels}
        # The longest first, so that `top secret` is not read as `secret`.
        phrases = "|".join(map(re.escape, sorted(self._levels, key=len, reverse=True)))
        self._phrase = re.compile(rf"(?<!\w)(?:{phrases})(?!\w)")
        self._whole = re.compile(rf"(?:{phrases})(?: (?:{phrases}))*")

    def highest(self, *levels: str | None) -> str | None:
        """Return the highest of the levels, or None if there are none."""
        return self._ladder.highest(each for each in levels if each) if any(levels) else None

    def in_header(self, value: str) -> str:
        """Return the level in the value of a header or property whose purpose is to state a level. Raises RowRejected
        if the value contains no known level."""
        if (level := self._highest_in(_plain(value))) is None:
            raise RowRejected("a header states a classification that is not in the ladder, nor in `levels`")
        return level

    def in_title(self, title: str) -> str | None:
        """Return the highest level of the tags in a subject, title or header, such as `[RESTRICTED] …`, `Secret: …` or
        `… - سري`."""
        return self._in_parts(title, _DIVIDERS)

    def in_lines(self, text: str) -> str | None:
        """Return the highest level that a text's lines state. In the first and last lines, any column may be a marking.
        Another line, such as a quoted line, counts only if the whole line is a marking. A marking that the ladder lacks
        counts there only in capitals, because its word may be a cell of a table. Subjects of quoted messages also
        count."""
        lines = [line for each in text.splitlines() if (line := each.lstrip(_QUOTE).rstrip())]
        first, others = lines[:_LINES_WITH_MARKINGS], lines[_LINES_WITH_MARKINGS:]
        near, far = [*first, *others[-_LINES_WITH_MARKINGS:]], others[:-_LINES_WITH_MARKINGS]
        return self.highest(
            *(self._in_parts(line, _COLUMNS) for line in near if len(line) <= _LONGEST_LINE),
            *(self._raising(line) for line in far if line.count(" ") < _MOST_WORDS and len(line) <= _LONGEST_LINE),
            *(self.in_title(match[1]) for match in _SUBJECT.finditer(text)),
        )

    def in_path(self, path: str) -> str | None:
        """Return the highest level of the tags in the names of folders and of the file: `SECRET`, `02 - Secret`,
        `SECRET_17.docx`. Markings in the file's name that the ladder lacks are ignored."""
        *folders, name = PurePath(path).parts or ("",)
        stem = PurePath(name).stem
        tags = (tag for tag in (*_BRACKETS.findall(stem), *_COLUMNS.split(_BRACKETS.sub("|", stem))))
        words = ("".join(run) for part in (*folders, stem) for run in _capitals(part))
        return self.highest(
            *map(self.in_title, folders), *(self._raising(each, is_known=True) for each in (*tags, *words))
        )

    def in_document(self, name: str, item: Mapping[str, Any]) -> tuple[str | None, bool]:
        """Return the level of a document that a parser yielded, and True if a marking in its text is higher than all
        markings in its margins, properties and path."""
        around = [line for text in (*item["margins"], *item["properties"].values()) for line in text.splitlines()]
        outside = self.highest(self.in_path(name), *map(self.in_title, around))
        inside = self.in_lines(item["text"])
        is_raised = inside is not None and outside is not None and self._ladder.exceeds(inside, outside)
        return self.highest(outside, inside), is_raised

    def _in_parts(self, text: str, dividers: re.Pattern[str]) -> str | None:
        outside = [part for part in dividers.split(_BRACKETS.sub("|", text)) if part.strip()]
        tags = [part for tag in _BRACKETS.findall(text) for part in _DIVIDERS.split(tag)]
        ends = [outside[0], outside[-1]] if len(outside) > 1 else []
        return self.highest(*map(self._marking, [*tags, *ends, text]), *map(self._raising, outside[1:-1]))

    def _raising(self, text: str, *, is_known: bool = False) -> str | None:
        """Return the level of a marking where no marking is expected. Return None for the lowest level, because it
        would only give a level to a document without a marking. `is_known`: True to ignore a marking that the ladder
        lacks."""
        is_known = is_known or not text.isupper()
        level = self._marking(text, is_known=is_known)
        return None if level == self._ladder.levels[0] else level

    def _marking(self, text: str, *, is_known: bool = False) -> str | None:
        """Return the level of a text that consists of a marking, with or without a label and a page number. Return None
        for any other text."""
        plain = _AROUND.sub("", _plain(text))
        if _SPACED.fullmatch(plain):
            plain = self._squeezed.get(plain.replace(" ", ""), plain)
        for each in (plain, _LABEL.sub("", plain, count=1)):
            if self._whole.fullmatch(each):
                return self._highest_in(each, is_known=is_known)
        return None

    def _highest_in(self, plain: str, *, is_known: bool = False) -> str | None:
        levels = [self._levels[each] for each in self._phrase.findall(plain)]
        if None in levels and not is_known:
            raise RowRejected("a marking is not in the ladder, nor in `levels`")
        return self.highest(*levels)


def _capitals(name: str) -> Iterator[tuple[str, ...]]:
    """Yield each run of words in capitals in a name, and each word of the run: `TOP_SECRET_17` yields TOP SECRET, TOP
    and SECRET."""
    for is_upper, run in groupby(_WORDS_OF_NAMES.split(name), lambda word: word == word.upper() and not word.isdigit()):
        if is_upper:
            words = [*run]
            yield tuple(f"{word} " for word in words)
            yield from ((word,) for word in words)


def _plain(text: str) -> str:
    text = unicodedata.normalize("NFKC", text).translate(COMPARED).casefold()
    return " ".join(_WORD.findall(text.replace("_", " ")))
