"""Materializing a stage in a test, in the steps of an asset."""

from collections.abc import Mapping

from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Stage, Workplace


def materialize(stage: Stage, workplace: Workplace, made: Mapping[str, ArtifactRef]) -> ArtifactRef:
    """Produce, evaluate the gates, become current. `made`: kind -> reference, the stage's inputs among them."""
    read = stage.inputs_of(workplace.line)
    ref = produce(stage, workplace, {upstream.kind: made[upstream.kind] for upstream in read}).ref
    if stage.passthrough_of(workplace.line) is None:
        evaluate_gates(stage, workplace, ref)
    workplace.store.make_current(workplace.line.line, stage.kind, ref)
    return ref
