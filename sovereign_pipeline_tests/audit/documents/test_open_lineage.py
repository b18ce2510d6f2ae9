"""The lineage as OpenLineage events: an event for each artifact, with edges, in the order in which they were made."""

import json
from typing import Any

import pytest

from sovereign_pipeline_tests.audit.conftest import FIRST, Desk


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
