"""Build an adapter's record as an artifact, and register the adapter with the datasets and base models it depends on.

An adapter counts as trained on its own datasets and on the datasets of its parent adapters. If this installation tuned
the base model, the base model's datasets count too. Held-out documents do not count. Canaries count, because they are
training rows.
"""

import datetime
import hashlib
import json
from collections.abc import Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError, IntegrityError, StaleInput
from sovereign_pipeline.base.files import canonical_json, digest_of, file_sha256, short
from sovereign_pipeline.base.processes import account
from sovereign_pipeline.base.text import Countdown, and_more, counted
from sovereign_pipeline.base_models.stages import BASE_MODEL, read_descriptor
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.corpus.stages import RAW_CORPUS, read_sources
from sovereign_pipeline.dataset.card import DatasetCard
from sovereign_pipeline.dataset.jsonl import CARD, row_files, row_ids
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.evaluation.stages import EVALUATION_REPORT
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.record.audit_log import contents_of, enter_adapter
from sovereign_pipeline.record.catalog import adapters_of, find_adapter, is_registered
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.gates import assert_inputs_usable, passing_verdict
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.officers import People, officer_in_short
from sovereign_pipeline.record.stage import (
    Built,
    Config,
    Gate,
    Inputs,
    Stage,
    Verdict,
    Workplace,
    identity_of,
    stated_identity,
)
from sovereign_pipeline.record.staleness import compare
from sovereign_pipeline.record.store import Artifact, ArtifactStore, lineage
from sovereign_pipeline.record.tables import Adapter, BaseModelRow, Dataset
from sovereign_pipeline.registry.record import (
    RECORD_FILE,
    AdapterRecord,
    BaseModelFacts,
    DatasetFacts,
    FileFacts,
    GateFacts,
    ParentAdapterFacts,
    bill_of_materials,
    disagreements,
    learned_reward,
    read_record,
    waiver_facts,
)
from sovereign_pipeline.training.continuation import parent_in, trained_on
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER
from sovereign_pipeline.training.tuned_model import ADAPTER_CONFIG, refused_by_vllm, tuned_model

BILL_OF_MATERIALS_FILE = "bill_of_materials.json"


def registered_adapter_stage(inputs: tuple[Stage, ...]) -> Stage:
    """Return the registered_adapter stage.

    Args:
        inputs: the stages aligned_adapter, evaluation_report, training and preference dataset, and base_model.
    """
    return Stage(
        kind="registered_adapter",
        code_version="4",
        build=partial(build_record, inputs),
        inputs=inputs,
        config=partial(_record_config, inputs),
        is_recorded=lambda workplace, record: is_registered(open_registry(workplace.settings), record.digest),
        reads_corpus=lambda line: True,
        gates=(
            Gate(
                name="record_matches_artifacts",
                question="Does every fact follow from artifacts of one chain that passed every gate?",
                code_version="4",
                evaluate=partial(evaluate_record, inputs),
                config=lambda line: {"ceiling": line.ceiling},
            ),
        ),
    )


def build_record(stages: tuple[Stage, ...], workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Write the record and the bill of materials.

    Raises StaleInput if a stage would build a different upstream artifact today, GateRefused if an upstream artifact
    neither passed a gate nor was waived, and IntegrityError if a dataset has no raw_corpus in its lineage.
    """
    ancestors = list(_ancestors(stages, workplace, {kind: artifact.ref for kind, artifact in inputs.items()}))
    assert_as_made(stages, workplace, {kind: artifact.ref for kind, artifact in inputs.items()})
    gates = tuple(gate_facts(stage, gate, workplace, ref) for stage, ref in ancestors for gate in stage.gates)
    record = _record(workplace, inputs, gates)
    (workspace / RECORD_FILE).write_bytes(record.to_json())
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
            "accepted": sum(gate.waiver is not None for gate in record.gates),
        }
    )


def gate_facts(stage: Stage, gate: Gate, workplace: Workplace, ref: ArtifactRef) -> GateFacts:
    """Return the result of one gate for one artifact. Raises GateRefused if the gate neither passed nor was waived."""
    recorded, store = passing_verdict(stage, gate, workplace, ref), workplace.store
    record, outcome = recorded.record.digest, recorded.verdict.outcome
    waiver = None if recorded.waiver is None else waiver_facts(store, recorded.waiver, record, outcome)
    return GateFacts(
        stage=stage.kind, gate=gate.name, evaluated=ref.digest, record=record, outcome=outcome, waiver=waiver
    )


def evaluate_record(stages: tuple[Stage, ...], workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Return the verdict of the record's gate: a pass if every fact can be derived again from the artifacts, each
    upstream gate has a record, and the adapter's level is not above the line's ceiling. Hashes the weights."""
    record = read_record(artifact)
    differing = disagreements(workplace.store, record, artifact.manifest)
    evaluated = {(each.stage, each.gate) for each in record.gates}
    differing += [
        f"gate {gate.name} has no record for {stage.kind}"
        for stage in _upstream_of(stages, workplace.line)
        if stage.passthrough_of(workplace.line) is None
        for gate in stage.gates
        if (stage.kind, gate.name) not in evaluated
    ]
    evidence: dict[str, Any] = {"disagreements": len(differing), "gates": len(record.gates)}
    if differing:
        return Verdict(False, f"the record disagrees with its artifacts: {'; '.join(differing)}.", evidence)
    facts = _record(workplace, inputs, record.gates)
    if facts != record:
        wrong = [name for name in AdapterRecord.model_fields if getattr(facts, name) != getattr(record, name)]
        return Verdict(False, f"the record differs from its artifacts in {', '.join(wrong)}.", evidence)
    if workplace.institution.ladder.exceeds(artifact.manifest.classification, workplace.line.ceiling):
        level = artifact.manifest.classification
        return Verdict(False, f"{level} is above the line's ceiling {workplace.line.ceiling}.", evidence)
    return Verdict(
        True,
        f"every fact follows from {len(record.lineage)} artifacts of one chain; {_outcomes(record.gates)}; the "
        f"adapter is {record.classification}.",
        evidence,
    )


def _outcomes(gates: tuple[GateFacts, ...]) -> str:
    waived = [f"{gate.gate} ({officer_in_short(gate.waiver.officer)})" for gate in gates if gate.waiver is not None]
    passed = f"{counted(len(gates) - len(waived), 'gate')} passed"
    return f"{passed}, {len(waived)} waived by an officer: {', '.join(waived)}" if waived else passed


def _record_config(stages: tuple[Stage, ...], line: Line) -> Config:
    return {
        "purpose": line.purpose,
        "owner": line.owner,
        "method": method_of(line),
        "gates": {
            f"{stage.kind}.{gate.name}": {"code_version": gate.code_version, **gate.recipe(line)}
            for stage in _upstream_of(stages, line)
            if stage.passthrough_of(line) is None
            for gate in stage.gates
        },
    }


def method_of(line: Line) -> str:
    """Return the name of a line's training method, such as `sft-lora`, `sft-qlora+dpo` or `sft-full`."""
    sft, preference, rlhf = line.training.sft, line.training.preference, line.training.rlhf
    then = preference.name if preference is not None else rlhf.algorithm if rlhf is not None else None
    return f"sft-{'full' if sft.adapter == 'none' else sft.adapter}" + (f"+{then}" if then is not None else "")


def _upstream_of(stages: tuple[Stage, ...], line: Line) -> list[Stage]:
    """Return these stages and all stages that are upstream of them for a line, each stage once, earliest first."""
    found: dict[str, Stage] = {}
    for stage in stages:
        for each in [*_upstream_of(stage.inputs_of(line), line), stage]:
            found.setdefault(each.kind, each)
    return list(found.values())


def _ancestors(
    stages: tuple[Stage, ...], workplace: Workplace, refs: dict[str, ArtifactRef]
) -> Iterator[tuple[Stage, ArtifactRef]]:
    """Yield these stages and all stages upstream of them, each once with its artifact for this line, earliest first.
    Leaves out a stage that passes an input through."""
    seen: set[str] = set()

    def upstream_of(stage: Stage, ref: ArtifactRef) -> Iterator[tuple[Stage, ArtifactRef]]:
        passthrough = stage.passthrough_input(workplace.line)
        if passthrough is not None:
            yield from upstream_of(passthrough, ref)
            return
        if stage.kind in seen:
            return
        seen.add(stage.kind)
        manifest = workplace.store.read_manifest(ref)
        for upstream in stage.inputs_of(workplace.line):
            yield from upstream_of(upstream, workplace.store.input_ref(manifest, upstream.kind))
        yield stage, ref

    for stage in stages:
        yield from upstream_of(stage, refs[stage.kind])


def assert_as_made(stages: tuple[Stage, ...], workplace: Workplace, refs: dict[str, ArtifactRef]) -> None:
    """Assert that each artifact of a lineage has the identity that its stage would give it today. Raises StaleInput
    otherwise, because the record would misstate how the adapter was built."""
    line, store = workplace.line.line, workplace.store
    for stage, ref in _ancestors(stages, workplace, refs):
        stated = stated_identity(store.read_manifest(ref))
        changes = compare(stated, identity_of(stage, workplace, stated.inputs))
        if changes:
            raise StaleInput(
                f"Line {line}: {stage.kind} {short(ref.digest)} is stale: {and_more(changes)}. "
                f"The record would misstate how the adapter was built.",
                act="run_line",
                line=line,
            )


def _record(workplace: Workplace, inputs: Inputs, gates: tuple[GateFacts, ...]) -> AdapterRecord:
    store, line = workplace.store, workplace.line
    adapter, report = inputs["aligned_adapter"], inputs["evaluation_report"]
    ancestors = {artifact.manifest.kind: artifact.ref.digest for artifact in inputs.values()}
    for artifact in inputs.values():
        ancestors |= {manifest.kind: ref.digest for ref, manifest in lineage(store, artifact.manifest)}
    sources = _sources(store, inputs["training_dataset"])
    preferences = inputs["preference_dataset"] if line.training.learns_from_preferences else None
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
        parent_adapter=_parent_adapter(store, adapter),
        reward=learned_reward(adapter.manifest),
    )


def _parent_adapter(store: ArtifactStore, adapter: Artifact) -> ParentAdapterFacts | None:
    parent = parent_in((adapter.manifest, *(manifest for _, manifest in lineage(store, adapter.manifest))))
    if parent is None:
        return None
    adapter_id, digest = parent
    weights = tuned_model(store.open(store.ref_of(digest))).weights_sha256
    return ParentAdapterFacts(adapter=adapter_id, digest=digest, adapter_sha256=weights)


def _sources(store: ArtifactStore, dataset: Artifact) -> list[dict[str, Any]]:
    """Return name, path, role, licence, retention, SHA-256 and counts of each source, as raw_corpus read it."""
    for ref, manifest in lineage(store, dataset.manifest):
        if manifest.kind == RAW_CORPUS.kind:
            return read_sources(store.open_as_given(ref))
    raise IntegrityError(f"{dataset.path}: the lineage of this dataset has no raw_corpus.", "Run the line again.")


def dataset_facts(dataset: Artifact, sources: list[dict[str, Any]]) -> DatasetFacts:
    """Return the facts of a dataset for the record and the registry.

    Args:
        sources: all source files of the line, as raw_corpus read them. The returned facts omit sources that the dataset
            does not use.
    """
    card_file = dataset.file(CARD)
    card = DatasetCard.model_validate_json(card_file.read_bytes())
    file = dataset.file(card.file.path)
    named = {source.name for source in card.sources}
    return DatasetFacts(
        kind=dataset.manifest.kind,
        digest=dataset.ref.digest,
        file=file.name,
        file_sha256=file_sha256(file),
        rows=sum(1 for path in row_files(dataset) for _ in read_jsonl(path)),
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
    """Return the report's summary. For each of the report's inputs that contains scores of the adapter, add the input's
    summary under the input's kind."""
    scores = {kind: store.read_manifest(store.input_ref(report.manifest, kind)) for kind in report.manifest.inputs}
    of_the_adapter = {
        kind: manifest.summary for kind, manifest in scores.items() if "aligned_adapter" in manifest.inputs
    }
    return {**report.manifest.summary, **of_the_adapter}


REGISTERED_ADAPTER = registered_adapter_stage(
    (ALIGNED_ADAPTER, EVALUATION_REPORT, TRAINING_DATASET, PREFERENCE_DATASET, BASE_MODEL)
)


def register(
    registry: Registry, workplace: Workplace, record_ref: ArtifactRef, stage: Stage = REGISTERED_ADAPTER
) -> Adapter:
    """Register the adapter of a record, or return its row if it is already registered.

    First checks again that every gate passed or was waived. Then checks that each artifact in the lineage has the
    identity that its stage would give it today; the identity covers files outside the store. Also hashes every file,
    except unscrubbed text that this machine cannot read. Writes nothing on an error.

    Raises:
        StaleInput: a stage would build a different artifact today than the one in the lineage.
        NotFoundError: the parent adapter is not registered.
        GateRefused: an artifact neither passed a gate nor was waived.
        IntegrityError: a file changed, artifacts do not belong together, or a different adapter is registered under the
            parent adapter's id.
        InputError: the base model is registered under a different name or licence, or the institution's engine cannot
            serve the adapter.
    """
    with registry.reading() as session:
        known = _registered(session, record_ref)
    if known is not None:
        return known
    store = workplace.store
    own_gates = [gate_facts(stage, gate, workplace, record_ref) for gate in stage.gates]
    artifact = store.open(record_ref)
    inputs = {kind: store.input_ref(artifact.manifest, kind) for kind in artifact.manifest.inputs}
    assert_inputs_usable(stage, workplace, inputs)
    assert_as_made(stage.inputs, workplace, inputs)
    refs = [ref for ref, _ in lineage(store, artifact.manifest)]
    work = Countdown(workplace.progress, "hashing the lineage", len(refs), "artifact")
    for done, ref in enumerate(refs, start=1):
        if store.open_as_given(ref).withheld:
            workplace.progress(
                f"the documents of {ref.kind} {short(ref.digest)} are not readable here and were not verified"
            )
        work.reached(done)
    record = read_record(artifact)
    differing = disagreements(store, record, artifact.manifest)
    if differing:
        raise IntegrityError(
            f"{artifact.path}: the record contradicts its artifacts: {'; '.join(differing)}.",
            f"Materialize registered_adapter of line {record.line} again.",
            act="run_line",
            line=record.line,
        )
    assert_parent_is_registered(registry, record, artifact)
    _assert_servable(workplace, store.open(inputs["aligned_adapter"]))
    gate_records = [_gate_row(store, each) for each in (*record.gates, *own_gates)]
    adapter_manifest = store.read_manifest(inputs["aligned_adapter"])
    created_at = {
        dataset.kind: store.read_manifest(inputs[dataset.kind]).circumstances.created_at for dataset in record.datasets
    }
    own = {dataset.digest for dataset in record.datasets}
    rests_on, contents = as_entered(store, inputs["aligned_adapter"], own, record.base_model.digest)
    actor = People(registry.settings).commitment_of(account())
    with registry.writing() as session:
        known = _registered(session, record_ref)
        if known is not None:
            return known
        for dataset in record.datasets:
            _add_dataset(session, record.line, dataset, inputs[dataset.kind], created_at[dataset.kind])
        _add_base_model(session, record.base_model)
        earlier = adapters_of(session, record.line)
        version = next_version(record, earlier)
        now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
        adapter = Adapter(
            id=f"{record.line}-{version}",
            version=version,
            manifest_sha256=inputs["aligned_adapter"].manifest_sha256,
            record_digest=record_ref.digest,
            record_manifest_sha256=record_ref.manifest_sha256,
            review_date=workplace.line.review.next_day(now.date(), workplace.institution.review_every_days),
            registered_at=now,
            source_sha256=adapter_manifest.circumstances.source_sha256,
            gate_records=gate_records,
            **record.row_facts,
        )
        session.add(adapter)
        session.flush()
        enter_adapter(session, adapter, actor, rests_on, contents)
    return adapter


def assert_parent_is_registered(registry: Registry, record: AdapterRecord, artifact: Artifact) -> None:
    """Assert that the parent adapter in a record is the adapter that is registered under its id. Raises NotFoundError
    if the id is not registered, and IntegrityError if the id belongs to a different adapter.

    Args:
        artifact: the record's artifact.
    """
    parent = record.parent_adapter
    if parent is not None and find_adapter(registry, parent.adapter).adapter_digest != parent.digest:
        raise IntegrityError(
            f"{artifact.path / RECORD_FILE}: the parent adapter is {parent.adapter}, {short(parent.digest)}, "
            "but another adapter is registered under that id.",
            "Restore the registry from a copy.",
        )


def _assert_servable(workplace: Workplace, aligned: Artifact) -> None:
    """Raise InputError for an adapter that the configured engine cannot serve, before anyone reviews it."""
    chosen = workplace.institution.serving.engine_of(workplace.line.training.base_model)
    tuned = tuned_model(aligned)
    if chosen.engine != "vllm" or tuned.holds != "adapter":
        return
    reasons = refused_by_vllm(json.loads((tuned.directory / ADAPTER_CONFIG).read_bytes()), chosen.vllm.rank)
    if reasons:
        raise InputError(
            f"Line {workplace.line.line}: vLLM (serving.engine) cannot serve this adapter: {'; '.join(reasons)}.",
            "Change training.sft and train again, or set serving.engine in institution.yaml to local.",
        )


def next_version(record: AdapterRecord, earlier: Iterable[Adapter]) -> str:
    """Return the semantic version that follows the line's highest version. A line's first version is 1.0.0.

    A change of base model or method raises the major version, a change of data the minor version, and any other change
    the patch version (see https://semver.org).
    """
    last = max(earlier, key=lambda adapter: adapter.version_numbers, default=None)
    if last is None:
        return "1.0.0"
    major, minor, patch = last.version_numbers
    facts = record.row_facts
    if any(getattr(last, name) != facts[name] for name in ("base_model_digest", "method")):
        return f"{major + 1}.0.0"
    if any(getattr(last, name) != facts[name] for name in ("dataset_digest", "preference_dataset_digest")):
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + 1}"


def _registered(session: Session, record_ref: ArtifactRef) -> Adapter | None:
    return session.scalars(select(Adapter).where(Adapter.record_digest == record_ref.digest)).one_or_none()


def _add_dataset(session: Session, line: str, dataset: DatasetFacts, ref: ArtifactRef, created_at: str) -> None:
    if session.get(Dataset, dataset.digest) is not None:
        return
    row = Dataset(
        **dataset.model_dump(mode="json", exclude={"file"}),
        manifest_sha256=ref.manifest_sha256,
        line=line,
        created_at=datetime.datetime.fromisoformat(created_at),
    )
    session.add(row)
    session.flush()


def _add_base_model(session: Session, base: BaseModelFacts) -> None:
    """Add the base model's row if the model is new. Raises InputError if the model is registered under a different
    name or licence."""
    known = session.get(BaseModelRow, base.digest)
    if known is not None:
        if (known.name, known.licence) == (base.name, base.licence):
            return
        raise InputError(
            f"The base model {base.name} ({base.licence}) has exactly the files of {known.name} ({known.licence}), "
            f"which is already registered.",
            "Use that name and licence in the model's card and in the recipe.",
        )
    files = [file.model_dump() for file in base.files]
    session.add(BaseModelRow(digest=base.digest, name=base.name, licence=base.licence, files=files))
    session.flush()


def _gate_row(store: ArtifactStore, gate: GateFacts) -> dict[str, Any]:
    """Return one item of the column `gate_records`. The item of a passed gate has no outcome and no waiver."""
    row: dict[str, Any] = {"stage": gate.stage, "gate": gate.gate, "digest": gate.record}
    row["manifest_sha256"] = store.ref_of(gate.record).manifest_sha256
    if gate.waiver is not None:
        manifest_sha256 = store.ref_of(gate.waiver.digest).manifest_sha256
        row |= {
            "outcome": gate.outcome,
            "waiver": {**gate.waiver.model_dump(mode="json"), "manifest_sha256": manifest_sha256},
        }
    return row


def read_dataset(store: ArtifactStore, ref: ArtifactRef) -> tuple[set[str], set[str]]:
    """Return the ids of a dataset's rows and the names of its sources, after hashing every file."""
    dataset = store.open(ref)
    card: dict[str, Any] = json.loads(dataset.file(CARD).read_bytes())
    return row_ids(dataset), {source["name"] for source in card["sources"]}


def as_entered(
    store: ArtifactStore, adapter: ArtifactRef, own: Collection[str | None], base_model: str
) -> tuple[dict[str, Any], list[bytes]]:
    """Return two values for the ledger entry of a registration: the datasets and base models in the adapter's lineage,
    and the documents and sources of each dataset as bytes. Recalls search these bytes, which are stored with the entry.

    In the first value, `directly` of a dataset is True if the adapter itself was trained on the dataset, and False if
    only a parent adapter or the base model was. `base_models` maps each base model's digest to True for the adapter's
    own base model, and to False otherwise.

    Args:
        own: digests of the datasets that the adapter's record names.
        base_model: digest of the files of the adapter's base model.
    """
    refs, base_models = trained_on(store, [adapter])
    contents = {ref: contents_of(*read_dataset(store, ref)) for ref in refs}
    datasets = {
        ref.digest: {"directly": ref.digest in own, "contents": hashlib.sha256(content).hexdigest()}
        for ref, content in contents.items()
    }
    entered = {"datasets": datasets, "base_models": {**dict.fromkeys(base_models, False), base_model: True}}
    return entered, list(contents.values())
