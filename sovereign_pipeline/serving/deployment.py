"""Load and unload adapters so that the engine has exactly the adapters that the ledger allows.

While the registry is down, the gateway serves the adapters that it verified last. It stops serving them if the
checkpoint in SOVEREIGN_HOME covers a ledger entry that the gateway has not verified. If the registry can be reached but
fails verification, nothing is served.
"""

import asyncio
import contextlib
import hashlib
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import (
    EngineLost,
    EngineRefused,
    IntegrityError,
    NotFoundError,
    SovereignError,
    place_of,
)
from sovereign_pipeline.base.files import Stamps, canonical_json, stamps
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import silent
from sovereign_pipeline.base_models.stages import open_base_model
from sovereign_pipeline.policy.institution import Institution, load_institution
from sovereign_pipeline.record import tree
from sovereign_pipeline.record.checkpoints import checkpoint_file, read_note
from sovereign_pipeline.record.database import Registry, RegistryUnreached, open_registry
from sovereign_pipeline.record.in_force import INSTITUTION, put_on_record
from sovereign_pipeline.record.in_force import rules as rules_on_record
from sovereign_pipeline.record.notes import parse_tree_head
from sovereign_pipeline.record.officers import trust_root
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.stage import Built, Identity, Progress, make_artifact
from sovereign_pipeline.record.store import Artifact, ArtifactStore
from sovereign_pipeline.record.trust_root import Trust
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline.serving.deployable import (
    FoundAdapters,
    VerifiedAdapter,
    WithdrawnAdapter,
    find_deployable,
    find_last_verified,
    forget,
    newest_decision,
    note,
)
from sovereign_pipeline.serving.engines.engine import Deployable, Engine
from sovereign_pipeline.serving.fingerprints import (
    NEW_TOKENS,
    TOP,
    Conversation,
    Fingerprint,
    Job,
    compute_apart,
    conversations,
    problem_of,
)
from sovereign_pipeline.serving.high_water_marks import HighWaterMarks, serving_directory
from sovereign_pipeline.serving.rollout.in_force import Flags

KIND = "adapter_fingerprint"
FILE = "fingerprint.json"


@dataclass(frozen=True)
class FingerprintStore:
    """Computes fingerprints and stores them as artifacts."""

    store: ArtifactStore
    institution: Institution
    settings: Settings
    progress: Progress
    compute: Callable[[Job], Fingerprint] = compute_apart

    def fingerprint_of(self, verified: VerifiedAdapter) -> Fingerprint:
        """Return an adapter's fingerprint. If none is stored, compute and store one, which takes seconds.

        Raises IntegrityError if the base model or the fingerprint was changed, EngineRefused if the adapter cannot be
        distinguished from its base model, and WorkerKilled if the process that computes the fingerprint is killed.
        """
        asked = conversations(verified.deployable.instruction or "")
        made = make_artifact(self, self._identity(verified, asked), lambda where: self._build(verified, asked, where))
        path = self.store.open(made.ref).file(FILE)
        try:
            fingerprint = Fingerprint.model_validate_json(path.read_bytes())
        except ValueError:
            raise IntegrityError(f"{path}: this file is not a valid fingerprint.", "Remove the artifact.") from None
        name, problem = verified.deployable.adapter, problem_of(fingerprint)
        if problem is not None:
            raise EngineRefused(
                f"{name} cannot be distinguished from its base model: {problem}.",
                "Train it longer or on different rows. Otherwise the gateway cannot check that an engine uses it.",
            )
        return fingerprint

    def _identity(self, verified: VerifiedAdapter, asked: tuple[Conversation, ...]) -> Identity:
        return Identity(
            kind=KIND,
            line=verified.deployable.line,
            ladder=self.institution.classification,
            code_version="2",
            config={
                "conversations": [each.model_dump(mode="json") for each in asked],
                "new_tokens": NEW_TOKENS,
                "top": TOP,
            },
            inputs={"adapter": verified.artifact.ref, "base_model": verified.base_model.ref},
            external_inputs={},
            libraries={},
        )

    def _build(self, verified: VerifiedAdapter, asked: tuple[Conversation, ...], workspace: Path) -> Built:
        adapter = verified.deployable
        base = open_base_model(self.settings, verified.base_model, self.progress)
        self.progress(f"{adapter.adapter}: computing its fingerprint with the training libraries")
        fingerprint = self.compute(Job(base, adapter.digest, adapter.directory, asked))
        (workspace / FILE).write_bytes(canonical_json(fingerprint.model_dump(mode="json")) + b"\n")
        return Built({"tokens": sum(len(mark.tokens) for mark in fingerprint.marks)})


OF_ALL = ("registry", "last verified", "deployment")
"""Keys of `Deployed.refused` that concern all adapters."""
SECONDS_BETWEEN_LOOKS = 5.0
SECONDS_TO_NOTICE = 0.2
"""Seconds between two checks whether the checkpoint in SOVEREIGN_HOME, and so the ledger, has changed."""
SECONDS_TO_VERIFY_AGAIN = 60.0
"""Seconds after which all adapters are verified again, because files can change without a new ledger entry."""

TIMES_AS_LONG = 20
"""Minimum interval between two full verifications of the ledger, as a multiple of the earlier one's duration."""


@dataclass(frozen=True)
class ServingBase:
    """The verified base model that an engine is started with."""

    name: str
    directory: Path
    """Model directory; every file was verified."""
    digest: str


@dataclass(frozen=True)
class Deployed:
    """The adapters that are served, and the rejected adapters with the reason for each."""

    served: tuple[Deployable, ...] = ()
    """Verified adapters. Each answers requests once the engine has loaded it."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """Maps an adapter id, a line name or a key of `OF_ALL` to the reason for the rejection. If the registry is down,
    the key `registry` has the error, and `served` lists the adapters verified last."""
    withdrawn: tuple[WithdrawnAdapter, ...] = ()
    """The rejected adapters that have an open recall."""
    unreached_at: float | None = None
    """Time (`time.monotonic`) since which no check has reached the registry. None if the latest check reached it."""


UNREACHED = (RegistryUnreached, OSError)
"""Exceptions that are raised if the registry is down."""


def _assert_follows(session: Session, accepted: tuple[int, str | None]) -> None:
    """Raise IntegrityError unless the ledger begins with the accepted entries. accepted: their number and root hash."""
    (entries, root), size = accepted, tree.size_of(session)
    if size >= entries and root in (None, tree.root_at(session, entries).hex()):
        return
    raise IntegrityError(
        f"This gateway has verified {entries} entries of the registry, but the registry's present {size} entries do "
        f"not include them. The registry is an older copy, or was continued from an older copy.",
        "Restore the newest copy. If you restored an older one on purpose, remove the gateway's high-water-marks.json.",
    )


def _is_in_force(session: Session, sha256: str) -> bool:
    return any((rule.file, rule.sha256) == (INSTITUTION, sha256) for rule in rules_on_record(session))


class Sources:
    """Reads the registry, the store and the trust root, and finds the adapters that may be served."""

    def __init__(
        self,
        settings: Settings,
        progress: Progress = silent,
        compute: Callable[[Job], Fingerprint] = compute_apart,
    ) -> None:
        """Read the institution file, once for the whole gateway, and open the stores. Raises RecipeError for an invalid
        institution file, and InputError if other accounts can enter the gateway's directory.

        compute: function that computes a fingerprint with the training libraries.
        """
        self._settings, self._progress = settings, progress
        self._store = open_store(settings)
        path = settings.data / INSTITUTION
        rules = path.read_bytes() if path.is_file() else None
        self.institution = load_institution(settings.data, rules)
        self._rules = hashlib.sha256(rules or b"").hexdigest()
        self._are_rules_logged = False
        self._fingerprints = FingerprintStore(self._store, self.institution, settings, progress, compute)
        self._registry: Registry | None = None
        self._base_models: dict[str, Artifact] = {}
        """Maps the digest of each base model found so far to its artifact."""
        serving_directory(settings)
        self._marks = HighWaterMarks.of(settings)
        self._found: FoundAdapters | None = None
        """Result of the latest search. Its `entries` is the number of ledger entries that it takes into account."""
        self._verify_ledger_at = 0.0

    def stamp(self) -> Stamps:
        """Return a value that changes with each new entry of the ledger. Works while the registry is down."""
        return stamps([checkpoint_file(self._settings)])

    def moved(self) -> tuple[int, ...]:
        """Return a value that changes with each version of the trust root, and with each ledger entry that can change
        which adapters are served (`newest_decision`). Raises the errors of `find`."""
        with self._forgetting():
            accepted = self._marks.ledger
            with self._opened().reading() as session:
                trust, entries, decision = self._trust(), tree.size_of(session), newest_decision(session)
                _assert_follows(session, accepted)
                root = tree.root_at(session, entries).hex()
        if self._found is not None and self._found.decision == decision and self._found.entries < entries:
            self._found = replace(self._found, entries=entries, root=root)
            note(self._settings, self._found)
        return (decision, trust.root_version, trust.targets_version)

    def find(self, answering: Collection[str] = ()) -> FoundAdapters:
        """Verify the ledger, find the adapters that may be served (`find_deployable`), and save the result.

        Raises IntegrityError if the registry fails verification or the institution file was changed, and
        RegistryUnreached or OSError if the registry is down.
        """
        with self._forgetting():
            accepted, registry = self._marks.ledger, self._opened()
            self._verify_ledger(registry)
            self._log_rules(registry)
            with registry.reading() as session:
                _assert_follows(session, accepted)
            found = find_deployable(registry, self._store, self._trust(), answering)
        found = replace(found, rules=self._rules)
        note(self._settings, found)
        return self._with_bases(found)

    def find_last(self) -> FoundAdapters:
        """Find the saved adapters that may be served while the registry is down. Raises SovereignError or OSError if a
        file fails verification, or if the ledger or institution file changed since the adapters were verified."""
        self._marks.accept_trust(trust_root(self._settings), is_on_record=False)
        flags = Flags(self._settings).flags()
        found = self._with_bases(find_last_verified(self._settings, self._store, flags))
        if found.verified:
            self.assert_nothing_missed()
            self._assert_same_rules(found.rules)
        return found

    def assert_nothing_missed(self) -> None:
        """Raise IntegrityError if the checkpoint in SOVEREIGN_HOME covers entries that this gateway has not verified.
        Such an entry may be a recall, which cannot be read while the registry is down."""
        known = self._found.entries if self._found is not None else 0
        newest = parse_tree_head(read_note(checkpoint_file(self._settings)).text).size
        if newest > known:
            raise IntegrityError(
                f"The ledger has {newest} entries, and this gateway has verified {known}. A newer entry may be a "
                f"recall, but the registry is down.",
                "Start the registry's database.",
            )

    def _with_bases(self, found: FoundAdapters) -> FoundAdapters:
        of = {each.deployable.base_model_digest: each.base_model for each in found.verified}
        self._base_models, self._found = {**self._base_models, **of}, found
        return found

    @contextlib.contextmanager
    def _forgetting(self) -> Iterator[None]:
        """Delete the saved adapters if the block raises a SovereignError other than RegistryUnreached."""
        try:
            yield
        except RegistryUnreached:
            raise
        except SovereignError:
            self._found = None
            forget(self._settings)
            raise

    def _verify_ledger(self, registry: Registry) -> None:
        """Verify all entries of the ledger and the ledger's second copy, unless they were verified recently."""
        began = time.monotonic()
        if began < self._verify_ledger_at:
            return
        verify_registry(registry)
        took = time.monotonic() - began
        self._verify_ledger_at = began + max(SECONDS_TO_VERIFY_AGAIN / 2, TIMES_AS_LONG * took)

    def _log_rules(self, registry: Registry) -> None:
        """Log the institution's rules, unless they are already logged. Raises IntegrityError if the institution file
        was changed after this gateway read it."""
        if self._are_rules_logged:
            return
        with registry.reading() as session:
            is_logged = _is_in_force(session, self._rules)
        if not is_logged:
            with registry.writing() as session:
                put_on_record(session, self._settings)
                is_logged = _is_in_force(session, self._rules)
        if not is_logged:
            raise IntegrityError(
                f"{self._settings.data / INSTITUTION} was changed after this gateway had read it.",
                "Find out who changed it, and start the gateway again.",
            )
        self._are_rules_logged = True

    def _assert_same_rules(self, rules: str) -> None:
        if rules != self._rules:
            raise IntegrityError(
                f"{self._settings.data / INSTITUTION} was changed after this gateway verified adapters.",
                "Start the registry's database, so that the change is logged.",
            )

    def with_fingerprint(self, verified: VerifiedAdapter) -> Deployable:
        """Return a verified adapter's description with its fingerprint. If the fingerprint must be computed, this takes
        seconds. Raises the errors of `FingerprintStore.fingerprint_of`."""
        before, fingerprint = self.stamp(), self._fingerprints.fingerprint_of(verified)
        if self.stamp() != before:
            with contextlib.suppress(*UNREACHED):  # the new entry is about the fingerprint that was stored just now
                self.moved()
        return replace(verified.deployable, fingerprint=fingerprint)

    def base_to_serve(self) -> ServingBase | None:
        """Return the base model whose engine is started first: the one with the most adapters in production. Ties are
        broken by the total number of adapters. Returns None if no adapter may be served and at least one is recalled.
        The gateway then starts no engine.

        Raises NotFoundError if no adapter may be served and none is recalled. If the registry is down, uses the
        adapters verified last. If no adapter was verified before, raises the errors of `find`.
        """
        try:
            found = self.find()
        except UNREACHED:
            found = self.find_last()
            if not found.verified and not found.withdrawn:
                raise
        by_digest: dict[str, list[VerifiedAdapter]] = {}
        for each in found.verified:
            by_digest.setdefault(each.deployable.base_model_digest, []).append(each)
        if not by_digest and found.withdrawn:
            return None
        if not by_digest:
            why = "; ".join(f"{name}: {error.message}" for name, error in found.refused.items())
            raise NotFoundError(
                f"No adapter may be served. {why}".strip(), "Let officers stage or promote an approved adapter."
            )
        return self.base_of(max(by_digest, key=lambda digest: _in_production_and_all(by_digest[digest])))

    def base_of(self, digest: str) -> ServingBase:
        """Verify every file of a base model that was found before. Raises IntegrityError if a file was changed."""
        artifact = self._base_models[digest]
        directory = open_base_model(self._settings, artifact, self._progress)
        return ServingBase(str(artifact.manifest.summary.get("name", directory.name)), directory, digest)

    def _trust(self) -> Trust:
        """Load the trust root. Raises IntegrityError if the file is older than the version in the ledger, or older than
        the newest version that this gateway has accepted."""
        with self._opened().reading():  # compares the trust root with the logged one
            trust = trust_root(self._settings)
        self._marks.accept_trust(trust, is_on_record=True)
        return trust

    def _opened(self) -> Registry:
        if self._registry is None:
            self._registry = open_registry(self._settings, from_first_entry=True)
        return self._registry


def _in_production_and_all(held: Sequence[VerifiedAdapter]) -> tuple[int, int]:
    return sum(each.deployable.is_in_production for each in held), len(held)


class Deployment:
    """A loop that loads and unloads adapters, so that the engine has exactly the adapters that the ledger allows."""

    def __init__(
        self,
        engine: Engine,
        sources: Sources,
        progress: Progress = silent,
        answering: Callable[[], Collection[str]] = frozenset,
    ) -> None:
        """Create the loop. answering: function that returns the ids of the adapters that flags give to users."""
        self._answering = answering
        self._engine, self._sources, self._progress = engine, sources, progress
        self._moved: tuple[int, ...] | None = None
        self._files: Stamps = ()
        """Result of `_identities` at the last verification."""
        self._verified_at = 0.0
        self._is_complete = False
        self.deployed = Deployed()
        """Result of the latest check."""

    async def keep(self, seconds: float = SECONDS_BETWEEN_LOOKS) -> None:
        """Run `look` at intervals and after each new ledger entry, until cancelled. An unexpected error unloads all
        adapters, but does not end the loop."""
        while True:
            seen = await asyncio.to_thread(self._sources.stamp)
            try:
                await self.look()
            except Exception as error:  # a bug here must not end the updates of served adapters
                self._say(replace(self.deployed, refused={"deployment": place_of(error)}))
                await self._unload_all_but(())
            until = time.monotonic() + seconds
            while True:
                await asyncio.sleep(min(seconds, SECONDS_TO_NOTICE))
                if time.monotonic() >= until or await asyncio.to_thread(self._sources.stamp) != seen:
                    break

    async def look(self) -> Deployed:
        """Load and unload adapters, so that the engine has exactly those that may be served. Returns the new
        `deployed`."""
        try:
            moved = await asyncio.to_thread(self._sources.moved)
            files = await asyncio.to_thread(_identities, self.deployed.served)
            if files == self._files and not self._is_due(moved):
                return self.deployed
            found = await asyncio.to_thread(partial(self._sources.find, self._answering()))
        except UNREACHED as error:
            return await self._go_on_without(error)
        except SovereignError as error:
            self._is_complete = False
            await self._unload_all_but(())
            return self._say(Deployed(refused={"registry": error.message}))
        return await self._deploy(found, moved)

    async def _go_on_without(self, error: Exception) -> Deployed:
        """While the registry is down, keep the loaded adapters if they are exactly those in `deployed`. Otherwise, load
        the adapters verified last. If this fails, or if the ledger has new entries, unload all adapters."""
        why = {"registry": _message(error)}
        since = self.deployed.unreached_at if self.deployed.unreached_at is not None else time.monotonic()
        self._is_complete = False
        served = {each.digest for each in self.deployed.served}
        try:
            if served and served == set(self._engine.loaded()):
                await asyncio.to_thread(self._sources.assert_nothing_missed)
            else:
                await self._deploy(await asyncio.to_thread(self._sources.find_last), None)
                self._is_complete = False
        except (SovereignError, OSError) as missed:
            await self._unload_all_but(())
            return self._say(Deployed(refused={"last verified": _message(missed), **why}, unreached_at=since))
        return self._say(replace(self.deployed, refused={**self.deployed.refused, **why}, unreached_at=since))

    def _is_due(self, moved: tuple[int, ...]) -> bool:
        if not self._is_complete or moved != self._moved:
            return True
        if {each.digest for each in self.deployed.served} != set(self._engine.loaded()):
            return True  # the engine restarted without this adapter, or with adapters that were unloaded meanwhile
        return time.monotonic() - self._verified_at > SECONDS_TO_VERIFY_AGAIN

    async def _deploy(self, found: FoundAdapters, moved: tuple[int, ...] | None) -> Deployed:
        """Load the adapters that may be served, and unload all others. Adapters that still answer users are among those
        in `found`, so a promotion causes no outage."""
        await self._unload_all_but([each.deployable for each in found.verified])
        refused = {name: error.message for name, error in found.refused.items()}
        served: list[Deployable] = []
        is_complete = True
        for verified in found.verified:
            name = verified.deployable.adapter
            try:
                adapter = await asyncio.to_thread(partial(self._sources.with_fingerprint, verified))
                await self._engine.load(adapter)
            except EngineLost as error:
                is_complete, refused[name] = False, error.message
                served.append(verified.deployable)
            except SovereignError as error:
                refused[name] = error.message
                await self._unload(verified.deployable.digest)
            else:
                served.append(adapter)
        self._moved, self._verified_at, self._is_complete = moved, time.monotonic(), is_complete
        self._files = await asyncio.to_thread(_identities, served)
        return self._say(Deployed(tuple(served), refused, found.withdrawn))

    async def _unload_all_but(self, kept: Sequence[Deployable]) -> None:
        """Stop serving all adapters except `kept`, and unload them from the engine."""
        before, names = self.deployed.served, {each.adapter for each in kept}
        known = {*self._engine.loaded(), *(each.digest for each in before)}
        self._say(replace(self.deployed, served=tuple(each for each in before if each.adapter in names)))
        for digest in known - {each.digest for each in kept}:
            await self._unload(digest)

    async def _unload(self, digest: str) -> None:
        with contextlib.suppress(EngineLost):  # an engine that has ended has no adapters loaded
            await self._engine.unload(digest)

    def _say(self, deployed: Deployed) -> Deployed:
        before, self.deployed = self.deployed, deployed
        for name, why in deployed.refused.items():
            if before.refused.get(name) != why:
                self._progress(f"not served: {name}: {why}")
        names = {each.adapter for each in deployed.served}
        for name in before.refused.keys() - deployed.refused.keys():
            if name in names or name in OF_ALL:
                self._progress(f"resolved: {name}")
        then = {each.adapter for each in before.served}
        for name in names - then:
            self._progress(f"served: {name}")
        for name in then - names:
            self._progress(f"no longer served: {name}")
        return deployed


def _message(error: Exception) -> str:
    return error.message if isinstance(error, SovereignError) else place_of(error)


def _identities(served: Sequence[Deployable]) -> Stamps:
    """Return file stamps, which change when a file of a served adapter is written, replaced, added or removed."""
    return stamps(each.directory / name for each in served for name in ("", *sorted(each.files)))
