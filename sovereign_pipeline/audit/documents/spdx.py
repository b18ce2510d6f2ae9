"""An SPDX 3.0.1 bill of materials with the AI and Dataset profiles, as plain JSON-LD.

The same facts as in the CycloneDX bill (`bill_of_materials.py`), for those whose tools read SPDX. What does not belong
here: facts that nobody recorded; a property without one is left out.
Format: https://spdx.github.io/spdx-spec/v3.0.1/ (profiles Core, Software, SimpleLicensing, AI and Dataset).
"""

import datetime
from collections.abc import Iterator, Sequence
from typing import Any

from sovereign_pipeline.audit.documents.facts import AdapterFacts, tlp_of
from sovereign_pipeline.registry.bill_of_materials import PRODUCER
from sovereign_pipeline.registry.record import DatasetFacts

CREATION = "_:creation"
"""The node that says who wrote all of this, and when."""


def spdx_bill(facts: AdapterFacts) -> dict[str, Any]:
    """The bill as JSON-LD: the adapter, what it is made of, and how the parts belong together."""
    record = facts.record
    name = f"urn:sovereign:adapter:{record.adapter_digest}"
    institution, tool = f"{name}:institution", f"{name}:tool"
    base = f"urn:sovereign:base-model:{record.base_model.digest}"
    licence = f"{base}:licence"
    datasets = {f"urn:sovereign:dataset:{each.digest}": each for each in record.datasets}
    libraries = {f"urn:sovereign:library:{key}:{version}": (key, version) for key, version in _libraries(facts)}
    parents = _parents(facts)
    elements: list[dict[str, Any]] = [
        _element("Organization", institution, name=facts.institution),
        _element("Tool", tool, name=PRODUCER),
        _adapter(name, institution, facts),
        _element(
            "ai_AIPackage",
            base,
            name=record.base_model.name,
            software_primaryPurpose="model",
            comment=f"digest over the files' names and SHA-256: {record.base_model.digest}",
        ),
        _element("simplelicensing_SimpleLicensingText", licence, simplelicensing_licenseText=record.base_model.licence),
        *parents,
        *(_dataset(key, each, institution, facts) for key, each in datasets.items()),
        *(
            _element(
                "software_Package",
                key,
                name=library,
                software_packageVersion=version,
                software_packageUrl=f"pkg:pypi/{library}@{version}",
                software_primaryPurpose="library",
            )
            for key, (library, version) in libraries.items()
        ),
        *_waivers(name, facts),
        *_relations(
            name,
            {
                "trainedOn": [*datasets],
                "descendantOf": [base, *(each["spdxId"] for each in parents)],
                "dependsOn": [*libraries],
                "usesTool": [tool],
            },
        ),
        *_relations(base, {"hasDeclaredLicense": [licence]}),
    ]
    document = _element(
        "SpdxDocument",
        f"{name}:bill-of-materials",
        name=f"{record.line} {facts.version}",
        profileConformance=["ai", "core", "dataset", "simpleLicensing", "software"],
        rootElement=[name],
        element=[each["spdxId"] for each in elements],
    )
    creation = {
        "type": "CreationInfo",
        "@id": CREATION,
        "specVersion": "3.0.1",
        "created": _moment(facts.made_at),
        "createdBy": [institution],
        "createdUsing": [tool],
    }
    return {"@context": "https://spdx.org/rdf/3.0.1/spdx-context.jsonld", "@graph": [creation, document, *elements]}


def _element(kind: str, spdx_id: str, **properties: Any) -> dict[str, Any]:
    given = {key: value for key, value in properties.items() if value not in (None, [], "")}
    return {"type": kind, "spdxId": spdx_id, "creationInfo": CREATION, **given}


def _adapter(name: str, institution: str, facts: AdapterFacts) -> dict[str, Any]:
    record = facts.record
    return _element(
        "ai_AIPackage",
        name,
        name=record.line,
        description=record.purpose,
        verifiedUsing=[_sha256(record.adapter_sha256)],
        suppliedBy=institution,
        originatedBy=[institution],
        builtTime=_moment(facts.manifests["registered_adapter"].circumstances.created_at),
        releaseTime=_moment(facts.registered_at),
        software_primaryPurpose="model",
        software_packageVersion=facts.version,
        software_packageUrl=f"pkg:generic/{record.line}@{facts.version}?checksum=sha256:{record.adapter_sha256}",
        ai_domain=[record.purpose],
        ai_typeOfModel=["transformer", "text-generation", f"adapter of {record.base_model.name}"],
        ai_informationAboutTraining=f"method: {record.method}; classification: {record.classification}",
        ai_limitation="\n".join(facts.issues),
        ai_metric=_metrics(record.evaluation.get("held", {})),
        ai_useSensitivePersonalInformation=_sensitive(facts),
    )


def _dataset(name: str, dataset: DatasetFacts, institution: str, facts: AdapterFacts) -> dict[str, Any]:
    manifest = facts.manifests.get(dataset.kind)
    scrubbed = "scrubbed_corpus" in facts.manifests
    return _element(
        "dataset_DatasetPackage",
        name,
        name=dataset.kind,
        description=f"{dataset.rows} rows, classification {dataset.classification}",
        verifiedUsing=[_sha256(dataset.file_sha256)],
        originatedBy=[institution],
        suppliedBy=institution,
        builtTime=None if manifest is None else _moment(manifest.circumstances.created_at),
        software_primaryPurpose="data",
        dataset_datasetType=["text"],
        dataset_datasetSize=dataset.rows,
        dataset_confidentialityLevel=None if manifest is None else tlp_of(manifest).lower(),
        dataset_hasSensitivePersonalInformation=_sensitive(facts),
        dataset_anonymizationMethodUsed=["placeholders, as the institution's rules say"] if scrubbed else [],
        dataset_intendedUse=facts.record.purpose,
        dataset_dataCollectionProcess="; ".join(sorted({str(each["name"]) for each in dataset.sources})),
    )


def _parents(facts: AdapterFacts) -> list[dict[str, Any]]:
    parent = facts.record.parent_adapter
    if parent is None:
        return []
    return [
        _element(
            "ai_AIPackage",
            f"urn:sovereign:adapter:{parent.digest}",
            name=parent.adapter,
            verifiedUsing=[_sha256(parent.adapter_sha256)],
            software_primaryPurpose="model",
        )
    ]


def _waivers(name: str, facts: AdapterFacts) -> Iterator[dict[str, Any]]:
    """What did not pass and was waived."""
    for place, verdict in enumerate(each for each in facts.verdicts if each.waived_because is not None):
        yield _element(
            "Annotation",
            f"{name}:waiver:{place}",
            annotationType="review",
            subject=name,
            statement=f"Gate {verdict.gate} of {verdict.stage} ({verdict.outcome}) was waived: "
            f"{verdict.waived_because}",
        )


def _relations(name: str, to: dict[str, list[str]]) -> Iterator[dict[str, Any]]:
    for kind, others in to.items():
        if others:
            yield _element(
                "Relationship",
                f"{name}:{kind}",
                **{"from": name, "to": others, "relationshipType": kind, "completeness": "complete"},
            )


def _metrics(held: dict[str, Any]) -> list[dict[str, str]]:
    """What the report's gates looked at, each difference with its interval."""
    return [
        {
            "type": "DictionaryEntry",
            "key": f"difference: {name}",
            "value": f"{figure['difference']!r} ({figure['low']!r} to {figure['high']!r})",
        }
        for name, figure in sorted(held.items())
        if {"difference", "low", "high"} <= figure.keys() and figure["low"] is not None and figure["high"] is not None
    ]


def _sensitive(facts: AdapterFacts) -> str:
    """A scrubbed corpus held personal data; of another, this system knows nothing."""
    return "yes" if "scrubbed_corpus" in facts.manifests else "noAssertion"


def _libraries(facts: AdapterFacts) -> Sequence[tuple[str, str]]:
    return sorted(facts.record.framework_versions.items())


def _sha256(value: str) -> dict[str, str]:
    return {"type": "Hash", "algorithm": "sha256", "hashValue": value}


def _moment(text: str) -> str:
    """SPDX has seconds in UTC and nothing smaller."""
    return f"{datetime.datetime.fromisoformat(text).astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
