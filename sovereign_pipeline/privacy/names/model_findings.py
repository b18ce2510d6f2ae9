"""What of an entity that a name model found in Latin text is the name of a person.

What belongs here: which words of one finding are kept. What does not: what speaks for and against words as a name
(`evidence.py`), names by pattern (`latin_names.py`).
"""

import re
from collections.abc import Iterator, Sequence

from sovereign_pipeline.privacy.names import evidence, lexicon
from sovereign_pipeline.privacy.names.entities import Entity
from sovereign_pipeline.privacy.names.latin_words import (
    CUE_BEFORE,
    EACH_TOKEN,
    KNOWN_NAMES,
    LOWER_WORD,
    PERSONAL_TITLE,
    Token,
    begins_name,
    is_given,
    is_initial,
    is_known,
    is_surname,
    looks_like_surname,
    without_accents,
)
from sovereign_pipeline.privacy.names.segments import (
    Segments,
    by_line,
    is_vessel,
    is_within_word,
    names_an_organisation,
)

_CAPITAL_BEHIND = re.compile(" [A-Z]")
_REST_OF_NAME = re.compile(r" ([^\W\d_]+\.?)(?= ?(?:['’]s)?\Z)")


class ModelFindings:
    """Names in Latin letters among what a name model found, as half-open spans of normalised text."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments

    def in_person(self, text: str, entity: Entity) -> Iterator[tuple[int, int]]:
        """What is left of a person that a name model found once places, offices and everyday words are taken off."""
        for line in by_line(text, self._tokens(text, entity)):
            if names_an_organisation(line):
                continue
            for segment in self._segments.of(line, trusted=True):
                name = self._person_in(text, segment)
                if name:
                    yield name[0].start(), self._end(text, entity, name)

    def in_other_entity(self, text: str, entity: Entity) -> Iterator[tuple[int, int]]:
        """Names that everybody knows where a name model found something else: one to three words that begin with a
        known given name or end with a family name."""
        for line in by_line(text, self._tokens(text, entity)):
            if names_an_organisation(line):
                continue
            for segment in self._segments.of(line):
                name = evidence.personal_part(segment)
                if not name or len(name) > 3:
                    continue
                family = is_surname(name[-1]) or looks_like_surname(name[-1], certainly=len(name) == 1)
                begins = begins_name(name, 0)
                against = evidence.stands_like_something_else(text, name, certain=begins)
                if (begins or family) and not against:
                    yield name[0].start(), name[-1].end()

    def in_small_letters(self, text: str, entity: Entity) -> Iterator[tuple[int, int]]:
        """A person that a model found in small letters, if one of its words is a name that everybody knows or the last
        one ends as family names do."""
        words = list(LOWER_WORD.finditer(text, entity.start, entity.end))
        while words and _is_no_name(words[0].group()):
            words = words[1:]
        while words and _is_no_name(words[-1].group()):
            words = words[:-1]
        if not 0 < len(words) < 5 or any(evidence.is_noun(word.group()) for word in words):
            return
        known = any(without_accents(word.group()) in KNOWN_NAMES for word in words) or looks_like_surname(words[-1])
        if known and text[words[0].start() - 1 : words[0].start()] != "@":
            yield words[0].start(), words[-1].end()

    def may_hold_person(self, text: str, entity: Entity) -> bool:
        """Whether any word in Latin letters is left of a person that a name model found."""
        return bool(self._segments.of(self._tokens(text, entity), trusted=True))

    def _tokens(self, text: str, entity: Entity) -> list[Token]:
        return list(EACH_TOKEN.finditer(text, *self._whole_name(text, entity)))

    def _person_in(self, text: str, segment: Sequence[Token]) -> Sequence[Token]:
        """The person in words that a model took for one; empty when the words or what stands beside them say that it is
        none."""
        if is_within_word(text, segment[0]) or is_vessel(text, segment[0].start(), segment[-1].end()):
            return []
        titled = PERSONAL_TITLE.search(text, max(0, segment[0].start() - 12), segment[0].start()) is not None
        name = segment if titled else evidence.personal_part(segment)
        if not name:
            return []
        first, last = name[0], name[-1]
        certain = titled or evidence.begins_certainly(name)
        if not titled and evidence.stands_like_something_else(text, name, certain=certain):
            return []
        known = is_known(first) or looks_like_surname(first)
        if first is last and not known and _is_unsure_alone(text, first):
            return []
        short = all(
            len(token.group()) < 3 or (token.group().isupper() and len(token.group()) < 5 and not is_known(token))
            for token in name
        )
        return [] if short else name

    def _end(self, text: str, entity: Entity, name: Sequence[Token]) -> int:
        """Where a name ends: with the last word of the finding, however that is written, behind a given name alone:
        "Lubna K", "Lubna oakes"."""
        end = name[-1].end()
        rest = _REST_OF_NAME.match(text, end, entity.end) if len(name) == 1 and begins_name(name, 0) else None
        if rest is None or (len(rest.group(1)) > 2 and (_is_no_name(rest.group(1)) or evidence.is_noun(rest.group(1)))):
            return end
        return rest.end(1)

    def _whole_name(self, text: str, entity: Entity) -> tuple[int, int]:
        """The entity with the given name before its first initial, or the known family name behind a given name."""
        start, end = entity.start, entity.end
        if entity.label != "PERSON":
            return start, end
        before = list(EACH_TOKEN.finditer(text, max(0, start - 30), max(0, start - 1)))
        own = EACH_TOKEN.match(text, start)
        beside = before and before[-1].end() == start - 1 and text[start - 1] == " "
        if beside and own and before[-1].group().casefold() not in self._segments.never:
            family = own.end() == end or "\n" in text[start:end]
            if is_initial(own) or (family and (is_surname(own) or looks_like_surname(own))):
                start = before[-1].start()
        after = EACH_TOKEN.match(text, end + 1)
        alone = own is not None and own.end() == end and is_given(own)
        if alone and after and text[end] == " " and after.group().casefold() not in self._segments.never:
            end = after.end()
        return start, end


def _is_unsure_alone(text: str, token: Token) -> bool:
    """A single capitalised word that a model took for a person, where every word has a capital or more words follow."""
    if token.group().isupper() or _CAPITAL_BEHIND.match(text, token.end()):
        return True
    if CUE_BEFORE.search(text, max(0, token.start() - 24), token.start()):
        return False
    before = re.search(r"([A-Z][\w.]*) \Z", text[max(0, token.start() - 30) : token.start()])
    if before is None:
        return False
    return before.group(1).casefold().strip(".") not in lexicon.HONORIFICS | lexicon.STOP_WORDS


def _is_no_name(word: str) -> bool:
    plain = without_accents(word)
    return plain in lexicon.STOP_WORDS | lexicon.HONORIFICS | (lexicon.EVERYDAY - lexicon.GIVEN_WORLD)
