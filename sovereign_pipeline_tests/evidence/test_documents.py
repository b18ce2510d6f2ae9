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


def _properties(component: dict[str, Any]) -> dict[str, str]:
    return {each["name"].removeprefix("sovereign:"): each["value"] for each in component.get("properties", ())}


def test_it_is_valid_cyclonedx_1_7(bill: dict[str, Any]) -> None:
    validator = JsonStrictValidator(SchemaVersion.V1_7)
    assert validator.validate_str(json.dumps(bill)) is None
    assert validator.validate_str(json.dumps(bill | {"formulation": "none"})) is not None


def test_it_has_the_minimum_elements(desk: Desk, bill: dict[str, Any]) -> None:
    row = json.loads(desk.package.files[f"registry/{FIRST}.json"])
    record = json.loads(desk.package.files[f"artifacts/{row['record_digest']}/record.json"])
    metadata, adapter = bill["metadata"], bill["metadata"]["component"]
    assert metadata["timestamp"] == desk.package.index["made_at"]
    assert (metadata["supplier"], metadata["lifecycles"]) == ({"name": "Lamp Office"}, [{"phase": "post-build"}])
    assert metadata["distributionConstraints"] == {"tlp": "CLEAR"}
    assert (adapter["name"], adapter["version"]) == ("lamps", "1.0.0")
    assert adapter["purl"] == f"pkg:generic/lamps@1.0.0?checksum=sha256:{row['adapter_sha256']}"
    assert adapter["hashes"] == [{"alg": "SHA-256", "content": row["adapter_sha256"]}]
    assert _properties(adapter)["domain"] == "Answer letters about lamps."
    assert adapter["pedigree"]["ancestors"][0]["name"] == "tiny"
    card = adapter["modelCard"]
    assert card["considerations"]["technicalLimitations"] == ["It takes candles for lamps."]
    assert [each["mitigationStrategy"] for each in card["considerations"]["ethicalConsiderations"]] == [
        "The suite is being enlarged."
    ]
    held = [each for each in card["quantitativeAnalysis"]["performanceMetrics"] if "confidenceInterval" in each]
    assert [each["confidenceInterval"] for each in held] == [{"lowerBound": "-0.375", "upperBound": "-0.125"}]
    dataset = next(each for each in bill["components"] if each["name"] == "training_dataset")
    assert dataset["data"][0]["classification"] == record["training_dataset"]["classification"]
    assert dataset["data"][0]["governance"]["owners"] == [{"organization": {"name": "Lamp Office"}}]
    (workflow,) = bill["formulation"][0]["workflows"]
    made = {task["uid"]: [each["resource"]["ref"] for each in task["inputs"]] for task in workflow["tasks"]}
    assert set(record["lineage"].values()) < set(made)
    assert f"artifact:{record['training_dataset']['digest']}" in made[record["lineage"]["sft_adapter"]]


def test_every_digest_is_on_record(desk: Desk, bill: dict[str, Any]) -> None:
    row = json.loads(desk.package.files[f"registry/{FIRST}.json"])
    record = desk.package.files[f"artifacts/{row['record_digest']}/record.json"].decode()
    digests = {value for each in bill["components"] for name, value in _properties(each).items() if name == "digest"}
    assert digests and all(digest in record for digest in digests - {row["record_digest"]})


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


def test_an_event_follows_those_that_made_its_inputs(events: list[dict[str, Any]]) -> None:
    made: set[str] = set()
    for event in events:
        assert {each["name"] for each in event["inputs"] if each["namespace"] != "file"} <= made, event["job"]
        made.add(event["outputs"][0]["name"])


def _by_the_library(event: dict[str, Any]) -> dict[str, Any]:
    """The same event, made of the library's own classes, which state the schema of each."""
    from openlineage.client import event_v2 as library
    from openlineage.client.facet_v2 import (
        dataset_version_dataset,
        job_type_job,
        nominal_time_run,
        ownership_dataset,
        ownership_job,
        tags_dataset,
    )
    from openlineage.client.serde import Serde

    def fields(facet: dict[str, Any]) -> dict[str, Any]:
        return {"producer": facet["_producer"], **{key: facet[key] for key in facet if not key.startswith("_")}}

    def dataset_facets(facets: dict[str, Any]) -> dict[str, Any]:
        made: dict[str, Any] = {
            "version": dataset_version_dataset.DatasetVersionDatasetFacet(**fields(facets["version"]))
        }
        if "tags" in facets:
            tags = [tags_dataset.TagsDatasetFacetFields(**each) for each in facets["tags"]["tags"]]
            owners = [ownership_dataset.Owner(**each) for each in facets["ownership"]["owners"]]
            producer = facets["tags"]["_producer"]
            made["tags"] = tags_dataset.TagsDatasetFacet(tags=tags, producer=producer)
            made["ownership"] = ownership_dataset.OwnershipDatasetFacet(owners=owners, producer=producer)
        return made

    def datasets(kind: Any, given: list[dict[str, Any]]) -> list[Any]:
        return [kind(each["namespace"], each["name"], facets=dataset_facets(each["facets"])) for each in given]

    run, job = event["run"], event["job"]
    owners = [ownership_job.Owner(**each) for each in job["facets"]["ownership"]["owners"]]
    made = library.RunEvent(
        eventType=library.RunState.COMPLETE,
        eventTime=event["eventTime"],
        producer=event["producer"],
        run=library.Run(
            run["runId"],
            {"nominalTime": nominal_time_run.NominalTimeRunFacet(**fields(run["facets"]["nominalTime"]))},
        ),
        job=library.Job(
            job["namespace"],
            job["name"],
            {
                "jobType": job_type_job.JobTypeJobFacet(**fields(job["facets"]["jobType"])),
                "ownership": ownership_job.OwnershipJobFacet(owners=owners, producer=event["producer"]),
            },
        ),
        inputs=datasets(library.InputDataset, event["inputs"]),
        outputs=datasets(library.OutputDataset, event["outputs"]),
    )
    return dict(json.loads(Serde.to_json(made)))


def test_the_librarys_own_classes_give_the_same_events(events: list[dict[str, Any]]) -> None:
    pytest.importorskip("openlineage.client", reason="openlineage-python is not installed")
    for event in events:
        made = _by_the_library(event)
        for each in (*made["inputs"], *made["outputs"]):
            each.pop("inputFacets", None)
            each.pop("outputFacets", None)
        assert made == event
