"""Find names in a text of either script, and keep what of a name model's findings the word lists do not rule out."""

import re
from collections.abc import Iterable, Iterator, Sequence

from sovereign_pipeline.privacy.names.arabic_names import ARABIC_LETTER, LETTERS, ArabicNames, by_line, is_role
from sovereign_pipeline.privacy.names.joined_names import joined_mentions, joined_names
from sovereign_pipeline.privacy.names.latin_names import (
    LatinNames,
    ModelFindings,
    firms,
    is_surname_first,
    listed_surname_first,
    recased,
)
from sovereign_pipeline.privacy.names.latin_words import Segments
from sovereign_pipeline.privacy.names.name_models import Entity
from sovereign_pipeline.privacy.spans import Span, without_overlaps

_ARABIC_ONTO_LATIN = re.compile(rf"(?<=[A-Za-z])[{LETTERS}]+")
_STROKE_BEHIND_WORD = re.compile(rf"(?<![{LETTERS}])([{LETTERS}]+)( ?/ ?)(?=[{LETTERS}])")
_BETWEEN_ARABIC_WORDS = re.compile(rf"(?<=[{LETTERS}])[_./\\+=\n-](?=[{LETTERS}])")


class NamePatterns:
    """Finds names by honorific, kinship word, signature and word list."""

    def __init__(self, keep_words: Iterable[str] = ()) -> None:
        """
        Args:
            keep_words: words and phrases of the recipe that are never names.
        """
        never = frozenset(word for phrase in keep_words for word in phrase.casefold().split())
        self._segments = Segments(never)
        self._never = self._segments.never
        self._latin = LatinNames(self._segments)
        self._model = ModelFindings(self._segments)
        self._arabic = ArabicNames(never)

    def spans(self, text: str, entities: Sequence[Entity] = (), *, signed: bool = False) -> list[Span]:
        """Find names by pattern and, among a name model's findings, those that the word lists do not rule out. None
        overlap.

        Args:
            text: normalised.
            entities: what the model found in this text.
            signed: the text is a letter, so a name may stand at its end with nothing before it.
        """
        cased = _with_plain_endings(recased(text))
        bodies = _of_several_words(text, entities)
        found = [span for span in self._latin.spans(cased, signed=signed) if not _is_word_within(text, span, bodies)]
        found += [span for entity in entities for span in self._in_entity(cased, entity)]
        of_firms = firms(text)
        found = [span for span in found if not _is_word_within(text, span, of_firms)]
        found += joined_names(text, self._never)
        found += listed_surname_first(text, self._segments)
        if ARABIC_LETTER.search(text):
            titled = _with_titles_beside_names(text)
            found += self._arabic.spans(titled)
            if (spaced := _with_single_spaces(titled)) != titled:
                found += [line for span in self._arabic.spans(spaced) for line in by_line(text, *span)]
        spans = without_overlaps(_name_span(text, *_whole_words(text, *span)) for span in found)
        return [_with_generation(text, span) for span in _surname_first(text, spans)]

    def mentions(self, text: str, parts: frozenset[str]) -> list[Span]:
        """Further mentions of the people of a case file, in reading order within each script.

        Args:
            text: normalised.
            parts: the folded parts of names by which these people are known (`persons.known_parts`).
        """
        found = list(self._latin.mentions(text, parts))
        known = {*found}
        found += [span for span in joined_mentions(text, parts, self._never) if span not in known]
        if ARABIC_LETTER.search(text):
            found += self._arabic.mentions(text, parts)
        return [_name_span(text, *span) for span in _joined_neighbours(text, found)]

    def may_spread(self, text: str, span: Span) -> bool:
        """Return whether a name that was found is certain enough to be looked for elsewhere in its case."""
        if ARABIC_LETTER.search(text, span.start, span.end):
            return True
        return self._latin.may_spread(text, span.start, span.end)

    def _in_entity(self, text: str, entity: Entity) -> Iterator[tuple[int, int]]:
        if entity.label == "DATE":
            return
        if entity.label != "PERSON":
            yield from self._model.in_other_entity(text, entity)
        elif self._model.may_hold_person(text, entity):
            yield from self._model.in_person(text, entity)
        elif not ARABIC_LETTER.search(text, entity.start, entity.end):
            yield from self._model.in_small_letters(text, entity)
        elif self._arabic.may_be_name(text[entity.start : entity.end]):
            yield entity.start, entity.end


def _with_plain_endings(text: str) -> str:
    """Return the same text, of the same length, with plain letters where an Arabic one is written onto a Latin word."""
    if ARABIC_LETTER.search(text) is None:
        return text
    return _ARABIC_ONTO_LATIN.sub(lambda letters: "a" * len(letters.group()), text)


def _of_several_words(text: str, entities: Iterable[Entity]) -> list[tuple[int, int]]:
    """Return the organisations of several words that a model found: "Davis, Reynolds and Williams"."""
    return [
        (each.start, each.end)
        for each in entities
        if each.label == "ORGANISATION" and " " in text[each.start : each.end].strip()
    ]


def _is_word_within(text: str, span: tuple[int, int], bodies: Iterable[tuple[int, int]]) -> bool:
    """Return whether the span is a single word inside the longer name of a body."""
    start, end = span
    return " " not in text[start:end] and any(first <= start and end <= last for first, last in bodies)


def _with_titles_beside_names(text: str) -> str:
    """Return the same text, of the same length, without the stroke of "السيد/ …": the title moves beside the name."""
    if "/" not in text:
        return text
    return _STROKE_BEHIND_WORD.sub(
        lambda found: f"{' ' * (len(found[2]) - 1)}{found[1]} " if is_role(found[1]) else found[0], text
    )


def _with_single_spaces(text: str) -> str:
    """Return the same text, of the same length, with one space where a single sign stands between Arabic words."""
    return _BETWEEN_ARABIC_WORDS.sub(" ", text)


def name_key(text: str, start: int, end: int) -> str:
    """Return a name as written, with the first letter of the article restored, which the preposition "ل" before it
    takes."""
    name = text[start:end]
    return f"ا{name}" if text[start - 1 : start + 1] == "لل" else name


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """With the rest of a word whose letters are of two scripts, or of letters that only some languages have."""
    while end < len(text) and text[end].isalpha() and text[end - 1].isalpha():
        end += 1
    while start > 0 and text[start - 1].isalpha() and (text[start - 1] < "\u0600") and text[start].isalpha():
        start -= 1
    return start, end


_GENERATION = re.compile(r",? (?:Jr|Sr|Jnr|Snr|JR|SR|II|III|IV)\b\.?")


def _with_generation(text: str, span: Span) -> Span:
    """ "Jr." behind a name tells a son from his father."""
    behind = _GENERATION.match(text, span.end)
    return _name_span(text, span.start, behind.end()) if behind is not None and " " in span.key else span


def _surname_first(text: str, spans: Sequence[Span]) -> list[Span]:
    """ "OAKES, Tamsin" as one name, where a field of a form or a table or a line begins with it."""
    joined: list[Span] = []
    for span in spans:
        before = joined[-1] if joined else None
        if (
            before is not None
            and text[before.end : span.start] == ", "
            and is_surname_first(text, (before.start, before.end), (span.start, span.end))
        ):
            joined[-1] = _name_span(text, before.start, span.end)
        else:
            joined.append(span)
    return joined


def _name_span(text: str, start: int, end: int) -> Span:
    return Span(start, end, "NAME", name_key(text, start, end))


def _joined_neighbours(text: str, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Spans with a single space between them become one."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and text[joined[-1][1] : start] == " ":
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
