"""OpenLineage events of an adapter's lineage: a COMPLETE RunEvent for each artifact, as the file transport writes them.

Marquez, DataHub, OpenMetadata and Atlas read them, and show the lineage beside the institution's other data.

What belongs here: that form (https://openlineage.io/spec). What does not: sending events anywhere.
"""

import json
import uuid
from typing import Any

from sovereign_pipeline.audit.documents.facts import AdapterFacts
from sovereign_pipeline.record.manifest import Manifest

PRODUCER = "https://sovereign-pipeline.example/"
SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACETS = "https://openlineage.io/spec/facets"
NAMESPACE = "sovereign-pipeline"
_RUNS = uuid.uuid5(uuid.NAMESPACE_URL, SPEC)


def lineage_events(facts: AdapterFacts) -> bytes:
    """One line of JSON an event, each after those that made its inputs. The same artifacts give the same bytes."""
    events = [_event(kind, manifest, facts) for kind, manifest in facts.manifests.items()]
    lines = [json.dumps(event, ensure_ascii=False, sort_keys=True, separators=(",", ":")) for event in events]
    return "".join(f"{line}\n" for line in lines).encode()


def _event(kind: str, manifest: Manifest, facts: AdapterFacts) -> dict[str, Any]:
    by_digest = {each.digest: each for each in facts.manifests.values()}
    inputs = [
        _dataset(_name(by_digest[digest]), digest, by_digest[digest].classification, facts.institution)
        for digest in sorted({*manifest.inputs.values()})
        if digest in by_digest
    ]
    inputs += [_outside(name, digest) for name, digest in sorted(manifest.external_inputs.items())]
    owner = {"name": facts.record.owner, "type": "OWNER"}
    return {
        "eventType": "COMPLETE",
        "eventTime": manifest.circumstances.created_at,
        "producer": PRODUCER,
        "schemaURL": SPEC,
        "run": {
            "runId": str(uuid.uuid5(_RUNS, manifest.digest)),
            "facets": {
                "nominalTime": _facet("1-0-1/NominalTimeRunFacet", nominalStartTime=manifest.circumstances.created_at)
            },
        },
        "job": {
            "namespace": NAMESPACE,
            "name": f"{manifest.line}.{kind}",
            "facets": {
                "jobType": _facet(
                    "2-0-4/JobTypeJobFacet", processingType="BATCH", integration="SOVEREIGN-PIPELINE", jobType="STAGE"
                ),
                "ownership": _facet("1-0-1/OwnershipJobFacet", owners=[owner]),
            },
        },
        "inputs": inputs,
        "outputs": [_dataset(_name(manifest), manifest.digest, manifest.classification, facts.institution)],
    }


def _name(manifest: Manifest) -> str:
    return f"{manifest.line}.{manifest.kind}"


def _dataset(name: str, digest: str, level: str, institution: str) -> dict[str, Any]:
    tag = {"key": "classification", "value": level, "source": "SOVEREIGN-PIPELINE"}
    return {
        "namespace": NAMESPACE,
        "name": name,
        "facets": {
            "version": _facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=digest),
            "tags": _facet("1-0-0/TagsDatasetFacet", tags=[tag]),
            "ownership": _facet("1-0-1/OwnershipDatasetFacet", owners=[{"name": institution, "type": "OWNER"}]),
        },
    }


def _outside(name: str, digest: str) -> dict[str, Any]:
    """A file outside the store, by its SHA-256: a source, a suite, a file of the base model."""
    return {
        "namespace": "file",
        "name": name,
        "facets": {"version": _facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=digest)},
    }


def _facet(schema: str, **fields: Any) -> dict[str, Any]:
    name = schema.split("/")[1]
    return {"_producer": PRODUCER, "_schemaURL": f"{FACETS}/{schema}.json#/$defs/{name}", **fields}
