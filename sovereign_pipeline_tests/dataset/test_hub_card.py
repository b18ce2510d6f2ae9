"""`datasets.load_dataset` reads the directory of a dataset: typed columns, a named split, the rows as they are."""

from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.artifacts.stage import Built, Inputs, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.dataset.files import CARD_FOR_HUBS, LABEL_ROWS, MESSAGES_ROWS, PREFERENCE_ROWS, TRAINING_ROWS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.dataset.chain import GATE, dataset_stage, rows_of
from sovereign_pipeline_tests.split.chain import materialize

pytestmark = pytest.mark.slow


def loaded(artifact: Artifact, cache: Path, *configuration: str) -> Any:
    from datasets import load_dataset

    return load_dataset(str(artifact.path), *configuration, cache_dir=str(cache))


def types_of(rows: Any) -> dict[str, str]:
    return {name: feature.dtype for name, feature in rows.features.items()}


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


def test_binary_feedback_is_boolean(with_labels: DemoInstitution, tmp_path: Path) -> None:
    dataset, _ = materialize(with_labels.workplace(), dataset_stage(PREFERENCE_DATASET))
    rows = loaded(dataset, tmp_path / "cache")["train"]
    assert types_of(rows) == {"id": "string", "prompt": "string", "completion": "string", "label": "bool"}
    assert rows.to_list() == rows_of(dataset, LABEL_ROWS)


def test_a_card_for_hubs_that_states_other_facts_is_refused(institution: DemoInstitution) -> None:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = TRAINING_DATASET.build(workplace, inputs, workspace)
        text = (workspace / CARD_FOR_HUBS).read_text()
        (workspace / CARD_FOR_HUBS).write_text(text.replace("dtype: string", "dtype: int64", 1))
        return built

    _, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET, build))
    assert f"{CARD_FOR_HUBS} states other facts" in verdicts[GATE].message
