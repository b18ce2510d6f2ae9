"""Names with the family name first: "OAKES, Tamsin", "Cc: Obuya, D.; Al-Harthy, S.".

What belongs here: two words and the comma between them as one name, and lists of such names on one line. What does
not: finding either word (`latin_names.py`, `model_findings.py`), which part of a name is which (`persons.py`).
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sovereign_pipeline.privacy.names.evidence import is_noun, is_place
from sovereign_pipeline.privacy.names.latin_words import (
    EACH_TOKEN,
    WHOLE_WORD,
    Token,
    begins_name,
    is_given,
    is_initial,
    is_surname,
)
from sovereign_pipeline.privacy.names.segments import Segments

_INITIALS = r"[A-Z]\.(?: ?[A-Z]\.){0,3}"
_NAME = re.compile(
    rf"(?<![\w@./-])(?P<family>(?:(?:van|von|de|der|den|da|dos|di) ){{0,2}}{WHOLE_WORD}), "
    rf"(?P<given>{_INITIALS}|{WHOLE_WORD}(?: [A-Z]\b\.?)?)(?![\w@])"
)
_NEXT = re.compile(r"; ?|,? (?:and|&) |\n")
_LABEL_BEFORE = re.compile(
    r"(?:\A|[\n>|;(]) *(?i:from|to|b?cc|authors?|present|attended by|attendees|apologies|members|witness(?:es)?|"
    r"owners?|(?:full )?names?|applicants?|signed(?: by)?|recipients?)[ ]?: *\Z"
)
_FIELD_BEFORE = re.compile(r"(?:\A|[\n:;|(\t>])[ ]*\Z")
_FIELD_BEHIND = re.compile(
    r"(?:,? (?:Jr|Sr|II|III|IV|KC|QC|OBE|CBE|MBE|PhD|MD|Esq)\b\.?| [A-Z]\.?)* *"
    r"(?:\Z|[\n;|)(<\t.:-]|,(?! [A-Z]\w+(?:,| and )))"  # no "Ahmed, Salim, Fatma"
)
_LONGEST_LABEL = 24

Spans = Sequence[tuple[int, int]]


class _Listed(NamedTuple):
    start: int
    end: int
    is_certain: bool
    """By its words alone."""


def listed_surname_first(text: str, segments: Segments) -> Iterator[tuple[int, int]]:
    """Names with the family name first behind the label of a field, or several side by side of which one is certain."""
    if ", " not in text:
        return
    row: list[_Listed] = []
    for match in _NAME.finditer(text):
        name = _listed(match, segments)
        if row and (name is None or not _NEXT.fullmatch(text, row[-1].end, match.start())):
            yield from _whole_row(text, row)
            row = []
        if name is not None:
            row.append(name)
    yield from _whole_row(text, row)


def _whole_row(text: str, row: Sequence[_Listed]) -> Iterator[tuple[int, int]]:
    if not row or (_FIELD_BEHIND.match(text, row[-1].end) is None and len(row) == 1):
        return
    start = row[0].start
    labelled = _LABEL_BEFORE.search(text, max(0, start - _LONGEST_LABEL), start) is not None
    if labelled or (len(row) > 1 and any(name.is_certain for name in row)):
        yield from ((name.start, name.end) for name in row)


def _listed(match: re.Match[str], segments: Segments) -> _Listed | None:
    """The name in a match, unless one of its words means something else or the first one is a given name alone."""
    families = list(EACH_TOKEN.finditer(match["family"]))
    givens = list(EACH_TOKEN.finditer(match["given"]))
    words = [*families, *(token for token in givens if not is_initial(token))]
    if any(token.group().casefold() in segments.never or is_noun(token.group()) for token in words):
        return None
    if is_place(families[-1:]) or (givens and is_place(givens[:1])) or not _may_be_family(families[-1]):
        return None
    initials = not givens or is_initial(givens[0])
    return _Listed(match.start(), match.end(), initials or begins_name(givens, 0))


def _may_be_family(token: Token) -> bool:
    return is_surname(token) or not is_given(token)


def is_surname_first(text: str, family: tuple[int, int], given: tuple[int, int]) -> bool:
    """Whether two findings with a comma between them are one name, where a field of a form or a table or a line begins
    with it."""
    written = text[slice(*family)]
    tokens = list(EACH_TOKEN.finditer(written))
    alone = len(tokens) == 1 and tokens[0].group() == written and _may_be_family(tokens[0])
    if not alone or not _is_given_part(text[slice(*given)]):
        return False
    if written.isupper() and not text[slice(*given)].isupper():
        return True
    before = _FIELD_BEFORE.search(text, max(0, family[0] - 20), family[0])
    return before is not None and _FIELD_BEHIND.match(text, given[1]) is not None


def _is_given_part(name: str) -> bool:
    """Whether a given name or an initial begins it, and no family name ends it."""
    tokens = list(EACH_TOKEN.finditer(name))
    if not tokens or len(tokens) > 3 or not (is_given(tokens[0]) or is_initial(tokens[0])):
        return False
    return len(tokens) == 1 or is_initial(tokens[-1]) or is_given(tokens[-1])
