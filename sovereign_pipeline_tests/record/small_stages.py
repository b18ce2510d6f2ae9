"""Stages that write one short file, and the steps of an asset, for the tests of this package."""

import time
from collections.abc import Callable
from pathlib import Path

from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.stage import Built, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline_tests.materializing import materialize

CONTENT = "content.txt"


def writes(text: str, classification: str | None = None) -> Callable[[Workplace, Inputs, Path], Built]:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        (workspace / CONTENT).write_text(text)
        return Built(summary={"length": len(text)}, measured={"pace": time.monotonic()}, classification=classification)

    return build


def is_short(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    length = artifact.file(CONTENT).stat().st_size
    return Verdict(length < 10, f"it has {length} bytes.", {"bytes": length})


SHORT = Gate("is_short", "Is it short?", "1", is_short)
FIRST = Stage("first", "1", writes("abc", "INTERNAL"), gates=(SHORT,))
SECOND = Stage("second", "1", writes("second"), inputs=(FIRST,))


def make(stage: Stage, workplace: Workplace, **inputs: ArtifactRef) -> ArtifactRef:
    """Materialize a stage from these inputs."""
    return materialize(stage, workplace, inputs)
