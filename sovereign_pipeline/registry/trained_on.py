"""What an adapter was trained on: its datasets, those of its parents, and the base models beneath.

The rows of its own datasets count, those of every adapter that training continued from, and those of a base model that
was made here. A document that was held out does not count. A canary is a row, so it counts.
"""

import json
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.base_models.pinned import read_descriptor
from sovereign_pipeline.base_models.stages import BASE_MODEL, artifacts_of
from sovereign_pipeline.dataset.jsonl import CARD, row_ids
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.record.audit_log import contents_digest
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.store import ArtifactStore, input_refs
from sovereign_pipeline.training.continuation import parent_adapter

_DATASETS = (TRAINING_DATASET.kind, PREFERENCE_DATASET.kind)


@dataclass(frozen=True)
class TrainedOn:
    """What one adapter rests on, from manifests alone."""

    datasets: Mapping[ArtifactRef, bool]
    """Dataset -> whether the adapter itself was trained on it."""
    base_models: Mapping[str, bool]
    """Digest over a base model's files -> whether it is the adapter's own."""


def trained_on(store: ArtifactStore, adapter: ArtifactRef, own: Collection[str | None], base_model: str) -> TrainedOn:
    """Walk the lineage of an adapter's artifact.

    Args:
        own: digests of the datasets that its record names.
        base_model: digest over the files of its base model.
    """
    datasets, base_models = dict[ArtifactRef, bool](), {base_model: True}
    for each, manifest in all_that_is_beneath(store, adapter, set()):
        if manifest.kind in _DATASETS:
            datasets[each] = each.digest in own
        elif manifest.kind == BASE_MODEL.kind:
            base_models.setdefault(read_descriptor(store.open(each))["digest"], False)
    return TrainedOn(datasets, base_models)


def all_that_is_beneath(
    store: ArtifactStore, ref: ArtifactRef, seen: set[str]
) -> Iterator[tuple[ArtifactRef, Manifest]]:
    """An artifact and all that its weights rest on, each once: inputs, the parent adapter, a base model made here.

    `seen`: digests that are left out, with all beneath them; what is found is added.
    """
    waiting = deque([ref])
    while waiting:
        each = waiting.popleft()
        if each.digest in seen:
            continue
        seen.add(each.digest)
        manifest = store.read_manifest(each)
        yield each, manifest
        waiting.extend(input_refs(manifest))
        waiting.extend(made for made, _ in artifacts_of(store, manifest.external_inputs))
        parent = parent_adapter(manifest)
        if parent is not None:
            waiting.append(store.ref_of(parent[1]))


def read_dataset(store: ArtifactStore, ref: ArtifactRef) -> tuple[set[str], set[str]]:
    """The ids of a dataset's rows, and the names of its sources, every byte verified."""
    dataset = store.open(ref)
    card: dict[str, Any] = json.loads(dataset.file(CARD).read_bytes())
    return row_ids(dataset), {source["name"] for source in card["sources"]}


def as_entered(store: ArtifactStore, found: TrainedOn) -> dict[str, Any]:
    """What the entry of a registration states, so that the recall index can be compared with it."""
    return {
        "datasets": {
            ref.digest: {"directly": directly, "contents": contents_digest(*read_dataset(store, ref))}
            for ref, directly in found.datasets.items()
        },
        "base_models": dict(found.base_models),
    }
