"""Find names in Latin and Arabic text by patterns, and filter a name model's findings by the word lists."""

import re
from collections.abc import Iterable, Iterator, Sequence

from sovereign_pipeline.privacy.names import lexicon
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
# "Eid Mubarak" behind a closing, a label or "Mr" is a name.
_FORMULA = re.compile(
    r"\b(?:(?:mr|mrs|ms|madam|sir)\b\.? *(?:{})(?= *(?:[,.:;!\n]|$))"
    r"|(?<![,sy]\n)(?<![rs.:] )(?:{})\b)".format(
        *("|".join(sorted(words)).replace("_", " ") for words in (lexicon.ADDRESSED_OFFICES, lexicon.GREETINGS))
    ),
    re.IGNORECASE,
)


class NamePatterns:
    """A finder of names by honorific, kinship word, signature and word list."""

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
        """Return the names in a text, without overlaps: by pattern, and a name model's findings that the word lists do
        not rule out.

        Args:
            text: normalised text.
            entities: the model's entities in this text.
            signed: whether the text is a letter, which may end with a signature.
        """
        cased = _with_plain_endings(recased(text))
        bodies = _of_several_words(text, entities)
        found = [span for span in self._latin.spans(cased, signed=signed) if not _is_word_within(text, span, bodies)]
        found += [span for entity in entities for span in self._in_entity(cased, entity)]
        of_firms = firms(text)
        formulas = [formula.span() for formula in _FORMULA.finditer(text)]
        found = [span for span in found if not _is_word_within(text, span, of_firms) and not _is_within(span, formulas)]
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
        """Return further mentions of the people of a case file, in reading order within each script.

        Args:
            text: normalised text.
            parts: the folded parts of these people's names (`persons.known_parts`).
        """
        found = list(self._latin.mentions(text, parts))
        known = {*found}
        found += [span for span in joined_mentions(text, parts, self._never) if span not in known]
        if ARABIC_LETTER.search(text):
            found += self._arabic.mentions(text, parts)
        return [_name_span(text, *span) for span in _joined_neighbours(text, found)]

    def may_spread(self, text: str, span: Span) -> bool:
        """Return whether a name is certain enough to be searched for in the rest of its case."""
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
    """Return the text with Arabic letters replaced by "a" where they are attached to a Latin word. The length stays
    the same."""
    if ARABIC_LETTER.search(text) is None:
        return text
    return _ARABIC_ONTO_LATIN.sub(lambda letters: "a" * len(letters.group()), text)


def _of_several_words(text: str, entities: Iterable[Entity]) -> list[tuple[int, int]]:
    """Return the spans of multi-word organisations among the entities: "Davis, Reynolds and Williams"."""
    return [
        (each.start, each.end)
        for each in entities
        if each.label == "ORGANISATION" and " " in text[each.start : each.end].strip()
    ]


def _is_word_within(text: str, span: tuple[int, int], bodies: Iterable[tuple[int, int]]) -> bool:
    """Return whether the span is a single word inside a longer organisation name."""
    return " " not in text[slice(*span)] and _is_within(span, bodies)


def _is_within(span: tuple[int, int], others: Iterable[tuple[int, int]]) -> bool:
    return any(first <= span[0] and span[1] <= last for first, last in others)


def _with_titles_beside_names(text: str) -> str:
    """Return the text with "السيد/ …" rewritten without the slash, so that the title is next to the name. The length
    stays the same."""
    if "/" not in text:
        return text
    return _STROKE_BEHIND_WORD.sub(
        lambda found: f"{' ' * (len(found[2]) - 1)}{found[1]} " if is_role(found[1]) else found[0], text
    )


def _with_single_spaces(text: str) -> str:
    """Return the text with a space for each single sign between Arabic words. The length stays the same."""
    return _BETWEEN_ARABIC_WORDS.sub(" ", text)


def name_key(text: str, start: int, end: int) -> str:
    """Return a name as written. After the preposition "ل", restore the first letter of the article, which the
    preposition removes."""
    name = text[start:end]
    return f"ا{name}" if text[start - 1 : start + 1] == "لل" else name


def _whole_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Return the span extended to whole words, for words in two scripts or with rare letters."""
    while end < len(text) and text[end].isalpha() and text[end - 1].isalpha():
        end += 1
    while start > 0 and text[start - 1].isalpha() and (text[start - 1] < "\u0600") and text[start].isalpha():
        start -= 1
    return start, end


_GENERATION = re.compile(r",? (?:Jr|Sr|Jnr|Snr|JR|SR|II|III|IV)\b\.?")


def _with_generation(text: str, span: Span) -> Span:
    """Return the span of a name with a following generation suffix such as "Jr."."""
    behind = _GENERATION.match(text, span.end)
    return _name_span(text, span.start, behind.end()) if behind is not None and " " in span.key else span


def _surname_first(text: str, spans: Sequence[Span]) -> list[Span]:
    """Join names such as "OAKES, Tamsin" to one span, in a field of a form or table or at the start of a line."""
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
    """Join spans that are separated by a single space."""
    joined: list[tuple[int, int]] = []
    for start, end in spans:
        if joined and text[joined[-1][1] : start] == " ":
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
