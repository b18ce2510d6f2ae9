"""From documents to documents with placeholders: one case file at a time, together with the canaries.

What belongs here: what depends on a whole case (further mentions, which names are one person, how values get their
numbers), the replacement, and the policy of what is replaced. What does not: finding in one text (`detection.py`),
running over a corpus (`engine.py`), where originals go (`vault.py`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.errors import PrivacyError
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import KINDS, Kind
from sovereign_pipeline.privacy.cache import FindingsCache
from sovereign_pipeline.privacy.canary import CANARIES
from sovereign_pipeline.privacy.detection import Detector, Text, guarded, read_findings
from sovereign_pipeline.privacy.identifiers.recognizers import Span, without_overlaps
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.names.persons import known_parts, person_name, same_person
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.vault.vault import MappingRow

PLACEHOLDER = re.compile(rf"(?<![A-Z_])(?:{'|'.join(KINDS)})_\d")
AUTHOR = "author"
LETTER = "request"

# The same few people are named throughout a case.
_person_name = lru_cache(maxsize=65_536)(person_name)


@dataclass
class Findings:
    """Counts of one scrubbing; no text. by_language: language -> kind -> replaced values. kept: kind -> values that the
    policy leaves in the text. ambiguous: case and rows where a short name could be several people, so that it was given
    a number of its own. characters: read. searched: texts that no earlier scrubbing had searched."""

    documents: int = 0
    documents_touched: int = 0
    cases: int = 0
    characters: int = 0
    searched: int = 0
    by_language: dict[str, Counter[Kind]] = field(default_factory=dict)
    kept: Counter[Kind] = field(default_factory=Counter)
    ambiguous: list[dict[str, Any]] = field(default_factory=list)

    @property
    def by_kind(self) -> Counter[Kind]:
        return sum(self.by_language.values(), Counter())

    def add(self, other: "Findings") -> None:
        self.documents += other.documents
        self.documents_touched += other.documents_touched
        self.cases += other.cases
        self.characters += other.characters
        self.searched += other.searched
        for language, kinds in other.by_language.items():
            self.by_language.setdefault(language, Counter()).update(kinds)
        self.kept.update(other.kept)
        self.ambiguous += other.ambiguous

    def to_json(self, run: str) -> dict[str, Any]:
        return {
            "run": run,
            "documents": self.documents,
            "documents_touched": self.documents_touched,
            "cases": self.cases,
            "by_kind": dict(sorted(self.by_kind.items())),
            "by_language": {lang: dict(sorted(kinds.items())) for lang, kinds in sorted(self.by_language.items())},
            "kept": dict(sorted(self.kept.items())),
            "ambiguous_names": sorted(self.ambiguous, key=lambda entry: str(entry["case"])),
        }


@dataclass
class _Field:
    """One field of one document on its way: what was found in it."""

    name: str
    text: Text
    spans: list[Span]

    @property
    def content(self) -> str:
        return self.text.normalised.text


@dataclass(frozen=True)
class ScrubbedCase:
    """documents: in the order they were given. mapping: one row for each replaced value, in reading order.
    kept: values that the policy left. stopped: kinds that the policy stops at, each with a row that holds it."""

    documents: list[Document]
    mapping: list[MappingRow]
    ambiguous_rows: list[str]
    kept: Counter[Kind] = field(default_factory=Counter)
    stopped: tuple[tuple[Kind, str], ...] = ()


class Scrubber:
    """The detectors of one line, and what its institution wants done with what they find.

    line: name of the line. run: the fingerprint under which its originals go to the vault. treatments: what is done
    with each kind; a kind that is not named is replaced. cache: what was found in earlier texts.
    """

    def __init__(
        self,
        line: str,
        run: str,
        privacy: Privacy,
        treatments: Treatments | None = None,
        cache: FindingsCache | None = None,
    ) -> None:
        self.line = line
        self.run = run
        self.detector = Detector(privacy, treatments or {})
        self.texts_searched = 0
        self._treatments = treatments or {}
        self._kept = frozenset(kind for kind, treatment in self._treatments.items() if treatment == "keep")
        self._cache = cache

    def scrub(self, cases: Sequence[Sequence[Document]]) -> list[ScrubbedCase]:
        """Scrub whole case files, each with its documents in row order, together with the canaries.

        What was found in new texts is remembered once the canaries came out as they must. Raises PrivacyError when a
        detector raises (naming the row), a canary survives, or a text already holds what looks like a placeholder.
        """
        for case in cases:
            for document in case:
                _refuse_placeholders(document)
        fields = [[_fields(document) for document in case] for case in cases]
        canaries = [_fields(canary.document, is_canary=True) for canary in CANARIES]
        found = self._find([each for case in [*fields, canaries] for document in case for each in document])
        scrubbed = [self._scrub_case(case, texts) for case, texts in zip(cases, fields, strict=True)]
        for canary, texts in zip(CANARIES, canaries, strict=True):
            canary.check(self._scrub_case([canary.document], [texts]).documents[0], self._kept)
        if self._cache is not None and found:
            self._cache.write(found)
        return scrubbed

    def _find(self, fields: Sequence[_Field]) -> dict[bytes, bytes]:
        """Set the spans of each field, from the cache or anew; return what was found anew, to be remembered.

        Whenever a text is searched, the canaries are searched with it and not taken from the cache.
        """
        texts = {each.text.key: each.text for each in fields if each.text.original}
        remembered = self._cache.read(list(texts)) if self._cache is not None else {}
        spans: dict[bytes, list[Span] | None] = {
            key: read_findings(content, texts[key].normalised) for key, content in remembered.items()
        }
        missing = [text for key, text in texts.items() if spans.get(key) is None]
        new: dict[bytes, bytes] = {}
        if missing:
            searched = [text for key, text in texts.items() if text.is_canary or spans.get(key) is None]
            new = dict(zip((text.key for text in searched), self.detector.find(searched), strict=True))
            spans |= {key: read_findings(content, texts[key].normalised) for key, content in new.items()}
            self.texts_searched += len(missing)
        for each in fields:
            each.spans = list(spans[each.text.key] or ()) if each.text.original else []
        return new

    def _scrub_case(self, documents: Sequence[Document], texts: Sequence[Sequence[_Field]]) -> ScrubbedCase:
        authors = [normalise(document.author).text for document in documents]
        in_case = [text for fields in texts for text in fields]
        _add_further_mentions(self.detector.patterns, in_case, [author for author in authors if author])
        kinds = _certain_kinds(in_case)
        order = sorted(range(len(documents)), key=lambda index: (documents[index].date, index))
        names = [
            _person_name(name)
            for index in order
            for name in [
                *(span.key for text in texts[index] for span in text.spans if span.kind == "NAME"),
                *([authors[index]] if authors[index] else []),
            ]
        ]
        persons, ambiguous = same_person(names)
        numbers = _Numbers()
        mapping: list[MappingRow] = []
        scrubbed: dict[int, Document] = {}
        unclear: dict[str, None] = {}
        kept: Counter[Kind] = Counter()
        stopped: dict[tuple[Kind, str], None] = {}
        for index in order:
            document = documents[index]
            replaced: dict[str, str] = {}
            for text in texts[index]:
                pieces: list[str] = []
                position = 0
                original = text.text.original
                for span in text.spans:
                    unsure = not span.labelled and span.kind != "NAME"
                    kind = kinds.get(span.key, span.kind) if unsure else span.kind
                    if kind in self._kept:
                        kept[kind] += 1
                        continue
                    if self._treatments.get(kind) == "stop":
                        stopped[kind, document.id] = None
                    value: object = span.key
                    if kind == "NAME":
                        name = _person_name(span.key)
                        value = persons[name]
                        if name in ambiguous:
                            unclear[document.id] = None
                    placeholder = numbers.placeholder(kind, value)
                    start, end = text.text.normalised.original_span(span.start, span.end)
                    pieces += [original[position:start], placeholder]
                    mapping.append(self._row(document, text.name, placeholder, original[start:end]))
                    position = end
                if pieces:
                    replaced[text.name] = "".join([*pieces, original[position:]])
            if authors[index] and "NAME" not in self._kept:
                replaced[AUTHOR] = numbers.placeholder("NAME", persons[_person_name(authors[index])])
                mapping.append(self._row(document, AUTHOR, replaced[AUTHOR], document.author))
            scrubbed[index] = document.model_copy(update=replaced)
        in_row_order = [scrubbed[index] for index in range(len(documents))]
        return ScrubbedCase(in_row_order, mapping, list(unclear), kept, tuple(stopped))

    def _row(self, document: Document, name: str, placeholder: str, original: str) -> MappingRow:
        return MappingRow(self.line, self.run, document.case, document.id, name, placeholder, original)


def count(before: Sequence[Document], case: ScrubbedCase) -> Findings:
    """The counts of one scrubbed case. before: its documents as they were."""
    languages = {document.id: document.language for document in before}
    by_language: dict[str, Counter[Kind]] = {}
    for row in case.mapping:
        kind: Kind = row.placeholder.rsplit("_", 1)[0]  # type: ignore[assignment]
        by_language.setdefault(languages[row.row], Counter())[kind] += 1
    return Findings(
        documents=len(before),
        documents_touched=len({row.row for row in case.mapping if row.field != AUTHOR}),
        cases=1,
        characters=sum(len(text) for document in before for text in document.texts.values()),
        by_language=by_language,
        kept=case.kept,
        ambiguous=[{"case": before[0].case, "rows": case.ambiguous_rows}] if case.ambiguous_rows else [],
    )


class _Numbers:
    """The placeholders of one case file, numbered within their kind in the order they are asked for."""

    def __init__(self) -> None:
        self._given: dict[tuple[Kind, object], str] = {}
        self._last: Counter[Kind] = Counter()

    def placeholder(self, kind: Kind, value: object) -> str:
        if (kind, value) not in self._given:
            self._last[kind] += 1
            self._given[kind, value] = f"{kind}_{self._last[kind]}"
        return self._given[kind, value]


def _fields(document: Document, is_canary: bool = False) -> list[_Field]:
    return [
        _Field(name, Text.of(document.id, document.language, name == LETTER, text, is_canary), [])
        for name, text in document.texts.items()
    ]


def _add_further_mentions(patterns: NamePatterns, fields: Sequence[_Field], authors: Sequence[str]) -> None:
    """What was recognised once in a case is looked for in all of it: parts of names, and values without their label."""
    names = [span.key for each in fields for span in each.spans if span.kind == "NAME"]
    parts = known_parts(_person_name(name) for name in [*names, *authors])
    stems = {_stem(part) for part in parts}
    values = {
        each.content[span.start : span.end]: span
        for each in fields
        for span in each.spans
        if span.kind not in ("NAME", "DATE_OF_BIRTH", "PO_BOX", "DATE", "AGE")
    }
    for each in fields:
        content = each.content
        further = list(_further_values(content, each.spans, values))
        if _may_be_mentioned(content, each.spans, stems):
            mentions = guarded("the name patterns", each.text.row, partial(patterns.mentions, content, parts))
            # A name that was found whole goes before a mention of one of its parts: `labelled` decides that.
            further += [replace(mention, labelled=False) for mention in mentions]
        if further:
            each.spans = without_overlaps([*each.spans, *further])


def _stem(part: str) -> str:
    """What of a folded part of a name stands in every writing of it: all but the article."""
    return part[3:] if part.startswith("al-") else part.removeprefix("ال")


def _may_be_mentioned(content: str, spans: Sequence[Span], stems: Iterable[str]) -> bool:
    """Whether a known part of a name may stand outside the names that were found: most texts need no closer look."""
    folded = content.casefold().replace("أ", "ا").replace("إ", "ا").replace("آ", "ا")
    if len(folded) == len(content):
        pieces, position = [], 0
        for span in spans:
            if span.kind == "NAME" and span.labelled:
                pieces.append(folded[position : span.start])
                position = span.end
        folded = "\0".join([*pieces, folded[position:]])
    return any(stem in folded for stem in stems)


def _further_values(content: str, spans: Sequence[Span], values: dict[str, Span]) -> Iterator[Span]:
    """Where the values stand as whole words; a mention that was found already is left out."""
    found = {span.start: span for span in spans}
    for value, span in values.items():
        for start in _places(content, value):
            own = found.get(start)
            if own is not None and (own.kind, own.key, own.labelled) == (span.kind, span.key, span.labelled):
                continue
            mention = replace(span, start=start, end=start + len(value))
            if _stands_alone(content, mention):
                yield mention


def _places(text: str, part: str) -> Iterator[int]:
    place = text.find(part)
    while place >= 0:
        yield place
        place = text.find(part, place + 1)


def _stands_alone(text: str, span: Span) -> bool:
    before, first, after = text[span.start - 1 : span.start], text[span.start], text[span.end : span.end + 1]
    return not (_is_of_a_word(first) and _is_of_a_word(before)) and not after.isalnum()


def _is_of_a_word(character: str) -> bool:
    return character.isalnum() or character == "_"


def _certain_kinds(fields: Sequence[_Field]) -> dict[str, Kind]:
    """For values that are labelled somewhere in the case: what they are."""
    kinds: dict[str, Kind] = {}
    for each in fields:
        for span in each.spans:
            if span.labelled and span.kind != "NAME":
                kinds.setdefault(span.key, span.kind)
    return kinds


def _refuse_placeholders(document: Document) -> None:
    for name, text in {**document.texts, AUTHOR: document.author}.items():
        if "_" in text and PLACEHOLDER.search(normalise(text).text):
            raise PrivacyError(
                f"Row {document.id}: its {name} already holds something that looks like a placeholder, and the way "
                f"back from placeholders would be lost. Correct the row in its source, or leave it out with `where`."
            )
