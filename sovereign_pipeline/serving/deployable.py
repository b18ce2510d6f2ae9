"""Which adapters may be loaded now: of each line the one in production, those that are staged, and the one that was
in production before, which an officer can go back to at once; and one further back that still answers users.

Everything is verified again: transitions by their signatures and approvals, rows by their entries in the ledger, the
record by what the transitions are signed over, and every byte of the adapter by its digest. What does not verify is
named with the reason, and hinders no other line.

What belongs here: that decision. What does not: loading (`deployment.py`).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.base.errors import ConflictError, EngineRefused, IntegrityError, SovereignError, place_of
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.base_models.pinned import read_descriptor
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.dataset.stages import TRAINING_DATASET
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.rows_on_record import adapters_on_record
from sovereign_pipeline.ledger.states import State, states
from sovereign_pipeline.ledger.tables import Adapter
from sovereign_pipeline.registry.record import AdapterRecord, disagreements, read_record
from sovereign_pipeline.release.recall import open_recalls
from sovereign_pipeline.release.standing import assert_signed, production_before
from sovereign_pipeline.serving.engines.engine import Deployable
from sovereign_pipeline.signing.trust import Trust
from sovereign_pipeline.training.tuned_model import ADAPTER_DIRECTORY, tuned_model

NOT_VERIFIED = (SovereignError, OSError, KeyError, TypeError, ValueError)
"""What verifying raises, where a file cannot be read or is another thing than it should be too."""
SERVED: tuple[State, ...] = ("production", "staged")


@dataclass(frozen=True)
class Verified:
    """An adapter that may be loaded, and the artifacts that say so."""

    deployable: Deployable
    """Its fingerprint is yet to be given."""
    artifact: Artifact
    record: ArtifactRef
    state: State
    base_model: Artifact
    instruction: str
    """With which its training rows begin; empty for none."""


@dataclass(frozen=True)
class Found:
    """What may be loaded, and what may not although it is in production or staged."""

    verified: tuple[Verified, ...]
    """Those in production first."""
    refused: Mapping[str, SovereignError]
    """Adapter, or line -> why."""


def find_deployable(registry: Registry, store: ArtifactStore, trust: Trust, answering: Collection[str] = ()) -> Found:
    """Verify what is in production or staged, of every line.

    answering: digests of what answers users now. What is superseded stays while it is one of them: a gateway that has
    not taken the promotion yet goes on with it.
    """
    verified: list[Verified] = []
    refused: dict[str, SovereignError] = {}
    with registry.reading() as session:
        for line in session.scalars(select(Adapter.line).distinct().order_by(Adapter.line)).all():
            try:
                held = list(_held(session, registry.settings, trust, line, answering))
            except NOT_VERIFIED as error:
                refused[line] = named(line, error)
                continue
            for adapter, state in held:
                try:
                    _assert_not_recalled(session, registry.settings, adapter)
                    verified.append(verified_adapter(store, adapter, state))
                except NOT_VERIFIED as error:
                    refused[adapter.id] = named(adapter.id, error)
    return Found(in_order(verified), refused)


def in_order(verified: Iterable[Verified]) -> tuple[Verified, ...]:
    """Those in production first, those in reserve last."""
    of = [(each.deployable.in_reserve, not each.deployable.pinned, each.deployable.adapter, each) for each in verified]
    return tuple(each for *_, each in sorted(of, key=lambda entry: entry[:3]))


def _held(
    session: Session, settings: Settings, trust: Trust, line: str, answering: Collection[str]
) -> Iterator[tuple[Adapter, State]]:
    """The adapters of a line that are served or kept in reserve, by rows and signatures that verify."""
    rows = {adapter.id: adapter for adapter in adapters_on_record(session, line)}
    before = production_before(session, settings, assert_signed(session, settings, trust, line))
    for name, state in states(session, line).items():
        is_kept = name == before or (state == "superseded" and rows[name].adapter_digest in answering)
        if state in SERVED or is_kept:
            yield rows[name], state


def named(name: str, error: Exception) -> SovereignError:
    """What was raised while something was verified, as an error that says of what."""
    if isinstance(error, SovereignError):
        return error
    return IntegrityError(f"{name} cannot be verified: {place_of(error)}.", "Restore what is missing from a copy.")


def _assert_not_recalled(session: Session, settings: Settings, adapter: Adapter) -> None:
    """What is recalled must not be used, whatever state its adapters are in."""
    recalls = [each.id for each in open_recalls(session, settings, adapter.id)]
    if recalls:
        raise ConflictError(
            f"{adapter.id} is under {and_more(recalls)}, so it is not served.",
            "Retire it, or let an officer waive the recall for it.",
        )


def verified_adapter(store: ArtifactStore, adapter: Adapter, state: State) -> Verified:
    """Verify an adapter from its record to every byte of its weights. Raises one of NOT_VERIFIED."""
    record_ref = ArtifactRef(
        kind="registered_adapter",
        line=adapter.line,
        digest=adapter.record_digest,
        manifest_sha256=adapter.record_manifest_sha256,
    )
    artifact = store.open(record_ref)
    record = read_record(artifact)
    _assert_of_record(store, adapter, record, artifact)
    tuned_ref = store.input_ref(artifact.manifest, "aligned_adapter")
    weights = store.open(tuned_ref)
    tuned = tuned_model(weights)
    if (tuned_ref.manifest_sha256, tuned.weights_sha256) != (adapter.manifest_sha256, adapter.adapter_sha256):
        raise IntegrityError(
            f"{weights.path}: this is not the adapter that is registered as {adapter.id}.", "Restore it from a copy."
        )
    if tuned.holds != "adapter":
        raise EngineRefused(
            f"{adapter.id} was tuned in full, and an engine serves adapters of one base model.",
            "Train an adapter: training.sft.adapter is lora or qlora.",
        )
    base_model = store.open_input(artifact.manifest, BASE_MODEL.kind)
    descriptor = read_descriptor(base_model)
    dataset = store.read_manifest(store.input_ref(artifact.manifest, TRAINING_DATASET.kind))
    instruction = str(dataset.producer.config.get("instruction") or "")
    deployable = Deployable(
        adapter=adapter.id,
        line=adapter.line,
        digest=adapter.adapter_digest,
        directory=tuned.directory,
        classification=adapter.classification,
        template_sha256=descriptor["chat_template_sha256"],
        instruction=instruction or None,
        base_model_digest=adapter.base_model_digest,
        files=_files(weights),
        pinned=state in ("production", "superseded"),
        in_reserve=state == "superseded",
        registered_at=adapter.registered_at,
    )
    return Verified(deployable, weights, record_ref, state, base_model, instruction)


def _assert_of_record(store: ArtifactStore, adapter: Adapter, record: AdapterRecord, artifact: Artifact) -> None:
    differing = [name for name, value in record.row_facts.items() if getattr(adapter, name) != value]
    if differing or adapter.id != f"{record.line}-{adapter.version}":
        raise IntegrityError(
            f"The registry: the row of {adapter.id} differs from its record in {', '.join(differing) or 'its id'}.",
            "Restore the registry from a copy.",
        )
    problems = disagreements(store, record, artifact.manifest)
    if problems:
        raise IntegrityError(f"{artifact.path}: {and_more(problems)}.", "Restore the artifacts from a copy.")


def _files(artifact: Artifact) -> dict[str, str]:
    """File of the adapter's directory -> SHA-256."""
    paths = {PurePosixPath(entry.path): entry.sha256 for entry in artifact.manifest.files}
    return {path.name: digest for path, digest in paths.items() if str(path.parent) == ADAPTER_DIRECTORY}
