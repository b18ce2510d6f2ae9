"""The lines of a table of text, record by record, so that one endless record never fills the memory.

What belongs here: which lines a record has, and cutting the texts of one that is too long. What does not: cells
(`text.py`).
"""

import io
import re
from collections.abc import Iterator

ENDLESS = 1 << 28
"""Characters of a record from which its end is no longer looked for: a quote is missing."""
_BLOCK = 1 << 16
_MARK = "\ufeff"


class EndlessRecord(Exception):
    """A record does not end."""


class RecordLines(Iterator[str]):
    """The lines of a file for a reader of CSV, which takes as many as a record has.

    Of a record above the limit only what divides its cells is kept, so that it ends where it would have ended.
    """

    def __init__(self, text: io.TextIOWrapper, delimiter: str, limit: int) -> None:
        """
        Args:
            limit: characters of a record that are kept as they are.
        """
        self._text, self._limit = text, limit
        self._words = re.compile(rf'[^"\r\n {re.escape(delimiter)}]+')
        self._spaces = re.compile(" +")
        self._characters = 0
        self._is_first = True

    def begin_record(self) -> None:
        self._characters = 0
        self._is_first = True

    @property
    def is_too_long(self) -> bool:
        """Whether the record was above the limit."""
        return self._characters > self._limit

    def __next__(self) -> str:
        parts = []
        while part := self._text.readline(_BLOCK):
            if self._is_first:  # of a file that was appended to another one
                part = part.removeprefix(_MARK)
                self._is_first = False
            self._characters += len(part)
            if self._characters > ENDLESS:
                raise EndlessRecord
            parts.append(self._divisions(part) if self.is_too_long else part)
            if part.endswith(("\n", "\r")):
                break
        if not parts:
            raise StopIteration
        return "".join(parts)

    def _divisions(self, part: str) -> str:
        return self._spaces.sub(" ", self._words.sub("x", part))
