"""The record says what the artifacts say, is the same for the same inputs, and its gate finds a record that lies."""

import json
from dataclasses import replace

import pytest

from sovereign_pipeline.base.errors import GateRefused, StaleInput
from sovereign_pipeline.base.files import canonical_json, file_sha256
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Gate, Verdict
from sovereign_pipeline.record.staleness import Reason, explain, stale_kinds
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.registry.record import RECORD_FILE, read_record
from sovereign_pipeline.registry.registration import register
from sovereign_pipeline_tests.registry.bench import CHAIN, HELD, REGISTERED_ADAPTER, Bench

pytestmark = pytest.mark.slow


def test_the_record_holds_every_fact_of_the_chain(bench: Bench) -> None:
    bench.with_preferences()
    bench.institution.rows[3]["classification"] = "CONFIDENTIAL"
    record = read_record(bench.store.open(bench.run()))
    adapter = bench.artifact("aligned_adapter")
    assert record.adapter_digest == adapter.ref.digest
    assert record.adapter_sha256 == file_sha256(adapter.path / "adapter" / "adapter_model.safetensors")
    assert record.method == "sft-lora+dpo"
    assert record.classification == "CONFIDENTIAL"
    assert record.training_dataset.digest == bench.refs["training_dataset"].digest
    assert record.training_dataset.rows == 4
    card = bench.artifact("training_dataset").file("card.json")
    assert record.training_dataset.card_sha256 == file_sha256(card)
    assert record.training_dataset.rows_held_out == 8
    assert record.training_dataset.by_classification == json.loads(card.read_bytes())["by_classification"]
    assert sum((record.training_dataset.by_classification or {}).values()) == 4
    assert record.preference_dataset is not None
    assert record.preference_dataset.rows == 12
    assert [source["name"] for source in record.training_dataset.sources] == ["letters"]
    assert record.training_dataset.sources[0]["sha256"] == file_sha256(bench.institution.source)
    assert [source["name"] for source in record.preference_dataset.sources] == ["pairs"]
    assert record.base_model.name == "tiny"
    assert {file.name for file in record.base_model.files} == {"config.json", "model.safetensors"}
    assert record.framework_versions == adapter.manifest.producer.libraries
    assert record.evaluation == {
        "improved": True,
        "rows": 4,
        "outcome": "better",
        "held": HELD,
        "private_scores": {"loss": {"base": {"reference": 2.5, "candidate": 2.25}}},
    }
    assert set(record.lineage) == {stage.kind for stage in CHAIN} - {"registered_adapter"}
    asked = {(gate.stage, gate.gate) for gate in record.gates}
    assert asked == {(stage.kind, gate.name) for stage in CHAIN[:-1] for gate in stage.gates}


def test_a_line_without_preferences_has_no_preference_dataset_and_the_sft_adapter(bench: Bench) -> None:
    record = read_record(bench.store.open(bench.run()))
    assert record.preference_dataset is None
    assert record.method == "sft-lora"
    assert record.adapter_digest == bench.refs["sft_adapter"].digest
    assert "aligned_adapter" not in record.lineage


def test_a_record_is_stale_until_it_is_registered(bench: Bench) -> None:
    bench.run()
    explained = {each.kind: each.reasons for each in explain(CHAIN, bench.workplace()) if each.is_stale}
    assert explained == {"registered_adapter": (Reason("not recorded"),)}
    bench.register()
    assert stale_kinds(CHAIN, bench.workplace()) == []


def test_the_same_inputs_give_the_same_record_in_another_place(
    bench: Bench, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = bench.run()
    other = Bench(replace(bench.institution, root=tmp_path_factory.mktemp("elsewhere")))
    other.with_base_model("tiny")
    assert other.run().digest == first.digest


def test_no_word_of_a_document_is_in_the_record_or_the_registry(bench: Bench) -> None:
    bench.register()
    artifact = bench.artifact("registered_adapter")
    kept = [artifact.path / entry.path for entry in artifact.manifest.files]
    kept += [artifact.path / "manifest.json", *bench.settings.home.glob("registry.db*")]
    assert len(kept) >= 4
    for file in kept:
        assert b"lamp is" not in file.read_bytes()
        assert b"w1x5" not in file.read_bytes()
    assert b"w1x5" in bench.artifact("raw_corpus").file("documents.jsonl").read_bytes()


def test_a_gate_that_never_answered_stops_the_record(bench: Bench) -> None:
    bench.run(until=CHAIN[-2])
    bench.forget_verdicts("sft_adapter")
    inputs = {stage.kind: bench.refs[stage.kind] for stage in REGISTERED_ADAPTER.inputs}
    with pytest.raises(GateRefused, match="has no record"):
        produce(REGISTERED_ADAPTER, bench.workplace(), inputs)


def test_a_recipe_that_changed_since_training_stops_the_record(bench: Bench) -> None:
    bench.run(until=CHAIN[-2])
    bench.recipe["training"]["sft"] = {"adapter": "qlora"}
    inputs = {stage.kind: bench.refs[stage.kind] for stage in REGISTERED_ADAPTER.inputs}
    with pytest.raises(StaleInput, match=r"sft_adapter \w+ is stale: recipe adapter: lora → qlora"):
        produce(REGISTERED_ADAPTER, bench.workplace(), inputs)


@pytest.mark.parametrize(
    ("fact", "lie"),
    [
        ("adapter_sha256", "0" * 64),
        ("method", "sft-qlora"),
        ("classification", "PUBLIC"),
        ("adapter_digest", "0" * 64),
        ("evaluation", {"loss": 0.0}),
        ("gates", []),
    ],
)
def test_the_gate_finds_a_record_that_lies(bench: Bench, fact: str, lie: object) -> None:
    bench.institution.rows[5]["classification"] = "SECRET"
    honest = bench.store.open(bench.run())
    said = json.loads(honest.file(RECORD_FILE).read_bytes()) | {fact: lie}

    def build(*_: object) -> Built:
        workspace = _[2]
        (workspace / RECORD_FILE).write_bytes(canonical_json(said))  # type: ignore[operator]
        return Built(summary={"lie": fact})

    lying = replace(REGISTERED_ADAPTER, build=build, code_version="lying")
    inputs = {stage.kind: bench.refs[stage.kind] for stage in REGISTERED_ADAPTER.inputs}
    workplace = bench.workplace()
    artifact = bench.store.open(produce(lying, workplace, inputs).ref)
    verdict = _answer(REGISTERED_ADAPTER.gates[0], bench, artifact)
    assert not verdict.passed
    assert _answer(REGISTERED_ADAPTER.gates[0], bench, honest).passed


def test_the_gate_finds_an_evaluation_of_another_adapter(bench: Bench) -> None:
    """Two chains of one line: the adapter of the one, the report of the other; each is good alone."""
    bench.run()
    of_the_other = bench.refs["evaluation_report"]
    bench.recipe["training"]["sft"] = {"learning_rate": 1e-4}
    bench.run()
    inputs = {stage.kind: bench.refs[stage.kind] for stage in REGISTERED_ADAPTER.inputs}
    assert of_the_other != inputs["evaluation_report"]
    unguarded = replace(REGISTERED_ADAPTER, inputs=())
    mixed = produce(unguarded, bench.workplace(), inputs | {"evaluation_report": of_the_other}).ref
    verdict = evaluate_gates(REGISTERED_ADAPTER, bench.workplace(), mixed)["record_matches_artifacts"]
    assert not verdict.passed
    assert "evaluation_report was not made from the record's aligned_adapter" in verdict.message
    assert "more than one sft_adapter" in verdict.message
    with pytest.raises(GateRefused, match="failed for"):
        register(bench.open_registry(), bench.workplace(), mixed, REGISTERED_ADAPTER)


def _answer(gate: Gate, bench: Bench, artifact: Artifact) -> Verdict:
    inputs = {kind: bench.store.open_input(artifact.manifest, kind) for kind in artifact.manifest.inputs}
    return gate.evaluate(bench.workplace(), artifact, inputs)
