"""MODULE DOCSTRING."""

from collections.abc import Iterator

from sovereign_pipeline.artifacts.manifest import ArtifactRef, Manifest
from sovereign_pipeline.artifacts.store import ArtifactStore


def lineage(store: ArtifactStore, manifest: Manifest) -> Iterator[tuple[ArtifactRef, Manifest]]:
    """Every artifact that went into one, nearest first, each once, by manifests that are held to the recorded hash.

    Raises IntegrityError when a manifest on the way is missing or was changed.
    """
    waiting = list(input_refs(manifest))
    seen: set[ArtifactRef] = set()
    while waiting:
        ref = waiting.pop(0)
        if ref in seen:
            continue
        seen.add(ref)
        found = store.read_manifest(ref)
        yield ref, found
        waiting.extend(input_refs(found))


def input_refs(manifest: Manifest) -> Iterator[ArtifactRef]:
    """References to what an artifact was made from, by its manifest alone. `kind` is the name of the asset."""
    for kind, digest in sorted(manifest.inputs.items()):
        manifest_sha256 = manifest.circumstances.input_manifests[kind]
        yield ArtifactRef(kind=kind, line=manifest.line, digest=digest, manifest_sha256=manifest_sha256)
