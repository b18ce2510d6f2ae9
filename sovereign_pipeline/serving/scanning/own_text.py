"""Whether a value in an answer is the caller's own: it stands in what they sent.

Repeating it discloses nothing. A name or an address counts whole, in its order: words that stand apart in the request
do not make a name that the caller may read. What belongs here: that comparison.
"""

from collections.abc import Sequence
from functools import cached_property

from sovereign_pipeline.privacy.corrections import folded_words

SHORTEST_NUMBER = 6
"""Characters of a value from which its separators do not matter: shorter ones stand in any long number."""


class OwnText:
    """What a caller sent, folded when it is first needed."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = texts

    def holds(self, value: str) -> bool:
        words = folded_words(value)
        if not words:
            return True
        plain = _plain(words)
        in_words = any(f" {_between_words(words)} " in text for text in self._words)
        return in_words or (len(plain) >= SHORTEST_NUMBER and any(plain in text for text in self._plain))

    @cached_property
    def _words(self) -> list[str]:
        return [f" {_between_words(folded_words(text))} " for text in self._texts]

    @cached_property
    def _plain(self) -> list[str]:
        return [_plain(folded_words(text)) for text in self._texts]


def _between_words(folded: str) -> str:
    """Words and figures with single spaces between."""
    return " ".join("".join(each if each.isalnum() else " " for each in folded).split())


def _plain(folded: str) -> str:
    return "".join(each for each in folded if each.isalnum())
