"""What the command line shows: plain dictionaries, ready for JSON, with every fact of the registry."""

import json

import pytest

from sovereign_pipeline.errors import NotFoundError
from sovereign_pipeline.registry.catalog import list_adapters, list_datasets, show_adapter, show_dataset
from sovereign_pipeline.registry.models import Adapter
from sovereign_pipeline_tests.registry.conftest import Bench


def test_adapters_are_listed_with_every_field(bench: Bench) -> None:
    bench.register()
    bench.recipe["training"]["sft"] = {"learning_rate": 1e-4}
    bench.register()
    rows = json.loads(json.dumps(list_adapters(bench.open_registry())))
    assert [row["id"] for row in rows] == ["lamps-1.0.0", "lamps-1.0.1"]
    assert set(rows[0]) == {column.name for column in Adapter.__table__.columns}
    assert rows[0]["registered_at"].endswith("+00:00")
    assert rows[0]["adapter_sha256"] != rows[0]["adapter_digest"]
    assert list_adapters(bench.open_registry(), "other-line") == []


def test_an_adapter_is_shown_with_its_datasets_and_base_model(bench: Bench) -> None:
    bench.with_preferences()
    bench.register()
    shown = json.loads(json.dumps(show_adapter(bench.open_registry(), "lamps-1.0.0")))
    assert [dataset["kind"] for dataset in shown["datasets"]] == ["training_dataset", "preference_dataset"]
    assert [dataset["rows"] for dataset in shown["datasets"]] == [8, 12]
    assert {file["name"] for file in shown["base"]["files"]} == {"config.json", "model.safetensors"}
    with pytest.raises(NotFoundError, match=r"lamps-1\.0\.0"):
        show_adapter(bench.open_registry(), "lamps")


def test_a_dataset_is_found_by_the_first_digits_of_its_digest(bench: Bench) -> None:
    registry = bench.open_registry()
    with pytest.raises(NotFoundError, match="none"):
        show_dataset(registry, "00")
    bench.register()
    bench.recipe["training"]["sft"] = {"learning_rate": 1e-4}
    adapter = bench.register()
    (row,) = list_datasets(registry)
    assert show_dataset(registry, adapter.dataset_digest[:6]) == row
    assert row["adapters"] == ["lamps-1.0.0", "lamps-1.0.1"]
    with pytest.raises(NotFoundError, match=row["digest"][:12]):
        show_dataset(registry, "nothing")


def test_digits_that_fit_two_datasets_are_refused(bench: Bench) -> None:
    bench.with_preferences()
    bench.register()
    with pytest.raises(NotFoundError, match="2 datasets"):
        show_dataset(bench.open_registry(), "")
