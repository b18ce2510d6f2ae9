"""The gate digests_verified: tampered rows, files and messages are refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.artifacts.stage import Built, Inputs, Workplace
from sovereign_pipeline.dataset.files import (
    MESSAGES_ROWS,
    TRAINING_ROWS,
)
from sovereign_pipeline.dataset.stages import TRAINING_DATASET
from sovereign_pipeline.errors import GateRefused, IntegrityError
from sovereign_pipeline.split.files import HELD_OUT, TRAIN
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.dataset.chain import GATE, Rows, dataset_stage, tampering
from sovereign_pipeline_tests.split.chain import materialize, split_stage


@pytest.mark.parametrize("card_too", [False, True])
@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (lambda rows, held_out: [*rows, held_out[0]], "1 held-out document is in it"),
        (lambda rows, held_out: rows[1:], "row 1 is not the one"),
        (lambda rows, held_out: [*rows[:-1], {**rows[-1], "output": "Denied."}], "is not the one"),
        (lambda rows, held_out: [rows[1], rows[0], *rows[2:]], "row 1 is not the one"),
        (lambda rows, held_out: [dict(reversed(row.items())) for row in rows], "row 1 is not the one"),
    ],
)
def test_a_tampered_dataset_is_refused(institution: DemoInstitution, tamper: Any, says: str, card_too: bool) -> None:
    workplace = institution.workplace()
    build = tampering(TRAINING_DATASET, TRAINING_ROWS, tamper, card_too=card_too)
    _, verdicts = materialize(workplace, dataset_stage(TRAINING_DATASET, build))
    assert not verdicts[GATE].passed
    assert says in verdicts[GATE].message
    assert ("the card states another digest" in verdicts[GATE].message) is not card_too


def test_a_dataset_changed_on_disk_cannot_be_opened(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    dataset, _ = materialize(workplace, dataset_stage(TRAINING_DATASET))
    file = dataset.file(TRAINING_ROWS)
    file.write_bytes(file.read_bytes().replace(b"mended", b"broken", 1))
    with pytest.raises(IntegrityError, match=TRAINING_ROWS):
        workplace.store.open(dataset.ref)


def test_the_held_out_file_beside_the_rows_is_refused(institution: DemoInstitution) -> None:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = TRAINING_DATASET.build(workplace, inputs, workspace)
        (workspace / HELD_OUT).write_bytes(inputs["leakage_safe_split"].file(HELD_OUT).read_bytes())
        return built

    _, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET, build))
    assert not verdicts[GATE].passed
    assert "holds other files" in verdicts[GATE].message


def test_no_dataset_is_made_of_a_split_that_its_gate_refused(institution: DemoInstitution) -> None:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = split_stage().build(workplace, inputs, workspace)
        (workspace / HELD_OUT).write_bytes((workspace / TRAIN).read_bytes())
        return built

    stage = replace(TRAINING_DATASET, inputs=(split_stage(build=build),))
    with pytest.raises(GateRefused, match="no_crossing_groups"):
        materialize(institution.workplace(), stage)


def test_messages_that_are_not_the_rows_are_refused(institution: DemoInstitution) -> None:
    institution.recipe["training"]["format"] = "messages"

    def tamper(rows: Rows, held_out: Rows) -> Rows:
        rows[2]["messages"][1]["content"] += "?"
        return rows

    build = tampering(TRAINING_DATASET, MESSAGES_ROWS, tamper, card_too=False)
    _, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET, build))
    assert "row 3 of messages.jsonl is not that of train.jsonl" in verdicts[GATE].message
