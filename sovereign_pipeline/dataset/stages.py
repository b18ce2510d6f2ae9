"""The stages training_dataset and preference_dataset: the training side of the split as rows, with a card."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from sovereign_pipeline.artifacts.hashing import file_sha256
from sovereign_pipeline.artifacts.manifest import Manifest
from sovereign_pipeline.artifacts.stage import Built, Config, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import Document, read_documents, read_jsonl, write_jsonl
from sovereign_pipeline.dataset.card import CardSource, DataFile, DatasetCard, RowStatistics, SplitNumbers
from sovereign_pipeline.dataset.contamination import not_contaminated
from sovereign_pipeline.dataset.formats import PreferenceRow, SftRow, preference_row, sft_row
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.split.stages import HELD_OUT, LEAKAGE_SAFE_SPLIT, PROOF, TRAIN

TRAINING_ROWS = "train.jsonl"
PREFERENCE_ROWS = "preferences.jsonl"
CARD = "card.json"
CARD_FOR_PEOPLE = "card.md"

_CHAIN_TO_THE_SOURCES = ("scrubbed_corpus", "classified_corpus", "raw_corpus")
_IDS_IN_A_MESSAGE = 10


@dataclass(frozen=True)
class _Layout:
    """What tells the two datasets apart. text_columns: those whose lengths and duplicates the card states."""

    kind: str
    file: str
    role: Literal["letters", "preferences"]
    columns: tuple[str, ...]
    text_columns: tuple[str, ...]
    row: Callable[[Document, str], Mapping[str, object]]

    def rows(self, split: Artifact, instruction: str) -> Iterator[tuple[Document, dict[str, object]]]:
        """Each document of the training side that belongs into this dataset, in order, and its row."""
        for document in read_documents(split.file(TRAIN)):
            if document.is_preference == (self.role == "preferences"):
                yield document, dict(self.row(document, instruction))


_TRAINING = _Layout(
    kind="training_dataset",
    file=TRAINING_ROWS,
    role="letters",
    columns=tuple(SftRow.__annotations__),
    text_columns=("input", "output"),
    row=sft_row,
)
_PREFERENCES = _Layout(
    kind="preference_dataset",
    file=PREFERENCE_ROWS,
    role="preferences",
    columns=tuple(PreferenceRow.__annotations__),
    text_columns=("prompt", "chosen", "rejected"),
    row=preference_row,
)


def _build(layout: _Layout, workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    split = inputs[LEAKAGE_SAFE_SPLIT.kind]
    statistics = RowStatistics(layout.text_columns)

    def counted() -> Iterator[dict[str, object]]:
        for document, row in layout.rows(split, workplace.line.training.instruction):
            statistics.add(document, row)
            yield row

    write_jsonl(workspace / layout.file, counted())
    card = _card(layout, workplace, split, workspace / layout.file, statistics)
    (workspace / CARD).write_text(card.to_json(), encoding="utf-8")
    (workspace / CARD_FOR_PEOPLE).write_text(card.to_markdown(), encoding="utf-8")
    workplace.progress(f"{layout.kind}: {card.file.rows:,} rows")
    return Built(
        summary={
            "rows": card.file.rows,
            "sha256": card.file.sha256,
            "exact_duplicates": card.exact_duplicates,
            "by_classification": card.by_classification,
            "by_language": card.by_language,
        }
    )


def _card(layout: _Layout, workplace: Workplace, split: Artifact, file: Path, statistics: RowStatistics) -> DatasetCard:
    ancestors = _ancestors(workplace, split)
    raw = ancestors["raw_corpus"]
    proof: dict[str, Any] = json.loads(split.file(PROOF).read_bytes())
    rows_of_source = statistics.histogram("source")
    return DatasetCard(
        kind=layout.kind,
        line=workplace.line.line,
        classification=split.manifest.classification,
        file=DataFile(
            path=layout.file,
            sha256=file_sha256(file),
            size=file.stat().st_size,
            rows=statistics.rows,
            columns=layout.columns,
        ),
        instruction=workplace.line.training.instruction,
        by_department=statistics.histogram("department"),
        by_language=statistics.histogram("language"),
        by_year=statistics.histogram("year"),
        by_classification=statistics.histogram("classification"),
        characters=statistics.characters(),
        exact_duplicates=statistics.exact_duplicates,
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


def build_training_dataset(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Letters of the training side as `SftRow`s. The held-out file is not opened."""
    return _build(_TRAINING, workplace, inputs, workspace)


def build_preference_dataset(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Preference documents of the training side as `PreferenceRow`s; an empty file where the line has none."""
    return _build(_PREFERENCES, workplace, inputs, workspace)


def _judge_digests(layout: _Layout, workplace: Workplace, artifact: Artifact, inputs: Inputs) -> list[str]:
    """Complaints about the file and the card, held against the bytes and against the split."""
    split = inputs[LEAKAGE_SAFE_SPLIT.kind]
    file = artifact.file(layout.file)
    card = DatasetCard.model_validate_json(artifact.file(CARD).read_bytes())
    complaints = []
    names = {entry.path for entry in artifact.manifest.files}
    if names != {layout.file, CARD, CARD_FOR_PEOPLE}:
        complaints.append(f"it holds other files than its own ({_some(sorted(names))})")
    if (card.file.sha256, card.file.size) != (file_sha256(file), file.stat().st_size):
        complaints.append(f"the card states another digest or size than {layout.file} has")
    rows = sum(1 for _ in read_jsonl(file))
    if card.file.rows != rows:
        complaints.append(f"the card states {card.file.rows} rows, {layout.file} has {rows}")
    expected = (row for _, row in layout.rows(split, workplace.line.training.instruction))
    for number, (row, right) in enumerate(zip_longest(read_jsonl(file), expected), start=1):
        if row != right or list(row) != list(layout.columns):
            complaints.append(f"row {number} is not the one that the training side of the split gives there")
            break
    held_out = {document.id for document in read_documents(split.file(HELD_OUT))}
    leaked = [str(row["id"]) for row in read_jsonl(file) if row.get("id") in held_out]
    if leaked:
        complaints.append(f"{len(leaked)} held-out documents are in it ({_some(leaked)})")
    return complaints


def judge_training_dataset(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    return _verdict(_TRAINING, artifact, _judge_digests(_TRAINING, workplace, artifact, inputs))


def judge_preference_dataset(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """As for the training dataset; and no pair may be equal or have an empty side, which would teach nothing."""
    complaints = _judge_digests(_PREFERENCES, workplace, artifact, inputs)
    equal = []
    empty = []
    for row in read_jsonl(artifact.file(PREFERENCE_ROWS)):
        chosen, rejected = str(row["chosen"]).strip(), str(row["rejected"]).strip()
        if not chosen or not rejected:
            empty.append(str(row["id"]))
        elif chosen == rejected:
            equal.append(str(row["id"]))
    if equal:
        complaints.append(f"chosen and rejected are the same in {len(equal)} rows ({_some(equal)})")
    if empty:
        complaints.append(f"chosen or rejected is empty in {len(empty)} rows ({_some(empty)})")
    return _verdict(_PREFERENCES, artifact, complaints)


def _verdict(layout: _Layout, artifact: Artifact, complaints: Sequence[str]) -> Verdict:
    file = artifact.file(layout.file)
    evidence = {"rows": sum(1 for _ in read_jsonl(file)), "sha256": file_sha256(file), "complaints": len(complaints)}
    if complaints:
        return Verdict(False, f"{'; '.join(complaints)}.", evidence)
    return Verdict(
        True, f"{evidence['rows']} rows are exactly those of the training side; digests and counts agree.", evidence
    )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _IDS_IN_A_MESSAGE} more" if len(names) > _IDS_IN_A_MESSAGE else ""
    return ", ".join(names[:_IDS_IN_A_MESSAGE]) + more


def _instruction(line: Line) -> Config:
    return {"instruction": line.training.instruction}


def _config(role: Literal["letters", "preferences"]) -> Callable[[Line], Config]:
    def config(line: Line) -> Config:
        return {
            **_instruction(line),
            "sources": [
                source.model_dump(mode="json", include={"name", "role", "licence", "retention"})
                for source in line.sources
                if source.role == role
            ],
        }

    return config


TRAINING_DATASET = Stage(
    kind=_TRAINING.kind,
    code_version="1",
    build=build_training_dataset,
    inputs=(LEAKAGE_SAFE_SPLIT,),
    config=_config("letters"),
    gates=(
        Gate(
            name="digests_verified",
            question="Are the rows exactly those of the training side, and do digest and count agree with the card?",
            code_version="1",
            judge=judge_training_dataset,
            config=_instruction,
        ),
        not_contaminated(TRAINING_ROWS),
    ),
)

PREFERENCE_DATASET = Stage(
    kind=_PREFERENCES.kind,
    code_version="1",
    build=build_preference_dataset,
    inputs=(LEAKAGE_SAFE_SPLIT,),
    config=_config("preferences"),
    gates=(
        Gate(
            name="digests_verified",
            question="Are the rows exactly those of the training side, each with two different, non-empty replies?",
            code_version="1",
            judge=judge_preference_dataset,
            config=_instruction,
        ),
        not_contaminated(PREFERENCE_ROWS),
    ),
)
