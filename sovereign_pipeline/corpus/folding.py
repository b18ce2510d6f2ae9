"""One spelling for the identifiers that people type: case files, authors and names of columns.

What belongs here: when two spellings are the same case file, author or column. What does not: what follows from it
(levels in `stages.py`, placeholders in `privacy/`, ties in `split/`), and how texts are compared
(`split/similarity.py`).
"""

import re
import unicodedata

_TATWEEL = "\u0640"
_MINUS_AND_HYPHEN_BULLET = "\u2212\u2043"
_SLASHES = "\u2044\u2215\u29f8"  # fraction, division, big
_SPACES_AT_SEPARATORS = re.compile(r"\s*([-/])\s*")


def folded(value: str) -> str:
    """The spelling by which case files and authors are compared: `PRM–٢٠٢٤ / 017` is `prm-2024/017`.

    NFKC and case-folded; invisible characters, tatweel and marks that no letter takes up dropped; digits of any script
    as 0-9; every dash as `-` and every slash as `/`, without spaces around them; one space elsewhere.
    """
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", value).casefold())
    if not text.isascii():
        text = "".join(map(_folded_character, text))
    return " ".join(_SPACES_AT_SEPARATORS.sub(r"\1", text).split())


def _folded_character(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Cf", "Mn", "Me") or character == _TATWEEL:
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category == "Pd" or character in _MINUS_AND_HYPHEN_BULLET:
        return "-"
    return "/" if character in _SLASHES else character
