"""Define an adapter's record, check it against its artifacts, and derive the CycloneDX bill of materials."""

import uuid
from collections.abc import Iterator
from typing import Any

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import Frozen, canonical_json, short
from sovereign_pipeline.policy.evaluation import allows
from sovereign_pipeline.record.gates import GATE_RECORD, GATE_WAIVER, KIND_OF, WaiverKind, read_verdict, stated_waiver
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.stage import Outcome
from sovereign_pipeline.record.store import Artifact, ArtifactStore, lineage
from sovereign_pipeline.training.continuation import parent_in
from sovereign_pipeline.training.stages import REWARD_CODE

RECORD_FILE = "record.json"


class DatasetFacts(Frozen):
    """A dataset that the adapter was trained on."""

    kind: str
    digest: str
    file: str
    file_sha256: str
    rows: int
    classification: str
    sources: tuple[dict[str, Any], ...]
    """The institution's source files, each with its SHA-256."""
    rows_held_out: int
    """Number of held-out rows. This field and the next three are copied from the data card."""
    by_classification: dict[str, int]
    """Number of rows at each classification level."""
    tokens: dict[str, Any]
    """Token counts of the training rows and of the held-out rows, with the base model's tokenizer."""
    findings: dict[str, int]
    """Number of rows with each warning on the data card, by the warning's name."""
    card_sha256: str


class FileFacts(Frozen):
    """One file of the base model."""

    name: str
    sha256: str


class BaseModelFacts(Frozen):
    """The base model that the adapter was trained on."""

    name: str
    digest: str
    """Digest of the names and SHA-256 of the model's files."""
    licence: str
    files: tuple[FileFacts, ...]


class WaiverFacts(Frozen):
    """An officer's waiver of a gate that did not pass."""

    digest: str
    """Digest of the waiver's artifact."""
    kind: WaiverKind
    officer: str
    reason: str
    at: str
    """Time of the waiver: UTC, ISO 8601."""


class GateFacts(Frozen):
    """The result of one gate for one artifact of the lineage: a pass or a waiver."""

    stage: str
    gate: str
    evaluated: str
    """Digest of the artifact that was evaluated."""
    record: str
    """Digest of the gate's record, which contains the verdict."""
    outcome: Outcome
    waiver: WaiverFacts | None = None
    """The officer's waiver, or None if the gate passed."""


class ParentAdapterFacts(Frozen):
    """The registered adapter from which the training of this adapter started."""

    adapter: str
    """Id of the parent adapter in the registry."""
    digest: str
    """Digest of the parent adapter's artifact."""
    adapter_sha256: str
    """SHA-256 of the parent adapter's weights."""


class LearnedRewardFacts(Frozen):
    """The reward that the adapter was trained with: a reward model, programs or both."""

    algorithm: str
    parts: dict[str, str]
    """Maps the name of each part of the reward to a digest over everything that decides the part's scores, except the
    replies. For a reward model, this is the digest of its artifact."""
    code: dict[str, str]
    """Maps the recipe path of each program and file to its SHA-256. Includes the machine's files that a command
    uses."""


class AdapterRecord(Frozen):
    """The content of `record.json`. Digests are 64 hex digits of SHA-256."""

    format: int = 1
    line: str
    purpose: str
    owner: str
    method: str
    classification: str
    adapter_digest: str
    adapter_sha256: str
    """SHA-256 of the weights file, or digest over the names and SHA-256 of the weights' shards."""
    code_version: str
    framework_versions: dict[str, str]
    training_dataset: DatasetFacts
    preference_dataset: DatasetFacts | None
    base_model: BaseModelFacts
    evaluation_report_digest: str
    evaluation: dict[str, Any]
    """Numbers of the evaluation report and of its scores."""
    lineage: dict[str, str]
    """Maps each kind to the digest of the artifact of this kind, for all artifacts upstream of the record."""
    gates: tuple[GateFacts, ...]
    parent_adapter: ParentAdapterFacts | None = None
    """The parent adapter. None if training started from the base model."""
    reward: LearnedRewardFacts | None = None
    """Reward that the adapter was trained with. Omitted from the record if there was none."""

    def to_json(self) -> bytes:
        absent = {"reward"} if self.reward is None else set()
        return canonical_json(self.model_dump(mode="json", exclude=absent)) + b"\n"

    @property
    def row_facts(self) -> dict[str, Any]:
        """Return the registry columns of an adapter that follow from its record alone."""
        preferences = self.preference_dataset
        return {
            "line": self.line,
            "adapter_digest": self.adapter_digest,
            "adapter_sha256": self.adapter_sha256,
            "dataset_digest": self.training_dataset.digest,
            "preference_dataset_digest": preferences.digest if preferences is not None else None,
            "base_model": self.base_model.name,
            "base_model_digest": self.base_model.digest,
            "framework_versions": self.framework_versions,
            "classification": self.classification,
            "evaluation_report_digest": self.evaluation_report_digest,
            "evaluation": self.evaluation,
            "method": self.method,
            "code_version": self.code_version,
        }

    @property
    def datasets(self) -> tuple[DatasetFacts, ...]:
        return tuple(each for each in (self.training_dataset, self.preference_dataset) if each is not None)


def read_record(artifact: Artifact) -> AdapterRecord:
    """Read `record.json` and return it. Raises IntegrityError if the file is not a valid adapter record."""
    path = artifact.file(RECORD_FILE)
    try:
        return AdapterRecord.model_validate_json(path.read_bytes())
    except ValueError:
        raise IntegrityError(
            f"{path}: this file is not an adapter record.", "Materialize registered_adapter again."
        ) from None


def disagreements(store: ArtifactStore, record: AdapterRecord, manifest: Manifest) -> list[str]:
    """List the contradictions between a record and the manifests and gate records of its lineage. Reads only manifests,
    gate records and waivers. Raises IntegrityError if one of them was changed.

    Args:
        manifest: the manifest of the record's own artifact.
    """
    found: list[str] = []
    stated = {
        "aligned_adapter": record.adapter_digest,
        "evaluation_report": record.evaluation_report_digest,
        "training_dataset": record.training_dataset.digest,
    }
    if record.preference_dataset is not None:
        stated["preference_dataset"] = record.preference_dataset.digest
    found += [
        f"{kind} is {short(manifest.inputs[kind])} in the manifest and {short(digest)} in the record"
        for kind, digest in stated.items()
        if manifest.inputs[kind] != digest
    ]
    if manifest.classification != record.classification:
        found.append(f"the manifest's level is {manifest.classification}, the record's {record.classification}")
    ancestors = dict(lineage(store, manifest))
    found += _kinds_with_several_artifacts(ancestors)
    manifests = {ref.digest: each for ref, each in ancestors.items()}
    for kind, needed in {
        "aligned_adapter": ("base_model", "training_dataset"),
        "evaluation_report": ("base_model", "aligned_adapter"),
    }.items():
        upstream = {ref.digest for ref, _ in lineage(store, manifests[manifest.inputs[kind]])}
        found += [
            f"{kind} was not made from the record's {each}" for each in needed if manifest.inputs[each] not in upstream
        ]
    parent = record.parent_adapter and (record.parent_adapter.adapter, record.parent_adapter.digest)
    if parent_in(ancestors.values()) != parent:
        found.append("its parent adapter is not the one in the record")
    if learned_reward(manifests[manifest.inputs["aligned_adapter"]]) != record.reward:
        found.append("the reward that its adapter learned from is not the one in the record")
    found += [problem for gate in record.gates if (problem := _gate_problem(store, gate, manifests)) is not None]
    return found


def learned_reward(adapter: Manifest) -> LearnedRewardFacts | None:
    """Return the reward that an aligned_adapter was trained with, as its manifest states, or None if there was none."""
    summary = adapter.summary.get("rlhf")
    if summary is None:
        return None
    return LearnedRewardFacts(
        algorithm=summary["algorithm"],
        parts={name: part["identity"] for name, part in summary["reward"].items()},
        code={
            name.removeprefix(REWARD_CODE): digest
            for name, digest in adapter.external_inputs.items()
            if name.startswith(REWARD_CODE)
        },
    )


def _kinds_with_several_artifacts(ancestors: dict[ArtifactRef, Manifest]) -> list[str]:
    by_kind: dict[str, set[str]] = {}
    for ref, manifest in ancestors.items():
        by_kind.setdefault(manifest.kind, set()).add(ref.digest)
    return [
        f"its lineage has more than one {kind}: {', '.join(short(each) for each in sorted(digests))}"
        for kind, digests in sorted(by_kind.items())
        if len(digests) > 1
    ]


def _gate_problem(store: ArtifactStore, gate: GateFacts, manifests: dict[str, Manifest]) -> str | None:
    if gate.evaluated not in manifests:
        return f"gate {gate.gate} evaluated {short(gate.evaluated)}, which is not in the lineage"
    recorded = store.open(store.ref_of(gate.record))
    if recorded.manifest.producer.config.get("gate") != gate.gate:
        return f"the record of gate {gate.gate} belongs to another gate"
    if gate.evaluated not in recorded.manifest.inputs.values():
        return f"the record of gate {gate.gate} is not bound to artifact {short(gate.evaluated)}"
    outcome = read_verdict(recorded).outcome
    if outcome != gate.outcome:
        found = f"the outcome of gate {gate.gate} for {short(gate.evaluated)} is '{outcome}'"
        return f"{found}, but '{gate.outcome}' in the record"
    if outcome == "pass":
        return None if gate.waiver is None else f"gate {gate.gate} passed, so nobody can have waived it"
    if gate.waiver is None:
        return f"gate {gate.gate} did not pass for {short(gate.evaluated)}, and no officer waived it"
    if not allows(recorded.manifest.producer.config.get("officer_may", "nothing"), outcome):
        return f"the recipe under which gate {gate.gate} was evaluated lets no officer waive '{outcome}'"
    if waiver_facts(store, store.ref_of(gate.waiver.digest), gate.record, outcome) != gate.waiver:
        return f"the waiver of gate {gate.gate} is not the one in the record"
    return None


def waiver_facts(store: ArtifactStore, ref: ArtifactRef, record: str, outcome: Outcome) -> WaiverFacts | None:
    """Return the facts of a waiver, or None if the waiver's artifact is for a different gate record or outcome.

    Raises IntegrityError if a file changed. Does not verify the officer's signature (`gates.read_waiver` does).
    """
    artifact = store.open(ref)
    manifest = artifact.manifest
    if manifest.kind != GATE_WAIVER or manifest.inputs != {GATE_RECORD: record}:
        return None
    waiver = stated_waiver(artifact)
    if waiver.kind != KIND_OF.get(outcome):
        return None
    return WaiverFacts(
        digest=ref.digest,
        kind=waiver.kind,
        officer=waiver.officer,
        reason=waiver.reason,
        at=manifest.circumstances.created_at,
    )


def numbers_in(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Yield every number in nested JSON with its path, such as `loss.base.difference`. Booleans count as 1 or 0."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers_in(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from numbers_in(inner, f"{name}.{position}")
    elif isinstance(value, bool | int | float):
        yield name, float(value)


PRODUCER = "sovereign-pipeline"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://cyclonedx.org/schema/bom-1.6.schema.json")


def bill_of_materials(record: AdapterRecord) -> dict[str, Any]:
    """Build an adapter's bill of materials in the CycloneDX format.

    The adapter is the subject. The components are the base model, parent adapter, reward model, datasets and libraries.
    A library is identified by its package URL, any other component by its digest.
    """
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
    """Return a component for the reward model that scored the adapter's training replies; empty if there was none."""
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
    """Return the package URL of a Python distribution: https://github.com/package-url/purl-spec, type pypi."""
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{version.replace('+', '%2B')}"
