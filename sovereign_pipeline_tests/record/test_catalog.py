"""What the command line shows: plain dictionaries, ready for JSON, with every fact of the registry."""

import json

import pytest

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError
from sovereign_pipeline.record.catalog import incumbent_of, list_adapters, list_datasets, show_adapter, show_dataset
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.verification import card_of_dataset
from sovereign_pipeline_tests.registry.bench import Bench
from sovereign_pipeline_tests.release.holders import Ask


def test_adapters_are_listed_with_every_field(bench: Bench) -> None:
    bench.register()
    bench.recipe["training"]["sft"] = {"learning_rate": 1e-4}
    bench.register()
    rows = json.loads(json.dumps(list_adapters(bench.open_registry())))
    assert [row["id"] for row in rows] == ["lamps-1.0.0", "lamps-1.0.1"]
    assert set(rows[0]) == {*(column.name for column in Adapter.__table__.columns), "state"}
    assert rows[0]["registered_at"].endswith("+00:00")
    assert rows[0]["adapter_sha256"] != rows[0]["adapter_digest"]
    assert list_adapters(bench.open_registry(), "other-line") == []
    with pytest.raises(NotFoundError) as unknown:
        show_adapter(bench.open_registry(), "lamps-1.0.11")
    assert unknown.value.hint == "Known adapters: lamps-1.0.1, lamps-1.0.0."


def test_the_incumbent_of_a_candidate_has_the_highest_version_of_other_weights(bench: Bench) -> None:
    registry = bench.open_registry()
    assert incumbent_of(registry, "lamps", None, ()) is None
    first = bench.register()
    bench.recipe["training"]["sft"] = {"adapter": "none"}
    second = bench.register()
    bench.recipe["training"].pop("sft")
    bench.recipe["purpose"] = "Answer letters about lamps and lanterns."
    again = bench.register()
    assert (again.version, again.adapter_digest) == ("3.0.0", first.adapter_digest)

    def last(besides: str | None, line: str = "lamps") -> str | None:
        adapter = incumbent_of(registry, line, besides, ())
        return adapter.id if adapter is not None else None

    assert last(None) == last(second.adapter_sha256) == "lamps-3.0.0"
    assert last(first.adapter_sha256) == "lamps-2.0.0"
    assert last(None, line="lanterns") is None


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
    assert (list_datasets(registry, "lamps"), list_datasets(registry, "lanterns")) == ([row], [])
    with pytest.raises(NotFoundError, match=row["digest"][:12]):
        show_dataset(registry, "nothing")


def test_the_card_that_is_shown_is_the_one_that_was_registered(bench: Bench) -> None:
    adapter = bench.register()
    row = show_dataset(bench.open_registry(), adapter.dataset_digest)
    shown = card_of_dataset(bench.store, row)
    assert shown.facts["file"]["sha256"] == row["file_sha256"] in shown.markdown
    with pytest.raises(IntegrityError, match=r"card\.json: this is not the registered data card"):
        card_of_dataset(bench.store, {**row, "card_sha256": "0" * 64})
    file = bench.artifact("training_dataset").file("card.md")
    file.write_text(file.read_text().replace("PUBLIC", "SECRET"))
    with pytest.raises(IntegrityError, match=r"card\.md"):
        card_of_dataset(bench.store, row)


def test_the_command_shows_the_card_and_what_the_registry_knows(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOVEREIGN_HOME", str(bench.settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(bench.settings.data))
    adapter, ask = bench.register(), Ask()
    shown = ask("datasets", "show", adapter.dataset_digest[:8])
    assert shown.exit_code == 0 and "lamps-1.0.0" in shown.stdout
    artifact = bench.artifact("training_dataset")
    assert all(line in shown.stdout for line in artifact.file("card.md").read_text().splitlines())
    as_json = ask.json("datasets", "show", adapter.dataset_digest[:8])
    assert as_json["card"] == json.loads(artifact.file("card.json").read_bytes())
    assert as_json["digest"] == adapter.dataset_digest
