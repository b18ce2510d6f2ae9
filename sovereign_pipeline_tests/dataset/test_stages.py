"""training_dataset: the rows of the training side alone, reproducible, as the recipe asks."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import GateRefused
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.corpus.document import Document, read_jsonl, write_jsonl
from sovereign_pipeline.dataset.card import DatasetCard
from sovereign_pipeline.dataset.contamination import NOT_CONTAMINATED
from sovereign_pipeline.dataset.jsonl import (
    CARD,
    CARD_FOR_HUBS,
    CARD_FOR_PEOPLE,
    LABEL_ROWS,
    MESSAGES_ROWS,
    PAIRS,
    PREFERENCE_ROWS,
    SELECTION_ROWS,
    SFT,
    TRAINING_ROWS,
    conversation_row,
    label_row,
    messages_row,
    preference_row,
    row_ids,
    sft_row,
)
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.privacy.preview import JudgedRow
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Workplace
from sovereign_pipeline.split import HELD_OUT, PROOF, SELECTION, TRAIN
from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.corpus.sources import changed_document
from sovereign_pipeline_tests.dataset.chain import (
    GATE,
    Rows,
    card_of,
    dataset_stage,
    judge,
    rows_of,
    split_of,
    tampering,
    write_labels,
)
from sovereign_pipeline_tests.split.chain import documents_of, materialize, split_stage


def test_the_rows_are_the_letters_of_the_training_side(with_preferences: DemoInstitution) -> None:
    with_preferences.recipe["training"] |= {"format": "messages", "instruction": "Re\u0301pondez."}
    workplace = with_preferences.workplace()
    assert workplace.line.training.instruction == "R\u00e9pondez."
    dataset, verdicts = materialize(workplace, dataset_stage(TRAINING_DATASET))
    train = documents_of(split_of(workplace), TRAIN)
    letters = [sft_row(document, "R\u00e9pondez.") for document in train if not document.is_preference]
    assert rows_of(dataset, TRAINING_ROWS) == letters
    assert list(rows_of(dataset, TRAINING_ROWS)[0]) == ["id", "instruction", "input", "output"]
    assert rows_of(dataset, MESSAGES_ROWS) == [messages_row(row) for row in letters]
    assert verdicts[GATE].passed, verdicts[GATE].message
    written = {entry.path for entry in dataset.manifest.files}
    assert written == {TRAINING_ROWS, MESSAGES_ROWS, CARD, CARD_FOR_PEOPLE, CARD_FOR_HUBS}
    (stated,) = card_of(dataset).also
    assert (stated.path, stated.rows) == (MESSAGES_ROWS, len(letters))
    assert stated.sha256 == file_sha256(dataset.file(MESSAGES_ROWS))


def test_the_same_inputs_give_the_same_dataset(tmp_path: Path) -> None:
    digests = {
        materialize(
            DemoInstitution(tmp_path / name, minimal_recipe(), [letter(number) for number in range(30)]).workplace(),
            dataset_stage(TRAINING_DATASET),
        )[0].ref.digest
        for name in ("one", "other")
    }
    assert len(digests) == 1


def test_a_change_of_licence_makes_another_dataset_and_a_change_of_limits_does_not(
    institution: DemoInstitution,
) -> None:
    line = institution.workplace().line
    (source,) = line.sources
    relicensed = line.model_copy(update={"sources": (source.model_copy(update={"licence": "other"}),)})
    relaxed = line.model_copy(update={"quarantine": line.quarantine.model_copy(update={"max_share": 0.5})})
    assert TRAINING_DATASET.config(line) != TRAINING_DATASET.config(relicensed)
    assert TRAINING_DATASET.config(line) == TRAINING_DATASET.config(relaxed)


def after(change: Callable[[Path, Inputs], object]) -> Any:
    """A build after which its files are changed."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = TRAINING_DATASET.build(workplace, inputs, workspace)
        change(workspace, inputs)
        return built

    return build


def with_rows(change: Callable[[Rows, Rows], Rows], file: str = TRAINING_ROWS, card_too: bool = True) -> Any:
    return tampering(TRAINING_DATASET, file, change, card_too=card_too)


def with_card(fact: str, lie: Callable[[Any], Any]) -> Any:
    def change(workspace: Path, inputs: Inputs) -> None:
        card = json.loads((workspace / CARD).read_text())
        lying = DatasetCard.model_validate({**card, fact: lie(card)})
        (workspace / CARD).write_text(lying.to_json())
        (workspace / CARD_FOR_PEOPLE).write_text(lying.to_markdown())

    return after(change)


def with_text(file: str, old: str, new: str) -> Any:
    def change(workspace: Path, inputs: Inputs) -> None:
        (workspace / file).write_text((workspace / file).read_text().replace(old, new, 1))

    return after(change)


def held_out_beside(workspace: Path, inputs: Inputs) -> None:
    (workspace / HELD_OUT).write_bytes(inputs["leakage_safe_split"].file(HELD_OUT).read_bytes())


MESSAGES, CANARIES = {"format": "messages"}, {"canaries": {"count": 6}}
FAULTS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "a held-out row": ({}, with_rows(lambda rows, held: [*rows, held[0]]), "1 held-out document is in the dataset"),
    "a missing row": ({}, with_rows(lambda rows, _: rows[1:]), "row 1 differs from the row"),
    "other words": (
        {},
        with_rows(lambda rows, _: [*rows[:-1], {**rows[-1], "output": "Denied."}], card_too=False),
        "the card and train.jsonl differ in digest",
    ),
    "another order": ({}, with_rows(lambda rows, _: [rows[1], rows[0], *rows[2:]]), "row 1 differs from the row"),
    "keys in another order": (
        {},
        with_rows(lambda rows, _: [dict(reversed(row.items())) for row in rows]),
        "row 1 differs from the row",
    ),
    "the held-out file beside the rows": ({}, after(held_out_beside), "files are not the expected ones"),
    "other messages": (
        MESSAGES,
        with_text(MESSAGES_ROWS, "mended", "broken"),
        "row 1 of messages.jsonl differs from row 1 of train.jsonl",
    ),
    "a card for hubs with other types": (
        {},
        with_text(CARD_FOR_HUBS, "dtype: string", "dtype: int64"),
        f"{CARD_FOR_HUBS} and card.json differ in facts",
    ),
    "a card with another limit": (
        {},
        with_card("tokens", lambda card: {**card["tokens"], "limit": 4096}),
        "the card is wrong in tokens",
    ),
    "a card without a finding": (
        {},
        with_card("findings", lambda card: card["findings"][1:]),
        "the card is wrong in findings",
    ),
    "a card without sources": ({}, with_card("sources", lambda card: []), "the card is wrong in sources"),
    "a card with a better estimate than was judged": (
        {},
        with_card("judged", lambda card: {**card["judged"], "precision": card["judged"]["recall"]}),
        "the card is wrong in judged",
    ),
    "a card without canaries": (CANARIES, with_card("canaries", lambda card: None), ""),
    "a missing canary": (CANARIES, with_rows(lambda rows, _: rows[:-1]), ""),
    "a changed canary": (CANARIES, with_rows(lambda rows, _: [*rows[:-1], {**rows[-1], "output": "None."}]), ""),
    "a canary among the letters": (CANARIES, with_rows(lambda rows, _: [rows[-1], *rows[:-1]]), ""),
}


@pytest.fixture(scope="module")
def judged_split(tmp_path_factory: pytest.TempPathFactory) -> tuple[DemoInstitution, ArtifactRef]:
    rows = [letter(number) for number in range(40)]
    institution = DemoInstitution(tmp_path_factory.mktemp("judged"), minimal_recipe(), rows)
    workplace = institution.workplace()
    split = split_of(workplace)
    judge(workplace, JudgedRow(id="R-00003", right={"NAME": 3}, wrong={"NAME": 1}, missed={}))
    return institution, split.ref


@pytest.mark.parametrize("fault", FAULTS)
def test_a_dataset_with_a_fault_is_refused(judged_split: tuple[DemoInstitution, ArtifactRef], fault: str) -> None:
    institution, split = judged_split
    training, build, says = FAULTS[fault]
    # With an instruction of its own no fault gets the dataset of another one.
    institution.recipe["training"] = {**minimal_recipe()["training"], "instruction": f"Beware of {fault}.", **training}
    workplace, stage = institution.workplace(), dataset_stage(TRAINING_DATASET, build)
    verdict = evaluate_gates(stage, workplace, produce(stage, workplace, {"leakage_safe_split": split}).ref)[GATE]
    assert not verdict.passed and says in verdict.message


def test_no_dataset_is_made_of_a_split_that_its_gate_refused(institution: DemoInstitution) -> None:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = split_stage().build(workplace, inputs, workspace)
        (workspace / HELD_OUT).write_bytes((workspace / TRAIN).read_bytes())
        return built

    stage = replace(TRAINING_DATASET, inputs=(split_stage(build=build),))
    with pytest.raises(GateRefused, match="no_crossing_groups"):
        materialize(institution.workplace(), stage)


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
        return changed_document(document, reply(document)) if document.is_preference else document

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
    letters, _ = materialize(workplace, dataset_stage(TRAINING_DATASET))
    assert {str(row["id"])[:2] for row in rows_of(letters, TRAINING_ROWS)} == {"R-"}
    proof = json.loads(split.file(PROOF).read_bytes())
    assert (sum(proof["letters"].values()), sum(proof["preferences"].values())) == (40, 40)


@pytest.mark.parametrize("label", [True, False])
def test_labels_of_one_kind_alone_are_refused(with_labels: DemoInstitution, label: bool) -> None:
    write_labels(with_labels, [label] * 40)
    _, verdicts = materialize(with_labels.workplace(), dataset_stage(PREFERENCE_DATASET))
    assert not verdicts[GATE].passed
    assert "KTO needs both" in verdicts[GATE].message


def test_the_selection_side_is_a_file_of_its_own_that_nothing_is_trained_on(with_preferences: DemoInstitution) -> None:
    with_preferences.recipe["split"] = {"selection": 0.2}
    with_preferences.recipe["training"]["canaries"] = {"count": 6}
    workplace = with_preferences.workplace()
    split = split_of(workplace)
    held_out = documents_of(split, HELD_OUT)
    for stage, layout in ((TRAINING_DATASET, SFT), (PREFERENCE_DATASET, PAIRS)):
        dataset, verdicts = materialize(workplace, dataset_stage(stage))
        assert verdicts[GATE].passed and verdicts[NOT_CONTAMINATED].passed, verdicts
        chosen = [each for each in documents_of(split, SELECTION) if layout.includes(each)]
        rows = rows_of(dataset, SELECTION_ROWS)
        assert rows == [conversation_row(each, "Answer this letter.") for each in chosen] and rows
        assert not {each.id for each in chosen} & row_ids(dataset)
        card = card_of(dataset)
        assert card.also[-1].sha256 == file_sha256(dataset.file(SELECTION_ROWS))
        assert card.documents == sum(map(layout.includes, documents_of(split, TRAIN)))
        assert card.tokens.selection is not None and card.tokens.selection.rows == len(chosen)
        assert f"{len(documents_of(split, SELECTION)):,} for selection" in card.to_markdown()
        content = b"".join(dataset.file(entry.path).read_bytes() for entry in dataset.manifest.files).decode()
        assert not [each.id for each in held_out if each.id in content or each.response in content]


@pytest.mark.security_case(
    "The selection file of a dataset is exchanged for held-out documents, so that experiments would choose by them",
    "the dataset's gate fails; an experiment has no other way to a held-out document, because no input of it has one",
)
def test_held_out_documents_in_the_selection_file_are_refused(institution: DemoInstitution) -> None:
    institution.recipe["split"] = {"selection": 0.2}

    def change(workspace: Path, inputs: Inputs) -> None:
        held_out = documents_of(inputs["leakage_safe_split"], HELD_OUT)
        write_jsonl(workspace / SELECTION_ROWS, (conversation_row(each, "Answer this letter.") for each in held_out))

    _, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET, after(change)))
    assert not verdicts[GATE].passed and "held-out documents are in the dataset" in verdicts[GATE].message


def test_a_text_of_the_selection_side_in_a_training_row_is_contamination(institution: DemoInstitution) -> None:
    institution.recipe["split"] = {"selection": 0.2}

    def change(workspace: Path, inputs: Inputs) -> None:
        copied = documents_of(inputs["leakage_safe_split"], SELECTION)[0]
        first, *others = read_jsonl(workspace / TRAINING_ROWS)
        write_jsonl(workspace / TRAINING_ROWS, [{**first, "output": copied.response}, *others])

    _, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET, after(change)))
    assert not verdicts[NOT_CONTAMINATED].passed and "selection document" in verdicts[NOT_CONTAMINATED].message
