"""Registering an adapter: the one way a row comes into the registry.

What belongs here: what the registry decides itself (version, review date) and what it asserts first. What does not: the
facts of the record (`record.py`).
"""

import datetime
import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.gates import assert_inputs_usable
from sovereign_pipeline.artifacts.lineage import lineage
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Stage, Workplace
from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.processes import account
from sovereign_pipeline.base.text import Countdown
from sovereign_pipeline.ledger.catalog import find_adapter
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.people import People
from sovereign_pipeline.ledger.rows_on_record import adapters_on_record, enter_adapter
from sovereign_pipeline.ledger.tables import Adapter, BaseModelRow, Dataset
from sovereign_pipeline.registry.building import assert_as_made, gate_facts
from sovereign_pipeline.registry.record import (
    RECORD_FILE,
    AdapterRecord,
    BaseModelFacts,
    DatasetFacts,
    GateFacts,
    disagreements,
    read_record,
)
from sovereign_pipeline.registry.stages import REGISTERED_ADAPTER
from sovereign_pipeline.training.tuned_model import ADAPTER_CONFIG, refused_by_vllm, tuned_model


def register(
    registry: Registry, workplace: Workplace, record_ref: ArtifactRef, stage: Stage = REGISTERED_ADAPTER
) -> Adapter:
    """Register the adapter of a record, or return the row that the same record has already.

    Every gate is asserted again, the whole identity of every artifact of the lineage is compared with today's, files
    outside the store included, and every byte is read but unscrubbed text that is withheld here. Raises StaleInput or
    GateRefused when the chain may not be used, IntegrityError when bytes changed, artifacts do not belong together or
    the parent adapter is another one, and InputError for a known base model under another name and for an adapter that
    the institution's engine does not serve. Nothing is written on any error.
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
            workplace.progress(f"the documents of {ref.kind} {short(ref.digest)} are withheld here and were not read")
        work.reached(done)
    record = read_record(artifact)
    differing = disagreements(store, record, artifact.manifest)
    if differing:
        raise IntegrityError(
            f"{artifact.path}: the record does not belong to its artifacts: {'; '.join(differing)}.",
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
    actor = People(registry.settings).commitment_of(account())
    with registry.writing() as session:
        known = _registered(session, record_ref)
        if known is not None:
            return known
        for dataset in record.datasets:
            _add_dataset(session, record.line, dataset, inputs[dataset.kind], created_at[dataset.kind])
        _add_base_model(session, record.base_model)
        earlier = adapters_on_record(session, record.line)
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
        enter_adapter(session, adapter, actor)
    return adapter


def assert_parent_is_registered(registry: Registry, record: AdapterRecord, artifact: Artifact) -> None:
    """Assert that the parent adapter in a record is the one that is registered by its id. `artifact`: the record's.

    Raises NotFoundError when none is registered by that id, and IntegrityError when another one is.
    """
    parent = record.parent_adapter
    if parent is not None and find_adapter(registry, parent.adapter).adapter_digest != parent.digest:
        raise IntegrityError(
            f"{artifact.path / RECORD_FILE}: the parent adapter is {parent.adapter}, {short(parent.digest)}, and "
            f"another adapter is registered by that id.",
            "Restore the registry from a copy.",
        )


def _assert_servable(workplace: Workplace, aligned: Artifact) -> None:
    """Raise InputError for an adapter that nobody could be served with: it would be reviewed and approved in vain."""
    chosen = workplace.institution.serving.engine_of(workplace.line.training.base_model)
    tuned = tuned_model(aligned)
    if chosen.engine != "vllm" or tuned.holds != "adapter":
        return
    reasons = refused_by_vllm(json.loads((tuned.directory / ADAPTER_CONFIG).read_bytes()), chosen.vllm.rank)
    if reasons:
        raise InputError(
            f"Line {workplace.line.line}: vLLM, which serving.engine names, does not serve this adapter: "
            f"{'; '.join(reasons)}.",
            "Change training.sft and train again, or let serving.engine of institution.yaml be local.",
        )


def next_version(record: AdapterRecord, earlier: Iterable[Adapter]) -> str:
    """The semantic version after the line's highest: major for another base model or method, minor for other data.

    The change for the adapter's users decides, as in https://semver.org. The first version is 1.0.0.
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
    """Add its row, unless the dataset is registered already."""
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
    """Add its row, unless the base model is registered already."""
    known = session.get(BaseModelRow, base.digest)
    if known is not None:
        if (known.name, known.licence) == (base.name, base.licence):
            return
        raise InputError(
            f"The base model {base.name} ({base.licence}) has exactly the files of {known.name} ({known.licence}), "
            f"which is registered already.",
            "Use that name and licence in the model's card and in the recipe.",
        )
    files = [file.model_dump() for file in base.files]
    session.add(BaseModelRow(digest=base.digest, name=base.name, licence=base.licence, files=files))
    session.flush()


def _gate_row(store: ArtifactStore, gate: GateFacts) -> dict[str, Any]:
    """One entry of the column `gate_records`; outcome and waiver only where there is one, as in earlier versions."""
    row: dict[str, Any] = {"stage": gate.stage, "gate": gate.gate, "digest": gate.record}
    row["manifest_sha256"] = store.ref_of(gate.record).manifest_sha256
    if gate.waiver is not None:
        manifest_sha256 = store.ref_of(gate.waiver.digest).manifest_sha256
        row |= {
            "outcome": gate.outcome,
            "acceptance": {**gate.waiver.model_dump(mode="json"), "manifest_sha256": manifest_sha256},
        }
    return row
