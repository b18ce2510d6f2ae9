"""MODULE DOCSTRING."""

import datetime
import importlib.metadata
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from sovereign_pipeline.artifacts.hashing import digest_of, file_sha256, short
from sovereign_pipeline.artifacts.manifest import ArtifactRef, Circumstances, FileEntry, Manifest, Producer
from sovereign_pipeline.artifacts.stage import Built, Config, Stage, Workplace
from sovereign_pipeline.errors import IntegrityError


@dataclass(frozen=True)
class Production:
    """reused: the same work had been done before; its artifact was verified and taken."""

    ref: ArtifactRef
    reused: bool


@dataclass(frozen=True)
class Identity:
    """Everything that decides an artifact's bytes; equal fingerprints mean that the work need not be done again."""

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
        return digest_of({**asdict(self), "inputs": inputs})


def fingerprint(stage: Stage, workplace: Workplace, inputs: Mapping[str, ArtifactRef]) -> str:
    """Digest of everything that decides what the stage would make from these inputs."""
    return identity_of(stage, workplace, inputs).fingerprint


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in sorted(names)}


@cache
def source_digest() -> str:
    """SHA-256 over this package's own source files, so that a record says exactly which code ran."""
    package = Path(__file__).resolve().parent.parent
    return digest_of({str(file.relative_to(package)): file_sha256(file) for file in sorted(package.rglob("*.py"))})


def identity_of(stage: Stage, workplace: Workplace, inputs: Mapping[str, ArtifactRef]) -> Identity:
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


def find_made(workplace: Workplace, identity: Identity) -> ArtifactRef | None:
    """What was made from exactly this before. The index that leads there is not trusted: the manifest must say so."""
    ref = workplace.store.find(identity.fingerprint)
    if ref is None:
        return None
    manifest = workplace.store.read_manifest(ref)
    said = Identity(
        kind=manifest.kind,
        line=manifest.line,
        ladder=manifest.ladder,
        code_version=manifest.producer.code_version,
        config=manifest.producer.config,
        inputs={kind: ref.model_copy(update={"digest": digest}) for kind, digest in manifest.inputs.items()},
        external_inputs=manifest.external_inputs,
        libraries=manifest.producer.libraries,
    )
    if said.fingerprint != identity.fingerprint:
        raise IntegrityError(
            f"The index of the store leads from {identity.kind} to {short(ref.digest)}, which was made from something "
            f"else. Someone changed {workplace.store.root / '.index'}; delete it, and find out who."
        )
    return ref


def make_artifact(workplace: Workplace, identity: Identity, build: Callable[[Path], Built]) -> Production:
    store = workplace.store
    found = find_made(workplace, identity)
    if found is not None:
        store.open(found)
        return Production(found, reused=True)
    started = time.monotonic()
    with store.workspace() as workspace:
        built = build(workspace)
        inherited = [store.read_manifest(ref).classification for ref in identity.inputs.values()]
        own = [built.classification] if built.classification is not None else []

        def describe(files: tuple[FileEntry, ...]) -> Manifest:
            return Manifest(
                kind=identity.kind,
                line=identity.line,
                classification=workplace.institution.ladder.highest(inherited + own),
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
                ),
            )

        ref = store.seal(workspace, describe)
    store.remember(identity.fingerprint, ref)
    built.after_commit()
    return Production(ref, reused=False)
