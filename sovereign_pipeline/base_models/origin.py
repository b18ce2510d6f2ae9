"""Whether a base model was made here: its weights are files of an artifact of this store.

A card says of which level its model is, and anybody can point one at the result of a full tuning, copied and renamed.
What that was made from decides level and lineage, whatever the card says.

What belongs here: finding the artifact, and naming it in a manifest. What does not: whether what it was trained on is
held out now (`training/continuation.py`). Weights that were saved again by another program have other bytes and are not
recognised.
"""

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from sovereign_pipeline.artifacts.manifest import ArtifactRef, Manifest
from sovereign_pipeline.artifacts.store import ArtifactStore

WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt", ".npz", ".msgpack", ".h5"})
"""Endings of files with weights. Other files, such as a tokenizer's, are those of the published model too."""

_EXTERNAL = "made_here:"
"""Prefix of the external input that names an artifact: its digest follows, its value is the hash of the manifest."""


def made_here(store: ArtifactStore, files: Mapping[str, str]) -> dict[str, str]:
    """The artifacts that hold a weights file of a model, as external inputs of the model; empty for a published one.

    Args:
        files: the model's files, relative path -> SHA-256.

    Raises IntegrityError for an artifact whose manifest was changed.
    """
    weights = {sha256 for name, sha256 in files.items() if _holds_weights(name)}
    return {
        f"{_EXTERNAL}{ref.digest}": ref.manifest_sha256
        for ref, manifest in store.holding(weights)
        if any(entry.sha256 in weights and _holds_weights(entry.path) for entry in manifest.files)
    }


def artifacts_of(store: ArtifactStore, external_inputs: Mapping[str, str]) -> Iterator[tuple[ArtifactRef, Manifest]]:
    """The artifacts that the external inputs of a base model name as made here.

    Raises NotFoundError when one is gone, and IntegrityError when its manifest was changed.
    """
    for name, manifest_sha256 in external_inputs.items():
        if not name.startswith(_EXTERNAL):
            continue
        ref = store.ref_of(name.removeprefix(_EXTERNAL)).model_copy(update={"manifest_sha256": manifest_sha256})
        yield ref, store.read_manifest(ref)


def _holds_weights(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in WEIGHTS
