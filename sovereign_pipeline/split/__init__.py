"""Assign every document to training, selection or held-out, and prove that no group crosses. This module names the
split's files."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from sovereign_pipeline.record.store import Artifact

TRAIN = "train.jsonl"
HELD_OUT = "held_out.jsonl"
SELECTION = "selection.jsonl"
"""Documents on which choices are made, such as between experiments. Absent unless the recipe has `split.selection`."""
PROOF = "proof.json"


def has_selection(split: Artifact) -> bool:
    return any(entry.path == SELECTION for entry in split.manifest.files)


def untrained(split: Artifact, scratch: Path) -> Iterator[tuple[str, Path, Path]]:
    """Yield each side that is never trained on: its name, its file, and the file whose documents it must not overlap.
    Held-out documents must not overlap any other, selection documents must not overlap training documents."""
    others = split.file(TRAIN)
    if has_selection(split):
        yield "selection", split.file(SELECTION), others
        others = scratch / "not_held_out.jsonl"
        with others.open("wb") as whole:
            for name in (TRAIN, SELECTION):
                with split.file(name).open("rb") as part:
                    shutil.copyfileobj(part, whole)
    yield "held_out", split.file(HELD_OUT), others
