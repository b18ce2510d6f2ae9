"""Convert case files, authors and column names to their comparison form. `sovereign-vault` loads only this module of
the package."""

import re
import unicodedata

from sovereign_pipeline.base.text import compared_as

_MINUS_AND_HYPHEN_BULLET = "\u2212\u2043"
_SLASHES = "\u2044\u2215\u29f8"  # fraction, division, big
_SPACES_AT_SEPARATORS = re.compile(r"\s*([-/])\s*")


def folded(value: str) -> str:
    """Return the comparison form of a case file or author: `PRM–٢٠٢٤ / 017` becomes `prm-2024/017`.

    The text is case-folded, and each character is normalised by `compared_as`. Every dash becomes `-` and every slash
    `/`, without spaces around them. Other spaces become one space.
    """
    text = unicodedata.normalize("NFKC", value)
    text = "".join(map(_folded_character, text)).casefold()
    return " ".join(_SPACES_AT_SEPARATORS.sub(r"\1", text).split())


def folded_author(value: str) -> str:
    """Return the comparison form of an author's name: the result of `folded` with a space in place of each hyphen, as
    in `al harthi`."""
    return folded(value).replace("-", " ")


def _folded_character(character: str) -> str:
    if unicodedata.category(character) == "Pd" or character in _MINUS_AND_HYPHEN_BULLET:
        return "-"
    return "/" if character in _SLASHES else compared_as(character)
