"""Gate status: the recorded verdict of each gate for a line's current artifacts.

What belongs here: listing and finding gates of the stages that one is given. It changes nothing and protects nothing;
what protects is `gates.assert_usable`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sovereign_pipeline.artifacts.gate_records import RecordedVerdict, recorded_verdict
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Gate, Stage, Workplace
from sovereign_pipeline.base.errors import NotFoundError
from sovereign_pipeline.policy.recipe_model import nearest_known


@dataclass(frozen=True)
class GateStatus:
    """One gate of a line's current artifact."""

    stage: Stage
    gate: Gate
    ref: ArtifactRef
    """The current artifact."""
    recorded: RecordedVerdict | None
    """None when the gate was not evaluated for it under today's recipe."""


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

    Raises NotFoundError for an unknown name, with the nearest, and for a name that gates of several stages share.
    """
    every = list(gate_statuses(stages, workplace))
    named = [each for each in every if name in (each.gate.name, _full_name(each))]
    if len(named) == 1:
        return named[0]
    line = workplace.line.line
    if named:
        full = ", ".join(map(_full_name, named))
        raise NotFoundError(f"Line {line}: several gates are called '{name}'.", f"Name one of {full}.")
    if not every:
        raise NotFoundError(
            f"Line {line}: there is no gate '{name}', because nothing was materialized yet.",
            "Run the line first.",
            act="run_line",
            line=line,
        )
    names = [each.gate.name for each in every]
    known = [each.gate.name if names.count(each.gate.name) == 1 else _full_name(each) for each in every]
    raise NotFoundError(f"Line {line}: no current artifact has a gate '{name}'; {nearest_known(name, known)}")


def _full_name(status: GateStatus) -> str:
    return f"{status.stage.kind}.{status.gate.name}"
