"""Text as the recognizers read it, and where each of its characters stands in the original.

What belongs here: folding that depends on single characters (digits of any script, diacritics, tatweel, bidi marks,
no-break spaces). What does not: anything that knows what an identifier is.
"""

import re
import unicodedata
from dataclasses import dataclass

# Arabic marks and tatweel belong to the letter before them; direction marks and zero-width characters to none.
_COMBINING = "\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"
_INVISIBLE = "\u00ad\u061c\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff"
_DROPPED = re.compile(f"[{_COMBINING}{_INVISIBLE}]+")
_COMBINING_RUN = re.compile(f"[{_COMBINING}]*")
_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000\t]")
_DASHES = re.compile("[\u2010-\u2015\u2212]")
_FOREIGN_DIGIT = re.compile(r"[^\D0-9]")


@dataclass(frozen=True)
class NormalisedText:
    """A text and its folded form."""

    original: str
    text: str
    """Folded; never longer."""
    offsets: tuple[int, ...] | None = None
    """Position in `original` of each character of `text`; None when every position is its own."""

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """The half-open span of `original` behind text[start:end]; marks on its last letter are part of it."""
        if self.offsets is None:
            return start, end
        last = self.offsets[end - 1] + 1
        marks = _COMBINING_RUN.match(self.original, last)
        return self.offsets[start], marks.end() if marks else last


def normalise(original: str) -> NormalisedText:
    """Fold digits of any script to 0-9 and special spaces and dashes to plain ones; drop marks that carry no letter."""
    if original.isascii():
        return NormalisedText(original, original.replace("\t", " "))
    folded = _FOREIGN_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit.group())), original)
    folded = _DASHES.sub("-", _SPACES.sub(" ", folded))
    if _DROPPED.search(folded) is None:
        return NormalisedText(original, folded)
    offsets: list[int] = []
    kept: list[str] = []
    position = 0
    for dropped in _DROPPED.finditer(folded):
        kept.append(folded[position : dropped.start()])
        offsets.extend(range(position, dropped.start()))
        position = dropped.end()
    kept.append(folded[position:])
    offsets.extend(range(position, len(folded)))
    return NormalisedText(original, "".join(kept), tuple(offsets))
