"""From documents to documents with placeholders: detection in batches, numbering by case file, canaries, streaming.

What belongs here: the order in which detectors run, which of two findings wins, and how values get their numbers.
What does not: what an identifier or a name looks like (`recognizers.py`, `name_patterns.py`), where originals go
(`vault.py`).
"""

import json
import re
import tempfile
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.corpus.document import Document, write_jsonl
from sovereign_pipeline.errors import IntegrityError, PrivacyError
from sovereign_pipeline.policy.line import Privacy
from sovereign_pipeline.privacy.canary import CANARIES
from sovereign_pipeline.privacy.name_models import NameModel, load_name_model
from sovereign_pipeline.privacy.name_patterns import NamePatterns
from sovereign_pipeline.privacy.normalisation import NormalisedText, normalise
from sovereign_pipeline.privacy.persons import known_parts, person_name, same_person
from sovereign_pipeline.privacy.recognizers import KINDS, Kind, Span, structured_spans, without_overlaps
from sovereign_pipeline.privacy.vault import MappingRow, Vault

BATCH_DOCUMENTS = 256
PLACEHOLDER = re.compile(rf"(?<![A-Z_])(?:{'|'.join(KINDS)})_\d")
AUTHOR = "author"
_WORD = re.compile(r"\w+")

Found = TypeVar("Found")


@dataclass
class Findings:
    """Counts of one scrubbing; no text. by_language: language -> kind -> replaced values. ambiguous: case and rows
    where a short name could be several people, so that it was given a number of its own. characters: read."""

    documents: int = 0
    documents_touched: int = 0
    cases: int = 0
    characters: int = 0
    by_language: dict[str, Counter[Kind]] = field(default_factory=dict)
    ambiguous: list[dict[str, Any]] = field(default_factory=list)

    @property
    def by_kind(self) -> Counter[Kind]:
        return sum(self.by_language.values(), Counter())

    def to_json(self, run: str) -> dict[str, Any]:
        return {
            "run": run,
            "documents": self.documents,
            "documents_touched": self.documents_touched,
            "cases": self.cases,
            "by_kind": dict(sorted(self.by_kind.items())),
            "by_language": {lang: dict(sorted(kinds.items())) for lang, kinds in sorted(self.by_language.items())},
            "ambiguous_names": sorted(self.ambiguous, key=lambda entry: str(entry["case"])),
        }


@dataclass
class _Text:
    """One field of one document on its way: what was found in it."""

    row: str
    field: str
    normalised: NormalisedText
    spans: list[Span]


@dataclass(frozen=True)
class ScrubbedCase:
    """documents: in the order they were given. mapping: one row for each replaced value, in reading order."""

    documents: list[Document]
    mapping: list[MappingRow]
    ambiguous_rows: list[str]


class Scrubber:
    """The detectors of one line, loaded once.

    line: name of the line. run: the fingerprint under which its originals go to the vault.
    """

    def __init__(self, line: str, run: str, privacy: Privacy) -> None:
        self.line = line
        self.run = run
        self._patterns = NamePatterns(privacy.keep_words)
        self._models = {language: load_name_model(language, model) for language, model in privacy.name_models.items()}

    def scrub(self, cases: Sequence[Sequence[Document]]) -> list[ScrubbedCase]:
        """Scrub whole case files, each with its documents in row order, together with the canaries.

        Raises PrivacyError when a detector raises (naming the row), a canary survives, or a text already holds what
        looks like a placeholder.
        """
        with_canaries = [*cases, *([canary.document] for canary in CANARIES)]
        documents = [document for case in with_canaries for document in case]
        for document in documents:
            _refuse_placeholders(document)
        texts = [
            [_Text(document.id, name, normalise(text), []) for name, text in document.texts.items()]
            for document in documents
        ]
        self._find_by_model(documents, texts)
        for fields in texts:
            for text in fields:
                text.spans = _guarded("the recognizers", text.row, partial(self._find, text))
        remaining = iter(texts)
        scrubbed = [self._scrub_case(case, [next(remaining) for _ in case]) for case in with_canaries]
        for canary, result in zip(CANARIES, scrubbed[len(cases) :], strict=True):
            canary.check(result.documents[0])
        return scrubbed[: len(cases)]

    def _find_by_model(self, documents: Sequence[Document], texts: Sequence[Sequence[_Text]]) -> None:
        for language, model in self._models.items():
            chosen = [
                text
                for document, fields in zip(documents, texts, strict=True)
                if document.language == language
                for text in fields
            ]
            found = _persons(model, chosen)
            canaries = {canary.document.id for canary in CANARIES if canary.language == language}
            if canaries and not any(spans for text, spans in zip(chosen, found, strict=True) if text.row in canaries):
                raise PrivacyError(
                    f"The name model of language '{language}' found no person in the canary text, so it finds none "
                    f"elsewhere. Nothing was written. Install the model again, or name another one in the recipe."
                )
            for text, spans in zip(chosen, found, strict=True):
                accepted = (self._patterns.accepted(text.normalised.text, start, end) for start, end in spans)
                text.spans = [span for span in accepted if span is not None]

    def _find(self, text: _Text) -> list[Span]:
        content = text.normalised.text
        names = self._patterns.spans(content, signed=text.field == "request")
        return without_overlaps([*structured_spans(content), *names, *text.spans])

    def _scrub_case(self, documents: Sequence[Document], texts: Sequence[Sequence[_Text]]) -> ScrubbedCase:
        authors = [normalise(document.author).text for document in documents]
        in_case = [text for fields in texts for text in fields]
        _add_further_mentions(self._patterns, in_case, [author for author in authors if author])
        kinds = _certain_kinds(in_case)
        order = sorted(range(len(documents)), key=lambda index: (documents[index].date, index))
        names = [
            person_name(name)
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
        unclear: list[str] = []
        for index in order:
            document = documents[index]
            replaced: dict[str, str] = {}
            for text in texts[index]:
                pieces: list[str] = []
                position = 0
                original = text.normalised.original
                for span in text.spans:
                    unsure = not span.labelled and span.kind != "NAME"
                    kind = kinds.get(span.key, span.kind) if unsure else span.kind
                    value: object = span.key
                    if kind == "NAME":
                        value = persons[person_name(span.key)]
                        if person_name(span.key) in ambiguous:
                            unclear.append(document.id)
                    placeholder = numbers.placeholder(kind, value)
                    start, end = text.normalised.original_span(span.start, span.end)
                    pieces += [original[position:start], placeholder]
                    mapping.append(self._row(document, text.field, placeholder, original[start:end]))
                    position = end
                replaced[text.field] = "".join([*pieces, original[position:]])
            if authors[index]:
                replaced[AUTHOR] = numbers.placeholder("NAME", persons[person_name(authors[index])])
                mapping.append(self._row(document, AUTHOR, replaced[AUTHOR], document.author))
            scrubbed[index] = document.model_copy(update=replaced)
        return ScrubbedCase([scrubbed[index] for index in range(len(documents))], mapping, list(dict.fromkeys(unclear)))

    def _row(self, document: Document, name: str, placeholder: str, original: str) -> MappingRow:
        return MappingRow(self.line, self.run, document.case, document.id, name, placeholder, original)


def scrub_file(source: Path, target: Path, scrubber: Scrubber, vault: Vault, progress: Progress) -> Findings:
    """Scrub a file of documents case by case and write the same documents in the same order.

    Memory holds one batch of case files and a few integers for each row. Each batch's originals are in the vault
    before its text is written. Raises PrivacyError.
    """
    findings = Findings()
    with source.open("rb") as stream, tempfile.TemporaryFile(dir=target.parent) as aside:
        offsets, cases = _index(source, stream)
        positions = array("Q", bytes(8 * len(offsets)))
        for batch in _batches(cases):
            documents = [[_document_at(source, stream, offsets[row]) for row in rows] for rows in batch]
            scrubbed = scrubber.scrub(documents)
            vault.add(scrubber.line, (row for case in scrubbed for row in case.mapping))
            for rows, before, case in zip(batch, documents, scrubbed, strict=True):
                _count(findings, before, case)
                for row, document in zip(rows, case.documents, strict=True):
                    positions[row] = aside.tell()
                    aside.write(document.model_dump_json().encode() + b"\n")
            progress(f"privacy: {findings.documents:,} of {len(offsets):,} documents scrubbed")

        def in_row_order() -> Iterator[dict[str, object]]:
            for position in positions:
                aside.seek(position)
                yield json.loads(aside.readline())

        write_jsonl(target, in_row_order())
    return findings


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


def _add_further_mentions(patterns: NamePatterns, texts: Sequence[_Text], authors: Sequence[str]) -> None:
    """What was recognised once in a case is looked for in all of it: parts of names, and values without their label."""
    names = [span.key for text in texts for span in text.spans if span.kind == "NAME"]
    parts = known_parts(person_name(name) for name in [*names, *authors])
    values = _KnownValues(
        (text.normalised.text[span.start : span.end], span)
        for text in texts
        for span in text.spans
        if span.kind not in ("NAME", "DATE_OF_BIRTH", "PO_BOX")
    )
    for text in texts:
        content = text.normalised.text
        mentions = _guarded("the name patterns", text.row, partial(patterns.mentions, content, parts))
        # A name that was found whole goes before a mention of one of its parts: `labelled` decides that.
        weaker = [replace(mention, labelled=False) for mention in mentions]
        text.spans = without_overlaps([*text.spans, *values.in_text(content), *weaker])


class _KnownValues:
    """Values of one case by their first word, so that looking for them costs one look-up for each word of a text."""

    def __init__(self, values: Iterable[tuple[str, Span]]) -> None:
        self._by_word: dict[str, dict[str, tuple[int, Span]]] = {}
        for value, span in values:
            word = _WORD.search(value)
            if word is not None:
                self._by_word.setdefault(word.group(), {})[value] = (word.start(), span)

    def in_text(self, text: str) -> Iterator[Span]:
        for word in _WORD.finditer(text):
            for value, (offset, span) in self._by_word.get(word.group(), {}).items():
                start, end = word.start() - offset, word.start() - offset + len(value)
                if start >= 0 and text.startswith(value, start) and not text[end : end + 1].isalnum():
                    yield replace(span, start=start, end=end)


def _certain_kinds(texts: Sequence[_Text]) -> dict[str, Kind]:
    """For values that are labelled somewhere in the case: what they are."""
    kinds: dict[str, Kind] = {}
    for text in texts:
        for span in text.spans:
            if span.labelled and span.kind != "NAME":
                kinds.setdefault(span.key, span.kind)
    return kinds


def _persons(model: NameModel, texts: Sequence[_Text]) -> list[list[tuple[int, int]]]:
    """All spans of the model; when it raises, the text that makes it raise is looked for so that its row is named."""
    try:
        return _persons_in(model, texts)
    except Exception:
        for text in texts:
            _guarded("the name model", text.row, partial(_persons_in, model, [text]))
        raise PrivacyError(
            f"The name model raised in a batch that begins with row {texts[0].row}, and in none of its texts alone. "
            f"Nothing was written. Run again; if it stays, reinstall the model."
        ) from None


def _persons_in(model: NameModel, texts: Sequence[_Text]) -> list[list[tuple[int, int]]]:
    found = model.entities([text.normalised.text for text in texts])
    return [[(each.start, each.end) for each in entities if each.label == "PERSON"] for entities in found]


def _guarded(detector: str, row: str, find: Callable[[], Found]) -> Found:
    """Run a detector; whatever it raises stops the scrubbing and names the row. The cause may quote text: not kept."""
    try:
        return find()
    except Exception as error:
        raise PrivacyError(
            f"Row {row}: {detector} raised {type(error).__name__}, so it is not known what the row holds. Nothing was "
            f"written. Correct the row or the detector, and materialize scrubbed_corpus again."
        ) from None


def _refuse_placeholders(document: Document) -> None:
    for name, text in {**document.texts, AUTHOR: document.author}.items():
        if PLACEHOLDER.search(normalise(text).text):
            raise PrivacyError(
                f"Row {document.id}: its {name} already holds something that looks like a placeholder, and the way "
                f"back from placeholders would be lost. Correct the row in its source, or leave it out with `where`."
            )


def _index(source: Path, stream: IO[bytes]) -> tuple["array[int]", list["array[int]"]]:
    """Byte offset of every row, and the row numbers of every case in the order in which cases first appear."""
    offsets = array("Q")
    cases: dict[str, array[int]] = {}
    position = 0
    for number, line in enumerate(stream):
        try:
            case = json.loads(line)["case"]
        except (ValueError, KeyError, TypeError):
            raise _not_a_document(source, f"line {number + 1}") from None
        offsets.append(position)
        cases.setdefault(case, array("Q")).append(number)
        position += len(line)
    return offsets, list(cases.values())


def _batches(cases: Sequence["array[int]"]) -> Iterator[list["array[int]"]]:
    batch: list[array[int]] = []
    documents = 0
    for rows in cases:
        batch.append(rows)
        documents += len(rows)
        if documents >= BATCH_DOCUMENTS:
            yield batch
            batch, documents = [], 0
    if batch:
        yield batch


def _document_at(source: Path, stream: IO[bytes], offset: int) -> Document:
    stream.seek(offset)
    try:
        return Document.model_validate_json(stream.readline())
    except ValueError:
        raise _not_a_document(source, f"byte {offset}") from None


def _not_a_document(source: Path, where: str) -> IntegrityError:
    return IntegrityError(f"{source}, {where}: not a document. Materialize the corpus again.")


def _count(findings: Findings, before: Sequence[Document], case: ScrubbedCase) -> None:
    languages = {document.id: document.language for document in before}
    for row in case.mapping:
        kind: Kind = row.placeholder.rsplit("_", 1)[0]  # type: ignore[assignment]
        findings.by_language.setdefault(languages[row.row], Counter())[kind] += 1
    findings.cases += 1
    findings.documents += len(before)
    findings.documents_touched += len({row.row for row in case.mapping if row.field != AUTHOR})
    findings.characters += sum(len(text) for document in before for text in document.texts.values())
    if case.ambiguous_rows:
        findings.ambiguous.append({"case": before[0].case, "rows": case.ambiguous_rows})
