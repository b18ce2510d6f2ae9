"""Some rows of a line before and after scrubbing, with the reason of each finding, for a person who looks at them.

What belongs here: which rows are shown, and what was found where. What does not: how they are shown
(`commands/privacy.py`). Nothing is stored: neither in the vault nor among what was found in earlier texts.
"""

import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.corpus.document import Document, read_documents
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.corrections import Corrections
from sovereign_pipeline.privacy.detection import Detector, Text, read_findings, texts_of
from sovereign_pipeline.privacy.placeholders import AUTHOR, kind_of
from sovereign_pipeline.privacy.rereading import SecondReading
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.spans import Span
from sovereign_pipeline.privacy.vault.vault import MappingRow
from sovereign_pipeline.privacy.word_lists import load_word_lists


@dataclass(frozen=True)
class Replaced:
    """A value, the half-open span of the field that it stands in, and what took its place."""

    start: int
    end: int
    placeholder: str
    why: str
    """How it was found."""

    @property
    def kind(self) -> Kind:
        return kind_of(self.placeholder)


@dataclass(frozen=True)
class PreviewedField:
    """A text of a row, before and after."""

    name: str
    before: str
    after: str
    replaced: tuple[Replaced, ...]
    doubted: tuple[Kind, ...]
    """What the gate's reading still finds in what came out."""


@dataclass(frozen=True)
class PreviewedRow:
    """A row of the classified corpus and its scrubbed texts."""

    id: str
    case: str
    fields: tuple[PreviewedField, ...]
    """Those that hold a text."""

    @property
    def places(self) -> list[tuple[str, Replaced]]:
        """What was replaced in the texts, each under a name of its own, as `NAME_1`, or `NAME_1#2` for the second place
        of a placeholder that stands in more than one. The author's column is left out: it is always replaced."""
        found = [each for field in self.fields if field.name != AUTHOR for each in field.replaced]
        times = Counter(each.placeholder for each in found)
        seen = Counter[str]()
        named: list[tuple[str, Replaced]] = []
        for each in found:
            seen[each.placeholder] += 1
            several = times[each.placeholder] > 1
            named.append((f"{each.placeholder}#{seen[each.placeholder]}" if several else each.placeholder, each))
        return named


def preview(workplace: Workplace, count: int, seed: int, ids: Collection[str] = ()) -> list[PreviewedRow]:
    """Scrub some rows of the line's classified corpus, each with the rest of its case file, and tell what changed.

    Args:
        count: how many rows are drawn by `seed`.
        ids: these rows instead.

    Raises InputError when there is no classified corpus yet or a row is not in it, and what scrubbing raises.
    """
    documents = _documents(workplace)
    chosen = _chosen(documents, count, seed, ids)
    cases: dict[str, list[Document]] = {folded(document.case): [] for document in chosen}
    for document in documents:
        if folded(document.case) in cases:
            cases[folded(document.case)].append(document)
    line = workplace.line
    treatments = workplace.institution.treatments(line.line)
    words = load_word_lists(workplace.settings.data, line.line)
    scrubber = Scrubber(line.line, "preview", line.privacy, treatments, words=words)
    scrubbed: dict[str, Document] = {}
    mapping: dict[str, list[MappingRow]] = {}
    for case in scrubber.scrub(list(cases.values())):
        scrubbed |= {document.id: document for document in case.documents}
        for row in case.mapping:
            mapping.setdefault(row.row, []).append(row)
    return [
        PreviewedRow(each.id, each.case, tuple(_fields(each, scrubbed[each.id], mapping.get(each.id, []), scrubber)))
        for each in chosen
    ]


def _documents(workplace: Workplace) -> list[Document]:
    line = workplace.line.line
    ref = workplace.store.current(line, CLASSIFIED_CORPUS.kind)
    if ref is None:
        raise InputError(
            f"Line {line} has no classified corpus yet.",
            f"Run `sovereign run {line} --until {CLASSIFIED_CORPUS.kind}` first.",
        )
    return list(read_documents(workplace.store.open(ref).file(DOCUMENTS)))


def _chosen(documents: Sequence[Document], count: int, seed: int, ids: Collection[str]) -> list[Document]:
    if not ids:
        places = random.Random(seed).sample(range(len(documents)), min(count, len(documents)))
        return [documents[place] for place in sorted(places)]
    missing = sorted(set(ids) - {document.id for document in documents})
    if missing:
        raise InputError(f"The classified corpus has no row {and_more(missing)}.", "Correct --row.")
    return [document for document in documents if document.id in ids]


def _fields(
    before: Document, after: Document, mapping: Sequence[MappingRow], scrubber: Scrubber
) -> Iterator[PreviewedField]:
    originals = {**before.texts, AUTHOR: before.author}
    results = {**after.texts, AUTHOR: after.author}
    texts = texts_of(before)
    for name, original in originals.items():
        if not original:
            continue
        found = _found(scrubber.detector, texts[name]) if name in texts else {}
        rows = [row for row in mapping if row.field == name]
        replaced = tuple(_replaced(results[name], rows, found, scrubber.detector.corrections))
        left = SecondReading.by(scrubber.detector, before.language, scrubber.keeps).of(results[name]).left
        yield PreviewedField(name, original, results[name], replaced, tuple(span.kind for span in left))


def _found(detector: Detector, text: Text) -> dict[tuple[int, int], Span]:
    """What the text alone shows, by its span of the original."""
    spans = read_findings(detector.find([text])[0], text.normalised) or []
    return {text.normalised.original_span(span.start, span.end): span for span in spans}


def _replaced(
    after: str, mapping: Sequence[MappingRow], found: dict[tuple[int, int], Span], corrections: Corrections
) -> Iterator[Replaced]:
    """Where each value stood. What lies between two placeholders is as it was."""
    before_at, after_at = 0, 0
    for row in mapping:
        place = after.index(row.placeholder, after_at)
        start = before_at + place - after_at
        end = start + len(row.original)
        listed = corrections.is_listed(row.original)
        why = "the line's word lists" if listed else _why(row, found.get((start, end)))
        yield Replaced(start, end, row.placeholder, why)
        before_at, after_at = end, place + len(row.placeholder)


def _why(row: MappingRow, span: Span | None) -> str:
    if row.field == AUTHOR:
        return "the author's column"
    if span is None:
        return "named elsewhere in the case file"
    if span.kind == "NAME":
        return "a name, by pattern, word list or model"
    if span.kind != kind_of(row.placeholder):
        return "labelled elsewhere in the case file"
    if span.by_length:
        return "its digits alone: doubtful"
    return "its label, or its check digits" if span.labelled else "its form"
