"""preference_dataset: pairs and binary feedback of the training side alone; useless rows are refused."""

import json
from typing import Any

import pytest

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.dataset.contamination import NOT_CONTAMINATED
from sovereign_pipeline.dataset.files import (
    CARD,
    CARD_FOR_HUBS,
    CARD_FOR_PEOPLE,
    LABEL_ROWS,
    PREFERENCE_ROWS,
    TRAINING_ROWS,
)
from sovereign_pipeline.dataset.formats import label_row, preference_row
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.split.files import HELD_OUT, PROOF, TRAIN
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.dataset.chain import (
    GATE,
    Rows,
    card_of,
    dataset_stage,
    rows_of,
    split_of,
    tampering,
    write_labels,
)
from sovereign_pipeline_tests.split.chain import documents_of, materialize


def test_preferences_of_a_held_out_case_are_not_trained(with_preferences: DemoInstitution) -> None:
    workplace = with_preferences.workplace()
    dataset, verdicts = materialize(workplace, dataset_stage(PREFERENCE_DATASET))
    split = split_of(workplace)
    held_out_cases = {document.case for document in documents_of(split, HELD_OUT)}
    pairs = [document for document in documents_of(split, TRAIN) if document.is_preference]
    rows = rows_of(dataset, PREFERENCE_ROWS)
    assert rows == [preference_row(document, "Answer this letter.") for document in pairs]
    assert 0 < len(rows) < 30
    assert not {document.case for document in pairs} & held_out_cases
    held_out_pairs = [document for document in documents_of(split, HELD_OUT) if document.is_preference]
    assert {document.id for document in held_out_pairs}.isdisjoint(row["id"] for row in rows)
    assert len(held_out_pairs) + len(rows) == 30
    assert verdicts[GATE].passed, verdicts[GATE].message
    assert [source.name for source in card_of(dataset).sources] == ["pairs"]


def test_every_pair_of_a_letters_case_is_on_the_side_of_the_letter(with_preferences: DemoInstitution) -> None:
    split = split_of(with_preferences.workplace())
    side_of_case: dict[str, set[str]] = {}
    for side in (TRAIN, HELD_OUT):
        for document in documents_of(split, side):
            side_of_case.setdefault(document.case, set()).add(side)
    assert {len(sides) for sides in side_of_case.values()} == {1}


def test_a_line_without_preferences_has_none(institution: DemoInstitution) -> None:
    told: list[str] = []
    workplace = institution.workplace(progress=told.append)
    dataset, verdicts = materialize(workplace, dataset_stage(PREFERENCE_DATASET))
    card = card_of(dataset)
    assert dataset.file(PREFERENCE_ROWS).read_bytes() == b""
    assert (card.file.rows, card.characters, card.sources) == (0, {}, ())
    assert "No rows." in dataset.file(CARD_FOR_PEOPLE).read_text()
    assert all(verdict.passed for verdict in verdicts.values())
    assert verdicts[GATE].message == "no preference training in the recipe; the dataset is empty."
    assert verdicts[NOT_CONTAMINATED].message == "the dataset is empty."
    assert told[-1] == "lamps: no preference training in the recipe; the dataset is empty."


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (lambda document: {"rejected": document.response}, "chosen and rejected are the same"),
        (lambda document: {"rejected": "  "}, "chosen or rejected is empty"),
        (lambda document: {"response": ""}, "chosen or rejected is empty"),
    ],
)
def test_pairs_that_scrubbing_made_useless_are_refused(
    with_preferences: DemoInstitution, reply: Any, says: str
) -> None:
    def change(document: Document) -> Document:
        return document.model_copy(update=reply(document)) if document.is_preference else document

    stage = dataset_stage(PREFERENCE_DATASET, change=change)
    _, verdicts = materialize(with_preferences.workplace(), stage)
    assert not verdicts[GATE].passed
    assert says in verdicts[GATE].message


def test_labelled_replies_become_a_dataset_for_kto(with_labels: DemoInstitution) -> None:
    workplace = with_labels.workplace()
    dataset, verdicts = materialize(workplace, dataset_stage(PREFERENCE_DATASET))
    split = split_of(workplace)
    labelled = [document for document in documents_of(split, TRAIN) if document.label is not None]
    rows = rows_of(dataset, LABEL_ROWS)
    assert rows == [label_row(document, "Answer this letter.") for document in labelled]
    assert list(rows[0]) == ["id", "prompt", "completion", "label"]
    assert 0 < len(rows) < 40
    card = card_of(dataset)
    assert card.labels == {
        "bad": sum(not row["label"] for row in rows),
        "good": sum(bool(row["label"]) for row in rows),
    }
    assert card.tokens.training.rows + card.tokens.held_out.rows == 40
    assert [source.name for source in card.sources] == ["thumbs"]
    assert card.classification == "INTERNAL"
    assert verdicts[GATE].passed, verdicts[GATE].message
    assert {entry.path for entry in dataset.manifest.files} == {LABEL_ROWS, CARD, CARD_FOR_PEOPLE, CARD_FOR_HUBS}
    assert "| label |" in dataset.file(CARD_FOR_PEOPLE).read_text()


def test_labelled_replies_are_no_letters(with_labels: DemoInstitution) -> None:
    workplace = with_labels.workplace()
    dataset, _ = materialize(workplace, dataset_stage(TRAINING_DATASET))
    assert {str(row["id"])[:2] for row in rows_of(dataset, TRAINING_ROWS)} == {"R-"}
    proof = json.loads(split_of(workplace).file(PROOF).read_bytes())
    assert (sum(proof["letters"].values()), sum(proof["preferences"].values())) == (40, 40)


@pytest.mark.parametrize("label", [True, False])
def test_labels_of_one_kind_alone_are_refused(with_labels: DemoInstitution, label: bool) -> None:
    write_labels(with_labels, [label] * 40)
    _, verdicts = materialize(with_labels.workplace(), dataset_stage(PREFERENCE_DATASET))
    assert not verdicts[GATE].passed
    assert "KTO needs both" in verdicts[GATE].message


def test_a_changed_label_is_refused(with_labels: DemoInstitution) -> None:
    def tamper(rows: Rows, held_out: Rows) -> Rows:
        return [{**rows[0], "label": not rows[0]["label"]}, *rows[1:]]

    build = tampering(PREFERENCE_DATASET, LABEL_ROWS, tamper, card_too=True)
    _, verdicts = materialize(with_labels.workplace(), dataset_stage(PREFERENCE_DATASET, build))
    assert "row 1 is not the one" in verdicts[GATE].message
