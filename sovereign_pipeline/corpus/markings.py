"""Find classification markings in headers, subjects, lines of text and names of folders."""

import re
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

from sovereign_pipeline.corpus.document import RowRejected
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.policy.institution import ClassificationLadder

_USUAL = """restricted;confidential;secret;top secret;strictly confidential;highly confidential;company confidential;
official sensitive;for official use only;protected;سري;سرية;سري جدا;سري للغاية;سري وشخصي;محظور;مقيد;محدود;مكتوم"""
"""Words of markings. One that is not in the ladder, nor in the recipe's `levels`, quarantines."""
_LABEL = re.compile(r"^(?:security )?(?:classification|marking|sensitivity|التصنيف|درجه السريه|السريه|درجه التصنيف) ")
_BRACKETS = re.compile(r"[\[({【]([^\[\](){}【】]{1,200})[\])}】]")
_DIVIDERS = re.compile(r"\s[-\u2013\u2014|/]+\s|[:|,;/\u060c\u061b]")
_LINES_WITH_MARKINGS = 5
_LONGEST_LINE = 80


class Markings:
    """The ladder's levels and the recipe's words for them, as they are found in markings."""

    def __init__(self, ladder: ClassificationLadder, words: Mapping[str, str] = {}) -> None:
        self._ladder = ladder
        self._levels: dict[str, str | None] = dict.fromkeys(map(_plain, _USUAL.split(";")))
        self._levels |= {_plain(word): level for word, level in words.items()}
        self._levels |= {_plain(level): level for level in ladder.levels}
        # The longest first, so that `top secret` is not read as `secret`.
        phrases = "|".join(map(re.escape, sorted(self._levels, key=len, reverse=True)))
        self._phrase = re.compile(rf"(?<!\w)(?:{phrases})(?!\w)")
        self._whole = re.compile(rf"(?:{phrases})(?: (?:{phrases}))*")

    def highest(self, *levels: str | None) -> str | None:
        """Return the highest of the levels, or None if none is given."""
        return self._ladder.highest(each for each in levels if each) if any(levels) else None

    def in_header(self, value: str) -> str:
        """Return the level of a header or property whose purpose is a marking. Raises RowRejected if it has none."""
        if (level := self._highest_in(_plain(value))) is None:
            raise RowRejected("a header states a classification that is not in the ladder, nor in `levels`")
        return level

    def in_title(self, title: str) -> str | None:
        """Return the level of the tags in a subject or title: `[RESTRICTED] …`, `Secret: …`, `… - سري`."""
        outside = [part for part in _DIVIDERS.split(_BRACKETS.sub(":", title)) if part.strip()]
        tags = [part for tag in _BRACKETS.findall(title) for part in _DIVIDERS.split(tag)]
        ends = [outside[0], outside[-1]] if len(outside) > 1 else []
        return self.highest(*map(self._marking, [*tags, *ends, title]))

    def in_lines(self, text: str) -> str | None:
        """Return the level of the first and last lines that consist of a marking alone."""
        lines = [line for line in text.splitlines() if line.strip()]
        both = [*lines[:_LINES_WITH_MARKINGS], *lines[_LINES_WITH_MARKINGS:][-_LINES_WITH_MARKINGS:]]
        return self.highest(*(self._marking(line) for line in both if len(line) <= _LONGEST_LINE))

    def in_path(self, path: str) -> str | None:
        """Return the level of the folders whose name is a marking."""
        return self.highest(*map(self._marking, PurePath(path).parts[:-1]))

    def in_document(self, name: str, item: Mapping[str, Any]) -> tuple[str | None, bool]:
        """Return the level of a document that a parser yielded, and whether a marking in its text is above the ones in
        its margins, properties and folders."""
        around = [line for text in (*item["margins"], *item["properties"].values()) for line in text.splitlines()]
        outside = self.highest(self.in_path(name), *map(self.in_title, around))
        inside = self.in_lines(item["text"])
        is_raised = inside is not None and outside is not None and self._ladder.exceeds(inside, outside)
        return self.highest(outside, inside), is_raised

    def _marking(self, text: str) -> str | None:
        """Return the level of a text that is a marking and nothing else."""
        plain = _LABEL.sub("", _plain(text))
        return self._highest_in(plain) if self._whole.fullmatch(plain) else None

    def _highest_in(self, plain: str) -> str | None:
        levels = [self._levels[each] for each in self._phrase.findall(plain)]
        if None in levels:
            raise RowRejected("a marking is not in the ladder, nor in `levels`")
        return self.highest(*levels)


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", folded(text).replace("_", " ")))
