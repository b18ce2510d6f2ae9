"""MODULE DOCSTRING."""

import json
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.artifacts.hashing import file_sha256
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.dataset.files import CARD, CARD_FOR_PEOPLE
from sovereign_pipeline.errors import IntegrityError


@dataclass(frozen=True)
class CardOfDataset:
    """The data card of a registered dataset: for programs, and as Markdown for people."""

    facts: dict[str, Any]
    markdown: str


def card_of_dataset(store: ArtifactStore, row: dict[str, Any]) -> CardOfDataset:
    """The card that was registered with a dataset, `row` being as `show_dataset` gives it.

    Raises NotFoundError when the artifact is not there, and IntegrityError naming the file when a byte of it changed.
    """
    artifact = open_dataset(store, row)
    file = artifact.file(CARD)
    if row["card_sha256"] not in (None, file_sha256(file)):
        raise IntegrityError(f"{file}: not the data card that was registered. Restore the registry from a copy.")
    return CardOfDataset(json.loads(file.read_bytes()), artifact.file(CARD_FOR_PEOPLE).read_text(encoding="utf-8"))


def open_dataset(store: ArtifactStore, row: dict[str, Any]) -> Artifact:
    return store.open(ArtifactRef(**{name: row[name] for name in ("kind", "line", "digest", "manifest_sha256")}))
