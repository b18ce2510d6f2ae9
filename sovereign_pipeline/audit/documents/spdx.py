"""An SPDX 3.0.1 bill of materials with the classes of its AI and Dataset profiles, as plain JSON-LD.

For those whose tools read SPDX: of the CycloneDX bill (`bill_of_materials.py`) what the adapter is and was made of.
What does not belong here: facts that nobody recorded; a property without one is left out. So the bill does not claim to
conform to the AI and Dataset profiles: of every model and dataset they ask where it can be downloaded.
Format: https://spdx.github.io/spdx-spec/v3.0.1/
"""

import datetime
from collections.abc import Iterator, Sequence
from typing import Any

from sovereign_pipeline.audit.documents.facts import AdapterFacts, tlp_of
from sovereign_pipeline.registry.record import PRODUCER, DatasetFacts, purl

CREATION = "_:creation"
"""The node that says who wrote all of this, and when."""
LICENCE = "LicenseRef-base-model"
"""The base model's licence, in the publisher's own words, which need not be SPDX's name of one."""
COMPLETENESS = {"dependsOn": "incomplete", "usesTool": "incomplete"}
"""Kind of relation -> whether all are named; the others are complete. Of libraries the record has the main ones."""


def spdx_bill(facts: AdapterFacts) -> dict[str, Any]:
    """The bill as JSON-LD: the adapter, what it is made of, and how the parts belong together."""
    record = facts.record
    name = f"urn:sovereign:adapter:{record.adapter_digest}"
    institution, tool = f"{name}:institution", f"{name}:tool"
    base = f"urn:sovereign:base-model:{record.base_model.digest}"
    licence, licence_text = f"{base}:licence", f"{base}:licence-text"
    datasets = {f"urn:sovereign:dataset:{each.digest}": each for each in record.datasets}
    libraries = {f"urn:sovereign:library:{key}:{version}": (key, version) for key, version in _libraries(facts)}
    parents, judges = _parents(facts), _reward_model(facts)
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
        _element(
            "simplelicensing_LicenseExpression",
            licence,
            simplelicensing_licenseExpression=LICENCE,
            simplelicensing_customIdToUri=[{"type": "DictionaryEntry", "key": LICENCE, "value": licence_text}],
        ),
        _element(
            "simplelicensing_SimpleLicensingText", licence_text, simplelicensing_licenseText=record.base_model.licence
        ),
        *parents,
        *judges,
        *(_dataset(key, each, institution, facts) for key, each in datasets.items()),
        *(
            _element(
                "software_Package",
                key,
                name=library,
                software_packageVersion=version,
                software_packageUrl=purl(library, version),
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
                "usesTool": [tool, *(each["spdxId"] for each in judges)],
            },
        ),
        *_relations(base, {"hasDeclaredLicense": [licence]}),
    ]
    document = _element(
        "SpdxDocument",
        f"{name}:bill-of-materials",
        name=f"{record.line} {facts.version}",
        profileConformance=["core", "simpleLicensing", "software"],
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
        ai_typeOfModel=["text-generation", f"{record.method} on {record.base_model.name}"],
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


def _reward_model(facts: AdapterFacts) -> list[dict[str, Any]]:
    """The line's reward model, where it judged what the adapter wrote while it learned; none otherwise."""
    manifest = facts.manifests.get("reward_model")
    if manifest is None:
        return []
    return [
        _element(
            "ai_AIPackage",
            f"urn:sovereign:reward-model:{manifest.digest}",
            name=f"{facts.record.line} reward model",
            builtTime=_moment(manifest.circumstances.created_at),
            software_primaryPurpose="model",
            comment=f"It judged the adapter's replies. Digest of the artifact: {manifest.digest}",
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
            said = {"relationshipType": kind, "completeness": COMPLETENESS.get(kind, "complete")}
            yield _element("Relationship", f"{name}:{kind}", **{"from": name, "to": others, **said})


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
    """Whether personal data were found in the corpus; where none were, this system knows nothing."""
    scrubbed = facts.manifests.get("scrubbed_corpus")
    found = scrubbed is not None and any(sum(scrubbed.summary.get(each, {}).values()) for each in ("replaced", "kept"))
    return "yes" if found else "noAssertion"


def _libraries(facts: AdapterFacts) -> Sequence[tuple[str, str]]:
    return sorted(facts.record.framework_versions.items())


def _sha256(value: str) -> dict[str, str]:
    return {"type": "Hash", "algorithm": "sha256", "hashValue": value}


def _moment(text: str) -> str:
    """SPDX has seconds in UTC and nothing smaller."""
    return f"{datetime.datetime.fromisoformat(text).astimezone(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"
