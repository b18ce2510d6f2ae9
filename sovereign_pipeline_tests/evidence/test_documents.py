"""The completed bill is valid CycloneDX 1.7, has what minimum elements ask, and refers to nothing that it lacks."""

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from sovereign_pipeline.evidence.documents import dangling
from sovereign_pipeline_tests.evidence.conftest import FIRST, Desk


@pytest.fixture
def bill(desk: Desk) -> dict[str, Any]:
    return dict(json.loads(desk.package.files[f"documents/{FIRST}/bill-of-materials.cdx.json"]))


def test_it_is_valid_cyclonedx_1_7(bill: dict[str, Any]) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_7)
    assert validator.validate_str(json.dumps(bill)) is None
    assert validator.validate_str(json.dumps(bill | {"formulation": "none"})) is not None


def test_it_has_the_minimum_elements(desk: Desk, bill: dict[str, Any]) -> None:
    row = json.loads(desk.package.files[f"registry/{FIRST}.json"])
    record = json.loads(desk.package.files[f"artifacts/{row['record_digest']}/record.json"])
    metadata, adapter = bill["metadata"], bill["metadata"]["component"]
    assert metadata["timestamp"] == desk.package.index["made_at"]
    assert (metadata["supplier"], metadata["distributionConstraints"]) == ({"name": "Lamp Office"}, {"tlp": "CLEAR"})
    assert (adapter["name"], adapter["version"]) == ("lamps", "1.0.0")
    assert adapter["purl"] == f"pkg:generic/lamps@1.0.0?checksum=sha256:{row['adapter_sha256']}"
    assert adapter["hashes"] == [{"alg": "SHA-256", "content": row["adapter_sha256"]}]
    assert adapter["pedigree"]["ancestors"][0]["name"] == "tiny"
    card = adapter["modelCard"]
    assert card["considerations"]["technicalLimitations"] == ["It takes candles for lamps."]
    held = [each for each in card["quantitativeAnalysis"]["performanceMetrics"] if "confidenceInterval" in each]
    assert [each["confidenceInterval"] for each in held] == [{"lowerBound": "-0.375", "upperBound": "-0.125"}]
    dataset = next(each for each in bill["components"] if each["name"] == "training_dataset")
    assert dataset["data"][0]["classification"] == record["training_dataset"]["classification"]
    (workflow,) = bill["formulation"][0]["workflows"]
    made = {task["uid"]: [each["resource"]["ref"] for each in task["inputs"]] for task in workflow["tasks"]}
    assert set(record["lineage"].values()) < set(made)
    assert f"artifact:{record['training_dataset']['digest']}" in made[record["lineage"]["sft_adapter"]]


def test_what_refers_to_nothing_is_named(bill: dict[str, Any]) -> None:
    assert dangling(bill) == []
    card = bill["metadata"]["component"]["modelCard"]
    card["modelParameters"]["datasets"].append({"ref": "dataset:gone"})
    bill["dependencies"][0]["dependsOn"].append("library:gone")
    bill["components"].append(bill["components"][0])
    again = bill["components"][0]["bom-ref"]
    assert {"dataset:gone", "library:gone", again} <= {*dangling(bill)}
    assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps({**bill, "components": []})) is None, (
        "the schema lets references to nothing pass"
    )


@pytest.fixture
def events(desk: Desk) -> list[dict[str, Any]]:
    lines = desk.package.files[f"documents/{FIRST}/lineage.openlineage.jsonl"].decode().splitlines()
    return [json.loads(line) for line in lines]


def test_every_artifact_has_a_complete_event_with_its_inputs(desk: Desk, events: list[dict[str, Any]]) -> None:
    row = json.loads(desk.package.files[f"registry/{FIRST}.json"])
    record = json.loads(desk.package.files[f"artifacts/{row['record_digest']}/record.json"])
    outputs = {event["outputs"][0]["facets"]["version"]["datasetVersion"]: event for event in events}
    assert set(outputs) == {*record["lineage"].values(), row["record_digest"]}
    assert {event["eventType"] for event in events} == {"COMPLETE"}
    for digest, event in outputs.items():
        manifest = json.loads(desk.package.files[f"artifacts/{digest}/manifest.json"])
        read = {each["facets"]["version"]["datasetVersion"] for each in event["inputs"]}
        assert read == {*manifest["inputs"].values(), *manifest["external_inputs"].values()}
        assert event["outputs"][0]["facets"]["tags"]["tags"][0]["value"] == manifest["classification"]
    (source,) = (each for event in events for each in event["inputs"] if each["name"] == "source:letters")
    assert source["namespace"] == "file"
