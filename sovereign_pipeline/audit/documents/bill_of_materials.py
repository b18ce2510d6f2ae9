"""A CycloneDX 1.7 ML-BOM with what "SBOM for AI: Minimum Elements" (G7 and BSI, 2026) asks beyond the registered one.

The bill that the pipeline signs with the record (`registry/record.py`) follows from the record alone. This
one adds what is known later or elsewhere: supplier, version, time, how it was made, levels, known issues, waivers.

What belongs here: that. What does not: facts that nobody recorded; a field without one is left out.
"""

from collections.abc import Iterator
from typing import Any

from sovereign_pipeline.audit.documents.facts import AdapterFacts, tlp_of
from sovereign_pipeline.registry.record import bill_of_materials

BY_REWARD = frozenset({"ppo", "rloo", "grpo"})
"""Methods of preference training in which the model is rewarded for its own answers."""


def completed_bill(facts: AdapterFacts) -> dict[str, Any]:
    """The bill as JSON. Raises RuntimeError where it would refer to what it does not have."""
    record, bill = facts.record, bill_of_materials(facts.record)
    supplier = {"name": facts.institution}
    adapter = bill["metadata"]["component"]
    adapter |= {
        "version": facts.version,
        "supplier": supplier,
        "manufacturer": supplier,
        "purl": f"pkg:generic/{record.line}@{facts.version}?checksum=sha256:{record.adapter_sha256}",
        "pedigree": {"ancestors": [_ancestor(facts)]},
    }
    adapter["modelCard"] = _model_card(facts)
    adapter["properties"] += [
        {"name": "sovereign:domain", "value": record.purpose},
        {"name": "sovereign:review_date", "value": facts.review_date},
    ]
    for component in bill["components"]:
        if component["type"] == "data":
            _govern(component, facts)
    made = [_artifact(kind, facts) for kind in facts.manifests]
    bill["components"] += made
    bill["dependencies"] += [{"ref": component["bom-ref"]} for component in made]
    bill["dependencies"][0]["dependsOn"] += [component["bom-ref"] for component in made]
    bill |= {
        "$schema": "http://cyclonedx.org/schema/bom-1.7.schema.json",
        "specVersion": "1.7",
        "formulation": [{"bom-ref": "formula", "workflows": [_workflow(facts)]}],
    }
    bill["metadata"] |= {
        "timestamp": facts.made_at,
        "lifecycles": [{"phase": "post-build"}],
        "supplier": supplier,
        "manufacturer": supplier,
        "distributionConstraints": {"tlp": tlp_of(facts.manifests["registered_adapter"])},
    }
    if missing := dangling(bill):
        raise RuntimeError(f"the bill of materials refers to {', '.join(missing)}, which it does not have")
    return bill


def dangling(bill: dict[str, Any]) -> list[str]:
    """References to nothing, which CycloneDX's schema lets pass; and names that stand twice."""
    names = [name for path, name in _texts(bill) if path[-1] == "bom-ref"]
    refers = [name for path, name in _texts(bill) if path[-1] == "ref" or "dependsOn" in path]
    return sorted({name for name in refers if name not in names} | {name for name in names if names.count(name) > 1})


def _texts(value: Any, path: tuple[str, ...] = ("",)) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, path)
    elif isinstance(value, str):
        yield path, value


def _model_card(facts: AdapterFacts) -> dict[str, Any]:
    record = facts.record
    by_reward = bool({*record.method.split("+")} & BY_REWARD)
    metrics = [
        *bill_of_materials(record)["metadata"]["component"]["modelCard"]["quantitativeAnalysis"]["performanceMetrics"],
        *_held(record.evaluation.get("held", {})),
    ]
    considerations: dict[str, Any] = {"users": [record.owner], "useCases": [record.purpose]}
    if facts.issues:
        considerations["technicalLimitations"] = list(facts.issues)
    waived = [each for each in facts.verdicts if each.waived_because is not None]
    if waived:
        considerations["ethicalConsiderations"] = [
            {"name": f"Gate {each.gate} was waived ({each.outcome})", "mitigationStrategy": each.waived_because}
            for each in waived
        ]
    return {
        "modelParameters": {
            "approach": {"type": "reinforcement-learning" if by_reward else "supervised"},
            "task": "text-generation",
            "modelArchitecture": record.base_model.name,
            "datasets": [{"ref": f"dataset:{dataset.digest}"} for dataset in record.datasets],
            "inputs": [{"format": "text"}],
            "outputs": [{"format": "text"}],
        },
        "quantitativeAnalysis": {"performanceMetrics": metrics},
        "considerations": considerations,
    }


def _held(held: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What the report's gates looked at, each difference with its interval."""
    for name, figure in sorted(held.items()):
        if not {"difference", "low", "high"} <= figure.keys() or figure["low"] is None or figure["high"] is None:
            continue
        yield {
            "type": f"difference: {name}",
            "value": repr(figure["difference"]),
            "slice": f"{figure['rows']} rows" if "rows" in figure else "all",
            "confidenceInterval": {"lowerBound": repr(figure["low"]), "upperBound": repr(figure["high"])},
        }


def _ancestor(facts: AdapterFacts) -> dict[str, Any]:
    base = facts.record.base_model
    return {
        "type": "machine-learning-model",
        "bom-ref": f"ancestor:{base.digest}",
        "name": base.name,
        "licenses": [{"license": {"name": base.licence}}],
        "properties": [{"name": "sovereign:digest", "value": base.digest}],
    }


def _govern(component: dict[str, Any], facts: AdapterFacts) -> None:
    """Whose a dataset is, and what it holds that is sensitive."""
    for data in component["data"]:
        data["governance"] = {
            "owners": [{"organization": {"name": facts.institution}}],
            "custodians": [{"organization": {"name": facts.record.owner}}],
        }
        if "scrubbed_corpus" in facts.manifests:
            data["sensitiveData"] = ["personal data, replaced by placeholders as the institution's rules say"]
    manifest = facts.manifests.get(component["name"])
    if manifest is not None:
        component["properties"].append({"name": "sovereign:tlp", "value": tlp_of(manifest)})


def _artifact(kind: str, facts: AdapterFacts) -> dict[str, Any]:
    manifest = facts.manifests[kind]
    return {
        "type": "data",
        "bom-ref": f"artifact:{manifest.digest}",
        "name": kind,
        "data": [{"type": "other", "name": kind, "classification": manifest.classification}],
        "properties": [
            {"name": "sovereign:digest", "value": manifest.digest},
            {"name": "sovereign:tlp", "value": tlp_of(manifest)},
        ],
    }


def _workflow(facts: AdapterFacts) -> dict[str, Any]:
    """How the adapter came to be: a task for each artifact, with what it read and when it was done."""
    here = {manifest.digest for manifest in facts.manifests.values()}
    tasks = [
        {
            "bom-ref": f"task:{manifest.digest}",
            "uid": manifest.digest,
            "name": kind,
            "taskTypes": ["other"],
            "timeEnd": manifest.circumstances.created_at,
            "inputs": [
                {"resource": {"ref": f"artifact:{digest}"}}
                for digest in sorted({*manifest.inputs.values()})
                if digest in here
            ],
            "outputs": [{"type": "artifact", "resource": {"ref": f"artifact:{manifest.digest}"}}],
        }
        for kind, manifest in facts.manifests.items()
    ]
    return {
        "bom-ref": "workflow",
        "uid": facts.id,
        "name": f"line {facts.record.line}",
        "taskTypes": ["other"],
        "tasks": tasks,
    }
