"""How a line stands: what each gate says of the line's current artifacts.

What belongs here: walking the stages that one is given. It changes nothing; what protects is `production.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sovereign_pipeline.artifacts.gates import RecordedVerdict, recorded_verdict
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Gate, Stage, Workplace
from sovereign_pipeline.errors import NotFoundError
from sovereign_pipeline.policy.recipe_model import nearest_known


@dataclass(frozen=True)
class GateStatus:
    """ref: the line's current artifact. answer: None when the gate was not asked about it under today's recipe."""

    stage: Stage
    gate: Gate
    ref: ArtifactRef
    answer: RecordedVerdict | None


def gate_statuses(stages: Sequence[Stage], workplace: Workplace) -> Iterator[GateStatus]:
    """Every gate of every stage that has a current artifact, in the order given. Raises IntegrityError."""
    for stage in stages:
        ref = workplace.store.current(workplace.line.line, stage.kind)
        if ref is None or stage.passthrough_of(workplace.line) is not None:
            continue
        for gate in stage.gates:
            yield GateStatus(stage, gate, ref, recorded_verdict(gate, workplace, ref))


def find_gate(stages: Sequence[Stage], workplace: Workplace, name: str) -> GateStatus:
    """The gate of that name, as `gate` or as `stage.gate`.

    Raises NotFoundError that names the nearest, also for a name that gates of several stages share.
    """
    every = list(gate_statuses(stages, workplace))
    named = [each for each in every if name in (each.gate.name, f"{each.stage.kind}.{each.gate.name}")]
    if len(named) == 1:
        return named[0]
    line = workplace.line.line
    if named:
        full = ", ".join(f"{each.stage.kind}.{each.gate.name}" for each in named)
        raise NotFoundError(f"Line {line}: several gates are called '{name}'. Name one of {full}.")
    names = [each.gate.name for each in every]
    known = [
        each.gate.name if names.count(each.gate.name) == 1 else f"{each.stage.kind}.{each.gate.name}" for each in every
    ]
    hint = nearest_known(name, known) if known else "nothing of the line was materialized yet."
    raise NotFoundError(f"Line {line}: no current artifact has a gate '{name}'; {hint}")
