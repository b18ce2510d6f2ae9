"""Names in small letters, with capitals, so that the patterns of names can read them."""

import re

from sovereign_pipeline.privacy.names import lexicon
from sovereign_pipeline.privacy.names.evidence import is_noun
from sovereign_pipeline.privacy.names.latin_words import (
    CUE_BEFORE,
    KNOWN_NAMES,
    LOWER_WORD,
    UPPER_LETTER,
    without_accents,
)

_WORDS_TOO = frozenset(["said", "amer", "hind", "jan", "noor", "see", "rich", "art", "grant", "will", "may", "mark"])
_GIVEN = frozenset(
    name
    for name in lexicon.GIVEN | (lexicon.GIVEN_WORLD - lexicon.EVERYDAY)
    if len(name) > 2 and name not in _WORDS_TOO and name not in lexicon.STOP_WORDS and not is_noun(name)
)
_NAMES = _GIVEN | lexicon.GIVEN
_FAMILY = (lexicon.SURNAMES_WORLD - lexicon.EVERYDAY) | lexicon.TRIBES | _GIVEN
_TITLED = re.compile(
    r"(?<![\w.])(?:mrs?|ms|dr|prof|sheikh|my name is|(?:full |first |last )?name:|signed by|signed:)\.? (?=[a-z])"
)
_PAIR = re.compile(r"(?<![\w@./-])([^\W\d_]{3,})(?= (?:(bin|bint|ibn|al|el|[b-hj-z]\.?)[ -])?([^\W\d_]{3,})(?![\w@-]))")
_WITH_INITIAL = re.compile(r"(?<![\w@./-])([a-z]{3,}) ([b-hj-z])\.? ([a-z]{3,})(?![\w@-])")
_TRIBE_BEHIND = re.compile(r" (?:al|el)[ -]([a-z]{3,})")
_WORD = re.compile(r"[^\W\d_]+")


def recased(text: str) -> str:
    """A text with capitals on names in small letters; of the same length.

    In a text without any capital: the names that everybody knows, the word after a given name, and what follows a cue
    such as "my name is". In any other text: a given name with a family name or a kinship word after it, and the words
    after a title or a cue.
    """
    if UPPER_LETTER.search(text):
        return _recased_here_and_there(text)
    if LOWER_WORD.search(text) is None:
        return text
    letters = list(text)
    given_ends = -1
    for word in LOWER_WORD.finditer(text):
        if len(word.group().rstrip(".")) == 1:
            if word.start() == given_ends + 1 and text[given_ends] == " ":  # an initial
                letters[word.start()] = _capital(letters[word.start()])
                given_ends = word.end()
            continue
        plain = without_accents(word.group().rstrip("."))
        after_name = word.start() == given_ends + 1 and text[given_ends] == " "
        cued = CUE_BEFORE.search(text, max(0, word.start() - 24), word.start()) is not None
        common = plain in lexicon.STOP_WORDS or plain in lexicon.HONORIFICS
        known = plain in KNOWN_NAMES and plain not in lexicon.EVERYDAY
        if not common and (known or after_name or cued):
            letters[word.start()] = _capital(letters[word.start()])
        given_ends = word.end() if not common and (known or cued) else -1
    for match in _PAIR.finditer(text):
        _capitalise(letters, *_places_in_pair(text, match))
    for match in _WITH_INITIAL.finditer(text):
        if not any(_is_common(match[group]) for group in (1, 3)):
            _capitalise(letters, *(match.start(group) for group in (1, 2, 3)))
    return "".join(letters)


def _recased_here_and_there(text: str) -> str:
    places: list[int] = []
    if not _NAMES.isdisjoint(text.split()):
        for match in _PAIR.finditer(text):
            places += _places_in_pair(text, match)
    for cue in _TITLED.finditer(text) if "m" in text or "name" in text or "signed" in text else ():
        word = _WORD.match(text, cue.end())
        if word is not None and len(word.group()) > 2 and not _is_common(word.group()):
            places.append(word.start())
            following = _WORD.match(text, word.end() + 1) if text[word.end() : word.end() + 1] == " " else None
            if following is None or _is_common(following.group()):
                continue
            if "name" in cue.group() or without_accents(following.group()) in _FAMILY:
                places.append(following.start())
    if not places:
        return text
    letters = list(text)
    _capitalise(letters, *places)
    return "".join(letters)


def _places_in_pair(text: str, match: re.Match[str]) -> list[int]:
    """Where the words of "hamood al araimi", "margaret thompson", "salim bin rashid" begin."""
    given, between, family = match.group(1, 2, 3)
    known = without_accents(family) in _FAMILY
    if between in ("al", "el") and family in lexicon.TRIBES and given in lexicon.GIVEN:
        return [match.start(1), match.start(3)]
    if not given.islower() or without_accents(given) not in _GIVEN or not family.islower():
        return []
    if between not in ("bin", "bint", "ibn", "al", "el"):
        return [match.start(1), match.start(3)] if known else []
    if _is_common(family) and not known:
        return []
    tribe = _TRIBE_BEHIND.match(text, match.end(3))
    return [match.start(1), match.start(3), *([tribe.start(1)] if tribe is not None else [])]


def _is_common(word: str) -> bool:
    plain = without_accents(word)
    return plain in lexicon.STOP_WORDS or plain in lexicon.HONORIFICS or is_noun(plain)


def _capitalise(letters: list[str], *places: int) -> None:
    for place in places:
        letters[place] = _capital(letters[place])


def _capital(letter: str) -> str:
    """The capital, or the letter itself where its capital is two ("ß")."""
    return letter.upper() if len(letter.upper()) == 1 else letter
