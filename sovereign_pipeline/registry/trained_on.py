"""Collect the datasets and base models that an adapter was trained on, directly or through its parent adapters.

An adapter counts as trained on its own datasets, the datasets of every parent adapter, and the datasets of a base model
that was tuned here. Held-out documents do not count. Canaries are rows, so they count.
"""

import hashlib
import json
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.base_models.pinned import read_descriptor
from sovereign_pipeline.base_models.stages import BASE_MODEL, artifacts_of
from sovereign_pipeline.dataset.jsonl import CARD, row_ids
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.record.audit_log import contents_of
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.store import ArtifactStore, input_refs
from sovereign_pipeline.training.continuation import parent_adapter

_DATASETS = (TRAINING_DATASET.kind, PREFERENCE_DATASET.kind)


@dataclass(frozen=True)
class TrainedOn:
    """The datasets and base models in an adapter's lineage, from manifests alone."""

    datasets: Mapping[ArtifactRef, bool]
    """Dataset -> True if the adapter itself was trained on it, or False if only a parent or the base model was."""
    base_models: Mapping[str, bool]
    """Digest of a base model's files -> True if it is the adapter's own base model."""


def trained_on(store: ArtifactStore, adapter: ArtifactRef, own: Collection[str | None], base_model: str) -> TrainedOn:
    """Collect the datasets and base models in the lineage of an adapter's artifact.

    Args:
        own: digests of the datasets that the adapter's record names.
        base_model: digest of the files of the adapter's base model.
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
    """Yield an artifact and everything that its weights depend on, each once: inputs, the parent adapter, and the
    artifacts that a base model was built from here.

    Args:
        seen: digests to skip, with everything upstream of them. Every yielded digest is added.
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
    """Return the ids of a dataset's rows and the names of its sources, after hashing every file."""
    dataset = store.open(ref)
    card: dict[str, Any] = json.loads(dataset.file(CARD).read_bytes())
    return row_ids(dataset), {source["name"] for source in card["sources"]}


def as_entered(store: ArtifactStore, found: TrainedOn) -> tuple[dict[str, Any], list[bytes]]:
    """Return the lineage for the registration's ledger entry, and the documents and sources of each dataset, which are
    stored with it. Recalls are decided by both."""
    contents = {ref: contents_of(*read_dataset(store, ref)) for ref in found.datasets}
    datasets = {
        ref.digest: {"directly": directly, "contents": hashlib.sha256(contents[ref]).hexdigest()}
        for ref, directly in found.datasets.items()
    }
    return {"datasets": datasets, "base_models": dict(found.base_models)}, list(contents.values())
