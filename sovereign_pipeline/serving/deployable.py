"""Decide which adapters may be loaded: verify each adapter's state, signatures, approvals and file hashes.

Each rejected adapter is reported with the reason, and the other adapters can still be loaded. If the registry rows or
signatures of a line fail verification, all adapters of the line are rejected.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pydantic import ValidationError
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, EngineRefused, IntegrityError, SovereignError, place_of
from sovereign_pipeline.base.files import Frozen, write_atomically
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.base_models.stages import BASE_MODEL, read_descriptor
from sovereign_pipeline.dataset.stages import TRAINING_DATASET
from sovereign_pipeline.record import tree
from sovereign_pipeline.record.catalog import State, adapters_of, lines_in, states
from sovereign_pipeline.record.database import Registry, RegistryUnreached, is_there, open_registry
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.store import Artifact, ArtifactStore
from sovereign_pipeline.record.tables import Adapter, AuditEntry
from sovereign_pipeline.record.trust_root import Trust
from sovereign_pipeline.registry.record import AdapterRecord, disagreements, read_record
from sovereign_pipeline.registry.verification import assert_waivers_count
from sovereign_pipeline.release.recall import open_recalls
from sovereign_pipeline.release.standing import assert_signed, production_before
from sovereign_pipeline.serving.engines.engine import Deployable
from sovereign_pipeline.serving.high_water_marks import HighWaterMarks, serving_directory
from sovereign_pipeline.serving.rollout.flag import Flag
from sovereign_pipeline.training.tuned_model import ADAPTER_DIRECTORY, tuned_model

NOT_VERIFIED = (SovereignError, OSError, KeyError, TypeError, ValueError)
"""Exceptions that the verification of an adapter can raise, including those for an unreadable or malformed file."""
SERVED: tuple[State, ...] = ("production", "staged")


@dataclass(frozen=True)
class VerifiedAdapter:
    """An adapter that may be loaded, with its verified artifacts."""

    deployable: Deployable
    """Description of the adapter for an engine, without a fingerprint."""
    artifact: Artifact
    record: ArtifactRef
    state: State
    base_model: Artifact


class WithdrawnAdapter(Frozen):
    """An adapter that is not served because of an open recall."""

    adapter: str
    line: str
    digest: str
    classification: str


@dataclass(frozen=True)
class FoundAdapters:
    """The adapters that may be loaded, and the adapters and lines that were rejected."""

    verified: tuple[VerifiedAdapter, ...]
    """Verified adapters: first those in production, last those kept for a rollback."""
    refused: Mapping[str, SovereignError]
    """Mapping of each rejected adapter's id, or rejected line's name, to the error that caused the rejection."""
    withdrawn: tuple[WithdrawnAdapter, ...] = ()
    """The rejected adapters that have an open recall."""
    entries: int = 0
    """Number of ledger entries that this result takes into account."""
    root: str = ""
    """Root hash of the ledger's tree with these entries; empty if the registry was down."""
    decision: int = 0
    """Result of `newest_decision`; 0 if the registry was down."""
    rules: str = ""
    """SHA-256 of the institution file, as read at the start of the gateway that verified the adapters."""


def newest_decision(session: Session) -> int:
    """Return the sequence number of the newest ledger entry that is not about a sealed artifact, or 0. Only such
    entries can change which adapters are served."""
    return session.scalar(select(func.max(AuditEntry.sequence))) or 0


def find_deployable(
    registry: Registry, store: ArtifactStore, trust: Trust, answering: Collection[str] = ()
) -> FoundAdapters:
    """Verify the adapters of every line that are staged, in production or kept for a rollback.

    answering: ids of adapters that currently answer users. They are verified even if they are superseded, because the
        gateway may not have applied the promotion yet.

    Raises RegistryUnreached if the registry stops answering during the search.
    """
    verified: list[VerifiedAdapter] = []
    refused: dict[str, SovereignError] = {}
    withdrawn: list[WithdrawnAdapter] = []
    with registry.reading() as session:
        entries, decision = tree.size_of(session), newest_decision(session)
        root = tree.root_at(session, entries).hex()
        for line in session.scalars(select(Adapter.line).distinct().order_by(Adapter.line)).all():
            try:
                held = list(_held(session, registry.settings, trust, line, answering))
            except NOT_VERIFIED as error:
                refused[line] = named(line, error)
                continue
            for adapter, state in held:
                try:
                    recalls = [each.id for each in open_recalls(session, registry.settings, adapter.id, state)]
                    if recalls:
                        refused[adapter.id] = ConflictError(
                            f"{adapter.id} is not served because of a recall: {and_more(recalls)}.",
                            "Retire the adapter, or let an officer waive the recall for it.",
                        )
                        withdrawn.append(
                            WithdrawnAdapter(
                                adapter=adapter.id,
                                line=line,
                                digest=adapter.adapter_digest,
                                classification=adapter.classification,
                            )
                        )
                        continue
                    assert_waivers_count(registry, store, adapter)
                    verified.append(verified_adapter(store, adapter, state))
                except NOT_VERIFIED as error:
                    refused[adapter.id] = named(adapter.id, error)
    return FoundAdapters(in_order(verified), refused, tuple(withdrawn), entries, root, decision)


def in_order(verified: Iterable[VerifiedAdapter]) -> tuple[VerifiedAdapter, ...]:
    """Sort adapters: adapters in production first, adapters kept for a rollback last."""
    of = [(each.deployable, each) for each in verified]
    return tuple(each for _, each in sorted(of, key=lambda it: (it[0].in_reserve, not it[0].pinned, it[0].adapter)))


def _held(
    session: Session, settings: Settings, trust: Trust, line: str, answering: Collection[str]
) -> Iterator[tuple[Adapter, State]]:
    """Yield a line's adapters that are served, kept for a rollback or in `answering`, each with its state. Verifies the
    line's registry rows and signatures first."""
    rows = {adapter.id: adapter for adapter in adapters_of(session, line)}
    before = production_before(session, settings, assert_signed(session, settings, trust, line))
    for name, state in states(session, line).items():
        is_kept = name == before or (state == "superseded" and name in answering)
        if state in SERVED or is_kept:
            yield rows[name], state


def named(name: str, error: Exception) -> SovereignError:
    """Return a verification error as a SovereignError. name: adapter id or line name for the message of an unexpected
    error. If `error` is RegistryUnreached, raises it, because a registry failure concerns all adapters."""
    if isinstance(error, RegistryUnreached):
        raise error
    if isinstance(error, SovereignError):
        return error
    return IntegrityError(f"{name} cannot be verified: {place_of(error)}.", "Restore its files from a copy.")


def verified_adapter(store: ArtifactStore, adapter: Adapter, state: State) -> VerifiedAdapter:
    """Verify and return an adapter's artifacts. Raises one of NOT_VERIFIED if the registry row differs from the
    adapter's record, if a file does not have its recorded hash, or if the model is fully fine-tuned."""
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
            f"{weights.path}: these files are not the ones registered as {adapter.id}.", "Restore them from a copy."
        )
    if tuned.holds != "adapter":
        raise EngineRefused(
            f"{adapter.id} is a fully fine-tuned model, and engines serve only adapters.",
            "Train an adapter: set training.sft.adapter to lora or qlora.",
        )
    base_model = store.open_input(artifact.manifest, BASE_MODEL.kind)
    descriptor = read_descriptor(base_model)
    dataset = store.read_manifest(store.input_ref(artifact.manifest, TRAINING_DATASET.kind))
    deployable = Deployable(
        adapter=adapter.id,
        line=adapter.line,
        digest=adapter.adapter_digest,
        directory=tuned.directory,
        classification=adapter.classification,
        template_sha256=descriptor["chat_template_sha256"],
        instruction=str(dataset.producer.config.get("instruction") or "") or None,
        base_model_digest=adapter.base_model_digest,
        files=_files(weights),
        pinned=state in ("production", "superseded"),
        in_reserve=state == "superseded",
        registered_at=adapter.registered_at,
    )
    return VerifiedAdapter(deployable, weights, record_ref, state, base_model)


def _assert_of_record(store: ArtifactStore, adapter: Adapter, record: AdapterRecord, artifact: Artifact) -> None:
    differing = [name for name, value in record.row_facts.items() if getattr(adapter, name) != value]
    if differing or adapter.id != f"{record.line}-{adapter.version}":
        raise IntegrityError(
            f"The registry's row of {adapter.id} differs from the signed record in {', '.join(differing) or 'its id'}.",
            "Restore the registry from a copy.",
        )
    problems = disagreements(store, record, artifact.manifest)
    if problems:
        raise IntegrityError(f"{artifact.path}: {and_more(problems)}.", "Restore the artifacts from a copy.")


def _files(artifact: Artifact) -> dict[str, str]:
    """Return a mapping of file name to SHA-256 for the adapter's directory."""
    paths = {PurePosixPath(entry.path): entry.sha256 for entry in artifact.manifest.files}
    return {path.name: digest for path, digest in paths.items() if str(path.parent) == ADAPTER_DIRECTORY}


class Noted(Frozen):
    """One entry of `LastVerified`: a verified adapter."""

    adapter: str
    line: str
    state: State
    record: ArtifactRef
    manifest_sha256: str
    """SHA-256 of the manifest of the artifact that contains the weights."""


class LastVerified(Frozen):
    """The saved list of adapters verified last. Gateways serve these adapters while the registry is down."""

    adapters: tuple[Noted, ...] = ()
    withdrawn: tuple[WithdrawnAdapter, ...] = ()
    entries: int = 0
    """Number of ledger entries that this list takes into account."""
    rules: str = ""
    """SHA-256 of the institution file that this gateway had read at its start."""


def note(settings: Settings, found: FoundAdapters) -> None:
    """Save the verified adapters, unless another gateway has already verified a ledger with more entries."""
    marks = HighWaterMarks.of(settings)
    if found.entries < marks.ledger[0]:
        return
    noted = (
        Noted(
            adapter=each.deployable.adapter,
            line=each.deployable.line,
            state=each.state,
            record=each.record,
            manifest_sha256=each.artifact.ref.manifest_sha256,
        )
        for each in found.verified
    )
    last = LastVerified(adapters=tuple(noted), withdrawn=found.withdrawn, entries=found.entries, rules=found.rules)
    _write(settings, last)
    try:
        marks.accept_entries(found.entries, found.root)
    except OSError:  # without the high-water mark, an older copy of the file would go unnoticed
        _remove(_file(settings))


def forget(settings: Settings) -> None:
    """Delete the saved adapters. Called if the registry can be reached but fails verification."""
    _write(settings, LastVerified())


def find_last_verified(settings: Settings, store: ArtifactStore, flags: Mapping[str, Flag]) -> FoundAdapters:
    """Verify the saved adapters again, and reject those that the signed flags do not name.

    flags: mapping of line name to the line's current flag.

    Raises IntegrityError if the file of saved adapters cannot be read or is an older copy.
    """
    verified: list[VerifiedAdapter] = []
    refused: dict[str, SovereignError] = {}
    last = _read(settings)
    if last.adapters and last.entries < (newest := HighWaterMarks.of(settings).ledger[0]):
        raise IntegrityError(
            f"{_file(settings)}: the file is based on {last.entries} ledger entries, but this gateway has already "
            f"verified {newest} entries.",
            "Somebody restored an older copy of the file. Remove the file, and start the registry's database.",
        )
    withdrawn = {each.adapter for each in last.withdrawn}
    for noted in last.adapters:
        try:
            if noted.adapter in withdrawn:
                raise ConflictError(f"{noted.adapter} is recalled, so it is not served.")
            found = verified_adapter(store, _row(store, noted), noted.state)
            _assert_named(found, flags.get(noted.line))
        except NOT_VERIFIED as error:
            refused[noted.adapter] = named(noted.adapter, error)
        else:
            verified.append(found)
    return FoundAdapters(in_order(verified), refused, last.withdrawn, last.entries, rules=last.rules)


def _row(store: ArtifactStore, noted: Noted) -> Adapter:
    """Rebuild an adapter's registry row from its signed record."""
    return Adapter(
        id=noted.adapter,
        version=noted.adapter.removeprefix(f"{noted.line}-"),
        manifest_sha256=noted.manifest_sha256,
        record_digest=noted.record.digest,
        record_manifest_sha256=noted.record.manifest_sha256,
        **read_record(store.open(noted.record)).row_facts,
    )


def _assert_named(verified: VerifiedAdapter, flag: Flag | None) -> None:
    adapter = verified.deployable
    way = flag.adapters.get(adapter.adapter) if flag is not None and adapter.adapter in _in_use(flag) else None
    facts = (adapter.digest, verified.record.manifest_sha256, adapter.classification)
    if way is None or (way.digest, way.record_manifest, way.classification) != facts:
        raise IntegrityError(
            f"{adapter.adapter}: the registry is down, and the flag of line {adapter.line} does not name this adapter.",
            "Start the registry's database.",
        )


def _in_use(flag: Flag) -> set[str | None]:
    """Return the ids of the flag's adapters: in production, staged and in prepared rollbacks. Contains None if
    there is no adapter in production or no staged one."""
    return {flag.production, flag.staged, *(each.adapter for each in flag.back)}


def _file(settings: Settings) -> Path:
    return serving_directory(settings) / "last-verified.json"


def _read(settings: Settings) -> LastVerified:
    path = _file(settings)
    try:
        return LastVerified.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return LastVerified()
    except (OSError, ValidationError):
        raise IntegrityError(
            f"{path}: the list of adapters that the gateway verified last cannot be read.",
            "Remove the file, and start the registry's database.",
        ) from None


def _write(settings: Settings, now: LastVerified) -> None:
    path = _file(settings)
    content = json.dumps(now.model_dump(mode="json"), indent=1) + "\n"
    try:
        if not path.exists() or path.read_text() != content:
            write_atomically(path, content)
    except OSError:  # not raised: callers would treat an OSError as a sign that the registry is down
        _remove(path)


def _remove(path: Path) -> None:
    """Remove the file of saved adapters, so that no gateway serves from an outdated or unprotected list. Raises
    IntegrityError if the file cannot be removed."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise IntegrityError(
            f"{path}: the list of verified adapters cannot be saved ({error.strerror}).",
            "Give the gateway write access to the directory.",
        ) from None


def lines_in_production(settings: Settings) -> list[str]:
    """List the lines that have an adapter in production according to the registry; none if there is no registry. No
    signature is verified. Raises the errors of `open_registry`."""
    if not is_there(settings):
        return []
    with open_registry(settings).reading() as session:
        return lines_in(session, {"production"})
