"""A run of capitalised words in Latin letters, cut where no name goes on: at titles, places, offices, everyday words.

What belongs here: cutting, and what stands so close to a word that it is of a longer word or of a vessel. What does
not: which of the pieces are names (`latin_names.py`, `model_findings.py`).
"""

import re
from collections.abc import Iterator, Sequence

from sovereign_pipeline.privacy.names import lexicon
from sovereign_pipeline.privacy.names.latin_words import (
    Token,
    begins_name,
    is_given,
    is_initial,
    with_plain_article,
    without_accents,
)

_NEVER_CALLED = (lexicon.STOP_WORDS | lexicon.OFFICES) - lexicon.FAMILIES_TOO
_OF_A_PERSON = frozenset({"mr", "mrs", "ms", "miss", "dr"})
_VESSEL = rf"\b(?:(?i:{'|'.join(sorted(lexicon.VESSELS))})|M/?[VTY]|M/?SV|F/?V|S/?S|HMS|RMS|RV)"
_VESSEL_BEFORE = re.compile(rf"{_VESSEL}\.? (?:named |called )?['\"]?\Z")
_VESSEL_IN_SENTENCE = re.compile(rf"{_VESSEL}\b[^.!?;:\n]*\Z")
_FIGURE_BEHIND = re.compile(r" \d{1,3}(?![\w/:.-]*\d)(?! [a-z])")


class Segments:
    """Cuts runs of capitalised words into pieces that may be names."""

    def __init__(self, keep_words: frozenset[str]) -> None:
        """
        Args:
            keep_words: words that are no part of a name, in small letters.
        """
        self._keep_words = keep_words
        self.never = lexicon.STOP_WORDS | lexicon.PLACES | lexicon.ORGANISATIONS | keep_words

    def of(self, tokens: Sequence[Token], trusted: bool = False) -> list[list[Token]]:
        """The pieces of a run, without particles at their ends.

        Args:
            trusted: a model took it for a person, so an everyday word that is a given name too ("Jan", "Will") is one.
        """
        segments: list[list[Token]] = [[]]
        skip_next = False
        before = ""
        for token in tokens:
            of_a_person, before = before in _OF_A_PERSON, token.group().casefold().strip(".")
            if with_plain_article(token.group()) == "al-bahr":  # "Noor al Bahr" and the like are vessels
                segments[-1] = []
                continue
            word = before
            alone = len(segments[-1]) == 1
            title = word in lexicon.HONORIFICS and not (alone and is_given(segments[-1][0]))  # "Lubna Sayyid"
            initial = is_initial(token) and (token.group().endswith(".") or bool(segments[-1]))
            given = trusted and word in lexicon.GIVEN_WORLD and not segments[-1]
            called = of_a_person and word not in _NEVER_CALLED  # "Ms Court"
            named = alone and (begins_name(segments[-1], 0) or (trusted and token is tokens[-1]))
            family = named and token.group().istitle() and word in lexicon.FAMILIES_TOO  # "Lubna West"
            ends = word in self.never and not (initial or given or called or family)
            heads_place = word in lexicon.PLACE_HEADS and not called
            if ends or title or self._is_place(token) or skip_next or heads_place:
                segments.append([])
            else:
                segments[-1].append(token)
            skip_next = heads_place
        trimmed = [_without_small_ends(segment) for segment in segments]
        return [segment for segment in trimmed if segment]

    def _is_place(self, token: Token) -> bool:
        folded = with_plain_article(token.group())
        of_article = folded.startswith("al-") and (folded[3:] in lexicon.AL_PLACES or folded[3:] in self._keep_words)
        return of_article or folded in lexicon.PLACES


def by_line(text: str, tokens: Sequence[Token]) -> Iterator[list[Token]]:
    """Tokens that stand side by side, with nothing but spaces between them."""
    line: list[Token] = []
    for token in tokens:
        if line and text[line[-1].end() : token.start()].strip(" "):
            yield line
            line = []
        line.append(token)
    if line:
        yield line


def names_an_organisation(tokens: Sequence[Token]) -> bool:
    return any(token.group().casefold().strip(".") in lexicon.ORGANISATIONS for token in tokens)


def is_honorific(token: Token) -> bool:
    return token.group().casefold().strip(".") in lexicon.HONORIFICS


def is_within_word(text: str, token: Token) -> bool:
    """Whether a word is of a longer one, of a handle, a tag or an address: "@saltmarsh", "#harbour", "t.co/XyAbd"."""
    before = text[token.start() - 1 : token.start()]
    if before.isalnum() or before in ("_", "@", "#"):
        return before != ""
    return before == "/" and "://" in text[max(0, token.start() - 40) : token.start()].rpartition(" ")[2]


def is_vessel(text: str, start: int, end: int) -> bool:
    """Whether a vessel's name stands there: after a word for one, or with a number and such a word in its sentence."""
    if _VESSEL_BEFORE.search(text, max(0, start - 20), start):
        return True
    numbered = _FIGURE_BEHIND.match(text, end) is not None
    return numbered and _VESSEL_IN_SENTENCE.search(text, max(0, start - 80), start) is not None


def is_everyday(word: str) -> bool:
    plain = without_accents(word)
    return plain in lexicon.STOP_WORDS or plain in lexicon.HONORIFICS or plain in lexicon.EVERYDAY


def _without_small_ends(segment: list[Token]) -> list[Token]:
    def is_small(token: Token) -> bool:
        return token.group().casefold() in lexicon.KINSHIP | lexicon.PARTICLES

    first, end = 0, len(segment)
    while first < end and is_small(segment[first]):
        first += 1
    while first < end and is_small(segment[end - 1]):
        end -= 1
    return segment[first:end]
