"""Write an adapter's documents from a package's files: model card, technical file (Annex IV of the EU AI Act),
CycloneDX bill of materials and OpenLineage events."""

import hashlib
import json
import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import read_bounded
from sovereign_pipeline.base_models.stages import BASE_MODEL, made_of
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.manifest import Manifest
from sovereign_pipeline.record.stage import Outcome
from sovereign_pipeline.record.statements import TECHNICAL_FILE, Statement, Subject, sign_statement
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.record import AdapterRecord, bill_of_materials
from sovereign_pipeline.training.compute import COUNTED
from sovereign_pipeline.training.continuation import parent_adapter
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, REWARD_MODEL, SFT_ADAPTER

THIRD = 1 / 3
"""Share of the base model's training compute. A company that modifies the model with more compute than this share is
presumed to become a provider.

Source: the Commission's guidelines for providers of general-purpose AI models (C(2025) 7719 final of 19 November 2025,
points 59 and 60). The indicative criterion is that "the training compute used for the modification is greater than a
third of the training compute of the original model" (in C(2025) 5045 final of July 2025, point 63). If the original
model's compute is not known, point 61 sets the limit to a third of 10^23 FLOP, or of 10^25 FLOP for a model with
systemic risk.
"""
_TRAININGS = (SFT_ADAPTER.kind, REWARD_MODEL.kind, ALIGNED_ADAPTER.kind)


@dataclass(frozen=True)
class Training:
    """The measured values of one training run in an adapter's lineage."""

    kind: str
    line: str
    method: str
    digest: str
    tokens: int
    """Number of tokens that the model learned from."""
    tokens_generated: int
    flops: int
    kilowatt_hours: float | None
    energy_source: str
    """Source of the energy value, or the reason why there is none."""


@dataclass(frozen=True)
class LineageCompute:
    """The training runs in an adapter's lineage, earliest first, and the operations that trained its base model.

    Regulation (EU) 2024/1689, Annex XI, section 1, asks the model's provider for the "computational resources used to
    train the model (e.g. number of floating point operations)" (2 d) and the "known or estimated energy consumption"
    (2 e).
    """

    trainings: Sequence[Training]
    base_flops: float | None
    """Operations that trained the base model, as stated on the base model's card."""
    base_source: str
    """Source of `base_flops`, or the reason why it is None."""

    @property
    def tokens(self) -> int:
        return sum(each.tokens for each in self.trainings)

    @property
    def flops(self) -> int:
        return sum(each.flops for each in self.trainings)

    @property
    def kilowatt_hours(self) -> float | None:
        """Return the energy of all training runs, or None if the energy of any run is unknown."""
        known = [each.kilowatt_hours for each in self.trainings if each.kilowatt_hours is not None]
        return sum(known) if len(known) == len(self.trainings) else None

    @property
    def share(self) -> float | None:
        """Return the operations of all training runs, divided by the operations that trained the base model. None if
        the base model's operations are unknown."""
        return None if self.base_flops is None else self.flops / self.base_flops


def compute_of(read: Callable[[str], Manifest], digest: str) -> LineageCompute:
    """Return the training runs in an adapter's lineage, and the operations that trained the published base model.
    Includes the runs of reward model and parent adapters, and of a base model that this installation tuned.

    Args:
        read: returns an artifact's manifest by the artifact's digest.
        digest: digest of the adapter's record.
    """
    manifests = dict(_beneath(read, digest))
    found = [_training(key, each) for key, each in reversed(manifests.items()) if each.kind in _TRAININGS]
    bases = [
        each.summary
        for each in manifests.values()
        if each.kind == BASE_MODEL.kind and not made_of(each.external_inputs)
    ]
    different = {each["digest"] for each in bases}
    if len(different) != 1:
        return LineageCompute(found, None, f"the lineage has {len(different)} published base models")
    stated = next((each["training_compute"] for each in bases if "training_compute" in each), None)
    if stated is None:
        return LineageCompute(found, None, f"the card of {bases[0]['name']} does not state its training_compute")
    return LineageCompute(found, stated["flops"], stated["source"])


def _beneath(read: Callable[[str], Manifest], digest: str) -> Iterator[tuple[str, Manifest]]:
    seen, waiting = set[str](), [digest]
    while waiting:
        each = waiting.pop(0)
        if each in seen:
            continue
        seen.add(each)
        manifest = read(each)
        yield each, manifest
        parent = parent_adapter(manifest)
        waiting += [*manifest.inputs.values(), *made_of(manifest.external_inputs)]
        waiting += [parent[1]] if parent is not None else []


def _training(digest: str, manifest: Manifest) -> Training:
    summary, circumstances = manifest.summary, manifest.circumstances
    return Training(
        kind=manifest.kind,
        line=manifest.line,
        method=summary.get("method", "reward"),
        digest=digest,
        tokens=summary["tokens_trained"],
        tokens_generated=summary["compute"]["tokens_generated"],
        flops=summary["compute"]["flops"],
        kilowatt_hours=circumstances.measured.get("energy_kwh"),
        energy_source=circumstances.recorded.get("energy", "not known: nothing was recorded"),
    )


TLP = ("CLEAR", "GREEN", "AMBER", "RED")
"""Labels of the Traffic Light Protocol, least restricted first."""


@dataclass(frozen=True)
class VerdictFacts:
    stage: str
    gate: str
    outcome: Outcome
    message: str
    waived_because: str | None
    """The officer's reason for waiving the verdict, or None."""


@dataclass(frozen=True)
class AdapterFacts:
    """The facts about an adapter and its lineage from which the documents are written."""

    id: str
    version: str
    institution: str
    record: AdapterRecord
    manifests: Mapping[str, Manifest]
    """Maps each kind to its manifest, for the adapter's record and every artifact in its lineage, inputs first."""
    verdicts: Sequence[VerdictFacts]
    card: Mapping[str, Any]
    """Data card of the training dataset."""
    sources: Sequence[Mapping[str, Any]]
    """Source files, as listed in `sources.json`."""
    issues: Sequence[str]
    """Known issues, as officers wrote them."""
    history: Sequence[Mapping[str, Any]]
    """Transitions of the adapter, as returned by `release/standing.py`."""
    review_date: str
    registered_at: str
    made_at: str
    """Time at which the package was created, UTC."""
    compute: LineageCompute


def facts_of(
    files: Mapping[str, bytes],
    adapter_id: str,
    institution: str,
    made_at: str,
    issues: Sequence[str],
    history: Sequence[Mapping[str, Any]],
) -> AdapterFacts:
    """Return the facts about an adapter from a package's verified files."""
    row = json.loads(files[f"registry/{adapter_id}.json"])

    def file(digest: str, name: str) -> bytes:
        return files[f"artifacts/{digest}/{name}"]

    record = AdapterRecord.model_validate_json(file(row["record_digest"], "record.json"))
    digests = {**record.lineage, "registered_adapter": row["record_digest"]}
    manifests = {
        kind: Manifest.model_validate_json(file(digest, "manifest.json")) for kind, digest in sorted(digests.items())
    }
    verdicts = [_verdict(each, file) for each in row["gate_records"]]
    return AdapterFacts(
        id=adapter_id,
        version=row["version"],
        institution=institution,
        record=record,
        manifests={kind: manifests[kind] for kind in _in_order(manifests)},
        verdicts=verdicts,
        card=json.loads(file(record.training_dataset.digest, "card.json")),
        sources=json.loads(file(record.lineage["raw_corpus"], "sources.json")),
        issues=issues,
        history=history,
        review_date=row["review_date"],
        registered_at=row["registered_at"],
        made_at=made_at,
        compute=compute_of(
            lambda digest: Manifest.model_validate_json(file(digest, "manifest.json")), row["record_digest"]
        ),
    )


def tlp_of(manifest: Manifest) -> str:
    """Return the TLP label of an artifact's classification level, by the level's position in the ladder. A position
    between two labels gets the stricter label."""
    top = len(manifest.ladder) - 1
    place = manifest.ladder.index(manifest.classification)
    return TLP[math.ceil(place * (len(TLP) - 1) / top)] if top else TLP[-1]


def _verdict(stated: Mapping[str, Any], file: Any) -> VerdictFacts:
    verdict, waiver = json.loads(file(stated["digest"], "verdict.json")), stated.get("waiver")
    reason = waiver["reason"] if waiver else None
    return VerdictFacts(stated["stage"], stated["gate"], verdict["outcome"], verdict["message"], reason)


def _in_order(manifests: Mapping[str, Manifest]) -> list[str]:
    """Return the kinds of artifacts, inputs first."""
    by_digest = {manifest.digest: kind for kind, manifest in manifests.items()}
    found: list[str] = []

    def add(kind: str) -> None:
        for digest in manifests[kind].inputs.values():
            if digest in by_digest:
                add(by_digest[digest])
        if kind not in found:
            found.append(kind)

    for kind in manifests:
        add(kind)
    return found


BY_REWARD = frozenset({"ppo", "rloo", "grpo"})
"""Training methods that reward the model for its own answers."""


def completed_bill(facts: AdapterFacts) -> dict[str, Any]:
    """Return an adapter's complete CycloneDX bill of materials as a dictionary. Raises RuntimeError if the bill has
    dangling or duplicate references."""
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
        {"name": "sovereign:training_flops", "value": str(facts.compute.flops)},
    ]
    if facts.compute.kilowatt_hours is not None:
        adapter["properties"].append(
            {"name": "sovereign:training_energy_kwh", "value": repr(facts.compute.kilowatt_hours)}
        )
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
        raise RuntimeError(f"the bill of materials refers to {', '.join(missing)}, which it does not list")
    return bill


def dangling(bill: dict[str, Any]) -> list[str]:
    """Return a bill's dangling references and duplicate `bom-ref`s, which CycloneDX's schema does not detect."""
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
    """Yield a CycloneDX metric for each difference that the report's gates evaluated and that has an interval."""
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
    """Add owners, custodians, the kind of sensitive data, and the TLP label to a dataset's component."""
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
    """Describe how the adapter was built: one task for each artifact, with inputs, output and end time."""
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


PRODUCER = "https://sovereign-pipeline.example/"
SPEC = "https://openlineage.io/spec/2-0-2/OpenLineage.json#/$defs/RunEvent"
FACETS = "https://openlineage.io/spec/facets"
NAMESPACE = "sovereign-pipeline"
_RUNS = uuid.uuid5(uuid.NAMESPACE_URL, SPEC)


def lineage_events(facts: AdapterFacts) -> bytes:
    """Return one OpenLineage event per artifact as JSON lines, inputs first. The bytes are reproducible."""
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
    """Describe a file outside the store (a source, a suite or a base model's file) as an OpenLineage dataset. The
    dataset's version is the file's SHA-256."""
    return {
        "namespace": "file",
        "name": name,
        "facets": {"version": _facet("1-0-1/DatasetVersionDatasetFacet", datasetVersion=digest)},
    }


def _facet(schema: str, **fields: Any) -> dict[str, Any]:
    name = schema.split("/")[1]
    return {"_producer": PRODUCER, "_schemaURL": f"{FACETS}/{schema}.json#/$defs/{name}", **fields}


UNWRITTEN = "Not known to this system"
"""Text that marks each passage that a person must write."""
LARGEST = 4 << 20
CORPUS = ("raw_corpus", "classified_corpus", "scrubbed_corpus", "leakage_safe_split")
"""Kinds of artifacts whose gates document how data were selected, labelled and cleaned."""
TRAINED = ("sft_adapter", "reward_model", "aligned_adapter")


def technical_file(facts: AdapterFacts) -> str:
    return _filled("technical-file.md", facts)


def model_card(facts: AdapterFacts) -> str:
    """Return the model card as Markdown with YAML front matter."""
    return _filled("model-card.md", facts)


def sign_technical_file(adapter: Adapter, path: Path, signer: Signer) -> bytes:
    """Return an officer's detached signature of a completed file: an in-toto statement in a sigstore bundle. Raises
    InputError if the file does not contain the digest of the adapter's record, and IntegrityError if the file cannot be
    read or is larger than `LARGEST`."""
    content = read_bounded(path, LARGEST, "Name the completed file.")
    if adapter.record_digest.encode() not in content:
        raise InputError(
            f"{path}: the file does not contain the digest of {adapter.id}'s record, {adapter.record_digest}.",
            "Complete the draft of this adapter, and keep the record's digest in it.",
        )
    about = Subject(path.name, hashlib.sha256(content).hexdigest())
    stated = {"adapter": adapter.id, "record": adapter.record_digest}
    return sign_statement(signer, Statement((about,), TECHNICAL_FILE, stated))


def _filled(template: str, facts: AdapterFacts) -> str:
    by_data = {each: each.stage in CORPUS or "dataset" in each.stage for each in facts.verdicts}
    return (
        _templates()
        .get_template(template)
        .render(
            facts=facts,
            record=facts.record,
            held=facts.record.evaluation.get("held", {}),
            trained={kind: facts.manifests[kind] for kind in TRAINED if kind in facts.manifests},
            of_data=[each for each in facts.verdicts if by_data[each]],
            of_model=[each for each in facts.verdicts if not by_data[each]],
            waived=[each for each in facts.verdicts if each.waived_because is not None],
            issues="; ".join(facts.issues),
            licences=sorted({str(each.get("licence", "")) for each in facts.sources}),
            front_matter=_front_matter(facts),
            counted=COUNTED,
            third=THIRD,
        )
    )


@cache
def _templates() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).resolve().parent / "templates"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown
    )
    found.globals["unwritten"] = UNWRITTEN
    found.filters |= {
        "cell": lambda text: _line(text).replace("|", "\\|"),
        "energy": lambda hours: "not known" if hours is None else f"{hours:.4g}",
        "figure": lambda value: f"{value:.4g}" if isinstance(value, int | float) else "–",
        "interval": _interval,
        "json": lambda value: json.dumps(value, ensure_ascii=False, sort_keys=True),
        "line": _line,
        "spec": format,
    }
    return found


def _interval(figure: Mapping[str, Any]) -> str:
    low, high = figure.get("low"), figure.get("high")
    return "none" if low is None or high is None else f"{low:+.4g} to {high:+.4g}"


def _line(text: str) -> str:
    return " ".join(str(text).split())


def _front_matter(facts: AdapterFacts) -> str:
    record = facts.record
    content: dict[str, Any] = {
        "library_name": "transformers" if "full" in record.method else "peft",
        "pipeline_tag": "text-generation",
        "base_model": record.base_model.name,
        "license": "other",
        "license_name": record.base_model.licence,
        "language": sorted(facts.card.get("by_language", {})),
        "datasets": [dataset.digest for dataset in record.datasets],
        "tags": [record.line, record.method, f"classification:{record.classification}"],
    }
    return str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
