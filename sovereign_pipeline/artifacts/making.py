"""Making an artifact, or finding the one that the same work made before.

What belongs here: the identity of an artifact, its fingerprint, and the one function that stores an artifact. What does
not: which inputs may be used (`production.py`, `gates.py`).
"""

import datetime
import importlib.metadata
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Protocol

from sovereign_pipeline.artifacts.lineage import input_refs
from sovereign_pipeline.artifacts.manifest import ArtifactRef, Circumstances, FileEntry, Manifest, Producer
from sovereign_pipeline.artifacts.stage import Built, Config, Stage, Workplace
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import digest_of, file_sha256, short
from sovereign_pipeline.policy.institution import Institution


class Place(Protocol):
    """Where artifacts are made: a workplace, or what has no recipe but a store and an institution."""

    @property
    def store(self) -> ArtifactStore: ...

    @property
    def institution(self) -> Institution: ...


@dataclass(frozen=True)
class Production:
    """The artifact of a stage, made or reused."""

    ref: ArtifactRef
    reused: bool
    """The same work had been done before; its artifact was verified and taken."""


@dataclass(frozen=True)
class Identity:
    """Everything that decides an artifact's bytes; for an equal identity the artifact is reused."""

    kind: str
    line: str
    ladder: tuple[str, ...]
    code_version: str
    config: Config
    inputs: Mapping[str, ArtifactRef]
    external_inputs: Mapping[str, str]
    libraries: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        inputs = {kind: ref.digest for kind, ref in self.inputs.items()}
        return digest_of({**{each.name: getattr(self, each.name) for each in fields(self)}, "inputs": inputs})


def identity_of(stage: Stage, workplace: Workplace, inputs: Mapping[str, ArtifactRef]) -> Identity:
    """The identity of what the stage would make now from these inputs."""
    return Identity(
        kind=stage.kind,
        line=workplace.line.line,
        ladder=workplace.institution.classification,
        code_version=stage.code_version,
        config=stage.config_at(workplace),
        inputs=inputs,
        external_inputs=stage.external(workplace),
        libraries=library_versions(stage.libraries),
    )


def stated_identity(manifest: Manifest) -> Identity:
    """The identity that a stored artifact states in its manifest."""
    return Identity(
        kind=manifest.kind,
        line=manifest.line,
        ladder=manifest.ladder,
        code_version=manifest.producer.code_version,
        config=manifest.producer.config,
        inputs={ref.kind: ref for ref in input_refs(manifest)},
        external_inputs=manifest.external_inputs,
        libraries=manifest.producer.libraries,
    )


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Distribution -> installed version, sorted by name."""
    return {name: importlib.metadata.version(name) for name in sorted(names)}


@cache
def source_digest() -> str:
    """SHA-256 over this package's own source files, so that a record states exactly which code ran."""
    package = Path(__file__).resolve().parent.parent
    return digest_of({str(file.relative_to(package)): file_sha256(file) for file in sorted(package.rglob("*.py"))})


def find_artifact(workplace: Place, identity: Identity) -> ArtifactRef | None:
    """The stored artifact of exactly this identity, or None.

    The store's index is not trusted. Raises IntegrityError when it leads to an artifact of another identity.
    """
    ref = workplace.store.find(identity.fingerprint)
    if ref is None:
        return None
    if stated_identity(workplace.store.read_manifest(ref)).fingerprint != identity.fingerprint:
        raise IntegrityError(
            f"{workplace.store.root / '.index'}: leads from {identity.kind} to {short(ref.digest)}, which was made "
            f"from something else. Someone changed the index of the store.",
            "Delete the index, run again, and find out who changed it.",
        )
    return ref


def make_artifact(workplace: Place, identity: Identity, build: Callable[[Path], Built]) -> Production:
    """Build and store the artifact of an identity, or reuse and verify the stored one.

    Raises IntegrityError when a stored byte changed, NotFoundError before any work where nothing could be signed, and
    whatever the build raises; no artifact is left then.
    """
    store = workplace.store
    stored = find_artifact(workplace, identity)
    if stored is not None:
        store.open(stored)
        return Production(stored, reused=True)
    store.seals.assert_ready()
    started = time.monotonic()
    with store.workspace(identity.kind) as workspace:
        built = build(workspace)
        levels = [store.read_manifest(ref).classification for ref in identity.inputs.values()]
        if built.classification is not None:
            levels.append(built.classification)

        def describe(files: tuple[FileEntry, ...]) -> Manifest:
            return Manifest(
                kind=identity.kind,
                line=identity.line,
                classification=workplace.institution.ladder.highest(levels),
                ladder=identity.ladder,
                files=files,
                inputs={kind: ref.digest for kind, ref in identity.inputs.items()},
                external_inputs=dict(identity.external_inputs),
                producer=Producer(
                    code_version=identity.code_version,
                    config=identity.config,
                    config_sha256=digest_of(identity.config),
                    libraries=dict(identity.libraries),
                ),
                summary=built.summary,
                circumstances=Circumstances(
                    created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                    source_sha256=source_digest(),
                    measured={"seconds": round(time.monotonic() - started, 3), **built.measured},
                    input_manifests={kind: ref.manifest_sha256 for kind, ref in identity.inputs.items()},
                    recorded=built.recorded,
                ),
            )

        ref = store.seal(workspace, describe)
    store.remember(identity.fingerprint, ref)
    built.after_commit()
    return Production(ref, reused=False)
