"""The datasets with the real stages of corpus, split and dataset, and ways to make wrong ones."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.corpus.document import Document, read_documents, read_jsonl, write_jsonl
from sovereign_pipeline.dataset.card import DatasetCard
from sovereign_pipeline.dataset.jsonl import CARD, sft_row
from sovereign_pipeline.privacy.preview import JudgedRow, Judgement, record_judgement
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split import HELD_OUT
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.split.chain import materialize, split_stage

GATE = "digests_verified"
Rows = list[dict[str, Any]]


def dataset_stage(stage: Stage, build: Any = None, change: Callable[[Document], Document] | None = None) -> Stage:
    split = split_stage(change) if change else split_stage()
    return replace(stage, inputs=(split,), build=build or stage.build)


def rows_of(artifact: Artifact, name: str) -> Rows:
    return list(read_jsonl(artifact.file(name)))


def split_of(workplace: Workplace) -> Artifact:
    return materialize(workplace, split_stage())[0]


def card_of(artifact: Artifact) -> DatasetCard:
    return DatasetCard.model_validate_json(artifact.file(CARD).read_bytes())


def tampering(stage: Stage, file: str, tamper: Callable[[Rows, Rows], Rows], *, card_too: bool) -> Any:
    """A build that changes the rows afterwards. tamper: (rows, held-out rows) -> rows. card_too: the card is made to
    agree, so that only the comparison with the split can tell."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = stage.build(workplace, inputs, workspace)
        held_out = [
            dict(sft_row(document, workplace.line.training.instruction))
            for document in read_documents(inputs["leakage_safe_split"].file(HELD_OUT))
        ]
        write_jsonl(workspace / file, tamper(list(read_jsonl(workspace / file)), held_out))
        if card_too:
            card = json.loads((workspace / CARD).read_text())
            content = (workspace / file).read_bytes()
            card["file"].update(sha256=file_sha256(workspace / file), size=len(content), rows=len(content.splitlines()))
            (workspace / CARD).write_text(json.dumps(card))
        return built

    return build


def judge(workplace: Workplace, *rows: JudgedRow) -> None:
    """Judge rows of the current scrubbed corpus."""
    scrubbed = workplace.store.current("lamps", "scrubbed_corpus")
    assert scrubbed is not None
    record_judgement(workplace, scrubbed, Judgement(judge="S. Reader", seed=7, rows=rows))


def write_labels(institution: DemoInstitution, labels: list[bool]) -> None:
    rows = [
        {
            "messages": [
                {"role": "user", "content": letter(500 + number)["request"]},
                {"role": "assistant", "content": letter(500 + number)["response"]},
            ],
            "label": label,
        }
        for number, label in enumerate(labels)
    ]
    (institution.settings.data / "sources" / "thumbs.json").write_text(json.dumps(rows, indent=1))
