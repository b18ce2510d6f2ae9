"""The adapter's record: every fact about an adapter that follows from its artifacts alone.

What belongs here: what `record.json` holds, and whether it agrees with the chain it was made from. What does not: how
it is made (`building.py`), and what the registry adds when it registers: version and dates (`registration.py`).
"""

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from sovereign_pipeline.artifacts.gates import GATE_RECORD, read_verdict
from sovereign_pipeline.artifacts.hashing import short
from sovereign_pipeline.artifacts.lineage import lineage
from sovereign_pipeline.artifacts.manifest import ArtifactRef, Manifest
from sovereign_pipeline.artifacts.stage import Outcome
from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.artifacts.waiver import GATE_WAIVER, KIND_OF, WaiverKind, read_waiver
from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.policy.gates import allows
from sovereign_pipeline.training.continuation import parent_adapter

RECORD_FILE = "record.json"


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DatasetFacts(_Facts):
    """rows: of the JSONL file. file_sha256: of that file. sources: of the institution's files, by their digests.

    rows_held_out to card_sha256: from the data card, as in the registry's row; None in records of earlier versions.
    """

    kind: str
    digest: str
    file: str
    file_sha256: str
    rows: int
    classification: str
    sources: tuple[dict[str, Any], ...]
    rows_held_out: int | None = None
    by_classification: dict[str, int] | None = None
    tokens: dict[str, Any] | None = None
    findings: dict[str, int] | None = None
    card_sha256: str | None = None


class FileFacts(_Facts):
    name: str
    sha256: str


class BaseModelFacts(_Facts):
    """digest: over the files' names and SHA-256, so it is the same for every line that starts from this model."""

    name: str
    digest: str
    licence: str
    files: tuple[FileFacts, ...]


class WaiverFacts(_Facts):
    """An officer's acceptance of an answer that was no yes. digest: of its artifact; at: UTC, ISO 8601."""

    digest: str
    kind: WaiverKind
    officer: str
    reason: str
    at: str


class GateFacts(_Facts):
    """One gate that let an artifact pass. judged: digest of the artifact; record: digest of the answer's own artifact.

    acceptance: by whom it was let pass where the outcome is no pass; records of earlier versions know no such thing.
    """

    stage: str
    gate: str
    judged: str
    record: str
    outcome: Outcome = "pass"
    acceptance: WaiverFacts | None = None


class ParentAdapterFacts(_Facts):
    """The registered adapter that training went on from. digest: of its artifact; adapter_sha256: of its weights."""

    adapter: str
    digest: str
    adapter_sha256: str


class AdapterRecord(_Facts):
    """What `record.json` holds. Digests are 64 hex digits of SHA-256.

    lineage: kind -> digest of every artifact that the adapter and its evaluation were made from. started_from: None
    where it was trained from the base model alone, and in records of earlier versions.
    evaluation: the numbers of the evaluation report, and of the scores it was made from.
    """

    format: int = 1
    line: str
    purpose: str
    owner: str
    method: str
    classification: str
    adapter_digest: str
    adapter_sha256: str
    code_version: str
    framework_versions: dict[str, str]
    training_dataset: DatasetFacts
    preference_dataset: DatasetFacts | None
    base_model: BaseModelFacts
    evaluation_report_digest: str
    evaluation: dict[str, Any]
    lineage: dict[str, str]
    gates: tuple[GateFacts, ...]
    started_from: ParentAdapterFacts | None = None

    @property
    def row_facts(self) -> dict[str, Any]:
        """The columns of the adapter's row in the registry that follow from the record alone."""
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
    """Raises IntegrityError for a file that is no record."""
    path = artifact.file(RECORD_FILE)
    try:
        return AdapterRecord.model_validate_json(path.read_bytes())
    except ValueError:
        raise IntegrityError(f"{path}: not an adapter's record. Materialize registered_adapter again.") from None


def disagreements(store: ArtifactStore, record: AdapterRecord, manifest: Manifest) -> list[str]:
    """What in a record contradicts the manifests of its lineage and its gates' answers; empty when all is well.

    `manifest` is the record's own. Only manifests and verdicts are read. Raises IntegrityError when one was changed.
    """
    found: list[str] = []
    claimed = {
        "aligned_adapter": record.adapter_digest,
        "evaluation_report": record.evaluation_report_digest,
        "training_dataset": record.training_dataset.digest,
    }
    if record.preference_dataset is not None:
        claimed["preference_dataset"] = record.preference_dataset.digest
    found += [
        f"{kind} is {short(manifest.inputs[kind])} in the manifest and {short(digest)} in the record"
        for kind, digest in claimed.items()
        if manifest.inputs[kind] != digest
    ]
    if manifest.classification != record.classification:
        found.append(f"the manifest is {manifest.classification} and the record {record.classification}")
    ancestors = dict(lineage(store, manifest))
    found += _of_two_chains(ancestors)
    manifests = {ref.digest: each for ref, each in ancestors.items()}
    for kind, needed in {
        "aligned_adapter": ("base_model", "training_dataset"),
        "evaluation_report": ("base_model", "aligned_adapter"),
    }.items():
        below = {ref.digest for ref, _ in lineage(store, manifests[manifest.inputs[kind]])}
        found += [
            f"{kind} was not made from the record's {each}" for each in needed if manifest.inputs[each] not in below
        ]
    said = record.started_from and (record.started_from.adapter, record.started_from.digest)
    if parent_in(ancestors.values()) != said:
        found.append("it went on from another adapter than the record says")
    found += [problem for gate in record.gates if (problem := _gate_problem(store, gate, manifests)) is not None]
    return found


def parent_in(ancestors: Iterable[Manifest]) -> tuple[str, str] | None:
    """Id and digest of the adapter that the line's own training went on from, by the manifests of its lineage."""
    return next((start for manifest in ancestors if (start := parent_adapter(manifest)) is not None), None)


def _of_two_chains(ancestors: dict[ArtifactRef, Manifest]) -> list[str]:
    by_kind: dict[str, set[str]] = {}
    for ref, manifest in ancestors.items():
        by_kind.setdefault(manifest.kind, set()).add(ref.digest)
    return [
        f"its lineage holds more than one {kind}: {', '.join(short(each) for each in sorted(digests))}"
        for kind, digests in sorted(by_kind.items())
        if len(digests) > 1
    ]


def _gate_problem(store: ArtifactStore, gate: GateFacts, manifests: dict[str, Manifest]) -> str | None:
    if gate.judged not in manifests:
        return f"the gate {gate.gate} judged {short(gate.judged)}, which is not in the lineage"
    answer = store.open(store.ref_of(gate.record))
    if answer.manifest.producer.config.get("gate") != gate.gate:
        return f"the record of the gate {gate.gate} is another gate's"
    if gate.judged not in answer.manifest.inputs.values():
        return f"the record of the gate {gate.gate} is bound to another artifact than {short(gate.judged)}"
    outcome = read_verdict(answer).outcome
    if outcome != gate.outcome:
        return f"the gate {gate.gate} gave '{outcome}' for {short(gate.judged)}, and the record says '{gate.outcome}'"
    if outcome == "pass":
        return None if gate.acceptance is None else f"the gate {gate.gate} passed, so nobody can have accepted it"
    if gate.acceptance is None:
        return f"the gate {gate.gate} did not let {short(gate.judged)} pass, and no officer did"
    if not allows(answer.manifest.producer.config.get("officer_may", "nothing"), outcome):
        return f"the recipe that the gate {gate.gate} was asked under lets no officer accept '{outcome}'"
    if waiver_facts(store, store.ref_of(gate.acceptance.digest), gate.record, outcome) != gate.acceptance:
        return f"the acceptance of the gate {gate.gate} is not what the record says"
    return None


def waiver_facts(store: ArtifactStore, ref: ArtifactRef, record: str, outcome: Outcome) -> WaiverFacts | None:
    """What an acceptance says, when it is one of exactly this record and outcome. Raises IntegrityError."""
    artifact = store.open(ref)
    manifest = artifact.manifest
    if manifest.kind != GATE_WAIVER or manifest.inputs != {GATE_RECORD: record}:
        return None
    said = read_waiver(artifact)
    if said.kind != KIND_OF.get(outcome):
        return None
    return WaiverFacts(
        digest=ref.digest,
        kind=said.kind,
        officer=said.officer,
        reason=said.reason,
        at=manifest.circumstances.created_at,
    )


def numbers_in(value: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number in nested JSON by its path, such as `loss.base.difference`; a truth value counts as 1 or 0."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers_in(inner, f"{name}.{key}" if name else key)
    elif isinstance(value, list | tuple):
        for position, inner in enumerate(value):
            yield from numbers_in(inner, f"{name}.{position}")
    elif isinstance(value, bool | int | float):
        yield name, float(value)
