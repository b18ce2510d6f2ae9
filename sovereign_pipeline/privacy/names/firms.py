"""Firms whose names are made of people's or end with a legal form: "Saltmarsh, Keane and Brandl", "Kelpwick Ltd".

What belongs here: where such a name begins and ends. What does not: bodies that only a name model knows.
"""

import re
from collections.abc import Iterator

from sovereign_pipeline.privacy.names import lexicon
from sovereign_pipeline.privacy.names.latin_words import EACH_TOKEN, WHOLE_WORD, begins_name, without_accents

_WORD = r"[^\W\d_][\w’'-]{1,30}"
_FAMILIES = re.compile(rf"(?<![\w’'-]){_WORD}, {_WORD},? (?:and|&) {_WORD}", re.IGNORECASE)
_AT_WORK = re.compile(r"\b(?:at|work(?:s|ed|ing)? for|employ(?:er|ed) by|firm(?: of)?|The) \Z")
_ONE_THING = re.compile(r" (?:is|was|has|does)\b")  # three people are
_NEXT_WORD = re.compile(r" ([A-Z]\w+)")
_LINE_BEFORE = re.compile(r"(?:\A|\n)[>?* ]*\Z")
_LINE_BEHIND = re.compile(r" *(?:\r?\n|\Z)")
_LEGAL_FORM = (
    r"(?:Inc|Incorporated|Corp|Corporation|Ltd|Limited|LLC|LLP|PLC|plc|GmbH|AG|SAOC|SAOG|S\.A\.|B\.V\.)(?![\w-])\.?"
)
_WITH_LEGAL_FORM = re.compile(rf"(?<![\w@./-])(?!The )(?:{WHOLE_WORD}(?:,? (?:(?:and|&|of) )?)){{1,4}}{_LEGAL_FORM}")
_REACH = 60


def firms(text: str) -> list[tuple[int, int]]:
    """Half-open spans of normalised text."""
    found = list(_of_families(text)) if " and " in text or " & " in text else []
    return [*found, *(match.span() for match in _WITH_LEGAL_FORM.finditer(text))]


def _of_families(text: str) -> Iterator[tuple[int, int]]:
    """Three family names where a firm of that name stands, and not three people."""
    for match in _FAMILIES.finditer(text):
        people = [token for token in EACH_TOKEN.finditer(match.group()) if begins_name([token], 0)]
        if len(people) < 2 and _stands_like_firm(text, match):  # no "Ahmed, Salim and Fatma"
            yield match.span()


def _stands_like_firm(text: str, match: re.Match[str]) -> bool:
    before = text[max(0, match.start() - _REACH) : match.start()]
    if _ONE_THING.match(text, match.end()) is not None:
        return True
    following = _NEXT_WORD.match(text, match.end())
    if following is not None and without_accents(following.group(1)) in lexicon.BODIES | lexicon.OFFICES:
        return True
    if _AT_WORK.search(before) is not None:
        return True
    line = _LINE_BEFORE.search(before) is not None and _LINE_BEHIND.match(text, match.end()) is not None
    return line and not before.rstrip("\n> *").endswith((":", ","))  # "Present:", "Regards,"
