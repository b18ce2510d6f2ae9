"""Data cards of registered datasets, opened and compared with what was registered.

What belongs here: getting from a row of the registry to the dataset's artifact. What does not: what a card holds
(`dataset/card.py`).
"""

import json
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.dataset.jsonl import CARD, CARD_FOR_PEOPLE


@dataclass(frozen=True)
class CardOfDataset:
    """The data card of a registered dataset."""

    facts: dict[str, Any]
    """For programs."""
    markdown: str
    """For people."""


def card_of_dataset(store: ArtifactStore, row: dict[str, Any]) -> CardOfDataset:
    """The card that was registered with a dataset. `row`: as `show_dataset` returns it.

    Raises NotFoundError when the store lacks the artifact, and IntegrityError naming the file when a byte changed.
    """
    artifact = open_dataset(store, row)
    file = artifact.file(CARD)
    if row["card_sha256"] not in (None, file_sha256(file)):
        raise IntegrityError(
            f"{file}: this is not the data card that was registered.", "Restore the registry from a copy."
        )
    return CardOfDataset(json.loads(file.read_bytes()), artifact.file(CARD_FOR_PEOPLE).read_text(encoding="utf-8"))


def open_dataset(store: ArtifactStore, row: dict[str, Any]) -> Artifact:
    """Verify and open the artifact of a registered dataset. Raises as `card_of_dataset` does."""
    return store.open(ArtifactRef(**{name: row[name] for name in ("kind", "line", "digest", "manifest_sha256")}))
