"""The records of gates: what one holds, what identifies it, and looking up the verdict on one artifact.

What belongs here: reading. What does not: evaluating a gate, waiving it, and refusing without a record (`gates.py`).
"""

import json
from dataclasses import dataclass

from sovereign_pipeline.artifacts.making import Identity, find_artifact
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Gate, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.artifacts.waiver import GATE_WAIVER, KIND_OF, Waiver, read_waiver
from sovereign_pipeline.policy.margins import allows

GATE_RECORD = "gate_record"
VERDICT_FILE = "verdict.json"
LISTED_FILE = "listed.jsonl"
"""Holds `Verdict.listed`, where there is any: one JSON object per line."""
WAIVER_VERSION = "2"
"""The code version of a waiver."""


@dataclass(frozen=True)
class RecordedVerdict:
    """What a gate's record states about one artifact."""

    record: ArtifactRef
    verdict: Verdict
    waiver: ArtifactRef | None = None
    """An officer's; None where there is none, or where the recipe allows none."""

    @property
    def passes(self) -> bool:
        return self.verdict.passed or self.waiver is not None


def recorded_verdict(gate: Gate, workplace: Workplace, ref: ArtifactRef) -> RecordedVerdict | None:
    """The recorded verdict of a gate for exactly this artifact under today's recipe; None when there is none.

    A waiver is looked for only where the recipe allows one, so a planted one counts for nothing. Raises IntegrityError
    when the record or the waiver was changed, or a signature does not count.
    """
    record = find_artifact(workplace, gate_identity(gate, workplace, ref))
    if record is None:
        return None
    verdict = read_verdict(workplace.store.open(record))
    if not may_be_waived(gate, workplace, ref, verdict):
        return RecordedVerdict(record, verdict)
    waiver = find_artifact(workplace, waiver_identity(gate, workplace, record, verdict))
    if waiver is not None:
        waiver_in(workplace, waiver)
    return RecordedVerdict(record, verdict, waiver)


def waiver_in(workplace: Workplace, ref: ArtifactRef) -> Waiver:
    """What a waiver says that counts. Raises IntegrityError."""
    return read_waiver(workplace.store, workplace.settings, workplace.waivers, workplace.store.open(ref))


def may_be_waived(gate: Gate, workplace: Workplace, ref: ArtifactRef, verdict: Verdict) -> bool:
    """Whether an officer may waive this verdict on one artifact."""
    return verdict.outcome != "pass" and allows(gate.permission(workplace, ref), verdict.outcome)


def read_verdict(record: Artifact) -> Verdict:
    """The verdict in a gate's record. Records of earlier versions hold `passed` and no `outcome`."""
    content = json.loads(record.file(VERDICT_FILE).read_bytes())
    outcome = content["outcome"] if "outcome" in content else "pass" if content["passed"] else "fail"
    return Verdict(outcome == "pass", content["message"], content["evidence"], inconclusive=outcome == "inconclusive")


def gate_identity(gate: Gate, workplace: Workplace, evaluated: ArtifactRef) -> Identity:
    """The identity of a gate's record for one artifact under today's recipe."""
    return Identity(
        kind=GATE_RECORD,
        line=workplace.line.line,
        ladder=workplace.institution.classification,
        code_version=gate.code_version,
        config={
            "gate": gate.name,
            **gate.recipe(workplace.line),
            **gate.policy(workplace.institution, workplace.line),
        },
        inputs={evaluated.kind: evaluated},
        external_inputs=gate.external(workplace),
        libraries={},
    )


def waiver_identity(gate: Gate, workplace: Workplace, record: ArtifactRef, verdict: Verdict) -> Identity:
    """One record has at most one waiver of each kind: name and reason are its content, not its identity."""
    return Identity(
        kind=GATE_WAIVER,
        line=workplace.line.line,
        ladder=workplace.institution.classification,
        code_version=WAIVER_VERSION,
        config={"gate": gate.name, "kind": KIND_OF[verdict.outcome]},
        inputs={GATE_RECORD: record},
        external_inputs={},
        libraries={},
    )
