"""The bill of materials is valid CycloneDX 1.6 and names what the adapter was made from."""

import json
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from sovereign_pipeline.registry.record import read_record
from sovereign_pipeline.registry.registration import BILL_OF_MATERIALS_FILE
from sovereign_pipeline.registry.verification import verify_adapter
from sovereign_pipeline_tests.registry.bench import Bench
from sovereign_pipeline_tests.registry.rewarded import with_reward_model


def _bill(bench: Bench) -> tuple[str, dict[str, Any]]:
    text = bench.store.open(bench.run()).file(BILL_OF_MATERIALS_FILE).read_text(encoding="utf-8")
    return text, json.loads(text)


def test_it_names_adapter_base_model_datasets_and_libraries_with_their_hashes(bench: Bench) -> None:
    bench.with_preferences()
    text, bill = _bill(bench)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    record = read_record(bench.artifact("registered_adapter"))
    adapter = bill["metadata"]["component"]
    assert adapter["hashes"] == [{"alg": "SHA-256", "content": record.adapter_sha256}]
    metrics = adapter["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    assert ("private_scores.loss.base.candidate", "2.25") in {(each["type"], each["value"]) for each in metrics}
    components = {component["name"]: component for component in bill["components"]}
    assert {"tiny", "training_dataset", "preference_dataset", "pydantic"} == set(components)
    for dataset in record.datasets:
        assert components[dataset.kind]["hashes"][0]["content"] == dataset.file_sha256
    hashes = {file["name"]: file["hashes"][0]["content"] for file in components["tiny"]["components"]}
    assert hashes == {file.name: file.sha256 for file in record.base_model.files}
    refs = {component["bom-ref"] for component in bill["components"]}
    assert {each["ref"] for each in adapter["modelCard"]["modelParameters"]["datasets"]} <= refs
    assert set(bill["dependencies"][0]["dependsOn"]) == refs


def test_record_and_bill_name_the_reward_model_and_its_pairs(bench: Bench) -> None:
    with_reward_model(bench)
    adapter = bench.register()
    record = read_record(bench.artifact("registered_adapter"))
    reward_model = bench.refs["reward_model"].digest
    assert record.lineage["reward_model"] == reward_model
    assert bench.artifact("aligned_adapter").manifest.inputs["reward_model"] == reward_model
    assert record.reward is not None and record.reward.parts == {"preferred": reward_model}
    assert record.preference_dataset is not None
    assert adapter.preference_dataset_digest == bench.refs["preference_dataset"].digest
    assert ("reward_model", "not_empty") in {(gate.stage, gate.gate) for gate in record.gates}
    assert record.method == "sft-lora+ppo"
    bill = bench.artifact("registered_adapter").file(BILL_OF_MATERIALS_FILE).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    assert f'"reward-model:{reward_model}"' in bill
    report = verify_adapter(bench.open_registry(), bench.store, bench.settings, adapter.id)
    assert any("reward_model" in each.what for each in report.checked)
