"""Find names whose words are not separated by a single space: in file names, in web addresses, across line ends.

No sentence surrounds such names, so patterns and models cannot help. The word lists alone decide.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from sovereign_pipeline.privacy.names import lexicon
from sovereign_pipeline.privacy.names.latin_words import without_accents
from sovereign_pipeline.privacy.names.persons import folded_word

_LETTER = r"[^\W\d_]"
_WITHIN_WORD = r"[_./\\+=&?#~:-]{1,3}"
_SIGNS = r"[ \t\r>|]{0,30}"  # bounded: a row of thousands of signs would take quadratic time
_BREAK = rf"{_SIGNS}\n{_SIGNS}|[ \t]{{2,30}}"
_GAP = re.compile(rf"(?:(?P<within>{_WITHIN_WORD})|(?P<break>{_BREAK}))(?={_LETTER})")
_ONLY_BREAK = re.compile(rf"(?P<break>{_BREAK})(?={_LETTER})")
_CAMEL_CASE = re.compile(r"[a-z](?=[A-Z])")  # "HamoodAlAraimi"
_WORD = rf"(?:[A-Z]?[^\W\d_A-Z]+|[A-Z]+(?![^\W\d_A-Z])|{_LETTER}+)"
_WORD_AT = re.compile(_WORD)
_WORD_BEFORE = re.compile(rf"{_WORD}\Z")
_BETWEEN = re.compile(rf"{_WITHIN_WORD}|{_BREAK}| |(?<=[a-z])(?=[A-Z])")
_BETWEEN_BEFORE = re.compile(rf"(?:{_WITHIN_WORD}|{_BREAK}| )\Z")
_EXTENSION = re.compile(
    r"\.(?:pdf|docx?|xlsx?|pptx?|jpe?g|png|tiff?|gif|txt|csv|msg|eml|zip|mp[34]|html?)\b", re.IGNORECASE
)
_TOKEN_BEFORE = re.compile(r"[^\s<>\"'|]+\Z")
_TOKEN_AFTER = re.compile(r"[^\s<>\"'|]*")
_LONGEST_TOKEN = 80
_REACH = 4  # words to either side
_LONGEST_GAP = 30
_LONGEST_WORD = 24

_ARTICLES = frozenset({"al", "el"})
_NAMES = lexicon.GIVEN | lexicon.GIVEN_WORLD | lexicon.SURNAMES_WORLD
_BEGINNINGS = _NAMES | lexicon.KINSHIP | _ARTICLES | lexicon.TRIBES | lexicon.HONORIFICS
_TITLES = frozenset({"mr", "mrs", "ms", "miss", "dr", "prof", "sheikh"})

Spans = Iterator[tuple[int, int]]


def joined_names(text: str, never: frozenset[str]) -> Spans:
    """Yield names in Latin letters whose words are not separated by a single space, as half-open spans of normalised
    text.

    Args:
        never: words that are never part of a name, in lower case.
    """
    for gap in _gaps(text):
        begins_before = _begins(_WORD_BEFORE.search(text, max(0, gap.start - _LONGEST_WORD), gap.start))
        begins_after = not gap.is_break and _begins(_WORD_AT.match(text, gap.end))
        if not begins_before and not begins_after:
            continue
        before, after = _words_around(text, gap)
        spans = [*before, *after]
        plain = [_plain(text, span) for span in spans]
        for first in range(0 if begins_before else len(before), len(before) + begins_after):
            last = _end_of_name(plain, first, never)
            if last is None or last < len(before):
                continue
            if not gap.is_break or _crosses_lines(text, spans, plain, first, len(before)):
                yield spans[first + (plain[first] in _TITLES)][0], spans[last][1]
                break
    yield from _alone_in_file_names(text, never)


def joined_mentions(text: str, parts: frozenset[str], never: frozenset[str]) -> Spans:
    """Yield words of file names, paths and web addresses that are known parts of names, in any letter case."""
    for gap in _gaps(text):
        if gap.is_break:
            continue
        before = _WORD_BEFORE.search(text, max(0, gap.start - _LONGEST_WORD), gap.start)
        for word in (before, _WORD_AT.match(text, gap.end)):
            if word is not None and folded_word(word.group()) in parts:
                plain = without_accents(word.group())
                if len(plain) > 3 and plain not in never and plain not in lexicon.EVERYDAY:
                    yield word.span()


class _Gap(NamedTuple):
    """A gap between two words."""

    start: int
    end: int
    is_break: bool
    """True if the gap is a line end or several spaces, which may separate two sentences."""


def _gaps(text: str) -> Iterator[_Gap]:
    holds_address = any(sign in text for sign in "_\\/~=") or "www." in text or _EXTENSION.search(text) is not None
    for gap in (_GAP if holds_address else _ONLY_BREAK).finditer(text):
        is_break = gap["break"] is not None
        if gap.start() > 0 and text[gap.start() - 1].isalpha() and (is_break or _is_in_address(text, gap.start())):
            yield _Gap(gap.start(), gap.end(), is_break)
    for letter in _CAMEL_CASE.finditer(text) if holds_address else ():
        if _is_in_address(text, letter.end()):
            yield _Gap(letter.end(), letter.end(), is_break=False)


def _is_in_address(text: str, position: int) -> bool:
    """Return whether the token at a position is a file name, a path or a web address."""
    before = _TOKEN_BEFORE.search(text, max(0, position - _LONGEST_TOKEN), position)
    after = _TOKEN_AFTER.match(text, position, position + _LONGEST_TOKEN)
    token = f"{before.group() if before else ''}{after.group() if after else ''}"
    marked = any(sign in token for sign in ("_", "\\", "://", "www.", "=")) or token.count("/") > 1
    return marked or token.startswith(("/", "~")) or _EXTENSION.search(token) is not None


def _begins(word: re.Match[str] | None) -> bool:
    return word is not None and without_accents(word.group()) in _BEGINNINGS


def _words_around(text: str, gap: _Gap) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the spans of up to `_REACH` words before and after a gap."""
    nearest = _WORD_BEFORE.search(text, max(0, gap.start - _LONGEST_WORD), gap.start)
    if nearest is None:
        return [], _words_after(text, gap.end)
    before = [nearest.span()]
    while len(before) < _REACH:
        between = _BETWEEN_BEFORE.search(text, max(0, before[0][0] - _LONGEST_GAP), before[0][0])
        end = between.start() if between is not None else before[0][0]
        word = _WORD_BEFORE.search(text, max(0, end - _LONGEST_WORD), end)
        if word is None or (between is None and not _is_camel_case(text, before[0][0])):
            break
        before.insert(0, word.span())
    return before, _words_after(text, gap.end)


def _words_after(text: str, position: int) -> list[tuple[int, int]]:
    words: list[tuple[int, int]] = []
    while len(words) < _REACH:
        word = _WORD_AT.match(text, position)
        if word is None:
            break
        words.append(word.span())
        between = _BETWEEN.match(text, word.end())
        if between is None:
            break
        position = between.end()
    return words


def _is_camel_case(text: str, position: int) -> bool:
    return position > 0 and text[position - 1].islower() and text[position].isupper()


def _end_of_name(words: Sequence[str], first: int, never: frozenset[str]) -> int | None:
    """Return the index of the last word of a name that begins at `first`, or None if no name begins there."""
    begins = words[first]
    title = begins in _TITLES
    given = _is_given(begins) and begins not in never
    family_first = begins in lexicon.SURNAMES_WORLD and begins not in lexicon.EVERYDAY
    last = first
    while last + 1 < len(words) and last < first + 5:
        following = words[last + 1]
        beyond = words[last + 2] if last + 2 < len(words) else ""
        if following in lexicon.KINSHIP and len(beyond) > 2 and (given or title):
            last += 2
        elif following in _ARTICLES and len(beyond) > 3 and beyond not in lexicon.AL_PLACES and (given or title):
            return last + 2
        elif (given or title) and _is_family(following) and following not in never:
            return last + 1
        elif (given or title or family_first) and _is_given(following) and following not in never:
            last += 1
        else:
            break
    return last if last > first else None


def _is_given(word: str) -> bool:
    return word in lexicon.GIVEN or (word in lexicon.GIVEN_WORLD and word not in lexicon.EVERYDAY)


def _is_family(word: str) -> bool:
    """Return whether a word is a listed family name. Everyday words count, since a given name precedes."""
    article = len(word) > 5 and word.startswith("al") and word[2:] in lexicon.TRIBES
    return word in lexicon.SURNAMES_WORLD or word in lexicon.TRIBES or article


def _crosses_lines(text: str, spans: Sequence[tuple[int, int]], plain: Sequence[str], first: int, after: int) -> bool:
    """Return whether a name continues after a line end: its words are capitalised, and a kinship word, an article or
    a family name follows. Given names below each other are several people."""
    capitals = all(
        text[start].isupper() or word in lexicon.KINSHIP | _ARTICLES
        for (start, _), word in zip(spans[first : after + 1], plain[first : after + 1], strict=True)
    )
    goes_on = plain[after] in lexicon.KINSHIP | _ARTICLES or plain[after - 1] in lexicon.KINSHIP | _ARTICLES
    return capitals and (goes_on or (_is_family(plain[after]) and not _is_given(plain[after])))


_FILE_BEFORE = re.compile(r"[\w.-]+\Z")
_LONGEST_FILE_NAME = 80


def _alone_in_file_names(text: str, never: frozenset[str]) -> Spans:
    """Yield single Gulf given names in file names: "scan-hamood.pdf"."""
    for extension in _EXTENSION.finditer(text):
        file = _FILE_BEFORE.search(text, max(0, extension.start() - _LONGEST_FILE_NAME), extension.start())
        for word in _WORD_AT.finditer(text, *file.span()) if file is not None else ():
            plain = without_accents(word.group())
            if len(plain) > 4 and plain in lexicon.GIVEN and plain not in never:
                yield word.span()


def _plain(text: str, span: tuple[int, int]) -> str:
    return without_accents(text[slice(*span)])
