"""Scrub one case file: find further mentions of values, replace values with placeholders, and search the result again.

A placeholder and the text around it can form a new identifier: "sent NAME_1@host" contains an e-mail address. The texts
are therefore searched again after the replacement.
"""

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.detection import Detector
from sovereign_pipeline.privacy.json_texts import readings_of, reject_equal_keys
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns, name_key
from sovereign_pipeline.privacy.names.persons import PersonName, known_parts, person_name, same_person
from sovereign_pipeline.privacy.normalisation import Leaf, NormalisedText
from sovereign_pipeline.privacy.spans import AUTHOR, Placeholders, Span, kind_of, value_key, without_overlaps
from sovereign_pipeline.privacy.vault import MappingRow

# Kinds whose values are not searched for in the rest of the case. Names are searched for by their parts instead. A
# number that is a date, an age or a PO box in one place may mean something else in another place.
_NOT_LOOKED_FOR: frozenset[Kind] = frozenset({"NAME", "DATE_OF_BIRTH", "PO_BOX", "DATE", "AGE"})


# --- further mentions -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchedText:
    """A text, the name of its field, and its findings. The findings are in reading order and do not overlap."""

    field: str
    normalised: NormalisedText
    spans: Sequence[Span]

    @property
    def content(self) -> str:
        """Return the normalised text, to which the offsets of the spans refer."""
        return self.normalised.text


def add_further_mentions(
    texts: Sequence[SearchedText], authors: Iterable[str], patterns: NamePatterns
) -> list[SearchedText]:
    """Return the texts of one case file with additional findings: other occurrences of found values, except for the
    kinds in `_NOT_LOOKED_FOR`; and parts of the names of authors and of people who were certainly found.

    Args:
        authors: normalised names of the documents' authors, which the texts may mention.
    """
    values = _values(texts)
    names = [
        span.key
        for text in texts
        for span in text.spans
        if span.kind == "NAME" and patterns.may_spread(text.content, span)
    ]
    parts = known_parts(person_name(name) for name in [*names, *authors])
    return [_with_mentions(text, values, parts, patterns) for text in texts]


def _values(texts: Iterable[SearchedText]) -> dict[str, Span]:
    return {
        text.content[span.start : span.end]: span
        for text in texts
        for span in text.spans
        if span.kind not in _NOT_LOOKED_FOR
    }


def _with_mentions(
    text: SearchedText, values: Mapping[str, Span], parts: frozenset[str], patterns: NamePatterns
) -> SearchedText:
    further, found = list(_mentions_of_values(text, values)), list(text.spans)
    names = patterns.mentions(text.content, parts) if parts else []
    for name in names:
        found = _grown(text.content, found, name)
    # `labelled=False` gives a name that was found whole precedence over a mention of one of its parts.
    further += [replace(name, labelled=False) for name in names]
    return replace(text, spans=without_overlaps([*found, *further])) if further else text


def _grown(content: str, found: list[Span], mention: Span) -> list[Span]:
    """Merge a mention of a name with the names that it overlaps: one finding that covers the mention and these names
    replaces the names. Return `found` unchanged if there is no overlap, or if one name already covers all of them."""
    met = [each for each in found if each.kind == "NAME" and each.start < mention.end and mention.start < each.end]
    start = min([mention.start, *(each.start for each in met)])
    end = max([mention.end, *(each.end for each in met)])
    if not met or any((each.start, each.end) == (start, end) for each in met):
        return found
    whole = replace(met[0], start=start, end=end, key=name_key(content, start, end))
    return sorted([*(each for each in found if each not in met), whole], key=lambda each: each.start)


def _mentions_of_values(text: SearchedText, values: Mapping[str, Span]) -> Iterator[Span]:
    """Yield the occurrences of the values as whole words, except those that are already among the text's findings."""
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


# --- the second search ------------------------------------------------------------------------------------------------

_ROUNDS = 4
"""Maximum number of times that a scrubbed text is searched again. After each search, the findings are replaced."""


class Place(NamedTuple):
    """A half-open span of the original text, and the placeholder that replaces the span. If the span is a number in
    JSON, the placeholder includes quotation marks."""

    start: int
    end: int
    placeholder: str


def replaced_spans(after: str, mapping: Iterable[MappingRow]) -> Iterator[tuple[MappingRow, int, int, int]]:
    """Locate the replaced values of one text. For each row of the mapping, yield the row, the start and the end of the
    value in the original text, and the start of the placeholder in `after`, the scrubbed text. The rows must be in
    reading order. The text between placeholders must be the same as in the original."""
    before_at = after_at = 0
    for row in mapping:
        placed = after.index(row.placeholder, after_at)
        start = before_at + placed - after_at
        before_at, after_at = start + len(row.original), placed + len(row.placeholder)
        yield row, start, before_at, placed


@dataclass(frozen=True)
class Filled:
    """A text in which values were replaced with placeholders."""

    original: str
    places: tuple[Place, ...]
    """Replaced spans in reading order, without overlaps."""
    text: str
    starts: tuple[int, ...]
    """Offset of each placeholder in `text`."""

    def original_span(self, start: int, end: int) -> tuple[int, int]:
        """Return the span of the original that corresponds to text[start:end]. If text[start:end] covers a part of a
        placeholder, the result covers the whole value that the placeholder replaces."""
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
    """Replace each place of a text, in reading order, with its placeholder. If two places overlap, the later place is
    cut so that it begins where the earlier place ends. The places of the result give the same result."""
    pieces: list[str] = []
    kept: list[Place] = []
    starts: list[int] = []
    position = length = 0
    for place in places:
        start = max(place.start, position)  # a ligature, for example, is normalised to several characters
        end = max(place.end, start)
        pieces += [original[position:start], place.placeholder]
        length += start - position
        starts.append(length)
        length += len(place.placeholder)
        kept.append(Place(start, end, place.placeholder))
        position = end
    return Filled(original, tuple(kept), "".join([*pieces, original[position:]]), tuple(starts))


def reread(
    text: Filled, detector: Detector, document: Document, field: str, placeholders: Placeholders
) -> tuple[Filled, list[Kind]]:
    """Search a scrubbed text again, and replace the findings with placeholders. Repeat until nothing is found, at most
    `_ROUNDS` times. Return the new text and the kind of each replaced finding."""
    replaced: list[Kind] = []
    for _ in range(_ROUNDS):
        left = _left_in(text, detector, document, field)
        if not left:
            break
        places = list(text.places)
        for leaf, kind in left:
            first, last = text.original_span(leaf.start, leaf.end)
            places = [place for place in places if place.end <= first or last <= place.start]
            placeholder = placeholders.of(kind, value_key(kind, text.original[first:last]))
            places.append(Place(first, last, f"{leaf.quote}{placeholder}{leaf.quote}"))
            replaced.append(kind)
        text = filled(text.original, sorted(places))
    return text, replaced


def _left_in(text: Filled, detector: Detector, document: Document, field: str) -> list[tuple[Leaf, Kind]]:
    """Return the findings of the second search as pairs (span to replace, kind), in reading order. In JSON, findings in
    the second form (`readings_of`) that overlap findings in the first are left out."""
    found: list[tuple[Leaf, Kind]] = []
    for reading in readings_of(document, field, text.text):
        left = detector.read_again(document.language, reading).left
        new = [(each, span.kind) for span in left for each in reading.places(span.start, span.end)]
        found += [each for each in new if not any(_meet(each[0], other) for other, _ in found)]
    return sorted(found, key=lambda each: each[0][:2])


def _meet(one: Leaf, other: Leaf) -> bool:
    return one.start < other.end and other.start < one.end


# --- one case file ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchedDocument:
    """A document and its non-empty texts, with the findings in each text."""

    document: Document
    texts: Sequence[SearchedText]
    author: str
    """Normalised name of the author; empty if the document has no author."""

    @property
    def spans(self) -> list[Span]:
        return [span for text in self.texts for span in text.spans]


@dataclass
class Findings:
    """Counts of the values and texts in one scrubbing run, or in a part of a run such as a case file."""

    documents: int = 0
    documents_touched: int = 0
    """Number of documents with a replaced value. A replaced author does not count."""
    cases: int = 0
    characters: int = 0
    """Number of characters in all texts."""
    searched: int = 0
    """Number of texts whose findings were not cached."""
    by_language: dict[str, Counter[Kind]] = field(default_factory=dict)
    """Number of replaced values, by language and kind."""
    kept: Counter[Kind] = field(default_factory=Counter)
    """Number of values that the policy leaves in the text, by kind."""
    ambiguous: list[dict[str, Any]] = field(default_factory=list)
    """One dict for each case in which a name may belong to several people, with the key `case` and the ids of the
    `rows` that contain such a name. Each such name gets its own placeholder."""
    doubtful: dict[Kind, Counter[str]] = field(default_factory=dict)
    """Number of values that were replaced on weak evidence, by kind and row id. The evidence is weak if the finding has
    `by_length`, or if only the second search found the value."""
    stopped: dict[Kind, Counter[str]] = field(default_factory=dict)
    """Ids of the rows that contain a kind for which the policy says `stop`, by kind."""
    mapping_sha256: str = ""
    """Digest of all rows written to the vault (`vault.MappingDigest`); empty until the run is complete."""

    @property
    def by_kind(self) -> Counter[Kind]:
        return sum(self.by_language.values(), Counter())

    def merge(self, other: "Findings") -> None:
        """Add the counts of another part of the same scrubbing run."""
        for name, theirs in vars(other).items():
            mine = getattr(self, name)
            if isinstance(theirs, Counter):
                mine.update(theirs)
            elif isinstance(theirs, dict):
                for key, counts in theirs.items():
                    mine.setdefault(key, Counter()).update(counts)
            else:
                setattr(self, name, mine + theirs)

    def to_json(self, run: str) -> dict[str, Any]:
        """Return the content of `findings.json`.

        Args:
            run: fingerprint of the scrubbing run, which is also stored in each of the run's rows in the vault.
        """
        return {
            "run": run,
            "mapping_sha256": self.mapping_sha256,
            "documents": self.documents,
            "documents_touched": self.documents_touched,
            "cases": self.cases,
            "by_kind": dict(sorted(self.by_kind.items())),
            "by_language": {lang: dict(sorted(kinds.items())) for lang, kinds in sorted(self.by_language.items())},
            "kept": dict(sorted(self.kept.items())),
            "doubtful": {
                kind: {"values": rows.total(), "rows": sorted(rows)} for kind, rows in sorted(self.doubtful.items())
            },
            "ambiguous_names": sorted(self.ambiguous, key=lambda entry: str(entry["case"])),
        }


class Decision(NamedTuple):
    """The spans of one document that scrubbing replaces, and what it counts there. A decision contains no text."""

    places: dict[str, list[Place]]
    """Replaced spans of each changed text, by field, in reading order and without overlaps."""
    author: str
    """Placeholder of the author; empty if the author stays."""
    kept: dict[Kind, int]
    """Number of values that the policy leaves in the texts, by kind."""
    doubtful: list[Kind]
    """Kind of each value that is replaced on weak evidence; see `Findings.doubtful`."""
    has_ambiguous_name: bool
    """True if a name in the document may belong to several people."""


def decisions_to_json(decisions: Sequence[Decision]) -> bytes:
    return json.dumps(decisions, separators=(",", ":")).encode()


def decisions_from_json(content: bytes) -> list[Decision]:
    """Return the decisions that `decisions_to_json` wrote."""
    return [
        Decision({field: [Place(*each) for each in found] for field, found in places.items()}, *others)
        for places, *others in json.loads(content)
    ]


@dataclass
class ScrubbedCase:
    """A scrubbed case file, the mapping of its placeholders to originals, and counts of its values."""

    documents: list[Document] = field(default_factory=list)
    """Scrubbed documents, in the order of the input."""
    mapping: list[MappingRow] = field(default_factory=list)
    """Rows of the vault, one for each replaced value, in the order of the documents' dates."""
    findings: Findings = field(default_factory=Findings)


def apply_decisions(
    line: str, run: str, treatments: Treatments, documents: Sequence[Document], decisions: Sequence[Decision]
) -> ScrubbedCase:
    """Replace the decided values of a case file.

    Args:
        run: fingerprint of the scrubbing run, which is stored in each of the run's rows in the vault.
        decisions: one decision for each document.
    """
    done, ambiguous = ScrubbedCase(list(documents)), list[str]()
    counts = done.findings
    counts.documents, counts.cases = len(documents), 1
    for number, document in sorted(enumerate(documents), key=lambda each: each[1].date):
        decision, texts = decisions[number], document.texts
        counts.characters += sum(map(len, texts.values()))
        counts.kept.update(decision.kept)
        scrubbed = {field: filled(texts[field], places) for field, places in decision.places.items()}
        replaced = [
            (field, place.placeholder, each.original[place.start : place.end])
            for field, each in scrubbed.items()
            for place in each.places
        ]
        for kind in dict.fromkeys(kind_of(placeholder) for _, placeholder, _ in replaced):
            if treatments.get(kind) == "stop":
                counts.stopped.setdefault(kind, Counter())[document.id] += 1
        for kind in decision.doubtful:
            counts.doubtful.setdefault(kind, Counter())[document.id] += 1
        counts.documents_touched += bool(replaced)
        if decision.author:
            replaced.append((AUTHOR, decision.author, document.author))
        if decision.has_ambiguous_name:
            ambiguous.append(document.id)
        if not replaced:
            continue
        by_kind = counts.by_language.setdefault(document.language, Counter())
        by_kind.update(kind_of(placeholder) for _, placeholder, _ in replaced)
        done.mapping += [MappingRow(line, run, document.case, document.id, *each) for each in replaced]
        done.documents[number] = document.with_texts({field: each.text for field, each in scrubbed.items()}).model_copy(
            update={"author": decision.author or document.author}
        )
    if ambiguous:
        counts.ambiguous = [{"case": documents[0].case, "rows": ambiguous}]
    return done


class CaseScrubber:
    """Decides what is replaced in one case file. Use a new instance for each case file."""

    def __init__(self, detector: Detector, *, reads_again: bool = True) -> None:
        """
        Args:
            reads_again: whether to search the scrubbed texts again, and replace the findings.
        """
        self._detector = detector
        self._reads_again = reads_again
        self._placeholders = Placeholders()
        self._certain_kinds: dict[str, Kind] = {}
        """Kind of each value that has a label somewhere in the case, by the value's key."""
        self._persons: Mapping[PersonName, PersonName] = {}
        """Fullest name of the same person, by name."""
        self._ambiguous: Collection[PersonName] = ()
        """Names that could belong to several people."""

    def decide(self, documents: Sequence[SearchedDocument]) -> list[Decision]:
        """Return a decision for each document. Placeholders are numbered in the order of the documents' dates.
        Documents with the same date are numbered in row order."""
        searched = self._with_further_mentions(documents)
        in_reading_order = sorted(searched, key=lambda each: each.document.date)
        self._compare_mentions(in_reading_order)
        decided = {id(each): self._decide_on(each) for each in in_reading_order}
        return [decided[id(each)] for each in searched]

    def _with_further_mentions(self, documents: Sequence[SearchedDocument]) -> list[SearchedDocument]:
        texts = [text for each in documents for text in each.texts]
        authors = [each.author for each in documents if each.author]
        never = self._detector.corrections.without_never
        mentioned = (
            replace(text, spans=never(text.content, text.spans))
            for text in add_further_mentions(texts, authors, self._detector.patterns)
        )
        return [replace(each, texts=[next(mentioned) for _ in each.texts]) for each in documents]

    def _compare_mentions(self, in_reading_order: Sequence[SearchedDocument]) -> None:
        """Determine the kind of each value and the person of each name from the whole case file."""
        spans = [span for each in in_reading_order for span in each.spans]
        for span in spans:
            if span.labelled and span.kind != "NAME":
                self._certain_kinds.setdefault(span.key, span.kind)
        names = (
            name
            for each in in_reading_order
            for name in [*(span.key for span in each.spans if span.kind == "NAME"), each.author]
        )
        persons, self._ambiguous = same_person([person_name(name) for name in names if name])
        self._persons = self._detector.corrections.one_person(persons)

    def _person(self, name: str) -> str:
        return self._placeholders.of("NAME", self._persons[person_name(name)])

    def _decide_on(self, searched: SearchedDocument) -> Decision:
        document, keeps = searched.document, self._detector.keeps
        decided: dict[str, list[Place]] = {}
        kept, doubtful = Counter[Kind](), list[Kind]()
        for text in searched.texts:
            places: list[Place] = []
            for span in text.spans:
                is_certain = span.labelled or span.kind == "NAME"
                kind = span.kind if is_certain else self._certain_kinds.get(span.key, span.kind)
                if keeps(kind):
                    kept[kind] += 1
                    continue
                if span.by_length:
                    doubtful.append(kind)
                placeholder = self._person(span.key) if kind == "NAME" else self._placeholders.of(kind, span.key)
                for start, end, quote in text.normalised.places(span.start, span.end):
                    places.append(Place(start, end, f"{quote}{placeholder}{quote}"))
            is_json = text.normalised.leaves is not None
            if not places and not is_json:
                continue
            after = filled(text.normalised.original, sorted(places))  # contents of tags come first
            if self._reads_again:
                after, replaced = reread(after, self._detector, document, text.field, self._placeholders)
                doubtful += replaced
            if is_json:
                reject_equal_keys(document, after.original, after.text)
            if after.places:
                decided[text.field] = list(after.places)
        author, is_ambiguous = "", False
        if not keeps("NAME"):
            author = self._person(searched.author) if searched.author else ""
            names = [span.key for span in searched.spans if span.kind == "NAME"]
            is_ambiguous = any(person_name(name) in self._ambiguous for name in names)
        return Decision(decided, author, dict(kept), doubtful, is_ambiguous)
