"""training_dataset: the rows of the training side alone, reproducible, as the recipe asks."""

from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.hashing import file_sha256
from sovereign_pipeline.dataset.files import (
    CARD,
    CARD_FOR_HUBS,
    CARD_FOR_PEOPLE,
    MESSAGES_ROWS,
    TRAINING_ROWS,
)
from sovereign_pipeline.dataset.formats import messages_row, sft_row
from sovereign_pipeline.dataset.stages import TRAINING_DATASET
from sovereign_pipeline.split.files import TRAIN
from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.dataset.chain import GATE, card_of, dataset_stage, rows_of, split_of
from sovereign_pipeline_tests.split.chain import documents_of, materialize


def test_the_rows_are_the_letters_of_the_training_side(with_preferences: DemoInstitution) -> None:
    workplace = with_preferences.workplace()
    dataset, verdicts = materialize(workplace, dataset_stage(TRAINING_DATASET))
    train = documents_of(split_of(workplace), TRAIN)
    letters = [sft_row(document, "Answer this letter.") for document in train if not document.is_preference]
    assert rows_of(dataset, TRAINING_ROWS) == letters
    assert list(rows_of(dataset, TRAINING_ROWS)[0]) == ["id", "instruction", "input", "output"]
    assert verdicts[GATE].passed, verdicts[GATE].message
    assert {entry.path for entry in dataset.manifest.files} == {TRAINING_ROWS, CARD, CARD_FOR_PEOPLE, CARD_FOR_HUBS}


def test_the_same_inputs_give_the_same_dataset(tmp_path: Path) -> None:
    digests = {
        materialize(
            DemoInstitution(tmp_path / name, minimal_recipe(), [letter(number) for number in range(30)]).workplace(),
            dataset_stage(TRAINING_DATASET),
        )[0].ref.digest
        for name in ("one", "other")
    }
    assert len(digests) == 1


def test_an_instruction_in_decomposed_letters_is_the_same_in_rows_and_recipe(institution: DemoInstitution) -> None:
    institution.recipe["training"]["instruction"] = "Re\u0301pondez."
    workplace = institution.workplace()
    dataset, verdicts = materialize(workplace, dataset_stage(TRAINING_DATASET))
    assert rows_of(dataset, TRAINING_ROWS)[0]["instruction"] == "R\u00e9pondez." == workplace.line.training.instruction
    assert verdicts[GATE].passed, verdicts[GATE].message


def test_a_change_of_licence_makes_another_dataset_and_a_change_of_limits_does_not(
    institution: DemoInstitution,
) -> None:
    line = institution.workplace().line
    (source,) = line.sources
    relicensed = line.model_copy(update={"sources": (source.model_copy(update={"licence": "other"}),)})
    relaxed = line.model_copy(update={"quarantine": line.quarantine.model_copy(update={"max_share": 0.5})})
    assert TRAINING_DATASET.config(line) != TRAINING_DATASET.config(relicensed)
    assert TRAINING_DATASET.config(line) == TRAINING_DATASET.config(relaxed)


def test_messages_are_the_same_rows_when_the_recipe_asks_for_them(institution: DemoInstitution) -> None:
    institution.recipe["training"]["format"] = "messages"
    dataset, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET))
    rows: Any = rows_of(dataset, TRAINING_ROWS)
    assert rows_of(dataset, MESSAGES_ROWS) == [messages_row(row) for row in rows]
    assert verdicts[GATE].passed, verdicts[GATE].message
    (stated,) = card_of(dataset).also
    assert (stated.path, stated.rows) == (MESSAGES_ROWS, len(rows))
    assert stated.sha256 == file_sha256(dataset.file(MESSAGES_ROWS))
