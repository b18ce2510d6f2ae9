"""Define the stage `base_model`, which verifies and describes a line's pinned model.

A card can name a copy of a model that full fine-tuning in this store produced. Weight files that are also in an
artifact of this store have that artifact's classification and lineage, whatever the card states. Weights that another
program has saved again have other bytes, so they are not recognised.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from sovereign_pipeline.base.errors import CeilingExceeded
from sovereign_pipeline.base.files import canonical_json, file_sha256, short
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.base_models.pinned import DESCRIPTOR, card_path, describe, load_card, verify
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.record.store import ArtifactStore

WEIGHTS = frozenset({".safetensors", ".bin", ".pt", ".pth", ".gguf", ".ckpt", ".npz", ".msgpack", ".h5"})
"""Suffixes of weight files. Files with other suffixes are not compared with artifacts: a tuned model's tokenizer files
may equal a published model's."""

_EXTERNAL = "made_here:"
"""Prefix of an external input's name; the digest of an artifact follows. The value of the external input is the hash of
the artifact's manifest."""


def made_here(store: ArtifactStore, files: Mapping[str, str]) -> dict[str, str]:
    """Return the artifacts of this store that contain weight files of a model, as external inputs of the model. Empty
    for a published model. Raises IntegrityError if an artifact's manifest was changed.

    Args:
        files: relative path -> SHA-256.
    """
    weights = {sha256 for name, sha256 in files.items() if _holds_weights(name)}
    return {
        f"{_EXTERNAL}{ref.digest}": ref.manifest_sha256
        for ref, manifest in store.holding(weights)
        if any(entry.sha256 in weights and _holds_weights(entry.path) for entry in manifest.files)
    }


def artifacts_of(store: ArtifactStore, external_inputs: Mapping[str, str]) -> Iterator[tuple[ArtifactRef, Manifest]]:
    """Yield the artifacts in a base model's external inputs. Raises NotFoundError if an artifact is missing, and
    IntegrityError if an artifact's manifest was changed."""
    for digest, manifest_sha256 in made_of(external_inputs).items():
        ref = store.ref_of(digest).model_copy(update={"manifest_sha256": manifest_sha256})
        yield ref, store.read_manifest(ref)


def made_of(external_inputs: Mapping[str, str]) -> dict[str, str]:
    """Return the artifacts in a base model's external inputs: digest -> hash of the manifest."""
    made = {name: sha256 for name, sha256 in external_inputs.items() if name.startswith(_EXTERNAL)}
    return {name.removeprefix(_EXTERNAL): sha256 for name, sha256 in made.items()}


def _holds_weights(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in WEIGHTS


def build_base_model(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Verify the model directory and write its description. The model itself is not copied.

    A model with weights of an artifact in this store has at least the artifact's level, even if its card states a lower
    one. Raises NotFoundError for an unknown model, CeilingExceeded for a model above the line's ceiling, and
    IntegrityError with the name of the first file that differs from its pinned digest.
    """
    card = load_card(workplace.settings, workplace.line.training.base_model)
    ladder, ceiling = workplace.institution.ladder, workplace.line.ceiling
    found = list(artifacts_of(workplace.store, made_here(workplace.store, card.files)))
    level = ladder.highest((card.classification, *(manifest.classification for _, manifest in found)))
    if ladder.exceeds(level, ceiling):
        made = f": it has the weights of {and_more(_named(found))}, whatever its card says" if found else ""
        raise CeilingExceeded(
            f"Line {workplace.line.line} may hold {ceiling} at most, and the base model {card.name} is {level}{made}.",
            "Choose another base model, or raise the ceiling of the line.",
        )
    verify(workplace.settings, card, workplace.progress)
    descriptor = describe(workplace.settings, card)
    (workspace / DESCRIPTOR).write_bytes(canonical_json(descriptor) + b"\n")
    workplace.progress(f"{card.name}: {len(card.files)} files verified, {descriptor['parameters']:,} parameters")
    for origin in _named(found):
        workplace.progress(f"{card.name}: has the weights of {origin}, and therefore the level {level}")
    summary = {key: value for key, value in descriptor.items() if key != "files"}
    made_from = [{"kind": ref.kind, "line": ref.line, "digest": ref.digest} for ref, _ in found]
    return Built(summary={**summary, "made_here": made_from} if found else summary, classification=level)


def _named(found: list[tuple[ArtifactRef, Manifest]]) -> list[str]:
    return [f"{ref.kind} {short(ref.digest)} of line {ref.line}, {manifest.classification}" for ref, manifest in found]


def _card_and_origin(workplace: Workplace) -> dict[str, str]:
    card = load_card(workplace.settings, workplace.line.training.base_model)
    path = card_path(workplace.settings, card.name)
    return {f"models/{card.name}.yaml": file_sha256(path), **made_here(workplace.store, card.files)}


BASE_MODEL = Stage(
    kind="base_model",
    code_version="1",
    build=build_base_model,
    config=lambda line: {"base_model": line.training.base_model, "ceiling": line.ceiling},
    external=_card_and_origin,
)
