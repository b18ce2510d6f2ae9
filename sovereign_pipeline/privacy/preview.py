"""Show rows before and after scrubbing, record a person's judgement of the scrubbed rows, and list how each kind of
personal data is found."""

import random
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import Frozen, canonical_json, digest_of
from sovereign_pipeline.base.intervals import MeasuredShare, measured_share
from sovereign_pipeline.base.text import and_more, folded
from sovereign_pipeline.corpus.document import Document, read_documents
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS, Kind
from sovereign_pipeline.privacy.case_files import replaced_spans
from sovereign_pipeline.privacy.corrections import load_word_lists
from sovereign_pipeline.privacy.detection import texts_of
from sovereign_pipeline.privacy.identifiers.recognizers import RECOGNIZERS
from sovereign_pipeline.privacy.json_texts import readings_of
from sovereign_pipeline.privacy.names.latin_names import FAVOURS, load_weights
from sovereign_pipeline.privacy.names.name_models import LABELS
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.spans import AUTHOR, KIND_FACTS, Span, kind_of
from sovereign_pipeline.privacy.vault import MappingRow
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.stage import Built, Identity, Workplace, make_artifact


@dataclass(frozen=True)
class Replaced:
    """A value that was replaced: its half-open span in the original field, and the placeholder in its place."""

    start: int
    end: int
    placeholder: str
    placed: int
    """Start of the placeholder in the scrubbed field."""
    why: str
    """Explanation of how the value was found."""

    @property
    def kind(self) -> Kind:
        return kind_of(self.placeholder)


@dataclass(frozen=True)
class PreviewedField:
    """A field of a row, before and after scrubbing."""

    name: str
    before: str
    after: str
    replaced: tuple[Replaced, ...]
    doubted: tuple[Kind, ...]
    """Kinds that the second search still finds in `after`. The gate `no_identifier_left` uses the same search."""
    perhaps_names: tuple[tuple[int, int], ...] = ()
    """Half-open spans of `before` that would be replaced only if `privacy.names.favour` were `recall`."""


@dataclass(frozen=True)
class PreviewedRow:
    """A row of the classified corpus, with its fields before and after scrubbing."""

    id: str
    case: str
    fields: tuple[PreviewedField, ...]
    """Fields that are not empty."""

    @property
    def places(self) -> list[tuple[str, Replaced]]:
        """Return the replaced values of the row as pairs of a unique name and the value. The name is the placeholder,
        such as `NAME_1`. If a placeholder occurs several times, the name has a number: `NAME_1#2` is the second
        occurrence. The author column is left out, because it is always replaced."""
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
    """Scrub some rows of the classified corpus, each with its whole case file, and return the changes.

    Args:
        count: number of rows to draw at random with `seed`.
        ids: ids of the rows to scrub instead of random rows.

    Raises InputError if there is no classified corpus yet, or if one of `ids` is not in the corpus. Errors raised by
    the scrubbing propagate.
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
        raise InputError(f"The classified corpus has no row {and_more(missing)}.", "Correct the ids in --row.")
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
        found, reasons, doubtful = scrubber.detector.explained(texts[name]) if name in texts else ({}, {}, [])
        is_listed = scrubber.detector.corrections.is_listed
        replaced = tuple(
            Replaced(
                start,
                end,
                row.placeholder,
                placed,
                "the line's word lists"
                if is_listed(row.original)
                else _why(row, found.get((start, end)), reasons.get((start, end))),
            )
            for row, start, end, placed in replaced_spans(results[name], (row for row in mapping if row.field == name))
        )
        perhaps = tuple(
            each for each in doubtful if all(each[1] <= one.start or one.end <= each[0] for one in replaced)
        )
        language, readings = before.language, readings_of(after, name, results[name])
        left = tuple(span.kind for each in readings for span in scrubber.detector.read_again(language, each).left)
        yield PreviewedField(name, original, results[name], replaced, left, perhaps)


def _why(row: MappingRow, span: Span | None, reason: str | None) -> str:
    if row.field == AUTHOR:
        return "the author's column"
    if span is None:
        return "named elsewhere in the case file"
    if span.kind == "NAME":
        return f"a name: {reason}" if reason is not None else "a name, by pattern or word list"
    if span.kind != kind_of(row.placeholder):
        return "labelled elsewhere in the case file"
    if span.by_length:
        return "its digits alone: doubtful"
    return "its label, or its check digits" if span.labelled else "its form"


JUDGEMENT = "privacy_judgement"
SCRUBBED = "scrubbed_corpus"
JUDGEMENT_FILE = "judgement.json"


class JudgedRow(Frozen):
    """A person's judgement of one row. It states for each kind how many values were replaced rightly, how many were
    replaced wrongly, and how many were missed."""

    id: str
    right: dict[Kind, int]
    wrong: dict[Kind, int]
    missed: dict[Kind, int]


class Judgement(Frozen):
    """The rows that one person judged in one session."""

    judge: str
    """Name of the judge as typed on the command line, unverified."""
    seed: int
    """Seed with which the sample of rows was drawn."""
    rows: tuple[JudgedRow, ...]


@dataclass(frozen=True)
class Estimate:
    """Counts of the judged values. The confidence intervals of precision and recall treat the values as independent.
    The intervals are therefore too narrow if rows have many values."""

    rows: int
    right: Counter[Kind]
    wrong: Counter[Kind]
    missed: Counter[Kind]

    @property
    def judged(self) -> int:
        """Return the number of replaced values that were judged."""
        return self.right.total() + self.wrong.total()

    def precision(self, kinds: Iterable[Kind] | None = None) -> MeasuredShare:
        """Return the share of the replaced values that are personal data. `kinds`: kinds to count; None for all."""
        right, wrong = self._of(self.right, kinds), self._of(self.wrong, kinds)
        return measured_share(right, right + wrong)

    def recall(self, kinds: Iterable[Kind] | None = None) -> MeasuredShare:
        """Return the share of the personal data that was replaced. `kinds`: kinds to count; None for all."""
        right, missed = self._of(self.right, kinds), self._of(self.missed, kinds)
        return measured_share(right, right + missed)

    @property
    def kinds(self) -> list[Kind]:
        """Return the kinds with at least one judged value."""
        return sorted(self.right.keys() | self.wrong.keys() | self.missed.keys())

    def _of(self, counts: Mapping[Kind, int], kinds: Iterable[Kind] | None) -> int:
        return sum(counts.values()) if kinds is None else sum(counts.get(kind, 0) for kind in kinds)


def format_share(share: MeasuredShare) -> str:
    """Format a share with its counts, or "none judged" if there are none."""
    return str(share) if share.of else "none judged"


def estimate_of(rows: Iterable[JudgedRow]) -> Estimate:
    """Return the counts of several judged rows together. If a row was judged twice, its last judgement counts."""
    last = {row.id: row for row in rows}.values()
    right, wrong, missed = (
        sum((Counter(getattr(row, name)) for row in last), Counter()) for name in ("right", "wrong", "missed")
    )
    return Estimate(len(last), right, wrong, missed)


def judged_row(row: PreviewedRow, wrong: Iterable[str], missed: Sequence[Kind]) -> JudgedRow:
    """Return a person's judgement of one row. The author column does not count, because it is always replaced.

    Args:
        wrong: placeholders of text that is not personal data. `NAME_1` means all occurrences of this placeholder in the
            row, and `NAME_1#2` only the second (`PreviewedRow.places`).
        missed: the kind of each value that was not replaced. A kind with several such values is listed several times.
    """
    named = set(wrong)
    judged = [(found.kind, bool(named & {place, found.placeholder})) for place, found in row.places]
    return JudgedRow(
        id=row.id,
        right=dict(Counter(kind for kind, is_wrong in judged if not is_wrong)),
        wrong=dict(Counter(kind for kind, is_wrong in judged if is_wrong)),
        missed=dict(Counter(missed)),
    )


def record_judgement(workplace: Workplace, scrubbed: ArtifactRef, judgement: Judgement) -> ArtifactRef:
    """Store a judgement of a scrubbed corpus as an artifact."""
    content = judgement.model_dump(mode="json")
    number = len(judgements_of(workplace, scrubbed.digest)) + 1  # makes an equal judgement a new artifact
    identity = Identity(
        kind=JUDGEMENT,
        line=workplace.line.line,
        ladder=workplace.institution.classification,
        code_version="1",
        config={"judgement": digest_of(content), "number": number},
        inputs={scrubbed.kind: scrubbed},
        external_inputs={},
        libraries={},
    )

    def build(workspace: Path) -> Built:
        (workspace / JUDGEMENT_FILE).write_bytes(canonical_json(content) + b"\n")
        return Built(summary={"rows": len(judgement.rows)})

    return make_artifact(workplace, identity, build).ref


def judgements_of(workplace: Workplace, scrubbed: str) -> list[ArtifactRef]:
    """Return the stored judgements of the scrubbed corpus with the digest `scrubbed`, oldest first."""
    store = workplace.store
    made = [(store.read_manifest(ref), ref) for ref in store.indexed(JUDGEMENT)]
    of_it = [
        (manifest.producer.config["number"], manifest.circumstances.created_at, ref.digest, ref)
        for manifest, ref in made
        if store.input_ref(manifest, SCRUBBED).digest == scrubbed
    ]
    return [ref for *_, ref in sorted(of_it, key=lambda each: each[:3])]  # times are whole seconds, and may tie


def recorded_judgements(workplace: Workplace) -> dict[str, str]:
    """Return a dict with a digest of all judgements of the current scrubbed corpus, under the key `judgements`. Return
    an empty dict if there are no judgements."""
    current = workplace.store.current(workplace.line.line, SCRUBBED)
    judged = judgements_of(workplace, current.digest) if current is not None else []
    return {"judgements": digest_of([ref.digest for ref in judged])} if judged else {}


def read_judgements(workplace: Workplace, scrubbed: str) -> Iterator[JudgedRow]:
    """Yield all judged rows of the scrubbed corpus with the digest `scrubbed`, oldest first. Raises IntegrityError if a
    stored judgement was changed."""
    for ref in judgements_of(workplace, scrubbed):
        content = workplace.store.open(ref).file(JUDGEMENT_FILE).read_bytes()
        yield from Judgement.model_validate_json(content).rows


def assert_matches_stored(workplace: Workplace, scrubbed: ArtifactRef, rows: Sequence[PreviewedRow]) -> None:
    """Raise InputError if the scrubbed corpus lacks a previewed row or has it with other texts. Otherwise a person
    would judge a text that the corpus does not contain."""
    shown = {row.id: {field.name: field.after for field in row.fields if field.name != AUTHOR} for row in rows}
    for document in read_documents(workplace.store.open(scrubbed).file(DOCUMENTS)):
        texts = {name: text for name, text in document.texts.items() if text}
        if shown.pop(document.id, texts) != texts:
            shown[document.id] = texts
            break
    if shown:
        raise InputError(
            f"Line {workplace.line.line}: row {next(iter(shown))} is now scrubbed differently than in the current "
            f"scrubbed corpus.",
            f"Run `sovereign run {workplace.line.line} --until scrubbed_corpus`, then judge the new corpus.",
        )


NOT_LOOKED_FOR = "not looked for"
_OF_MODELS = frozenset(kind for kind in KINDS if kind in LABELS.values() and kind != "DATE")


@dataclass(frozen=True)
class KindFacts:
    """How one kind of personal data is treated and found."""

    kind: Kind
    treatment: str
    """replace, keep or stop."""
    found_by: tuple[str, ...]
    """Descriptions of the detectors; empty if the kind is not detected."""
    remark: str

    @property
    def ways(self) -> str:
        return "; ".join(self.found_by) or NOT_LOOKED_FOR


def how_found(privacy: Privacy, treatments: Treatments) -> list[KindFacts]:
    """Return a KindFacts for each kind, in the order of precedence among overlapping findings (`KINDS`)."""
    return [
        KindFacts(kind, treatments[kind], tuple(_ways(kind, privacy, treatments[kind])), _remark(kind, privacy))
        for kind in KINDS
    ]


def trade_off(privacy: Privacy) -> list[str]:
    """Return one line of text for each value of `privacy.names.favour`: the mean precision and the mean recall for
    English names. Both were measured on texts that were not used to fit the weights (docs/benchmarks/corpus.md)."""
    weights = load_weights()["latin" if "en" in privacy.name_models else "latin_alone"]
    measured = [each.measured for each in weights.sets.values() if each.names]
    return [
        f"{favour} {fmean(each[favour][0] for each in measured):.2f}, {fmean(each[favour][1] for each in measured):.2f}"
        for favour in FAVOURS
    ]


def _remark(kind: Kind, privacy: Privacy) -> str:
    if kind == "NAME":
        return f"favour: {privacy.names.favour}. Measured precision and recall: {'; '.join(trade_off(privacy))}"
    if kind != "PHONE":
        return KIND_FACTS[kind].get("remark", "")
    regions = privacy.phone_regions
    grouped = f", or grouped as in {', '.join(regions.grouped)}" if regions.grouped else ""
    return (
        f"without label or prefix: valid in {', '.join(regions.valid)}{grouped}; any other eight digits count as a NID"
    )


def _ways(kind: Kind, privacy: Privacy, treatment: str) -> Iterator[str]:
    is_off = kind in KEPT_BY_DEFAULT and treatment == "keep"
    if kind == "NAME":
        for language in privacy.detected:
            model = privacy.name_models.get(language)
            yield f"{language}: word lists, patterns" + (f", model {model}" if model else ", no model")
    elif kind in _OF_MODELS and not is_off:
        for language, model in privacy.name_models.items():
            yield f"{language}: model {model}"
        for language in privacy.patterns_only:
            if language not in privacy.name_models:
                yield f"{language}: nothing"
    elif not is_off:
        found = [each.by for each in RECOGNIZERS if each.kind == kind]
        searched = KIND_FACTS[kind].get("searched")
        yield from dict.fromkeys([*found, *([searched] if searched else [])])
    for item in privacy.recognizers:
        if item.kind == kind:
            name = item.recognizer or str((item.definition or {}).get("name", "a definition"))
            yield f"{', '.join(item.languages)}: added recognizer {name.rpartition('.')[2]}"
