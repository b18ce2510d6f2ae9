"""Define the stages training_dataset and preference_dataset, which write the training documents as rows. Define the
gates of both stages."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import TextIO, cast

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.text import Countdown, and_more, counted
from sovereign_pipeline.corpus.document import Document, Role, jsonl_line, read_documents, read_jsonl, write_jsonl
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, RAW_CORPUS, SOURCES
from sovereign_pipeline.corpus.values import normal_id
from sovereign_pipeline.dataset.canaries import PREFIX, canary_rows, is_canary
from sovereign_pipeline.dataset.card import (
    CardExclusion,
    CardOcr,
    CardSource,
    DataFile,
    DatasetCard,
    JudgedSample,
    PlantedCanaries,
    RowStatistics,
    SplitNumbers,
    hub_card,
)
from sovereign_pipeline.dataset.contamination import NO_CONTAMINATION
from sovereign_pipeline.dataset.jsonl import (
    CARD,
    CARD_FOR_HUBS,
    CARD_FOR_PEOPLE,
    CONVERSATION_ROWS,
    MESSAGES_ROWS,
    SELECTION_ROWS,
    SFT,
    TRAINING_ROWS,
    Layout,
    MessagesRow,
    Row,
    SftRow,
    conversation_row,
    conversations_of,
    documents_of,
    message_of,
    messages_row,
    preference_layout,
    read_label_rows,
    replaces_instruction,
    row_files,
    sft_row_of,
)
from sovereign_pipeline.dataset.quality import Quality
from sovereign_pipeline.dataset.tokens import BaseTokenizer, TokenCounts, TokenNumbers, tokenizer_digests
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.privacy.preview import estimate_of, read_judgements, recorded_judgements
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.record.manifest import Manifest
from sovereign_pipeline.record.stage import Built, Config, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split import HELD_OUT, PROOF, SELECTION, TRAIN, has_selection
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT

NO_PREFERENCE_TRAINING = "no preference training in the recipe; the dataset is empty"


def _build(layout: Layout, workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Write the rows and the card. Only the lengths and ids of held-out documents are used.

    If the recipe has no preference training, the file of preferences is empty. Raises IntegrityError if the base
    model's tokenizer is missing or differs from its pinned digest.
    """
    measured = Measured(layout, workplace, inputs[LEAKAGE_SAFE_SPLIT.kind])
    with ExitStack() as opened:
        files: dict[str, TextIO] = {}
        for name, row in measured.rows():
            if name not in files:
                files[name] = opened.enter_context((workspace / name).open("w", encoding="utf-8", newline="\n"))
            files[name].write(jsonl_line(row))
    if not files.keys() - {SELECTION_ROWS}:
        (workspace / layout.file).touch()
    messages = layout.messages_file(workplace.line)
    if messages and (workspace / layout.file).is_file():
        rows = cast(Iterator[SftRow], read_jsonl(workspace / layout.file))
        write_jsonl(workspace / messages, map(messages_row, rows))
    card = measured.card(workplace, workspace)
    (workspace / CARD).write_text(card.to_json(), encoding="utf-8")
    (workspace / CARD_FOR_PEOPLE).write_text(card.to_markdown(), encoding="utf-8")
    (workspace / CARD_FOR_HUBS).write_text(hub_card(card), encoding="utf-8")
    if layout.role != "letters" and not workplace.line.training.reads_preferences:
        workplace.progress(f"{workplace.line.line}: {NO_PREFERENCE_TRAINING}.")
    else:
        workplace.progress(f"{layout.kind}: {card.documents:,} rows")
    return Built(
        summary={
            "rows": card.documents,
            **({"canaries": card.canaries.model_dump(mode="json")} if card.canaries else {}),
            "sha256": card.file.sha256,
            "exact_duplicates": card.exact_duplicates,
            "by_classification": card.by_classification,
            "by_language": card.by_language,
            "labels": card.labels,
            "over_limit": {"training": card.tokens.training.over_limit, "held_out": card.tokens.held_out.over_limit},
            "findings": {finding.name: finding.count for finding in card.findings if finding.warns},
        }
    )


def _config(layout: Layout, line: Line) -> Config:
    canaries = layout.canaries(line)
    return {
        "instruction": line.training.instruction,
        "base_model": line.training.base_model,
        "max_length": layout.max_length(line),
        **({"format": line.training.format} if layout.role == "letters" else {}),
        "sources": [
            source.model_dump(mode="json", include={"name", "role", "licence", "retention"})
            for source in line.sources
            if source.role == layout.role
        ],
        **({"canaries": canaries.model_dump(mode="json")} if canaries else {}),
    }


def _policy(institution: Institution, line: Line) -> Config:
    """Return {"system": "replace"} if the line's rows may have system messages that replace the instruction. Otherwise
    return an empty dict."""
    may_have = any(source.layout != "columns" for source in line.sources)
    return {"system": "replace"} if may_have and replaces_instruction(institution, line) else {}


def _evaluate(layout: Layout, workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Rebuild the rows and the card from the split, and compare them with those of the dataset. Verify that a trainer
    can use the rows.

    No pair may have equal or empty replies. Replies with binary feedback must not be empty, and both labels must occur.
    """
    files = row_files(artifact)
    problems = _differences(layout, workplace, artifact, inputs[LEAKAGE_SAFE_SPLIT.kind])
    if layout.role in _PROBLEMS_OF_ROWS:
        problems += _PROBLEMS_OF_ROWS[layout.role](files)
    ids = [str(row["id"]) for file in files for row in read_jsonl(file)]
    canaries = sum(map(is_canary, ids))
    rows = len(ids) - canaries
    evidence = {"rows": rows, "sha256": file_sha256(files[0]), "complaints": len(problems)}
    if canaries:
        evidence["canaries"] = canaries
    if problems:
        return Verdict(False, f"{'; '.join(problems)}.", evidence)
    if layout.role != "letters" and not workplace.line.training.reads_preferences:
        return Verdict(True, f"{NO_PREFERENCE_TRAINING}.", evidence)
    planted = f" and {canaries:,} canaries of the recipe" if canaries else ""
    return Verdict(
        True,
        f"{rows:,} rows are exactly those of the training side{planted}; digests and counts agree.",
        evidence,
    )


def _differences(layout: Layout, workplace: Workplace, artifact: Artifact, split: Artifact) -> list[str]:
    """Rebuild the rows and the card from the split, and describe how the dataset differs from them. The stored card is
    not trusted."""
    if artifact.manifest.external_inputs != outside_files(workplace):
        return ["the base model's tokenizer, or people's judgements of the scrubbed corpus, changed after the build"]
    names = {entry.path for entry in artifact.manifest.files}
    measured = Measured(layout, workplace, split)
    problems, rows = [], Counter[str]()
    with ExitStack() as opened:
        lines = {
            name: opened.enter_context(artifact.file(name).open(encoding="utf-8", newline="\n"))
            for name in (layout.file, CONVERSATION_ROWS, SELECTION_ROWS)
            if name in names
        }
        wrong: dict[str, int] = {}
        for name, row in measured.rows():
            rows[name] += 1
            if name in lines and lines[name].readline() != jsonl_line(row):
                wrong.setdefault(name, rows[name])
        wrong |= {name: rows[name] + 1 for name in lines if name not in wrong and lines[name].readline()}
    files = set(rows) if set(rows) - {SELECTION_ROWS} else {layout.file, *rows}
    messages = layout.messages_file(workplace.line) if layout.file in files else None
    if names != files | {CARD, CARD_FOR_PEOPLE, CARD_FOR_HUBS} | ({messages} if messages else set()):
        return [f"the dataset's files are not the expected ones ({and_more(sorted(names))})"]
    for name, place in sorted(wrong.items()):
        of_file = f"row {place:,}" if name == layout.file else f"row {place:,} of {name}"
        problems.append(f"{of_file} differs from the row that the split and the recipe give")
    if messages:
        problems += _differences_of_messages(artifact, workplace.line.training.instruction)
    card = DatasetCard.model_validate_json(artifact.file(CARD).read_bytes())
    problems += _differences_of_cards(card, measured.card(workplace, artifact.path))
    if artifact.file(CARD_FOR_PEOPLE).read_text(encoding="utf-8") != card.to_markdown():
        problems.append(f"{CARD_FOR_PEOPLE} and {CARD} differ in facts")
    if artifact.file(CARD_FOR_HUBS).read_text(encoding="utf-8") != hub_card(card):
        problems.append(f"{CARD_FOR_HUBS} and {CARD} differ in facts")
    held_out = {document.id for document in read_documents(split.file(HELD_OUT))}
    all_rows = [*row_files(artifact), *([artifact.file(SELECTION_ROWS)] if SELECTION_ROWS in names else [])]
    leaked = [str(row["id"]) for file in all_rows for row in read_jsonl(file) if row.get("id") in held_out]
    if leaked:
        documents = counted(len(leaked), "held-out document is", "held-out documents are")
        problems.append(f"{documents} in the dataset ({and_more(leaked)})")
    return problems


def _differences_of_cards(card: DatasetCard, right: DatasetCard) -> list[str]:
    problems = []
    if card.file != right.file:
        problems.append(f"the card and {right.file.path} differ in digest, size or number of rows")
    differing = [
        name for name in DatasetCard.model_fields if name != "file" and getattr(card, name) != getattr(right, name)
    ]
    if differing:
        problems.append(f"the card is wrong in {', '.join(differing)}")
    return problems


def _differences_of_messages(artifact: Artifact, instruction: str) -> list[str]:
    """Convert the file of messages back to SFT rows, and compare these with the stored rows. Return a list with the
    first difference, or an empty list."""
    messages = cast(Iterator[MessagesRow], read_jsonl(artifact.file(MESSAGES_ROWS)))
    pairs = zip_longest(messages, read_jsonl(artifact.file(TRAINING_ROWS)))
    for number, (turns, row) in enumerate(pairs, start=1):
        if turns is None or row is None or not _is_the_same(turns, row, instruction):
            return [f"row {number:,} of {MESSAGES_ROWS} differs from row {number:,} of {TRAINING_ROWS}"]
    return []


def _is_the_same(turns: MessagesRow, row: Row, instruction: str) -> bool:
    try:
        return dict(sft_row_of(turns, instruction)) == row
    except (ValueError, KeyError):
        return False


def _problems_of_pairs(files: Sequence[Path]) -> list[str]:
    equal, empty = [], []
    for row in chain.from_iterable(map(read_jsonl, files)):
        chosen, rejected = (message_of(turns[-1]).as_text.strip() for turns in conversations_of(row))
        if not chosen or not rejected:
            empty.append(str(row["id"]))
        elif chosen == rejected:
            equal.append(str(row["id"]))
    return [
        *_problem("chosen and rejected are the same in", equal),
        *_problem("chosen or rejected is empty in", empty),
    ]


def _problems_of_labels(files: Sequence[Path]) -> list[str]:
    counts = {True: 0, False: 0}
    empty = []
    for file in files:
        for row in read_jsonl(file) if file.name == CONVERSATION_ROWS else read_label_rows(file):
            counts[bool(row["label"])] += 1
            if not message_of(conversations_of(row)[0][-1]).as_text.strip():
                empty.append(str(row["id"]))
    problems = _problem("the reply is empty in", empty)
    if not all(counts.values()):
        problems.append(
            f"{counts[True]:,} replies are labelled good and {counts[False]:,} bad; KTO needs both on the training side"
        )
    return problems


_PROBLEMS_OF_ROWS: dict[Role, Callable[[Sequence[Path]], list[str]]] = {
    "preferences": _problems_of_pairs,
    "labels": _problems_of_labels,
}


def _problem(what: str, ids: Sequence[str]) -> list[str]:
    return [f"{what} {counted(len(ids), 'row')} ({and_more(ids)})"] if ids else []


# --- rows, measured ---------------------------------------------------------------------------------------------------

_FROM_SPLIT_TO_SOURCES = (SCRUBBED_CORPUS.kind, CLASSIFIED_CORPUS.kind, RAW_CORPUS.kind)
_DOCUMENTS_PER_BATCH = 64


def outside_files(workplace: Workplace) -> dict[str, str]:
    """Return the digests of the tokenizer's files, and the digest of people's judgements of the scrubbed corpus."""
    return {**tokenizer_digests(workplace), **recorded_judgements(workplace)}


class Measured:
    """Yields the rows of a dataset in order, and measures them."""

    def __init__(self, layout: Layout, workplace: Workplace, split: Artifact) -> None:
        line = workplace.line
        limit = layout.max_length(line)
        self.layout = layout
        self.statistics = RowStatistics(layout.text_columns)
        self.quality = Quality(layout.role, limit)
        self._split = split
        self._proof = json.loads(split.file(PROOF).read_bytes())
        self._counts = self._proof["letters" if layout.role == "letters" else "preferences"]
        self._progress = workplace.progress
        self._instruction = line.training.instruction
        self._replaces = replaces_instruction(workplace.institution, line)
        self._canaries = layout.canaries(line)
        self._base_model = line.training.base_model
        self._tokenizer = BaseTokenizer(workplace)
        self._digests = tokenizer_digests(workplace)
        self._training, self._selection, self._held_out = TokenCounts(limit), TokenCounts(limit), TokenCounts(limit)

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yield pairs of file name and row: first for the training documents, then for the canaries, then for the
        documents of the selection side. Documents are measured when they are yielded. Canaries are not measured. Raises
        InputError for a document whose id begins like the id of a canary."""
        for document, (file, row), length in self._measured(TRAIN, self._counts["train"]):
            if self._canaries is not None and is_canary(document.id):
                raise InputError(
                    f"Row {document.id}: the id begins with '{PREFIX}', which is reserved for the recipe's canaries.",
                    "Give the row a different id in its source, or remove training.canaries from the recipe.",
                )
            is_copy = self.statistics.add(document, row)
            self.quality.add(document, length, is_copy=is_copy)
            self._training.add(document.id, length)
            yield file, row
        for canary in canary_rows(self._canaries, self._instruction):
            yield self.layout.file, canary
        for document, _, length in (
            self._measured(SELECTION, self._counts.get("selection", 0)) if has_selection(self._split) else ()
        ):
            self._selection.add(document.id, length)
            yield SELECTION_ROWS, conversation_row(document, self._instruction, self._replaces)

    def tokens(self) -> TokenNumbers:
        """Return the token lengths of the yielded rows and of the held-out documents. Only the lengths and ids of
        held-out documents are used."""
        for document, _, length in self._measured(HELD_OUT, self._counts["held_out"]):
            self._held_out.add(document.id, length)
        return TokenNumbers(
            base_model=self._base_model,
            tokenizer=self._digests,
            limit=self._training.limit,
            training=self._training.result(),
            selection=self._selection.result() if has_selection(self._split) else None,
            held_out=self._held_out.result(),
        )

    def card(self, workplace: Workplace, directory: Path) -> DatasetCard:
        """Return the card of the files in `directory`. Call this method after `rows` has yielded all rows."""
        layout, statistics, proof = self.layout, self.statistics, self._proof
        ancestors = _ancestors(workplace, self._split)
        sources = ancestors[RAW_CORPUS.kind].external_inputs
        rows_of_source, ocr = statistics.histogram("source"), _ocr_of_sources(workplace, ancestors)
        canaries = layout.canaries(workplace.line)
        file, *also = [
            _data_file(directory / name, columns)
            for name, columns in layout.files(workplace.line).items()
            if (directory / name).is_file()
        ]
        return DatasetCard(
            kind=layout.kind,
            line=workplace.line.line,
            classification=self._split.manifest.classification,
            file=file,
            also=tuple(also),
            instruction=self._instruction,
            by_department=statistics.histogram("department"),
            by_language=statistics.histogram("language"),
            by_year=statistics.histogram("year"),
            by_classification=statistics.histogram("classification"),
            labels=statistics.histogram("label"),
            characters=statistics.characters(),
            exact_duplicates=statistics.exact_duplicates,
            tokens=self.tokens(),
            findings=self.quality.findings(),
            sources=tuple(
                CardSource(
                    name=source.name,
                    role=source.role,
                    rows=rows_of_source.get(source.name, 0),
                    sha256=sources[f"source:{source.name}"],
                    licence=source.licence,
                    retention=source.retention,
                    excluded=tuple(CardExclusion(id=normal_id(each.id), reason=each.reason) for each in source.exclude),
                    ocr=ocr.get(source.name),
                )
                for source in workplace.line.sources
                if source.role == layout.role
            ),
            split=SplitNumbers(
                **{f"rows_{side}": count for side, count in proof["rows"].items()},
                held_out_share_of_letters=proof["held_out_share_of_letters"],
                components=proof["components"]["count"],
                near_duplicate_pairs=proof["near_duplicates"]["pairs"],
                crossing=proof["crossing"],
                seed=proof["parameters"]["seed"],
            ),
            inputs={kind: manifest.digest for kind, manifest in ancestors.items()},
            canaries=PlantedCanaries.of(canaries) if canaries else None,
            judged=JudgedSample.of(estimate_of(read_judgements(workplace, ancestors[SCRUBBED_CORPUS.kind].digest))),
        )

    def _measured(self, side: str, count: int) -> Iterator[tuple[Document, tuple[str, Row], int]]:
        """Yield a tuple for each document of one side: the document, the pair of its file name and its row, and the
        number of tokens of the prompt and the longest reply."""
        name = side.removesuffix(".jsonl").replace("_", "-")
        countdown = Countdown(self._progress, f"{self.layout.kind}: lengths of {name} documents", count, "document")
        documents = documents_of(self.layout, self._split, side)
        done = 0
        while batch := list(islice(documents, _DOCUMENTS_PER_BATCH)):
            countdown.reached(done)
            done += len(batch)
            rows = [self.layout.row_of(document, self._instruction, self._replaces) for document in batch]
            yield from zip(batch, rows, self._tokenizer.lengths([row for _, row in rows]), strict=True)


def _ancestors(workplace: Workplace, split: Artifact) -> dict[str, Manifest]:
    """Return the verified manifests of the split and of its ancestors back to the raw corpus, keyed by kind. The
    manifest of the raw corpus has the digests of the sources."""
    manifest = split.manifest
    found = {LEAKAGE_SAFE_SPLIT.kind: manifest}
    for kind in _FROM_SPLIT_TO_SOURCES:
        manifest = workplace.store.read_manifest(workplace.store.input_ref(manifest, kind))
        found[kind] = manifest
    return found


def _ocr_of_sources(workplace: Workplace, ancestors: Mapping[str, Manifest]) -> dict[str, CardOcr]:
    """Return a dict that maps the name of each source with OCR to the counts of its OCR results. The raw corpus stores
    these counts."""
    if not any(source.ocr for source in workplace.line.sources):
        return {}
    ref = workplace.store.input_ref(ancestors[CLASSIFIED_CORPUS.kind], RAW_CORPUS.kind)
    described = json.loads(workplace.store.read_file(ref, ancestors[RAW_CORPUS.kind], SOURCES))
    return {each["name"]: CardOcr.model_validate(each["ocr"]) for each in described if "ocr" in each}


def _data_file(path: Path, columns: tuple[str, ...]) -> DataFile:
    with path.open("rb") as stream:
        rows = sum(1 for _ in stream)
    return DataFile(path=path.name, sha256=file_sha256(path), size=path.stat().st_size, rows=rows, columns=columns)


def _stage(kind: str, layout_of: Callable[[Line], Layout], question: str) -> Stage:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        return _build(layout_of(workplace.line), workplace, inputs, workspace)

    def evaluate(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
        return _evaluate(layout_of(workplace.line), workplace, artifact, inputs)

    def config(line: Line) -> Config:
        return _config(layout_of(line), line)

    return Stage(
        kind=kind,
        code_version="6",
        build=build,
        inputs=(LEAKAGE_SAFE_SPLIT,),
        config=config,
        policy=_policy,
        external=outside_files,
        libraries=("tokenizers", "transformers"),
        gates=(
            Gate(
                name="digests_verified",
                question=question,
                code_version="6",
                evaluate=evaluate,
                config=config,
                policy=_policy,
            ),
            NO_CONTAMINATION,
        ),
    )


TRAINING_DATASET = _stage(
    "training_dataset",
    lambda line: SFT,
    "Are the rows exactly those of the training side and the recipe's canaries, and does the card state what they "
    "give?",
)

PREFERENCE_DATASET = _stage(
    "preference_dataset",
    preference_layout,
    "Are the rows exactly those of the training side: true pairs, or replies with both labels?",
)
