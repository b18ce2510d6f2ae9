"""The stages training_dataset and preference_dataset: the training side of the split as rows, with a card.

What belongs here: the build and the declarations. What does not: what distinguishes the datasets (`layouts.py`), the
rows and their measurement (`measuring.py`), the gates (`gates.py`, `contamination.py`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from sovereign_pipeline.artifacts.stage import Built, Config, Gate, Inputs, Stage, Workplace
from sovereign_pipeline.corpus.document import read_jsonl, write_jsonl
from sovereign_pipeline.dataset.contamination import not_contaminated
from sovereign_pipeline.dataset.files import CARD, CARD_FOR_HUBS, CARD_FOR_PEOPLE
from sovereign_pipeline.dataset.formats import SftRow, messages_row
from sovereign_pipeline.dataset.gates import (
    NO_PREFERENCE_TRAINING,
    evaluate_preference_dataset,
    evaluate_training_dataset,
)
from sovereign_pipeline.dataset.hub_card import hub_card
from sovereign_pipeline.dataset.layouts import Layout, Row, SftLayout, preference_layout
from sovereign_pipeline.dataset.measuring import Measured, outside_files
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT


def build_training_dataset(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Write the letters of the training side as `SftRow`s. Of the held-out side only lengths and ids are read.

    Raises IntegrityError when the base model's tokenizer is missing or not the pinned one.
    """
    return _build(SftLayout(), workplace, inputs, workspace)


def build_preference_dataset(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Write the preference documents of the training side as `PreferenceRow`s or, with binary feedback, `LabelRow`s.

    The file is empty where the line has no preference training. Raises as `build_training_dataset`.
    """
    return _build(preference_layout(workplace.line), workplace, inputs, workspace)


def _build(layout: Layout, workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    measured = Measured(layout, workplace, inputs[LEAKAGE_SAFE_SPLIT.kind])
    write_jsonl(workspace / layout.file, measured.rows())
    messages = layout.messages_file(workplace.line)
    if messages:
        rows = cast(Iterator[SftRow], read_jsonl(workspace / layout.file))
        write_jsonl(workspace / messages, (cast(Row, messages_row(row)) for row in rows))
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


def _training_config(line: Line) -> Config:
    return _config(SftLayout(), line)


def _preference_config(line: Line) -> Config:
    return _config(preference_layout(line), line)


TRAINING_DATASET = Stage(
    kind="training_dataset",
    code_version="6",
    build=build_training_dataset,
    inputs=(LEAKAGE_SAFE_SPLIT,),
    config=_training_config,
    external=outside_files,
    libraries=("tokenizers", "transformers"),
    gates=(
        Gate(
            name="digests_verified",
            question=(
                "Are the rows exactly those of the training side and the recipe's canaries, and does the card state "
                "what they give?"
            ),
            code_version="6",
            evaluate=evaluate_training_dataset,
            config=_training_config,
        ),
        not_contaminated(lambda line: SftLayout.file),
    ),
)

PREFERENCE_DATASET = Stage(
    kind="preference_dataset",
    code_version="6",
    build=build_preference_dataset,
    inputs=(LEAKAGE_SAFE_SPLIT,),
    config=_preference_config,
    external=outside_files,
    libraries=("tokenizers", "transformers"),
    gates=(
        Gate(
            name="digests_verified",
            question="Are the rows exactly those of the training side: true pairs, or replies with both labels?",
            code_version="6",
            evaluate=evaluate_preference_dataset,
            config=_preference_config,
        ),
        not_contaminated(lambda line: preference_layout(line).file),
    ),
)
