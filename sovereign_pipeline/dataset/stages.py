"""The stages training_dataset and preference_dataset: the training side of the split as rows, with a card."""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from sovereign_pipeline.artifacts.stage import Built, Config, Gate, Inputs, Stage, Workplace
from sovereign_pipeline.corpus.document import read_jsonl, write_jsonl
from sovereign_pipeline.dataset.contamination import not_contaminated
from sovereign_pipeline.dataset.files import CARD, CARD_FOR_PEOPLE, MESSAGES_ROWS, TRAINING_ROWS
from sovereign_pipeline.dataset.formats import (
    SftRow,
    messages_row,
)
from sovereign_pipeline.dataset.gates import evaluate_preference_dataset, evaluate_training_dataset
from sovereign_pipeline.dataset.layouts import PREFERENCES, TRAINING, Layout, Row, preference_layout, writes_messages
from sovereign_pipeline.dataset.measuring import Measured, build_card
from sovereign_pipeline.dataset.tokens import tokenizer_digests
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT


def _build(layout: Layout, workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    split = inputs[LEAKAGE_SAFE_SPLIT.kind]
    measured = Measured(layout, workplace, split)
    write_jsonl(workspace / layout.file, measured.rows())
    if writes_messages(layout, workplace.line):
        rows = cast(Iterator[SftRow], read_jsonl(workspace / layout.file))
        write_jsonl(workspace / MESSAGES_ROWS, (cast(Row, messages_row(row)) for row in rows))
    card = build_card(measured, workplace, split, workspace)
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


def build_training_dataset(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Letters of the training side as `SftRow`s. Of the held-out side only lengths and ids are taken.

    Raises IntegrityError when the base model's tokenizer is not there or not the pinned one.
    """
    return _build(TRAINING, workplace, inputs, workspace)


def build_preference_dataset(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Preference documents of the training side as `PreferenceRow`s or, for a line with labels, as `LabelRow`s; an
    empty file where the line has none. Raises as `build_training_dataset`."""
    return _build(preference_layout(workplace.line), workplace, inputs, workspace)


def _config(layout: Layout, line: Line) -> Config:
    canaries = layout.canaries(line)
    return {
        "instruction": line.training.instruction,
        "base_model": line.training.base_model,
        "max_length": layout.max_length(line),
        **({"format": line.training.format} if layout is TRAINING else {}),
        "sources": [
            source.model_dump(mode="json", include={"name", "role", "licence", "retention"})
            for source in line.sources
            if source.role == layout.role
        ],
        **({"canaries": canaries.model_dump(mode="json")} if canaries else {}),
    }


def _training_config(line: Line) -> Config:
    return _config(TRAINING, line)


def _preference_config(line: Line) -> Config:
    return _config(preference_layout(line), line)


TRAINING_DATASET = Stage(
    kind=TRAINING.kind,
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
            evaluate=evaluate_training_dataset,
            config=_training_config,
        ),
        not_contaminated(lambda line: TRAINING_ROWS),
    ),
)

PREFERENCE_DATASET = Stage(
    kind=PREFERENCES.kind,
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
            evaluate=evaluate_preference_dataset,
            config=_preference_config,
        ),
        not_contaminated(lambda line: preference_layout(line).file),
    ),
)
