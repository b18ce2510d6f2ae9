"""Remove the weights of a retired, rejected or recalled adapter from disk, and keep its records.

The ledger entry with the officer's signed statement is committed before any file is removed. An interrupted purge can
be run again; it removes the files that the entry lists.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError, IntegrityError
from sovereign_pipeline.base.files import short, sync_directory
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import Countdown, and_more
from sovereign_pipeline.base_models.stages import WEIGHTS, load_card
from sovereign_pipeline.record import catalog
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.in_force import assert_in_force, trust_named
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.officers import actor_of, assert_may, officer_of, officers_words, trust_root
from sovereign_pipeline.record.statements import PURGE, Statement, Subject, sign_statement
from sovereign_pipeline.record.store import ArtifactStore, lineage
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.release.standing import assert_signed
from sovereign_pipeline.training.continuation import all_that_is_beneath
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, REWARD_MODEL, SFT_ADAPTER

TRAINED = (SFT_ADAPTER.kind, REWARD_MODEL.kind, ALIGNED_ADAPTER.kind)
"""Kinds of artifacts whose weights were trained on the line's documents."""


@dataclass(frozen=True)
class Plan:
    """The files that a purge will remove, listed before an officer signs it."""

    adapter: Adapter
    state: catalog.State
    files: tuple[catalog.PurgedFile, ...]

    @property
    def bytes(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Unused:
    adapter: str
    state: catalog.State
    bytes: int
    needed_by: str | None
    """Id of another adapter that needs the weights. None if no other adapter needs them."""


def plan_purge(
    registry: Registry, store: ArtifactStore, settings: Settings, adapter_id: str, progress: Callable[[str], None]
) -> Plan:
    """List the files that a purge would remove: weights that no other adapter needs. Verifies each file.

    Raises NotFoundError for an unknown adapter. Raises ConflictError if the adapter is not retired, rejected or
    recalled, if it was already purged, or if another adapter or a base model needs its weights. Raises IntegrityError
    if a file differs from the registered file, or if the dependent adapters cannot be determined.
    """
    adapter = catalog.find_adapter(registry, adapter_id)
    with registry.reading() as session:
        state = _assert_ended(session, adapter)
        assert_signed(session, settings, trust_root(settings), adapter.line)
        if adapter_id in catalog.purge_dates(session):
            raise ConflictError(f"The weights of {adapter_id} were already purged.")
        needed = _needed(session, store, progress)
    if adapter.adapter_digest in needed:
        raise ConflictError(
            f"{needed[adapter.adapter_digest]} needs the weights of {adapter_id}.",
            "First retire the adapter that needs them.",
        )
    files: list[catalog.PurgedFile] = []
    for ref in _trained(store, adapter):
        if ref.digest not in needed:
            files += _weights(store, ref)
            store.open(ref)  # Verify the files that the purge's ledger entry will list.
    _assert_no_base_model(settings, adapter_id, files)
    return Plan(adapter, state, tuple(files))


def purge(
    registry: Registry, store: ArtifactStore, settings: Settings, signer: Signer, plan: Plan, reason: str
) -> catalog.Purge:
    """Log a signed purge in the ledger, then remove the files. Raises SignInError if the officer lacks the permission
    `retire`, InputError for an empty reason, and ConflictError if, since the plan was made, the adapter was purged or
    another adapter needs a file."""
    reason = officers_words(reason, "A purge")
    trust, adapter = trust_root(settings), plan.adapter
    officer = officer_of(trust, signer.keyid)
    assert_may(officer, catalog.MAY, [adapter.classification])
    content = {
        "line": adapter.line,
        "adapter": adapter.id,
        "files": [asdict(file) for file in plan.files],
        "reason": reason,
    }
    subject = Subject("registered_adapter/manifest.json", adapter.record_manifest_sha256)
    bundle = sign_statement(signer, Statement((subject,), PURGE, content))
    with registry.writing() as session:
        assert_in_force(session, settings, trust)
        _assert_ended(session, adapter)
        if adapter.id in catalog.purge_dates(session):
            raise ConflictError(f"The weights of {adapter.id} were already purged.")
        _assert_not_needed(session, store, plan)
        subjects = {
            "line": adapter.line,
            "adapter": adapter.id,
            "weights": sorted({file.artifact for file in plan.files}),
            "bytes": plan.bytes,
            "statement": hashlib.sha256(bundle).hexdigest(),
            catalog.STATEMENT: bundle.decode(),
            **trust_named(trust),
        }
        append(session, actor_of(officer.keyid), catalog.PURGED, subjects)
    recorded = finish_purge(registry, store, settings, adapter.id)
    assert recorded is not None  # committed above
    return recorded[0]


def finish_purge(
    registry: Registry, store: ArtifactStore, settings: Settings, adapter_id: str
) -> tuple[catalog.Purge, int] | None:
    """Remove the files of a logged purge. Returns the purge and the number of bytes that this call removed, or None if
    no purge is logged. Raises IntegrityError if no officer signed the purge, and ConflictError if an adapter or a base
    model now needs the weights."""
    trust = trust_root(settings)
    with registry.reading() as session:
        recorded = catalog.purge_of(session, trust, adapter_id)
        if recorded is None:
            return None
        adapter = session.get_one(Adapter, adapter_id)
        _assert_not_needed(session, store, Plan(adapter, _assert_ended(session, adapter), recorded.files))
    _assert_no_base_model(settings, adapter_id, recorded.files)
    return recorded, sum(_remove(store, file) for file in recorded.files)


def unused(registry: Registry, store: ArtifactStore, line: str | None, progress: Callable[[str], None]) -> list[Unused]:
    """Return the adapters whose weights are not in use, largest weights first. Omits purged adapters.

    These are superseded, rejected, recalled and retired adapters. Adapters that are registered, in review or approved
    are included if their line has a newer version.
    """
    with registry.reading() as session:
        state, purged = catalog.states(session, line), catalog.purge_dates(session)
        adapters = [each for each in session.scalars(select(Adapter)) if each.id in state and each.id not in purged]
        needed = _needed(session, store, progress)
    newest: dict[str, Adapter] = {}
    for each in sorted(adapters, key=lambda adapter: adapter.version_numbers):
        newest[each.line] = each
    found = []
    for each in adapters:
        is_idle = state[each.id] in ("registered", "in review", "approved") and newest[each.line] is not each
        if is_idle or state[each.id] == "superseded" or state[each.id] in catalog.ENDED:
            kept_for = needed.get(each.adapter_digest)
            size = sum(file.size for ref in _trained(store, each) for file in _weights(store, ref))
            found.append(Unused(each.id, state[each.id], size, kept_for if kept_for != each.id else None))
    return sorted(found, key=lambda each: (-each.bytes, each.adapter))


def _assert_ended(session: Session, adapter: Adapter) -> catalog.State:
    state = catalog.states(session, adapter.line)[adapter.id]
    if state not in catalog.ENDED:
        raise ConflictError(
            f"{adapter.id} is {state}, so its weights cannot be purged.",
            "First retire, reject or recall the adapter.",
        )
    return state


def _needed(session: Session, store: ArtifactStore, progress: Callable[[str], None]) -> dict[str, str]:
    """Return a mapping of artifact digest to the id of an adapter that needs the artifact. Ignores retired, rejected
    and recalled adapters. Reads an artifact's inputs from its signed manifest, not from the registry."""
    state = catalog.states(session)
    living = [
        each for each in session.scalars(select(Adapter).order_by(Adapter.id)) if state[each.id] not in catalog.ENDED
    ]
    work, seen = Countdown(progress, "checking which adapters need the weights", len(living), "adapter"), set[str]()
    found: dict[str, str] = {}
    for done, each in enumerate(living, start=1):
        found |= {ref.digest: each.id for ref, _ in all_that_is_beneath(store, _ref(store, each), seen)}
        work.reached(done)
    return found


def _assert_not_needed(session: Session, store: ArtifactStore, plan: Plan) -> None:
    needed = _needed(session, store, lambda _: None)
    for file in plan.files:
        if file.artifact in needed:
            raise ConflictError(
                f"{needed[file.artifact]} needs the weights of {plan.adapter.id} ({short(file.artifact)}).",
                "First retire the adapter that needs them.",
            )


def _assert_no_base_model(settings: Settings, adapter_id: str, files: Iterable[catalog.PurgedFile]) -> None:
    """Raise ConflictError if the card of a base model lists one of the files. A tuned model can be a base model."""
    weights = {file.sha256 for file in files}
    named = [
        path.stem
        for path in sorted((settings.data / "models").glob("*.yaml"))
        if weights & {*load_card(settings, path.stem).files.values()}
    ]
    if named:
        raise ConflictError(
            f"The base model {and_more(named)} has the weights of {adapter_id}.",
            "Remove the base model's card first, or keep the weights.",
        )


def _trained(store: ArtifactStore, adapter: Adapter) -> Iterator[ArtifactRef]:
    """Yield the artifacts that contain an adapter's own weights: the registered artifact, and the trained artifacts
    among its inputs."""
    own = _ref(store, adapter)
    manifest = store.read_manifest(own)
    yield own
    yield from (ref for ref, each in lineage(store, manifest) if each.kind in TRAINED)


def _weights(store: ArtifactStore, ref: ArtifactRef) -> Iterator[catalog.PurgedFile]:
    for file in store.read_manifest(ref).files:
        if PurePosixPath(file.path).suffix.lower() in WEIGHTS:
            yield catalog.PurgedFile(ref.digest, file.path, file.size, file.sha256)


def _ref(store: ArtifactStore, adapter: Adapter) -> ArtifactRef:
    return store.ref_of(adapter.adapter_digest, adapter.manifest_sha256)


def _remove(store: ArtifactStore, file: catalog.PurgedFile) -> int:
    """Remove a file if it exists, and its directory if it becomes empty. Returns the number of bytes removed. Raises
    IntegrityError unless the file is in the manifest of an artifact with trained weights."""
    manifest = store.read_manifest(store.ref_of(file.artifact))
    if manifest.kind not in TRAINED or (file.path, file.sha256) not in {(e.path, e.sha256) for e in manifest.files}:
        raise IntegrityError(
            f"{store.path_of(file.artifact)}: the purge lists {file.path}, but this is not a trained artifact, or its "
            "manifest does not list that path with that SHA-256."
        )
    root = store.path_of(file.artifact)
    path = root / file.path
    if not os.path.lexists(path):
        return 0
    size = path.lstat().st_size
    path.unlink()
    directory = path.parent
    if directory != root and not any(directory.iterdir()):
        directory.rmdir()
        directory = directory.parent
    sync_directory(directory)
    return size
