"""Making and judging the record of an adapter: how each fact is read out of the chain.

What belongs here: the build and the gate of `registered_adapter`. What does not: what the record holds (`record.py`).
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.gates import passing_verdict
from sovereign_pipeline.artifacts.hashing import canonical_json, digest_of, file_sha256, short
from sovereign_pipeline.artifacts.lineage import lineage
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Built, Config, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.base_models.verified import read_descriptor
from sovereign_pipeline.dataset.card import DatasetCard
from sovereign_pipeline.dataset.files import CARD
from sovereign_pipeline.errors import IntegrityError, StaleInput
from sovereign_pipeline.ledger.catalog import is_registered
from sovereign_pipeline.ledger.database import open_registry
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.registry.bill_of_materials import bill_of_materials
from sovereign_pipeline.registry.record import (
    RECORD_FILE,
    AdapterRecord,
    BaseModelFacts,
    DatasetFacts,
    FileFacts,
    GateFacts,
    ParentAdapterFacts,
    disagreements,
    parent_in,
    read_record,
    waiver_facts,
)
from sovereign_pipeline.training.tuned_model import tuned_model

BILL_OF_MATERIALS_FILE = "bill_of_materials.json"


def registered_adapter_stage(inputs: tuple[Stage, ...]) -> Stage:
    """The stage over the five stages it reads: aligned_adapter, evaluation_report, both datasets, base_model."""
    return Stage(
        kind="registered_adapter",
        code_version="4",
        build=partial(build_record, inputs),
        inputs=inputs,
        config=partial(_record_config, inputs),
        is_recorded=_is_registered,
        gates=(
            Gate(
                name="record_matches_artifacts",
                question="Does every fact follow from artifacts that belong together and that every gate let pass?",
                code_version="4",
                evaluate=partial(evaluate_record, inputs),
                config=lambda line: {"ceiling": line.ceiling},
            ),
        ),
    )


def _is_registered(workplace: Workplace, record: ArtifactRef) -> bool:
    return is_registered(open_registry(workplace.settings), record.digest)


def build_record(stages: tuple[Stage, ...], workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Write the record and the bill of materials.

    Raises StaleInput when an ancestor was made under another recipe than today's, GateRefused when a gate of an
    ancestor has no passing record, and IntegrityError for a dataset that was made from no raw_corpus.
    """
    ancestors = list(_ancestors(stages, workplace, {kind: artifact.ref for kind, artifact in inputs.items()}))
    for stage, ref in ancestors:
        _assert_same_recipe(stage, workplace, ref)
    gates = tuple(gate_facts(stage, gate, workplace, ref) for stage, ref in ancestors for gate in stage.gates)
    record = _record(workplace, inputs, gates)
    (workspace / RECORD_FILE).write_bytes(canonical_json(record.model_dump(mode="json")) + b"\n")
    (workspace / BILL_OF_MATERIALS_FILE).write_bytes(canonical_json(bill_of_materials(record)) + b"\n")
    return Built(
        summary={
            "method": record.method,
            "adapter_digest": record.adapter_digest,
            "adapter_sha256": record.adapter_sha256,
            "training_rows": record.training_dataset.rows,
            "preference_rows": record.preference_dataset.rows if record.preference_dataset else 0,
            "artifacts": len(record.lineage),
            "gates": len(record.gates),
            "accepted": sum(gate.acceptance is not None for gate in record.gates),
        }
    )


def gate_facts(stage: Stage, gate: Gate, workplace: Workplace, ref: ArtifactRef) -> GateFacts:
    """How one gate let an artifact pass. Raises GateRefused when it did not."""
    answer, store = passing_verdict(stage, gate, workplace, ref), workplace.store
    record, outcome = answer.record.digest, answer.verdict.outcome
    accepted = None if answer.waiver is None else waiver_facts(store, answer.waiver, record, outcome)
    return GateFacts(
        stage=stage.kind, gate=gate.name, judged=ref.digest, record=record, outcome=outcome, acceptance=accepted
    )


def evaluate_record(stages: tuple[Stage, ...], workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Read every fact out of the artifacts again, hash the weights, and look at each gate's answer."""
    record = read_record(artifact)
    differing = disagreements(workplace.store, record, artifact.manifest)
    asked = {(each.stage, each.gate) for each in record.gates}
    differing += [
        f"no answer of the gate {gate.name} about {stage.kind}"
        for stage in _stages_above(stages)
        if stage.passthrough_of(workplace.line) is None
        for gate in stage.gates
        if (stage.kind, gate.name) not in asked
    ]
    evidence: dict[str, Any] = {"disagreements": len(differing), "gates": len(record.gates)}
    if differing:
        return Verdict(False, f"the record disagrees with its artifacts: {'; '.join(differing)}.", evidence)
    facts = _record(workplace, inputs, record.gates)
    if facts != record:
        wrong = [name for name in AdapterRecord.model_fields if getattr(facts, name) != getattr(record, name)]
        return Verdict(False, f"the record does not say what its artifacts say in {', '.join(wrong)}.", evidence)
    if workplace.institution.ladder.exceeds(artifact.manifest.classification, workplace.line.ceiling):
        level = artifact.manifest.classification
        return Verdict(False, f"{level} is above the line's ceiling {workplace.line.ceiling}.", evidence)
    return Verdict(
        True,
        f"every fact follows from {len(record.lineage)} artifacts that belong together; {_said(record.gates)}; the "
        f"adapter is {record.classification}.",
        evidence,
    )


def _said(gates: tuple[GateFacts, ...]) -> str:
    accepted = [gate for gate in gates if gate.acceptance is not None]
    yes = f"{len(gates) - len(accepted)} gates said yes"
    by = ", ".join(f"{gate.gate} ({gate.acceptance.officer})" for gate in accepted if gate.acceptance is not None)
    return f"{yes}, {len(accepted)} were let pass by an officer: {by}" if accepted else yes


def _record_config(stages: tuple[Stage, ...], line: Line) -> Config:
    """The line's purpose, how it trains, and every gate above with its limits: what a record is made under."""
    return {
        "purpose": line.purpose,
        "owner": line.owner,
        "method": method_of(line),
        "gates": {
            f"{stage.kind}.{gate.name}": {"code_version": gate.code_version, **gate.recipe(line)}
            for stage in _stages_above(stages)
            if stage.passthrough_of(line) is None
            for gate in stage.gates
        },
    }


def method_of(line: Line) -> str:
    """Such as `sft-lora`, `sft-qlora+dpo` or, tuned in full, `sft-full`."""
    sft, preference = line.training.sft, line.training.preference
    return f"sft-{'full' if sft.adapter == 'none' else sft.adapter}" + (
        f"+{preference.method}" if preference is not None else ""
    )


def _stages_above(stages: tuple[Stage, ...]) -> list[Stage]:
    found: dict[str, Stage] = {}
    for stage in stages:
        for each in [*_stages_above(stage.inputs), stage]:
            found.setdefault(each.kind, each)
    return list(found.values())


def _ancestors(
    stages: tuple[Stage, ...], workplace: Workplace, refs: dict[str, ArtifactRef]
) -> Iterator[tuple[Stage, ArtifactRef]]:
    """Every stage above that made something for this line, with its artifact, furthest first, each once."""
    seen: set[str] = set()

    def above(stage: Stage, ref: ArtifactRef) -> Iterator[tuple[Stage, ArtifactRef]]:
        passthrough = stage.passthrough_of(workplace.line)
        if passthrough is not None:
            yield from above(next(each for each in stage.inputs if each.kind == passthrough), ref)
            return
        if stage.kind in seen:
            return
        seen.add(stage.kind)
        manifest = workplace.store.read_manifest(ref)
        for upstream in stage.inputs:
            yield from above(upstream, workplace.store.input_ref(manifest, upstream.kind))
        yield stage, ref

    for stage in stages:
        yield from above(stage, refs[stage.kind])


def _assert_same_recipe(stage: Stage, workplace: Workplace, ref: ArtifactRef) -> None:
    if workplace.store.read_manifest(ref).producer.config_sha256 == digest_of(stage.config_at(workplace)):
        return
    line = workplace.line.line
    raise StaleInput(
        f"Line {line}: the recipe of {stage.kind} was changed since {short(ref.digest)} was made, so the record would "
        f"not say how it was made. Run the line again: `sovereign run {line}`."
    )


def _record(workplace: Workplace, inputs: Inputs, gates: tuple[GateFacts, ...]) -> AdapterRecord:
    store, line = workplace.store, workplace.line
    adapter, report = inputs["aligned_adapter"], inputs["evaluation_report"]
    ancestors = {artifact.manifest.kind: artifact.ref.digest for artifact in inputs.values()}
    for artifact in inputs.values():
        ancestors |= {manifest.kind: ref.digest for ref, manifest in lineage(store, artifact.manifest)}
    sources = _sources(store, inputs["training_dataset"])
    preferences = inputs["preference_dataset"] if line.training.preference is not None else None
    return AdapterRecord(
        line=line.line,
        purpose=line.purpose,
        owner=line.owner,
        method=method_of(line),
        classification=workplace.institution.ladder.highest(each.manifest.classification for each in inputs.values()),
        adapter_digest=adapter.ref.digest,
        adapter_sha256=tuned_model(adapter).weights_sha256,
        code_version=adapter.manifest.producer.code_version,
        framework_versions=adapter.manifest.producer.libraries,
        training_dataset=dataset_facts(inputs["training_dataset"], sources),
        preference_dataset=dataset_facts(preferences, sources) if preferences is not None else None,
        base_model=_base_model(inputs["base_model"]),
        evaluation_report_digest=report.ref.digest,
        evaluation=_evaluation(store, report),
        lineage=dict(sorted(ancestors.items())),
        gates=gates,
        started_from=_started_from(store, adapter),
    )


def _started_from(store: ArtifactStore, adapter: Artifact) -> ParentAdapterFacts | None:
    start = parent_in((adapter.manifest, *(manifest for _, manifest in lineage(store, adapter.manifest))))
    if start is None:
        return None
    weights = tuned_model(store.open(store.ref_of(start[1]))).weights_sha256
    return ParentAdapterFacts(adapter=start[0], digest=start[1], adapter_sha256=weights)


def _sources(store: ArtifactStore, dataset: Artifact) -> list[dict[str, Any]]:
    """What raw_corpus says of the institution's files: one row each, with path, role, licence, sha256 and counts."""
    for ref, manifest in lineage(store, dataset.manifest):
        if manifest.kind == "raw_corpus":
            described: list[dict[str, Any]] = json.loads(store.open(ref).file("sources.json").read_bytes())
            return described
    raise IntegrityError(f"{dataset.path}: this dataset was made from no raw_corpus. Run the line again.")


def dataset_facts(dataset: Artifact, sources: list[dict[str, Any]]) -> DatasetFacts:
    """What record and registry say of a dataset. sources: what raw_corpus says of all the line's files."""
    card_file = dataset.file(CARD)
    card = DatasetCard.model_validate_json(card_file.read_bytes())
    file = dataset.file(card.file.path)
    named = {source.name for source in card.sources}
    with file.open("rb") as stream:
        rows = sum(1 for _ in stream)
    return DatasetFacts(
        kind=dataset.manifest.kind,
        digest=dataset.ref.digest,
        file=file.name,
        file_sha256=file_sha256(file),
        rows=rows,
        classification=dataset.manifest.classification,
        sources=tuple(source for source in sources if source["name"] in named),
        rows_held_out=card.tokens.held_out.rows,
        by_classification=card.by_classification,
        tokens=card.tokens.model_dump(mode="json"),
        findings={finding.name: finding.count for finding in card.findings if finding.warns},
        card_sha256=file_sha256(card_file),
    )


def _base_model(artifact: Artifact) -> BaseModelFacts:
    described = read_descriptor(artifact)
    files = tuple(FileFacts(name=name, sha256=sha256) for name, sha256 in sorted(described["files"].items()))
    return BaseModelFacts(
        name=described["name"], digest=digest_of(described["files"]), licence=described["licence"], files=files
    )


def _evaluation(store: ArtifactStore, report: Artifact) -> dict[str, Any]:
    """The summary of the report, and of each set of scores it was made from under the name of its asset."""
    scores = {kind: store.read_manifest(store.input_ref(report.manifest, kind)) for kind in report.manifest.inputs}
    of_the_adapter = {
        kind: manifest.summary for kind, manifest in scores.items() if "aligned_adapter" in manifest.inputs
    }
    return {**report.manifest.summary, **of_the_adapter}
