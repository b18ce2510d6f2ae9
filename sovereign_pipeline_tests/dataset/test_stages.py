"""Training and preference datasets: rows of the training side alone, a card that tells the truth, tampering refused."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.artifacts.hashing import file_sha256
from sovereign_pipeline.artifacts.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import Document, read_documents, read_jsonl, write_jsonl
from sovereign_pipeline.dataset.card import DatasetCard
from sovereign_pipeline.dataset.files import (
    CARD,
    CARD_FOR_PEOPLE,
    LABEL_ROWS,
    MESSAGES_ROWS,
    PREFERENCE_ROWS,
    TRAINING_ROWS,
)
from sovereign_pipeline.dataset.formats import label_row, messages_row, preference_row, sft_row
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.errors import GateRefused, IntegrityError
from sovereign_pipeline.split.files import HELD_OUT, TRAIN
from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.split.chain import documents_of, materialize, split_stage

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


@pytest.fixture
def with_preferences(tmp_path: Path) -> DemoInstitution:
    """40 letters, and 30 preference documents of which ten belong to the case of a letter."""
    recipe = minimal_recipe()
    recipe["sources"].append(
        {
            "name": "pairs",
            "role": "preferences",
            "path": "sources/pairs.jsonl",
            "licence": "own | internal",
            "retention": "2 years",
        }
    )
    recipe["training"]["preference"] = {}
    institution = DemoInstitution(tmp_path, recipe, [letter(number) for number in range(40)])
    pairs = [
        letter(100 + number, case=f"CASE/{number if number < 10 else 100 + number:05d}", rejected=f"No lamp {number}.")
        for number in range(30)
    ]
    institution.write()
    (institution.settings.data / "sources" / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    return institution


def test_the_rows_are_the_letters_of_the_training_side(with_preferences: DemoInstitution) -> None:
    workplace = with_preferences.workplace()
    dataset, verdicts = materialize(workplace, dataset_stage(TRAINING_DATASET))
    train = documents_of(split_of(workplace), TRAIN)
    letters = [sft_row(document, "Answer this letter.") for document in train if not document.is_preference]
    assert rows_of(dataset, TRAINING_ROWS) == letters
    assert list(rows_of(dataset, TRAINING_ROWS)[0]) == ["id", "instruction", "input", "output"]
    assert verdicts[GATE].passed, verdicts[GATE].message
    assert {entry.path for entry in dataset.manifest.files} == {TRAINING_ROWS, CARD, CARD_FOR_PEOPLE}


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
    dataset, verdicts = materialize(institution.workplace(), dataset_stage(PREFERENCE_DATASET))
    card = card_of(dataset)
    assert dataset.file(PREFERENCE_ROWS).read_bytes() == b""
    assert (card.file.rows, card.characters, card.sources) == (0, {}, ())
    assert "No rows." in dataset.file(CARD_FOR_PEOPLE).read_text()
    assert verdicts[GATE].passed


def test_the_card_states_what_is_in_the_file(institution: DemoInstitution) -> None:
    institution.rows = [
        letter(number, classification="INTERNAL" if number % 2 else "PUBLIC", date=f"{2020 + number % 3}-01-01")
        for number in range(40)
    ]
    copied = letter(7, id="COPY-1", subject=letter(7)["subject"])
    institution.rows.append(copied)
    workplace = institution.workplace()
    dataset, _ = materialize(workplace, dataset_stage(TRAINING_DATASET))
    documents = documents_of(split_of(workplace), TRAIN)
    rows = rows_of(dataset, TRAINING_ROWS)
    card = card_of(dataset)
    assert card.file.sha256 == file_sha256(dataset.file(TRAINING_ROWS))
    assert card.file.size == dataset.file(TRAINING_ROWS).stat().st_size
    assert card.file.rows == len(rows) == len(documents)
    assert card.by_year == dict(Counter(document.date[:4] for document in documents))
    assert card.by_classification == dict(Counter(document.classification for document in documents))
    assert card.by_department == {"lamps": len(rows)}
    lengths = sorted(len(row["output"]) for row in rows)
    assert (card.characters["output"].min, card.characters["output"].max) == (lengths[0], lengths[-1])
    assert lengths[0] <= card.characters["output"].median <= lengths[-1]
    assert card.exact_duplicates == len(rows) - len({(row["input"], row["output"]) for row in rows})
    (source,) = card.sources
    assert source.sha256 == file_sha256(institution.source)
    assert (source.rows, source.licence, source.retention) == (len(rows), "own", "1 year")
    assert card.classification == "INTERNAL" == dataset.manifest.classification
    assert card.split.rows_train == len(rows)
    assert set(card.inputs) == {"leakage_safe_split", "scrubbed_corpus", "classified_corpus", "raw_corpus"}


def test_a_copy_on_the_training_side_is_counted(institution: DemoInstitution) -> None:
    institution.rows += [letter(number, id=f"COPY-{number}") for number in range(40)]
    dataset, _ = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET))
    card = card_of(dataset)
    assert card.exact_duplicates == card.file.rows // 2 > 0


def test_the_card_for_people_holds_no_text_of_a_letter(with_preferences: DemoInstitution) -> None:
    workplace = with_preferences.workplace()
    for stage, file in ((TRAINING_DATASET, TRAINING_ROWS), (PREFERENCE_DATASET, PREFERENCE_ROWS)):
        dataset, _ = materialize(workplace, dataset_stage(stage))
        page = dataset.file(CARD_FOR_PEOPLE).read_text()
        assert card_of(dataset).file.sha256 in page
        assert "own" in page
        for row in rows_of(dataset, file):
            assert str(row.get("output") or row["chosen"]) not in page
    assert "own \\| internal" in page


def test_the_same_inputs_give_the_same_dataset(tmp_path: Path) -> None:
    digests = {
        materialize(
            DemoInstitution(tmp_path / name, minimal_recipe(), [letter(number) for number in range(30)]).workplace(),
            dataset_stage(TRAINING_DATASET),
        )[0].ref.digest
        for name in ("one", "other")
    }
    assert len(digests) == 1


def _tampering(stage: Stage, file: str, tamper: Callable[[Rows, Rows], Rows], *, card_too: bool) -> Any:
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


@pytest.mark.parametrize("card_too", [False, True])
@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (lambda rows, held_out: [*rows, held_out[0]], "1 held-out documents are in it"),
        (lambda rows, held_out: rows[1:], "row 1 is not the one"),
        (lambda rows, held_out: [*rows[:-1], {**rows[-1], "output": "Denied."}], "is not the one"),
        (lambda rows, held_out: [rows[1], rows[0], *rows[2:]], "row 1 is not the one"),
        (lambda rows, held_out: [dict(reversed(row.items())) for row in rows], "row 1 is not the one"),
    ],
)
def test_a_tampered_dataset_is_refused(institution: DemoInstitution, tamper: Any, says: str, card_too: bool) -> None:
    workplace = institution.workplace()
    build = _tampering(TRAINING_DATASET, TRAINING_ROWS, tamper, card_too=card_too)
    _, verdicts = materialize(workplace, dataset_stage(TRAINING_DATASET, build))
    assert not verdicts[GATE].passed
    assert says in verdicts[GATE].message
    assert ("the card states another digest" in verdicts[GATE].message) is not card_too


def test_an_instruction_in_decomposed_letters_is_the_same_in_rows_and_recipe(institution: DemoInstitution) -> None:
    institution.recipe["training"]["instruction"] = "Re\u0301pondez."
    workplace = institution.workplace()
    dataset, verdicts = materialize(workplace, dataset_stage(TRAINING_DATASET))
    assert rows_of(dataset, TRAINING_ROWS)[0]["instruction"] == "R\u00e9pondez." == workplace.line.training.instruction
    assert verdicts[GATE].passed, verdicts[GATE].message


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


def test_no_dataset_is_made_of_a_split_that_its_gate_refused(institution: DemoInstitution) -> None:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = split_stage().build(workplace, inputs, workspace)
        (workspace / HELD_OUT).write_bytes((workspace / TRAIN).read_bytes())
        return built

    stage = replace(TRAINING_DATASET, inputs=(split_stage(build=build),))
    with pytest.raises(GateRefused, match="no_crossing_groups"):
        materialize(institution.workplace(), stage)


def test_a_change_of_licence_makes_another_dataset_and_a_change_of_limits_does_not(
    institution: DemoInstitution,
) -> None:
    line = institution.workplace().line
    (source,) = line.sources
    relicensed = line.model_copy(update={"sources": (source.model_copy(update={"licence": "other"}),)})
    relaxed = line.model_copy(update={"quarantine": line.quarantine.model_copy(update={"max_share": 0.5})})
    assert TRAINING_DATASET.config(line) != TRAINING_DATASET.config(relicensed)
    assert TRAINING_DATASET.config(line) == TRAINING_DATASET.config(relaxed)


@pytest.fixture
def with_labels(tmp_path: Path) -> DemoInstitution:
    """40 letters, and a ShareGPT file of 40 labelled replies in an array, every fourth of them found bad."""
    recipe = minimal_recipe()
    recipe["training"]["preference"] = {"method": "kto"}
    recipe["sources"].append(
        {
            "name": "thumbs",
            "role": "labels",
            "path": "sources/thumbs.json",
            "layout": "sharegpt",
            "constants": {"author": "", "department": "", "date": "2024-05-01", "language": "en"},
            "classification_floor": "INTERNAL",
            "id_from_row": True,
            "case_from_row": True,
            "licence": "feedback",
            "retention": "2 years",
        }
    )
    institution = DemoInstitution(tmp_path, recipe, [letter(number) for number in range(40)])
    institution.write()
    write_labels(institution, [number % 4 != 0 for number in range(40)])
    return institution


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
    assert {entry.path for entry in dataset.manifest.files} == {LABEL_ROWS, CARD, CARD_FOR_PEOPLE}
    assert "| label |" in dataset.file(CARD_FOR_PEOPLE).read_text()


def test_labelled_replies_are_no_letters(with_labels: DemoInstitution) -> None:
    workplace = with_labels.workplace()
    dataset, _ = materialize(workplace, dataset_stage(TRAINING_DATASET))
    assert {str(row["id"])[:2] for row in rows_of(dataset, TRAINING_ROWS)} == {"R-"}
    proof = json.loads(split_of(workplace).file("proof.json").read_bytes())
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

    build = _tampering(PREFERENCE_DATASET, LABEL_ROWS, tamper, card_too=True)
    _, verdicts = materialize(with_labels.workplace(), dataset_stage(PREFERENCE_DATASET, build))
    assert "row 1 is not the one" in verdicts[GATE].message


def test_messages_are_the_same_rows_when_the_recipe_asks_for_them(institution: DemoInstitution) -> None:
    institution.recipe["training"]["format"] = "messages"
    dataset, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET))
    rows: Any = rows_of(dataset, TRAINING_ROWS)
    assert rows_of(dataset, MESSAGES_ROWS) == [messages_row(row) for row in rows]
    assert verdicts[GATE].passed, verdicts[GATE].message
    (stated,) = card_of(dataset).also
    assert (stated.path, stated.rows) == (MESSAGES_ROWS, len(rows))
    assert stated.sha256 == file_sha256(dataset.file(MESSAGES_ROWS))


def test_messages_that_are_not_the_rows_are_refused(institution: DemoInstitution) -> None:
    institution.recipe["training"]["format"] = "messages"

    def tamper(rows: Rows, held_out: Rows) -> Rows:
        rows[2]["messages"][1]["content"] += "?"
        return rows

    build = _tampering(TRAINING_DATASET, MESSAGES_ROWS, tamper, card_too=False)
    _, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET, build))
    assert "row 3 of messages.jsonl is not that of train.jsonl" in verdicts[GATE].message


@pytest.mark.parametrize(
    ("fact", "lie"),
    [
        ("tokens", lambda card: {**card["tokens"], "limit": 4096}),
        ("findings", lambda card: card["findings"][1:]),
        ("by_classification", lambda card: {"PUBLIC": 1}),
        ("exact_duplicates", lambda card: 3),
        ("sources", lambda card: []),
    ],
)
def test_a_card_that_lies_is_refused(institution: DemoInstitution, fact: str, lie: Any) -> None:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = TRAINING_DATASET.build(workplace, inputs, workspace)
        card = json.loads((workspace / CARD).read_text())
        card[fact] = lie(card)
        lying = DatasetCard.model_validate(card)
        (workspace / CARD).write_text(lying.to_json())
        (workspace / CARD_FOR_PEOPLE).write_text(lying.to_markdown())
        return built

    _, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET, build))
    assert f"the card is wrong in {fact}" in verdicts[GATE].message


def test_findings_are_in_the_card_by_row_id_and_do_not_stop_the_dataset(institution: DemoInstitution) -> None:
    institution.rows += [letter(number, response=f"<p>Denied {number} for the") for number in range(100, 120)]
    dataset, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET))
    assert verdicts[GATE].passed, verdicts[GATE].message
    found = {finding.name: finding for finding in card_of(dataset).findings if finding.warns}
    assert set(found) == {"clipped answers", "HTML left in"}
    assert all(row.startswith("R-001") for row in found["HTML left in"].rows)
    assert dataset.manifest.summary["findings"] == {name: finding.count for name, finding in found.items()}
    page = dataset.file(CARD_FOR_PEOPLE).read_text()
    assert found["HTML left in"].rows[0] in page
    assert found["clipped answers"].todo in page
    assert "Denied" not in page
