"""The bill of materials of an adapter: a CycloneDX 1.6 ML-BOM as plain JSON.

What belongs here: mapping a record to CycloneDX. What does not: facts that the record does not hold.
There is no time and no random serial number in it: the same record gives the same bytes.
Format: https://cyclonedx.org/docs/1.6/json/ (components of type machine-learning-model and data, modelCard).
"""

import uuid
from typing import Any

from sovereign_pipeline.registry.record import AdapterRecord, DatasetFacts, ParentAdapterFacts, numbers_in

PRODUCER = "sovereign-pipeline"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/schema/bom-1.6.schema.json")


def bill_of_materials(record: AdapterRecord) -> dict[str, Any]:
    """The adapter as subject; base model, parent adapter, reward model, datasets and libraries as components, with
    their digests."""
    datasets = [_dataset_component(dataset) for dataset in record.datasets]
    libraries = [
        {
            "type": "library",
            "bom-ref": purl(name, version),
            "name": name,
            "version": version,
            "purl": purl(name, version),
        }
        for name, version in sorted(record.framework_versions.items())
    ]
    base_model = {
        "type": "machine-learning-model",
        "bom-ref": f"base-model:{record.base_model.digest}",
        "name": record.base_model.name,
        "licenses": [{"license": {"name": record.base_model.licence}}],
        "properties": [_property("digest", record.base_model.digest)],
        "components": [
            {
                "type": "file",
                "bom-ref": f"base-model-file:{file.name}",
                "name": file.name,
                "hashes": [_sha256(file.sha256)],
            }
            for file in record.base_model.files
        ],
    }
    parents = [] if record.parent_adapter is None else [_parent_component(record.parent_adapter)]
    components = [base_model, *parents, *_reward_model(record), *datasets, *libraries]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, record.adapter_digest)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": PRODUCER}]},
            "component": _adapter_component(record),
        },
        "components": components,
        "dependencies": [
            {
                "ref": f"adapter:{record.adapter_digest}",
                "dependsOn": [component["bom-ref"] for component in components],
            },
            *({"ref": component["bom-ref"]} for component in components),
        ],
    }


def _adapter_component(record: AdapterRecord) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": f"adapter:{record.adapter_digest}",
        "name": record.line,
        "description": record.purpose,
        "hashes": [_sha256(record.adapter_sha256)],
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "text-generation",
                "datasets": [{"ref": f"dataset:{dataset.digest}"} for dataset in record.datasets],
            },
            "quantitativeAnalysis": {
                "performanceMetrics": [
                    {"type": name, "value": repr(value)} for name, value in sorted(numbers_in(record.evaluation))
                ]
            },
            "considerations": {"useCases": [record.purpose]},
        },
        "properties": [
            _property("classification", record.classification),
            _property("method", record.method),
            _property("owner", record.owner),
            _property("adapter_digest", record.adapter_digest),
            _property("evaluation_report_digest", record.evaluation_report_digest),
        ],
    }


def _parent_component(parent: ParentAdapterFacts) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": f"adapter:{parent.digest}",
        "name": parent.adapter,
        # This wording is part of the artifact's bytes: it changes with the stage's code version only.
        "description": "The registered adapter that training went on from.",
        "hashes": [_sha256(parent.adapter_sha256)],
        "properties": [_property("adapter_digest", parent.digest)],
    }


def _reward_model(record: AdapterRecord) -> list[dict[str, Any]]:
    """The line's reward model, where it judged what the adapter wrote; none otherwise."""
    digest = record.lineage.get("reward_model")
    if digest is None:
        return []
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": f"reward-model:{digest}",
            "name": f"{record.line} reward model",
            "description": "What judged the adapter's replies while it learned, trained on the preference pairs.",
            "properties": [_property("digest", digest)],
        }
    ]


def _dataset_component(dataset: DatasetFacts) -> dict[str, Any]:
    contents = {
        "properties": [
            _property("rows", str(dataset.rows)),
            *(_property(f"source:{source['name']}", source["sha256"]) for source in dataset.sources),
        ]
    }
    return {
        "type": "data",
        "bom-ref": f"dataset:{dataset.digest}",
        "name": dataset.kind,
        "hashes": [_sha256(dataset.file_sha256)],
        "data": [
            {
                "type": "dataset",
                "name": dataset.file,
                "classification": dataset.classification,
                "contents": contents,
            }
        ],
        "properties": [_property("digest", dataset.digest)],
    }


def _sha256(digest: str) -> dict[str, str]:
    return {"alg": "SHA-256", "content": digest}


def _property(name: str, value: str) -> dict[str, str]:
    return {"name": f"sovereign:{name}", "value": value}


def purl(name: str, version: str) -> str:
    """Package URL of a Python distribution: https://github.com/package-url/purl-spec, type pypi."""
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"
