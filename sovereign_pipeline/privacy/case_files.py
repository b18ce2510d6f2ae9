"""Scrubbing one case file whose texts were searched: its documents, with placeholders in place of personal data.

What belongs here: what depends on a whole case (what a value is, which names are one person, the order of numbers), the
replacement, and what the policy keeps or stops at. What does not: searching texts (`detection.py`, `scrubbing.py`),
further mentions (`mentions.py`), the vault (`vault/`).
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.corrections import NO_CORRECTIONS, Corrections
from sovereign_pipeline.privacy.detection import SearchedText
from sovereign_pipeline.privacy.identifiers.phones import AROUND, Regions
from sovereign_pipeline.privacy.mentions import with_further_mentions
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.names.persons import PersonName, person_name, same_person
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.placeholders import AUTHOR, Placeholders, kind_of
from sovereign_pipeline.privacy.rereading import Filled, Place, SecondReading, filled, reread
from sovereign_pipeline.privacy.spans import Span
from sovereign_pipeline.privacy.vault.vault import MappingRow


@dataclass(frozen=True)
class SearchedDocument:
    """A document and what was found in each of its texts."""

    document: Document
    texts: Sequence[SearchedText]
    author: str
    """Normalised; empty when there is none."""

    @classmethod
    def of(cls, document: Document, texts: Sequence[SearchedText]) -> "SearchedDocument":
        return cls(document, texts, normalise(document.author).text)

    @property
    def spans(self) -> list[Span]:
        return [span for text in self.texts for span in text.spans]


@dataclass(frozen=True)
class ScrubbedDocument:
    """One document with its placeholders, and what happened to its values."""

    document: Document
    mapping: list[MappingRow]
    has_ambiguous_name: bool
    kept: Counter[Kind]
    stopped: tuple[Kind, ...]
    doubtful: Counter[Kind]


@dataclass(frozen=True)
class ScrubbedCase:
    """One case file with its placeholders, and what happened to its values."""

    documents: list[Document]
    """In the order they were given."""
    mapping: list[MappingRow]
    """One row for each replaced value, in reading order."""
    ambiguous_rows: list[str]
    """Rows with a short name that could be several people, so that it has a number of its own."""
    kept: Counter[Kind] = field(default_factory=Counter)
    """How many values the policy left in the text."""
    stopped: tuple[tuple[Kind, str], ...] = ()
    """Kinds at which the policy stops, each with a row that holds it."""
    doubtful: Mapping[str, Counter[Kind]] = field(default_factory=dict)
    """Row -> how many values of each kind were replaced though nothing but a look or a second reading tells them."""


@dataclass(frozen=True)
class CaseScrubber:
    """Scrubs case files of one line by its institution's policy."""

    line: str
    run: str
    """Fingerprint under which originals go to the vault."""
    treatments: Treatments
    """What is done with each kind; a kind that is not named is replaced."""
    patterns: NamePatterns
    corrections: Corrections = NO_CORRECTIONS
    reads_again: bool = True
    """Whether what came out is read once more, and what that finds replaced too."""
    added: Callable[[str, str], list[Span]] | None = None
    """What the recipe's own recognizers find in a normalised text of a language; None where it has none."""
    regions: Regions = AROUND
    """Where phones without a prefix are from."""

    def scrub(self, documents: Sequence[SearchedDocument]) -> ScrubbedCase:
        """Replace values in the order of dates, then rows, so that a letter's numbers are smaller than its reply's."""
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
            for text in with_further_mentions(texts, authors, self.patterns)
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
    """What each value of a case file is, as far as the whole case tells."""

    certain_kinds: Mapping[str, Kind]
    """Key of a value that is labelled somewhere in the case -> what it is."""
    persons: Mapping[PersonName, PersonName]
    """Each name -> the fullest name of that person."""
    ambiguous: frozenset[PersonName]
    """Names that could be several people."""

    @classmethod
    def of(
        cls, documents: Sequence[SearchedDocument], reading_order: Iterable[int], corrections: Corrections
    ) -> "CaseValues":
        names = [name for row in reading_order for name in _names_in(documents[row])]
        persons, ambiguous = same_person(names)
        persons = corrections.one_person(persons)
        return cls(_certain_kinds(span for each in documents for span in each.spans), persons, frozenset(ambiguous))

    def kind_of(self, span: Span) -> Kind:
        """The span's own kind, or the one by which its value is labelled elsewhere in the case."""
        is_certain = span.labelled or span.kind == "NAME"
        return span.kind if is_certain else self.certain_kinds.get(span.key, span.kind)

    def identity_of(self, span: Span, kind: Kind) -> object:
        """Equal for two spans that get one number."""
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
