"""The bill of materials is valid CycloneDX 1.6 and names what the adapter was made from."""

import json
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from sovereign_pipeline.registry.record import read_record
from sovereign_pipeline.registry.registration import BILL_OF_MATERIALS_FILE
from sovereign_pipeline_tests.registry.bench import HELD, Bench


def _bill(bench: Bench) -> tuple[str, dict[str, Any]]:
    text = bench.store.open(bench.run()).file(BILL_OF_MATERIALS_FILE).read_text(encoding="utf-8")
    return text, json.loads(text)


def test_it_is_valid_cyclonedx(bench: Bench) -> None:
    bench.with_preferences()
    text, bill = _bill(bench)
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    assert validator.validate_str(json.dumps(bill | {"components": [{"type": "adapter"}]})) is not None


def test_it_names_adapter_base_model_datasets_and_libraries_with_their_hashes(bench: Bench) -> None:
    bench.with_preferences()
    _, bill = _bill(bench)
    record = read_record(bench.artifact("registered_adapter"))
    adapter = bill["metadata"]["component"]
    assert adapter["hashes"] == [{"alg": "SHA-256", "content": record.adapter_sha256}]
    assert {
        metric["type"]: metric["value"] for metric in adapter["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    } == {
        "improved": "1.0",
        **{f"held.{figure}.{name}": str(float(value)) for figure, each in HELD.items() for name, value in each.items()},
        "private_scores.loss.base.candidate": "2.25",
        "private_scores.loss.base.reference": "2.5",
        "rows": "4.0",
    }
    components = {component["name"]: component for component in bill["components"]}
    assert {"tiny", "training_dataset", "preference_dataset", "pydantic"} == set(components)
    for dataset in record.datasets:
        assert components[dataset.kind]["hashes"][0]["content"] == dataset.file_sha256
    hashes = {file["name"]: file["hashes"][0]["content"] for file in components["tiny"]["components"]}
    assert hashes == {file.name: file.sha256 for file in record.base_model.files}
    refs = {component["bom-ref"] for component in bill["components"]}
    assert {each["ref"] for each in adapter["modelCard"]["modelParameters"]["datasets"]} <= refs
    assert set(bill["dependencies"][0]["dependsOn"]) == refs
