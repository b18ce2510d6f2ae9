"""The stages training_dataset and preference_dataset: the training side of the split as rows, with a card."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any, Literal, cast

from sovereign_pipeline.artifacts.hashing import file_sha256
from sovereign_pipeline.artifacts.manifest import Manifest
from sovereign_pipeline.artifacts.stage import Built, Config, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import Document, jsonl_line, read_documents, read_jsonl, write_jsonl
from sovereign_pipeline.dataset.canaries import PREFIX, canary_rows, is_canary
from sovereign_pipeline.dataset.card import (
    CardSource,
    DataFile,
    DatasetCard,
    PlantedCanaries,
    RowStatistics,
    SplitNumbers,
)
from sovereign_pipeline.dataset.contamination import not_contaminated
from sovereign_pipeline.dataset.formats import (
    LabelRow,
    MessagesRow,
    PreferenceRow,
    SftRow,
    label_row,
    messages_row,
    preference_row,
    read_label_rows,
    sft_row,
    sft_row_of,
    user_message,
)
from sovereign_pipeline.dataset.quality import Quality
from sovereign_pipeline.dataset.tokens import BaseTokenizer, TokenCounts, TokenNumbers, tokenizer_digests
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.training import Canaries
from sovereign_pipeline.split.stages import HELD_OUT, LEAKAGE_SAFE_SPLIT, PROOF, TRAIN

TRAINING_ROWS = "train.jsonl"
MESSAGES_ROWS = "messages.jsonl"
PREFERENCE_ROWS = "preferences.jsonl"
LABEL_ROWS = "labels.jsonl"
CARD = "card.json"
CARD_FOR_PEOPLE = "card.md"

_CHAIN_TO_THE_SOURCES = ("scrubbed_corpus", "classified_corpus", "raw_corpus")
_IDS_IN_A_MESSAGE = 10
_ROWS_PER_BATCH = 64

Role = Literal["letters", "preferences", "labels"]
Row = Mapping[str, object]


@dataclass(frozen=True)
class _Layout:
    """What tells the datasets apart. text_columns: those whose lengths and duplicates the card states.

    belongs: whether a document is a row of this dataset. exchanges: the user message with each reply of a row.
    """

    kind: str
    file: str
    role: Role
    columns: tuple[str, ...]
    text_columns: tuple[str, ...]
    belongs: Callable[[Document], bool]
    row: Callable[[Document, str], Row]
    exchanges: Callable[[Row], Sequence[tuple[str, str]]]

    def documents(self, split: Artifact, side: str) -> Iterator[Document]:
        return (document for document in read_documents(split.file(side)) if self.belongs(document))

    def canaries(self, line: Line) -> Canaries | None:
        """What is planted behind its documents: letters alone may be learnt by heart unnoticed."""
        return line.training.canaries if self.role == "letters" else None

    def max_length(self, line: Line) -> int:
        preference = line.training.preference
        return preference.max_length if self.role != "letters" and preference else line.training.sft.max_length


def _exchange(row: Row) -> Sequence[tuple[str, str]]:
    letter = cast(SftRow, row)
    return ((user_message(letter["instruction"], letter["input"]), letter["output"]),)


def _exchanges_of_pair(row: Row) -> Sequence[tuple[str, str]]:
    pair = cast(PreferenceRow, row)
    return (pair["prompt"], pair["chosen"]), (pair["prompt"], pair["rejected"])


def _labelled_exchange(row: Row) -> Sequence[tuple[str, str]]:
    labelled = cast(LabelRow, row)
    return ((labelled["prompt"], labelled["completion"]),)


_TRAINING = _Layout(
    kind="training_dataset",
    file=TRAINING_ROWS,
    role="letters",
    columns=tuple(SftRow.__annotations__),
    text_columns=("input", "output"),
    belongs=lambda document: not document.is_preference,
    row=cast(Callable[[Document, str], Row], sft_row),
    exchanges=_exchange,
)
_PREFERENCES = _Layout(
    kind="preference_dataset",
    file=PREFERENCE_ROWS,
    role="preferences",
    columns=tuple(PreferenceRow.__annotations__),
    text_columns=("prompt", "chosen", "rejected"),
    belongs=lambda document: document.rejected is not None,
    row=cast(Callable[[Document, str], Row], preference_row),
    exchanges=_exchanges_of_pair,
)
_LABELS = _Layout(
    kind="preference_dataset",
    file=LABEL_ROWS,
    role="labels",
    columns=tuple(LabelRow.__annotations__),
    text_columns=("prompt", "completion"),
    belongs=lambda document: document.label is not None,
    row=cast(Callable[[Document, str], Row], label_row),
    exchanges=_labelled_exchange,
)


def _preference_layout(line: Line) -> _Layout:
    """Labelled replies where a source has them, else pairs; a line never has both."""
    return _LABELS if any(source.role == "labels" for source in line.sources) else _PREFERENCES


class _Measured:
    """The rows of a dataset in order, and what its card says of them, for build and gate alike."""

    def __init__(self, layout: _Layout, workplace: Workplace, split: Artifact) -> None:
        line = workplace.line
        limit = layout.max_length(line)
        self.layout = layout
        self.statistics = RowStatistics(layout.text_columns)
        self.quality = Quality(layout.role, limit)
        self._split = split
        self._instruction = line.training.instruction
        self._canaries = layout.canaries(line)
        self._base_model = line.training.base_model
        self._tokenizer = BaseTokenizer(workplace)
        self._digests = tokenizer_digests(workplace)
        self._training, self._held_out = TokenCounts(limit), TokenCounts(limit)

    def rows(self) -> Iterator[Row]:
        """Each row of the training side, measured when it is taken; then the canaries, which are not measured.

        Raises InputError for a document that would pass for a canary.
        """
        for document, row, length in self._measured(TRAIN):
            if self._canaries is not None and is_canary(document.id):
                raise InputError(
                    f"Row {document.id}: its id begins with '{PREFIX}', as those of the canaries do that the recipe "
                    f"plants. Give it another id in its source, or take training.canaries out of the recipe."
                )
            is_copy = self.statistics.add(document, row)
            self.quality.add(document, length, is_copy=is_copy)
            self._training.add(document.id, length)
            yield row
        yield from cast(Iterator[Row], canary_rows(self._canaries, self._instruction))

    def tokens(self) -> TokenNumbers:
        """Of the rows that were taken, and of the held-out side, of which nothing but ids and lengths is kept."""
        for document, _, length in self._measured(HELD_OUT):
            self._held_out.add(document.id, length)
        return TokenNumbers(
            base_model=self._base_model,
            tokenizer=self._digests,
            limit=self._training.limit,
            training=self._training.result(),
            held_out=self._held_out.result(),
        )

    def _measured(self, side: str) -> Iterator[tuple[Document, Row, int]]:
        """Each document of one side with its row and the length of its longest exchange in tokens."""
        documents = self.layout.documents(self._split, side)
        while batch := list(islice(documents, _ROWS_PER_BATCH)):
            rows = [self.layout.row(document, self._instruction) for document in batch]
            exchanges = [self.layout.exchanges(row) for row in rows]
            lengths = iter(self._tokenizer.lengths([each for of_row in exchanges for each in of_row]))
            for document, row, of_row in zip(batch, rows, exchanges, strict=True):
                yield document, row, max(next(lengths) for _ in of_row)


def _build(layout: _Layout, workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    split = inputs[LEAKAGE_SAFE_SPLIT.kind]
    measured = _Measured(layout, workplace, split)
    write_jsonl(workspace / layout.file, measured.rows())
    if _writes_messages(layout, workplace.line):
        rows = cast(Iterator[SftRow], read_jsonl(workspace / layout.file))
        write_jsonl(workspace / MESSAGES_ROWS, (cast(Row, messages_row(row)) for row in rows))
    card = _card(measured, workplace, split, workspace)
    (workspace / CARD).write_text(card.to_json(), encoding="utf-8")
    (workspace / CARD_FOR_PEOPLE).write_text(card.to_markdown(), encoding="utf-8")
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


def _writes_messages(layout: _Layout, line: Line) -> bool:
    return layout is _TRAINING and line.training.format == "messages"


def _card(measured: _Measured, workplace: Workplace, split: Artifact, directory: Path) -> DatasetCard:
    """What the card of the files in `directory` must say, once every row was taken from `measured`."""
    layout, statistics = measured.layout, measured.statistics
    ancestors = _ancestors(workplace, split)
    raw = ancestors["raw_corpus"]
    proof: dict[str, Any] = json.loads(split.file(PROOF).read_bytes())
    rows_of_source = statistics.histogram("source")
    canaries = layout.canaries(workplace.line)
    also = (MESSAGES_ROWS,) if _writes_messages(layout, workplace.line) else ()
    return DatasetCard(
        kind=layout.kind,
        line=workplace.line.line,
        classification=split.manifest.classification,
        file=_data_file(directory / layout.file, layout.columns),
        also=tuple(_data_file(directory / name, tuple(MessagesRow.__annotations__)) for name in also),
        canaries=PlantedCanaries(count=canaries.count, repeats=canaries.repeats, rows=canaries.count * canaries.repeats)
        if canaries
        else None,
        instruction=workplace.line.training.instruction,
        by_department=statistics.histogram("department"),
        by_language=statistics.histogram("language"),
        by_year=statistics.histogram("year"),
        by_classification=statistics.histogram("classification"),
        labels=statistics.histogram("label"),
        characters=statistics.characters(),
        exact_duplicates=statistics.exact_duplicates,
        tokens=measured.tokens(),
        findings=measured.quality.findings(),
        sources=tuple(
            CardSource(
                name=source.name,
                role=source.role,
                rows=rows_of_source.get(source.name, 0),
                sha256=raw.external_inputs[f"source:{source.name}"],
                licence=source.licence,
                retention=source.retention,
            )
            for source in workplace.line.sources
            if source.role == layout.role
        ),
        split=SplitNumbers(
            rows_train=proof["rows"]["train"],
            rows_held_out=proof["rows"]["held_out"],
            held_out_share_of_letters=proof["held_out_share_of_letters"],
            components=proof["components"]["count"],
            near_duplicate_pairs=proof["near_duplicates"]["pairs"],
            crossing=proof["crossing"],
            seed=proof["parameters"]["seed"],
        ),
        inputs={kind: manifest.digest for kind, manifest in ancestors.items()},
    )


def _ancestors(workplace: Workplace, split: Artifact) -> dict[str, Manifest]:
    """The verified manifests from the split back to the raw corpus, which holds the digests of the source files."""
    manifest = split.manifest
    found = {LEAKAGE_SAFE_SPLIT.kind: manifest}
    for kind in _CHAIN_TO_THE_SOURCES:
        manifest = workplace.store.read_manifest(workplace.store.input_ref(manifest, kind))
        found[kind] = manifest
    return found


def _data_file(path: Path, columns: tuple[str, ...]) -> DataFile:
    with path.open("rb") as stream:
        rows = sum(1 for _ in stream)
    return DataFile(path=path.name, sha256=file_sha256(path), size=path.stat().st_size, rows=rows, columns=columns)


def build_training_dataset(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Letters of the training side as `SftRow`s. Of the held-out side only lengths and ids are taken.

    Raises IntegrityError when the base model's tokenizer is not there or not the pinned one.
    """
    return _build(_TRAINING, workplace, inputs, workspace)


def build_preference_dataset(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Preference documents of the training side as `PreferenceRow`s or, for a line with labels, as `LabelRow`s; an
    empty file where the line has none. Raises as `build_training_dataset`."""
    return _build(_preference_layout(workplace.line), workplace, inputs, workspace)


def _judge_card(layout: _Layout, workplace: Workplace, artifact: Artifact, inputs: Inputs) -> list[str]:
    """Make rows and card again from the split, and compare; what the card claims is not believed."""
    split = inputs[LEAKAGE_SAFE_SPLIT.kind]
    if artifact.manifest.external_inputs != tokenizer_digests(workplace):
        return ["the base model's tokenizer is another one than when the dataset was made"]
    file = artifact.file(layout.file)
    card = DatasetCard.model_validate_json(artifact.file(CARD).read_bytes())
    names = {entry.path for entry in artifact.manifest.files}
    own = {layout.file, CARD, CARD_FOR_PEOPLE} | (
        {MESSAGES_ROWS} if _writes_messages(layout, workplace.line) else set()
    )
    if names != own:
        return [f"it holds other files than its own ({_some(sorted(names))})"]
    complaints = []
    measured = _Measured(layout, workplace, split)
    with file.open(encoding="utf-8", newline="\n") as stream:
        pairs = enumerate(zip_longest(stream, map(jsonl_line, measured.rows())), start=1)
        wrong = [number for number, (line, right) in pairs if line != right]
    if wrong:
        complaints.append(
            f"row {wrong[0]} is not the one that the training side of the split, or the recipe, gives there"
        )
    if MESSAGES_ROWS in names:
        complaints += _judge_messages(artifact, workplace.line.training.instruction)
    right_card = _card(measured, workplace, split, artifact.path)
    if card.file != right_card.file:
        complaints.append(f"the card states another digest, size or number of rows than {layout.file} has")
    differing = [
        name for name in DatasetCard.model_fields if name != "file" and getattr(card, name) != getattr(right_card, name)
    ]
    if differing:
        complaints.append(f"the card is wrong in {', '.join(differing)}")
    if artifact.file(CARD_FOR_PEOPLE).read_text(encoding="utf-8") != card.to_markdown():
        complaints.append(f"{CARD_FOR_PEOPLE} does not say what {CARD} says")
    held_out = {document.id for document in read_documents(split.file(HELD_OUT))}
    leaked = [str(row["id"]) for row in read_jsonl(file) if row.get("id") in held_out]
    if leaked:
        complaints.append(f"{len(leaked)} held-out documents are in it ({_some(leaked)})")
    return complaints


def _judge_messages(artifact: Artifact, instruction: str) -> list[str]:
    """Turned back, the messages must be the rows themselves."""
    messages = cast(Iterator[MessagesRow], read_jsonl(artifact.file(MESSAGES_ROWS)))
    pairs = zip_longest(messages, read_jsonl(artifact.file(TRAINING_ROWS)))
    for number, (turns, row) in enumerate(pairs, start=1):
        if turns is None or row is None or not _is_the_same(turns, row, instruction):
            return [f"row {number} of {MESSAGES_ROWS} is not that of {TRAINING_ROWS}"]
    return []


def _is_the_same(turns: MessagesRow, row: Row, instruction: str) -> bool:
    try:
        return dict(sft_row_of(turns, instruction)) == row
    except (ValueError, KeyError):
        return False


def judge_training_dataset(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    return _verdict(_TRAINING, artifact, _judge_card(_TRAINING, workplace, artifact, inputs))


def judge_preference_dataset(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """As for the training dataset. No pair may be equal or have an empty side, which would teach nothing; labelled
    replies must not be empty, and both labels must be there."""
    layout = _preference_layout(workplace.line)
    complaints = _judge_card(layout, workplace, artifact, inputs)
    of_rows = _judge_labels if layout is _LABELS else _judge_pairs
    return _verdict(layout, artifact, [*complaints, *of_rows(artifact.file(layout.file))])


def _judge_pairs(file: Path) -> list[str]:
    equal = []
    empty = []
    for row in read_jsonl(file):
        chosen, rejected = str(row["chosen"]).strip(), str(row["rejected"]).strip()
        if not chosen or not rejected:
            empty.append(str(row["id"]))
        elif chosen == rejected:
            equal.append(str(row["id"]))
    return [
        *([f"chosen and rejected are the same in {len(equal)} rows ({_some(equal)})"] if equal else []),
        *([f"chosen or rejected is empty in {len(empty)} rows ({_some(empty)})"] if empty else []),
    ]


def _judge_labels(file: Path) -> list[str]:
    counts = {True: 0, False: 0}
    empty = []
    for row in read_label_rows(file):
        counts[row["label"]] += 1
        if not row["completion"].strip():
            empty.append(row["id"])
    complaints = [f"the reply is empty in {len(empty)} rows ({_some(empty)})"] if empty else []
    if not all(counts.values()):
        complaints.append(
            f"{counts[True]} replies are labelled good and {counts[False]} bad, and KTO needs both on the training side"
        )
    return complaints


def _verdict(layout: _Layout, artifact: Artifact, complaints: Sequence[str]) -> Verdict:
    file = artifact.file(layout.file)
    ids = [str(row["id"]) for row in read_jsonl(file)]
    canaries = sum(map(is_canary, ids))
    evidence = {"rows": len(ids) - canaries, "sha256": file_sha256(file), "complaints": len(complaints)}
    if canaries:
        evidence["canaries"] = canaries
    if complaints:
        return Verdict(False, f"{'; '.join(complaints)}.", evidence)
    planted = f" and {canaries} canaries of the recipe" if canaries else ""
    return Verdict(
        True,
        f"{evidence['rows']} rows are exactly those of the training side{planted}; digests and counts agree.",
        evidence,
    )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _IDS_IN_A_MESSAGE} more" if len(names) > _IDS_IN_A_MESSAGE else ""
    return ", ".join(names[:_IDS_IN_A_MESSAGE]) + more


def _config(layout: _Layout, line: Line) -> Config:
    canaries = layout.canaries(line)
    return {
        "instruction": line.training.instruction,
        "base_model": line.training.base_model,
        "max_length": layout.max_length(line),
        **({"format": line.training.format} if layout is _TRAINING else {}),
        "sources": [
            source.model_dump(mode="json", include={"name", "role", "licence", "retention"})
            for source in line.sources
            if source.role == layout.role
        ],
        **({"canaries": canaries.model_dump(mode="json")} if canaries else {}),
    }


def _training_config(line: Line) -> Config:
    return _config(_TRAINING, line)


def _preference_config(line: Line) -> Config:
    return _config(_preference_layout(line), line)


TRAINING_DATASET = Stage(
    kind=_TRAINING.kind,
    code_version="3",
    build=build_training_dataset,
    inputs=(LEAKAGE_SAFE_SPLIT,),
    config=_training_config,
    external=tokenizer_digests,
    libraries=("tokenizers", "transformers"),
    gates=(
        Gate(
            name="digests_verified",
            question=(
                "Are the rows exactly those of the training side and the recipe's canaries, and does the card say what "
                "they give?"
            ),
            code_version="3",
            judge=judge_training_dataset,
            config=_training_config,
        ),
        not_contaminated(lambda line: TRAINING_ROWS),
    ),
)

PREFERENCE_DATASET = Stage(
    kind=_PREFERENCES.kind,
    code_version="3",
    build=build_preference_dataset,
    inputs=(LEAKAGE_SAFE_SPLIT,),
    config=_preference_config,
    external=tokenizer_digests,
    libraries=("tokenizers", "transformers"),
    gates=(
        Gate(
            name="digests_verified",
            question="Are the rows exactly those of the training side: true pairs, or replies with both labels?",
            code_version="3",
            judge=judge_preference_dataset,
            config=_preference_config,
        ),
        not_contaminated(lambda line: _preference_layout(line).file),
    ),
)
