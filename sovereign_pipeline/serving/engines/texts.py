"""From token ids to the text of an answer, piece by piece.

A piece never ends within a character, and never holds what may turn out to be the beginning of a stop text. All pieces
together are the text that the same tokens give at once, cut where the first stop text is complete.

What belongs here: that alone. What does not: which tokens come (`local_batch.py`).
"""

from collections.abc import Callable, Sequence

INCOMPLETE = "\N{REPLACEMENT CHARACTER}"
"""What a decoder writes for the bytes of a character of which the rest is yet to come."""


class TextPieces:
    """One answer's text so far."""

    def __init__(self, decode: Callable[[list[int]], str], stops: Sequence[str]) -> None:
        self._decode = decode
        self._stops = tuple(stop for stop in stops if stop)
        self._ids: list[int] = []
        self._given = 0
        self.is_stopped = False
        """A stop text is complete; what follows it is nobody's."""

    def add(self, token: int) -> str:
        """The text that is certain with this token and was not given before."""
        self._ids.append(token)
        text = self._decode(self._ids).rstrip(INCOMPLETE)
        cut = self._first_stop(text)
        if cut is not None:
            self.is_stopped = True
            return self._give(text[:cut])
        return self._give(text[: len(text) - self._begun(text)])

    def rest(self) -> str:
        """What is left once the last token has come: a stop text that was only begun, a character without its end."""
        return "" if self.is_stopped else self._give(self._decode(self._ids))

    def _give(self, text: str) -> str:
        new = text[self._given :]
        self._given += len(new)
        return new

    def _first_stop(self, text: str) -> int | None:
        """Where the stop text begins that is complete first; it does not depend on how the text falls into tokens."""
        found = [
            (place + len(stop), place) for stop in self._stops if (place := text.find(stop, max(0, self._given))) >= 0
        ]
        return min(found)[1] if found else None

    def _begun(self, text: str) -> int:
        """How many characters at the end may be the beginning of a stop text."""
        open_end = text[self._given :]
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(open_end)), 0, -1):
            if any(stop.startswith(open_end[-length:]) for stop in self._stops):
                return length
        return 0
