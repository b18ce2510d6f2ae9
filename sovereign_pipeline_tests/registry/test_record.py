"""The record says what the artifacts say, is the same for the same inputs, and its gate finds a record that lies."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import GateRefused
from sovereign_pipeline.base.files import canonical_json, file_sha256
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Gate, Inputs, Verdict, Workplace
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
    assert (record.method, record.classification) == ("sft-lora+dpo", "CONFIDENTIAL")
    card, dataset = bench.artifact("training_dataset").file("card.json"), record.training_dataset
    assert (dataset.digest, dataset.card_sha256) == (bench.refs["training_dataset"].digest, file_sha256(card))
    assert (dataset.rows, dataset.rows_held_out, dataset.sources[0]["name"]) == (4, 8, "letters")
    assert dataset.by_classification == json.loads(card.read_bytes())["by_classification"]
    assert dataset.sources[0]["sha256"] == file_sha256(bench.institution.source)
    assert record.preference_dataset is not None and record.preference_dataset.rows == 12
    assert record.framework_versions == adapter.manifest.producer.libraries
    assert record.evaluation["held"] == HELD
    assert set(record.lineage) == {stage.kind for stage in CHAIN} - {"registered_adapter"}
    asked = {(gate.stage, gate.gate) for gate in record.gates}
    assert asked == {(stage.kind, gate.name) for stage in CHAIN[:-1] for gate in stage.gates}


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


def test_the_gate_finds_a_record_that_lies(bench: Bench) -> None:
    bench.institution.rows[5]["classification"] = "SECRET"
    honest = bench.store.open(bench.run())
    assert _answer(REGISTERED_ADAPTER.gates[0], bench, honest).passed
    inputs = {stage.kind: bench.refs[stage.kind] for stage in REGISTERED_ADAPTER.inputs}
    lies: dict[str, object] = {
        "adapter_sha256": "0" * 64,
        "method": "sft-qlora",
        "classification": "PUBLIC",
        "adapter_digest": "0" * 64,
        "evaluation": {"loss": 0.0},
        "gates": [],
    }
    for fact, lie in lies.items():
        said = canonical_json(json.loads(honest.file(RECORD_FILE).read_bytes()) | {fact: lie})

        def build(workplace: Workplace, inputs: Inputs, workspace: Path, said: bytes = said) -> Built:
            (workspace / RECORD_FILE).write_bytes(said)
            return Built(summary={})

        lying = replace(REGISTERED_ADAPTER, build=build, code_version=f"lying about {fact}")
        artifact = bench.store.open(produce(lying, bench.workplace(), inputs).ref)
        assert not _answer(REGISTERED_ADAPTER.gates[0], bench, artifact).passed, fact


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
