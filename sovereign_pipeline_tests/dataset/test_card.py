"""The dataset card: it states what is in the file, holds no text of a document, and a wrong one is refused."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import StaleInput
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.intervals import measured_share
from sovereign_pipeline.dataset.card import DatasetCard
from sovereign_pipeline.dataset.jsonl import (
    CARD,
    CARD_FOR_HUBS,
    CARD_FOR_PEOPLE,
    LABEL_ROWS,
    MESSAGES_ROWS,
    PREFERENCE_ROWS,
    TRAINING_ROWS,
)
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.privacy.preview import JudgedRow, Judgement, record_judgement
from sovereign_pipeline.record.gates import assert_usable
from sovereign_pipeline.record.stage import Built, Inputs, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split import TRAIN
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.dataset.chain import (
    GATE,
    card_of,
    dataset_stage,
    rows_of,
    split_of,
)
from sovereign_pipeline_tests.split.chain import documents_of, materialize


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


def test_the_card_names_the_rows_that_the_recipe_excludes(institution: DemoInstitution) -> None:
    institution.recipe["sources"][0]["exclude"] = [{"id": "R-00003", "reason": "withdrawn | on request"}]
    dataset, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET))
    assert all(verdict.passed for verdict in verdicts.values())
    card = card_of(dataset)
    assert [(each.id, each.reason) for each in card.sources[0].excluded] == [("R-00003", "withdrawn | on request")]
    assert "| letters | R-00003 | withdrawn \\| on request |" in card.to_markdown()


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


def judge(workplace: Workplace, *rows: JudgedRow) -> None:
    scrubbed = workplace.store.current("lamps", "scrubbed_corpus")
    assert scrubbed is not None
    record_judgement(workplace, scrubbed, Judgement(judge="S. Reader", seed=7, rows=rows))


@pytest.mark.parametrize("demanded", [None, 5])
def test_the_card_states_what_people_judged_of_the_scrubbed_corpus(
    institution: DemoInstitution, demanded: int | None
) -> None:
    institution.recipe["privacy"] = {"judged": demanded}
    workplace = institution.workplace()
    before, _ = materialize(workplace, dataset_stage(TRAINING_DATASET))
    assert card_of(before).judged is None
    assert "Nobody judged a sample" in before.file(CARD_FOR_PEOPLE).read_text()
    assert "judgements" not in before.manifest.external_inputs

    judge(
        workplace,
        JudgedRow(id="R-00003", right={"NAME": 6, "PHONE": 1}, wrong={"NAME": 2}, missed={"NAME": 1}),
        JudgedRow(id="R-00004", right={}, wrong={}, missed={}),
    )
    after, verdicts = materialize(workplace, dataset_stage(TRAINING_DATASET))
    assert after.ref != before.ref
    assert verdicts[GATE].passed, verdicts[GATE].message
    assert "judgements" in after.manifest.external_inputs
    judged = card_of(after).judged
    assert judged is not None
    assert (judged.rows, judged.values) == (2, 9)
    assert (judged.precision, judged.recall) == (measured_share(7, 9), measured_share(7, 8))
    assert [each.kind for each in judged.by_kind] == ["NAME", "PHONE"]
    told = after.file(CARD_FOR_PEOPLE).read_text()
    assert f"| all | {measured_share(7, 8)} | {measured_share(7, 9)} |" in told
    assert "2 rows" in told and "9 replaced values" in told


def test_a_dataset_is_stale_once_more_was_judged(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    stage = dataset_stage(TRAINING_DATASET)
    dataset, _ = materialize(workplace, stage)
    assert_usable(stage, workplace, dataset.ref)
    judge(workplace, JudgedRow(id="R-00003", right={"NAME": 1}, wrong={}, missed={}))
    with pytest.raises(StaleInput, match="judgements"):
        assert_usable(stage, workplace, dataset.ref)


def test_a_card_with_a_better_estimate_than_was_judged_is_refused(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    materialize(workplace, dataset_stage(TRAINING_DATASET))
    judge(workplace, JudgedRow(id="R-00003", right={"NAME": 3}, wrong={"NAME": 1}, missed={}))

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = TRAINING_DATASET.build(workplace, inputs, workspace)
        card = DatasetCard.model_validate_json((workspace / CARD).read_bytes())
        assert card.judged is not None
        better = card.model_copy(update={"judged": card.judged.model_copy(update={"precision": measured_share(4, 4)})})
        (workspace / CARD).write_text(better.to_json())
        (workspace / CARD_FOR_PEOPLE).write_text(better.to_markdown())
        return built

    _, verdicts = materialize(workplace, dataset_stage(TRAINING_DATASET, build))
    assert "the card is wrong in judged" in verdicts[GATE].message


def loaded(artifact: Artifact, cache: Path, *configuration: str) -> Any:
    from datasets import load_dataset

    return load_dataset(str(artifact.path), *configuration, cache_dir=str(cache))


def types_of(rows: Any) -> dict[str, str]:
    return {name: feature.dtype for name, feature in rows.features.items()}


@pytest.mark.slow
def test_a_dataset_loads_by_its_directory(with_preferences: DemoInstitution, tmp_path: Path) -> None:
    with_preferences.recipe["training"]["format"] = "messages"
    workplace = with_preferences.workplace()
    dataset, _ = materialize(workplace, dataset_stage(TRAINING_DATASET))
    splits = loaded(dataset, tmp_path / "cache")
    assert list(splits) == ["train"]
    assert types_of(splits["train"]) == dict.fromkeys(("id", "instruction", "input", "output"), "string")
    assert splits["train"].to_list() == rows_of(dataset, TRAINING_ROWS)
    messages = loaded(dataset, tmp_path / "cache", "messages")["train"]
    assert messages.to_list() == rows_of(dataset, MESSAGES_ROWS)
    assert {name: each.dtype for name, each in messages.features["messages"].feature.items()} == {
        "role": "string",
        "content": "string",
    }
    pairs, _ = materialize(workplace, dataset_stage(PREFERENCE_DATASET))
    rows = loaded(pairs, tmp_path / "cache")["train"]
    assert types_of(rows) == dict.fromkeys(("id", "prompt", "chosen", "rejected"), "string")
    assert rows.to_list() == rows_of(pairs, PREFERENCE_ROWS)


@pytest.mark.slow
def test_binary_feedback_is_boolean(with_labels: DemoInstitution, tmp_path: Path) -> None:
    dataset, _ = materialize(with_labels.workplace(), dataset_stage(PREFERENCE_DATASET))
    rows = loaded(dataset, tmp_path / "cache")["train"]
    assert types_of(rows) == {"id": "string", "prompt": "string", "completion": "string", "label": "bool"}
    assert rows.to_list() == rows_of(dataset, LABEL_ROWS)


@pytest.mark.slow
def test_a_card_for_hubs_that_states_other_facts_is_refused(institution: DemoInstitution) -> None:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = TRAINING_DATASET.build(workplace, inputs, workspace)
        text = (workspace / CARD_FOR_HUBS).read_text()
        (workspace / CARD_FOR_HUBS).write_text(text.replace("dtype: string", "dtype: int64", 1))
        return built

    _, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET, build))
    assert f"{CARD_FOR_HUBS} and card.json differ in facts" in verdicts[GATE].message
