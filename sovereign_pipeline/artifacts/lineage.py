"""The lineage of an artifact: everything it was made from, found through manifests.

What belongs here: walking manifests. What does not: reading the artifacts' files (`store.py`).
"""

from collections import deque
from collections.abc import Iterator

from sovereign_pipeline.artifacts.manifest import ArtifactRef, Manifest
from sovereign_pipeline.artifacts.store import ArtifactStore


def lineage(store: ArtifactStore, manifest: Manifest) -> Iterator[tuple[ArtifactRef, Manifest]]:
    """Every artifact that an artifact was made from, nearest first, each once, with its verified manifest.

    Raises IntegrityError when a manifest on the way is missing or was changed.
    """
    waiting = deque(input_refs(manifest))
    seen: set[ArtifactRef] = set()
    while waiting:
        ref = waiting.popleft()
        if ref in seen:
            continue
        seen.add(ref)
        ancestor = store.read_manifest(ref)
        yield ref, ancestor
        waiting.extend(input_refs(ancestor))


def input_refs(manifest: Manifest) -> Iterator[ArtifactRef]:
    """References to the inputs of an artifact, from its manifest alone. `kind` is the name of the asset."""
    for kind, digest in sorted(manifest.inputs.items()):
        manifest_sha256 = manifest.circumstances.input_manifests[kind]
        yield ArtifactRef(kind=kind, line=manifest.line, digest=digest, manifest_sha256=manifest_sha256)
