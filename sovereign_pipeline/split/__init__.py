"""Assign every document to training, selection or held-out, and prove that no group of related documents is on two
sides. This module names the split's files."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from sovereign_pipeline.record.store import Artifact

TRAIN = "train.jsonl"
HELD_OUT = "held_out.jsonl"
SELECTION = "selection.jsonl"
"""File of documents by which settings are chosen, such as in experiments. Absent unless the recipe has
`split.selection`."""
PROOF = "proof.json"


def has_selection(split: Artifact) -> bool:
    return any(entry.path == SELECTION for entry in split.manifest.files)


def untrained(split: Artifact, scratch: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yield name, file and compared file of each side that is never trained on. The side's documents must not overlap
    those in the compared file: all other documents for held-out, training documents for selection."""
    others = split.file(TRAIN)
    if has_selection(split):
        yield "selection", split.file(SELECTION), others
        others = scratch / "not_held_out.jsonl"
        with others.open("wb") as whole:
            for name in (TRAIN, SELECTION):
                with split.file(name).open("rb") as part:
                    shutil.copyfileobj(part, whole)
    yield "held_out", split.file(HELD_OUT), others
