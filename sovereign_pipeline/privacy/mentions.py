"""Further mentions of what was found once in a case file: parts of names, and values without their label.

What belongs here: looking for known values in all texts of a case. What does not: finding them first (`detection.py`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.detection import SearchedText, guarded
from sovereign_pipeline.privacy.names.latin_words import without_marks
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns, name_key
from sovereign_pipeline.privacy.names.persons import known_parts, person_name
from sovereign_pipeline.privacy.spans import Span, without_overlaps

# Names are looked for by their parts; a date, an age or the number of a post box means something else elsewhere.
_NOT_LOOKED_FOR: frozenset[Kind] = frozenset({"NAME", "DATE_OF_BIRTH", "PO_BOX", "DATE", "AGE"})


def with_further_mentions(
    texts: Sequence[SearchedText], authors: Iterable[str], patterns: NamePatterns
) -> list[SearchedText]:
    """The texts of one case, each with the further mentions of what was found in any of them.

    Args:
        authors: normalised names of the authors of the case, who are known in its texts too.
    """
    values = _values(texts)
    names = [
        span.key
        for text in texts
        for span in text.spans
        if span.kind == "NAME" and patterns.may_spread(text.content, span)
    ]
    parts = known_parts(person_name(name) for name in [*names, *authors])
    stems = {_stem(part) for part in parts}
    return [_with_mentions(text, values, parts, stems, patterns) for text in texts]


def _values(texts: Iterable[SearchedText]) -> dict[str, Span]:
    return {
        text.content[span.start : span.end]: span
        for text in texts
        for span in text.spans
        if span.kind not in _NOT_LOOKED_FOR
    }


def _with_mentions(
    text: SearchedText, values: Mapping[str, Span], parts: frozenset[str], stems: set[str], patterns: NamePatterns
) -> SearchedText:
    further, found = list(_mentions_of_values(text, values)), list(text.spans)
    if _may_mention_names(text, stems):
        names = guarded("the name patterns", text.text.row, partial(patterns.mentions, text.content, parts))
        for name in names:
            found = _grown(text.content, found, name)
        # A name that was found whole goes before a mention of one of its parts: `labelled` decides that.
        further += [replace(name, labelled=False) for name in names]
    return replace(text, spans=without_overlaps([*found, *further])) if further else text


def _grown(content: str, found: list[Span], mention: Span) -> list[Span]:
    """What was found. A name that a mention overlaps and reaches beyond grows by it: no part of it stays beside it."""
    met = [each for each in found if each.kind == "NAME" and each.start < mention.end and mention.start < each.end]
    start = min([mention.start, *(each.start for each in met)])
    end = max([mention.end, *(each.end for each in met)])
    if not met or any((each.start, each.end) == (start, end) for each in met):
        return found
    whole = replace(met[0], start=start, end=end, key=name_key(content, start, end))
    return sorted([*(each for each in found if each not in met), whole], key=lambda each: each.start)


def _mentions_of_values(text: SearchedText, values: Mapping[str, Span]) -> Iterator[Span]:
    """Where the values stand as whole words; a mention that was found already is left out."""
    found = {span.start: span for span in text.spans}
    for value, span in values.items():
        for start in _positions(text.content, value):
            own = found.get(start)
            if own is not None and (own.kind, own.key, own.labelled) == (span.kind, span.key, span.labelled):
                continue
            mention = replace(span, start=start, end=start + len(value))
            if _is_whole_word(text.content, mention):
                yield mention


def _positions(text: str, value: str) -> Iterator[int]:
    position = text.find(value)
    while position >= 0:
        yield position
        position = text.find(value, position + 1)


def _is_whole_word(text: str, span: Span) -> bool:
    before, first, after = text[span.start - 1 : span.start], text[span.start], text[span.end : span.end + 1]
    return not (_is_of_a_word(first) and _is_of_a_word(before)) and not after.isalnum()


def _is_of_a_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _stem(part: str) -> str:
    """What every writing of a folded part of a name has in common: all but the article."""
    return part[3:] if part.startswith("al-") else part.removeprefix("ال")


def _may_mention_names(text: SearchedText, stems: Iterable[str]) -> bool:
    """Whether a known part of a name may stand outside the names found: most texts need no closer look."""
    folded = text.content.casefold().replace("أ", "ا").replace("إ", "ا").replace("آ", "ا")
    if not folded.isascii():
        folded = without_marks(folded.replace("’", "'"))
    if len(folded) == len(text.content):
        pieces, position = [], 0
        for span in text.spans:
            if span.kind == "NAME" and span.labelled:
                pieces.append(folded[position : span.start])
                position = span.end
        folded = "\0".join([*pieces, folded[position:]])
    return any(stem in folded for stem in stems)
