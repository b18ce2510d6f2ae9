"""The caller's stop texts, looked for in what is passed on.

An engine that looked for them in what it computes would tell a caller who tries one after the other what stands behind
a placeholder. What belongs here: that. What does not: the same for token ids (`engines/texts.py`).
"""

from collections.abc import Sequence


class StopTexts:
    """Where a text that comes in pieces ends."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.is_found = False
        """A stop text is complete; what follows it is nobody's."""

    def feed(self, text: str) -> str:
        """What is certain now: all but the end that may be the beginning of a stop text."""
        text = self._held + text
        found = [(place + len(stop), place) for stop in self._stops if (place := text.find(stop)) >= 0]
        self.is_found = bool(found)
        end = min(found)[1] if found else len(text) - self._begun(text)
        self._held = "" if found else text[end:]
        return text[:end]

    def end(self) -> str:
        """The rest."""
        rest, self._held = self._held, ""
        return rest

    def _begun(self, text: str) -> int:
        lengths = (length for stop in self._stops for length in range(1, len(stop)) if text.endswith(stop[:length]))
        return max(lengths, default=0)
