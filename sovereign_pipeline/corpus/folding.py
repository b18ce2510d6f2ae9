"""Fold case files, authors and column names to the spelling by which they are compared. `sovereign-vault` loads this
module and no other one of the corpus."""

import re
import unicodedata

from sovereign_pipeline.base.text import compared_as

_MINUS_AND_HYPHEN_BULLET = "\u2212\u2043"
_SLASHES = "\u2044\u2215\u29f8"  # fraction, division, big
_SPACES_AT_SEPARATORS = re.compile(r"\s*([-/])\s*")


def folded(value: str) -> str:
    """Return the spelling by which case files and authors are compared: `PRM–٢٠٢٤ / 017` is `prm-2024/017`.

    The text is case-folded. Each character is replaced as by `compared_as`: invisible characters and marks are removed,
    and characters that look the same, spellings of Arabic letters, and digits get one form. Every dash becomes `-` and
    every slash `/`, without spaces around them. Other spaces become one space.
    """
    text = unicodedata.normalize("NFKC", value)
    text = "".join(map(_folded_character, text)).casefold()
    return " ".join(_SPACES_AT_SEPARATORS.sub(r"\1", text).split())


def folded_author(value: str) -> str:
    """Return the spelling by which authors are compared: like `folded`, but with a space for each hyphen, as in `al
    harthi`."""
    return folded(value).replace("-", " ")


def _folded_character(character: str) -> str:
    if unicodedata.category(character) == "Pd" or character in _MINUS_AND_HYPHEN_BULLET:
        return "-"
    return "/" if character in _SLASHES else compared_as(character)
