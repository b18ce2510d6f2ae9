"""Scrub one case file: find further mentions, assign placeholders, replace the values, and search the result again.

A placeholder can create an identifier: "sent NAME_1@host" is an e-mail address. So the text around placeholders is
searched again, and the whole text if that finds something.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.corrections import NO_CORRECTIONS, Corrections
from sovereign_pipeline.privacy.detection import Detector, SearchedText, guarded
from sovereign_pipeline.privacy.identifiers.phones import AROUND, Regions
from sovereign_pipeline.privacy.identifiers.recognizers import leftovers, without_placeholders
from sovereign_pipeline.privacy.names.latin_words import without_marks
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns, name_key
from sovereign_pipeline.privacy.names.persons import PersonName, known_parts, person_name, same_person
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.spans import AUTHOR, Placeholders, Span, kind_of, value_key, without_overlaps
from sovereign_pipeline.privacy.vault import MappingRow

# Names are searched by their parts. A date, an age or a PO box number may mean something else elsewhere in the case.
_NOT_LOOKED_FOR: frozenset[Kind] = frozenset({"NAME", "DATE_OF_BIRTH", "PO_BOX", "DATE", "AGE"})


# --- further mentions -------------------------------------------------------------------------------------------------


def add_further_mentions(
    texts: Sequence[SearchedText], authors: Iterable[str], patterns: NamePatterns
) -> list[SearchedText]:
    """Add further mentions of the values found in any text of one case file to each of its texts.

    Args:
        authors: normalised names of the case's authors, who may be mentioned in its texts.
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
        # `labelled=False` gives a name that was found whole precedence over a mention of one of its parts.
        further += [replace(name, labelled=False) for name in names]
    return replace(text, spans=without_overlaps([*found, *further])) if further else text


def _grown(content: str, found: list[Span], mention: Span) -> list[Span]:
    """Return the findings, with each name extended by an overlapping mention that reaches beyond it."""
    met = [each for each in found if each.kind == "NAME" and each.start < mention.end and mention.start < each.end]
    start = min([mention.start, *(each.start for each in met)])
    end = max([mention.end, *(each.end for each in met)])
    if not met or any((each.start, each.end) == (start, end) for each in met):
        return found
    whole = replace(met[0], start=start, end=end, key=name_key(content, start, end))
    return sorted([*(each for each in found if each not in met), whole], key=lambda each: each.start)


def _mentions_of_values(text: SearchedText, values: Mapping[str, Span]) -> Iterator[Span]:
    """Yield the mentions of the values as whole words, without mentions that are already among the text's spans."""
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
    """Return a folded part of a name without its article, which all its spellings share."""
    return part[3:] if part.startswith("al-") else part.removeprefix("ال")


def _may_mention_names(text: SearchedText, stems: Iterable[str]) -> bool:
    """Return whether a known part of a name may occur outside the labelled names. This fast check skips most texts."""
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


# --- the second reading -----------------------------------------------------------------------------------------------

_AROUND = 120
"""Number of characters on each side of a placeholder that the second reading searches."""
_LONGEST_EDGE = 80
_MAY_HOLD_ONE = re.compile(r"[\d@©®]|\bat\b|&\w|%[0-9A-Fa-f]{2}")
_ROUNDS = 4
"""Maximum number of second readings of a text. Each one replaces what it finds."""


class Place(NamedTuple):
    """A half-open span of the original text, and the placeholder that replaces it."""

    start: int
    end: int
    placeholder: str


@dataclass(frozen=True)
class Filled:
    """A text whose values were replaced by placeholders."""

    original: str
    places: tuple[Place, ...]
    """Replaced spans in reading order, without overlaps."""
    text: str
    starts: tuple[int, ...]
    """Offset of each placeholder in `text`."""

    @property
    def originals(self) -> list[tuple[str, str]]:
        """Return each placeholder with the original characters that it replaced."""
        return [(place.placeholder, self.original[place.start : place.end]) for place in self.places]

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the original that corresponds to text[start:end]. A partly covered placeholder counts
        as its whole value."""
        return self._place_of(start, last=False), self._place_of(end, last=True)

    def _place_of(self, position: int, last: bool) -> int:
        number = bisect_right(self.starts, position - last) - 1
        if number < 0:
            return position
        place, begun = self.places[number], self.starts[number]
        behind = position - begun - len(place.placeholder)
        if behind < 0 or (last and behind == 0):
            return place.end if last else place.start
        return place.end + behind


def filled(original: str, places: Sequence[Place]) -> Filled:
    """Return a text with placeholders. If two places overlap, the later one is cut to begin where the earlier one
    ends."""
    pieces: list[str] = []
    kept: list[Place] = []
    starts: list[int] = []
    position = length = 0
    for place in sorted(places):  # the content of tags was found before the text around them
        start = max(place.start, position)  # one original character may map to several, such as a ligature
        end = max(place.end, start)
        pieces += [original[position:start], place.placeholder]
        length += start - position
        starts.append(length)
        length += len(place.placeholder)
        kept.append(Place(start, end, place.placeholder))
        position = end
    return Filled(original, tuple(kept), "".join([*pieces, original[position:]]), tuple(starts))


Added = Callable[[str], list[Span]]
"""Function that runs the recipe's own recognizers over a normalised text."""


class Remaining(NamedTuple):
    """The findings of a second reading of a scrubbed text, as spans of its normalised form."""

    left: list[Span]
    by_lists: list[Span]
    """Findings that the word lists of the line of adapters declare not personal data."""


@dataclass(frozen=True)
class SecondReading:
    """A second, stricter search of scrubbed text, used by the scrubber and by the gate."""

    is_kept: Callable[[Kind], bool]
    """Function that returns whether the policy keeps a kind. Values of kept kinds are ignored, also where another
    finding in the same text has the same key."""
    added: Added | None = None
    """The recipe's own recognizers; None if it has none."""
    corrections: Corrections = NO_CORRECTIONS
    regions: Regions = AROUND

    @classmethod
    def by(cls, detector: Detector, language: str, is_kept: Callable[[Kind], bool]) -> "SecondReading":
        """Return the second reading that a detector's configuration defines for texts of a language."""
        added = partial(detector.added_spans, language) if detector.has_added else None
        return cls(is_kept, added, detector.corrections, detector.regions)

    def of(self, content: str) -> Remaining:
        """Search a text."""
        normalised = normalise(content)
        spans = leftovers(normalised.with_tabs, self.regions)
        if self.added is not None:
            spans += self.added(without_placeholders(normalised.text))
        kept = {span.key for span in spans if self.is_kept(span.kind)}
        counted = [span for span in spans if span.key not in kept]
        left = self.corrections.without_never(normalised.text, counted)
        return Remaining(left, [span for span in counted if span not in left] if len(left) < len(counted) else [])


def reread(
    row: str, text: Filled, reading: SecondReading, placeholder_of: Callable[[Kind, str], str]
) -> tuple[Filled, list[Kind]]:
    """Replace what the second reading finds in a text, and return the text and the replaced kinds.

    Args:
        placeholder_of: returns the placeholder for a kind and the key of a value.

    Raises PrivacyError, which names the row, if the second reading raises.
    """
    replaced: list[Kind] = []
    for _ in range(_ROUNDS):
        left = guarded("the second reading", row, partial(_left_in, text, reading))
        if not left:
            break
        places = list(text.places)
        for start, end, kind in left:
            first, last = text.original_span(start, end)
            places = [place for place in places if place.end <= first or last <= place.start]
            key = value_key(kind, text.original[first:last])
            places.append(Place(first, last, placeholder_of(kind, key)))
            replaced.append(kind)
        text = filled(text.original, places)
    return text, replaced


def _left_in(text: Filled, reading: SecondReading) -> list[tuple[int, int, Kind]]:
    own = replace(reading, added=None)
    if reading.added is None and not any(own.of(window).left for window in _windows(text)):
        return []
    folded = normalise(text.text)
    return sorted(
        ((*folded.original_span(span.start, span.end), span.kind) for span in reading.of(text.text).left),
        key=lambda span: span[:2],
    )


def _windows(text: Filled) -> Iterator[str]:
    """Yield the text around each placeholder that may hold an identifier."""
    begun: tuple[int, int] | None = None
    for start, place in zip(text.starts, text.places, strict=True):
        window = (start - _AROUND, start + len(place.placeholder) + _AROUND)
        if begun is not None and window[0] > begun[1]:
            yield from _read(text.text, *begun)
            begun = window
        else:
            begun = (begun[0] if begun else window[0], window[1])
    if begun is not None:
        yield from _read(text.text, *begun)


def _read(text: str, start: int, end: int) -> Iterator[str]:
    window = text[_word_before(text, start) : _word_behind(text, end)]
    if _MAY_HOLD_ONE.search(without_placeholders(window)):
        yield window


def _word_before(text: str, position: int) -> int:
    """Return the start of the word at a position, so that a window never cuts a number."""
    if position <= 0:
        return 0
    place = text.rfind("\n", max(0, position - _LONGEST_EDGE), position)
    return place + 1 if place >= 0 else max(0, text.rfind(" ", 0, position))


def _word_behind(text: str, position: int) -> int:
    place = text.find("\n", position, position + _LONGEST_EDGE)
    if place < 0:
        place = text.find(" ", position)
    return place if place >= 0 else len(text)


# --- one case file ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchedDocument:
    """A document and the findings in each of its texts."""

    document: Document
    texts: Sequence[SearchedText]
    author: str
    """Normalised name of the author; empty if the document has none."""

    @classmethod
    def of(cls, document: Document, texts: Sequence[SearchedText]) -> "SearchedDocument":
        return cls(document, texts, normalise(document.author).text)

    @property
    def spans(self) -> list[Span]:
        return [span for text in self.texts for span in text.spans]


@dataclass(frozen=True)
class ScrubbedDocument:
    """A scrubbed document, the mapping of its placeholders to originals, and counts of its values."""

    document: Document
    mapping: list[MappingRow]
    has_ambiguous_name: bool
    kept: Counter[Kind]
    stopped: tuple[Kind, ...]
    doubtful: Counter[Kind]


@dataclass(frozen=True)
class ScrubbedCase:
    """A scrubbed case file, the mapping of its placeholders to originals, and counts of its values."""

    documents: list[Document]
    """Scrubbed documents, in the order of the input."""
    mapping: list[MappingRow]
    """Rows of the vault, one for each replaced value, in reading order."""
    ambiguous_rows: list[str]
    """Ids of rows with a short name that could belong to several people and therefore gets a number of its own."""
    kept: Counter[Kind] = field(default_factory=Counter)
    """Number of values of each kind that the policy leaves in the text."""
    stopped: tuple[tuple[Kind, str], ...] = ()
    """Kinds that the policy treats with "stop", each with the id of a row that contains the kind."""
    doubtful: Mapping[str, Counter[Kind]] = field(default_factory=dict)
    """Row id -> number of values of each kind that were replaced on weak evidence: by their number of digits alone,
    or by the second reading."""


@dataclass(frozen=True)
class CaseScrubber:
    """A scrubber of case files of one line of adapters, by the institution's policy."""

    line: str
    run: str
    """Fingerprint under which originals go to the vault."""
    treatments: Treatments
    """Treatment of each kind. A kind that is missing is replaced."""
    patterns: NamePatterns
    corrections: Corrections = NO_CORRECTIONS
    reads_again: bool = True
    """True if a second reading searches the result and replaces what it finds."""
    added: Callable[[str, str], list[Span]] | None = None
    """Function that runs the recipe's own recognizers over a normalised text of a language; None if it has none."""
    regions: Regions = AROUND
    """Regions of phone numbers without a prefix."""

    def scrub(self, documents: Sequence[SearchedDocument]) -> ScrubbedCase:
        """Scrub a case file. Placeholders are numbered in the order of the documents' dates, then rows, so that a
        letter has smaller numbers than its reply."""
        searched = self._with_further_mentions(documents)
        reading_order = sorted(range(len(searched)), key=lambda row: (searched[row].document.date, row))
        values = CaseValues.of(searched, reading_order, self.corrections)
        placeholders = Placeholders()
        scrubbed = {row: self._scrub_document(searched[row], values, placeholders) for row in reading_order}
        return _joined(list(scrubbed.values()), [scrubbed[row].document for row in range(len(searched))])

    def _with_further_mentions(self, documents: Sequence[SearchedDocument]) -> list[SearchedDocument]:
        texts = [text for each in documents for text in each.texts]
        authors = [each.author for each in documents if each.author]
        mentioned = (
            replace(text, spans=self.corrections.without_never(text.content, text.spans))
            for text in add_further_mentions(texts, authors, self.patterns)
        )
        return [replace(each, texts=[next(mentioned) for _ in each.texts]) for each in documents]

    def _scrub_document(
        self, searched: SearchedDocument, values: "CaseValues", placeholders: Placeholders
    ) -> ScrubbedDocument:
        document = searched.document
        fields: dict[str, str] = {}
        mapping: list[MappingRow] = []
        kept: Counter[Kind] = Counter()
        doubtful: Counter[Kind] = Counter()
        for text in searched.texts:
            places: list[Place] = []
            for span in text.spans:
                kind = values.kind_of(span)
                if self._is_kept(kind):
                    kept[kind] += 1
                    continue
                doubtful[kind] += span.by_length
                start, end = text.text.normalised.original_span(span.start, span.end)
                places.append(Place(start, end, placeholders.of(kind, values.identity_of(span, kind))))
            if not places:
                continue
            done, seen = self._reread(document, filled(text.text.original, places), placeholders)
            doubtful.update(seen)
            fields[text.field] = done.text
            mapping += [self._row(document, text.field, *pair) for pair in done.originals]
        stopped = dict.fromkeys(
            kind for row in mapping if self.treatments.get(kind := kind_of(row.placeholder)) == "stop"
        )
        if searched.author and not self._is_kept("NAME"):
            fields[AUTHOR] = placeholders.of("NAME", values.person_of(searched.author))
            mapping.append(self._row(document, AUTHOR, fields[AUTHOR], document.author))
        return ScrubbedDocument(
            document=document.model_copy(update=fields),
            mapping=mapping,
            has_ambiguous_name=not self._is_kept("NAME") and any(map(values.is_ambiguous, searched.spans)),
            kept=kept,
            stopped=tuple(stopped),
            doubtful=+doubtful,
        )

    def _reread(self, document: Document, text: Filled, placeholders: Placeholders) -> tuple[Filled, list[Kind]]:
        if not self.reads_again:
            return text, []
        added = partial(self.added, document.language) if self.added is not None else None
        reading = SecondReading(self._is_kept, added, self.corrections, self.regions)
        return reread(document.id, text, reading, placeholders.of)

    def _is_kept(self, kind: Kind) -> bool:
        return self.treatments.get(kind) == "keep"

    def _row(self, document: Document, field: str, placeholder: str, original: str) -> MappingRow:
        return MappingRow(self.line, self.run, document.case, document.id, field, placeholder, original)


@dataclass(frozen=True)
class CaseValues:
    """The kind and the person of each value in a case file, decided from the whole case."""

    certain_kinds: Mapping[str, Kind]
    """Key of a value that is labelled somewhere in the case -> kind of the label."""
    persons: Mapping[PersonName, PersonName]
    """Name -> fullest name of the same person."""
    ambiguous: frozenset[PersonName]
    """Names that could belong to several people."""

    @classmethod
    def of(
        cls, documents: Sequence[SearchedDocument], reading_order: Iterable[int], corrections: Corrections
    ) -> "CaseValues":
        names = [name for row in reading_order for name in _names_in(documents[row])]
        persons, ambiguous = same_person(names)
        persons = corrections.one_person(persons)
        return cls(_certain_kinds(span for each in documents for span in each.spans), persons, frozenset(ambiguous))

    def kind_of(self, span: Span) -> Kind:
        """Return the span's kind, or the kind that a label elsewhere in the case gives to its value."""
        is_certain = span.labelled or span.kind == "NAME"
        return span.kind if is_certain else self.certain_kinds.get(span.key, span.kind)

    def identity_of(self, span: Span, kind: Kind) -> object:
        """Return a key that is equal for spans that share one placeholder."""
        return self.person_of(span.key) if kind == "NAME" else span.key

    def person_of(self, name: str) -> PersonName:
        return self.persons[person_name(name)]

    def is_ambiguous(self, span: Span) -> bool:
        return span.kind == "NAME" and person_name(span.key) in self.ambiguous


def _names_in(searched: SearchedDocument) -> list[PersonName]:
    written = [span.key for span in searched.spans if span.kind == "NAME"]
    return [person_name(name) for name in [*written, searched.author] if name]


def _certain_kinds(spans: Iterable[Span]) -> dict[str, Kind]:
    kinds: dict[str, Kind] = {}
    for span in spans:
        if span.labelled and span.kind != "NAME":
            kinds.setdefault(span.key, span.kind)
    return kinds


def _joined(in_reading_order: Sequence[ScrubbedDocument], documents: list[Document]) -> ScrubbedCase:
    return ScrubbedCase(
        documents=documents,
        mapping=[row for each in in_reading_order for row in each.mapping],
        ambiguous_rows=[each.document.id for each in in_reading_order if each.has_ambiguous_name],
        kept=sum((each.kept for each in in_reading_order), Counter()),
        stopped=tuple((kind, each.document.id) for each in in_reading_order for kind in each.stopped),
        doubtful={each.document.id: each.doubtful for each in in_reading_order if each.doubtful},
    )
