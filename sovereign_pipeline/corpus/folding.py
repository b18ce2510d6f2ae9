"""The spelling by which case files, authors and column names are compared.

`sovereign-vault` loads this module and nothing else of the corpus.
"""

import re
import unicodedata

from sovereign_pipeline.base.text import compared_as

_MINUS_AND_HYPHEN_BULLET = "\u2212\u2043"
_SLASHES = "\u2044\u2215\u29f8"  # fraction, division, big
_SPACES_AT_SEPARATORS = re.compile(r"\s*([-/])\s*")


def folded(value: str) -> str:
    """Return the spelling by which case files and authors are compared: `PRM–٢٠٢٤ / 017` is `prm-2024/017`.

    Case-folded; each character as what it is compared as (`compared_as`): no invisible ones and marks, one form of
    what looks the same, of the spellings of Arabic letters, and of digits. Every dash as `-` and every slash as `/`,
    without spaces around them; one space elsewhere.
    """
    text = unicodedata.normalize("NFKC", value)
    text = "".join(map(_folded_character, text)).casefold()
    return " ".join(_SPACES_AT_SEPARATORS.sub(r"\1", text).split())


def folded_author(value: str) -> str:
    """Return the spelling by which authors are compared: as `folded`, and `Al-Harthi` is `al harthi`."""
    return folded(value).replace("-", " ")


def _folded_character(character: str) -> str:
    if unicodedata.category(character) == "Pd" or character in _MINUS_AND_HYPHEN_BULLET:
        return "-"
    return "/" if character in _SLASHES else compared_as(character)
