"""Assign every document to one side of a split: training, selection or held-out. Prove that no group of related
documents is on two sides. This module defines the names of the split's files."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from sovereign_pipeline.record.store import Artifact

TRAIN = "train.jsonl"
HELD_OUT = "held_out.jsonl"
SELECTION = "selection.jsonl"
"""File of the documents with which settings are chosen, for example in experiments. The file exists only if the recipe
has `split.selection`."""
PROOF = "proof.json"


def has_selection(split: Artifact) -> bool:
    return any(entry.path == SELECTION for entry in split.manifest.files)


def untrained(split: Artifact, scratch: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yield three values for each side that is never trained on: the side's name, the side's file, and a file of the
    documents that the side must not overlap. For the held-out side, the last file contains all other documents. For the
    selection side, it contains the training documents."""
    others = split.file(TRAIN)
    if has_selection(split):
        yield "selection", split.file(SELECTION), others
        others = scratch / "not_held_out.jsonl"
        with others.open("wb") as whole:
            for name in (TRAIN, SELECTION):
                with split.file(name).open("rb") as part:
                    shutil.copyfileobj(part, whole)
    yield "held_out", split.file(HELD_OUT), others
