"""MODULE DOCSTRING."""

import json
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.artifacts.hashing import canonical_json, short
from sovereign_pipeline.artifacts.making import Identity, find_made, make_artifact
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Built, Gate, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.artifacts.waiver import (
    GATE_WAIVER,
    KIND_OF,
    WAIVER_FILE,
    Waiver,
    read_waiver,
)
from sovereign_pipeline.errors import GateRefused, InputError, IntegrityError, StaleInput
from sovereign_pipeline.policy.gates import allows

GATE_RECORD = "gate_record"


VERDICT_FILE = "verdict.json"


LISTED_FILE = "listed.jsonl"
"""In a gate's record, where the gate lists more than its message can say: one JSON object a line."""


@dataclass(frozen=True)
class RecordedVerdict:
    """What a gate's record says of one artifact. acceptance: an officer's; None where the recipe allows none."""

    record: ArtifactRef
    verdict: Verdict
    waiver: ArtifactRef | None = None

    @property
    def passes(self) -> bool:
        return self.verdict.passed or self.waiver is not None


def evaluate_gates(stage: Stage, workplace: Workplace, ref: ArtifactRef) -> dict[str, Verdict]:
    """Ask every gate of the stage about one artifact and record each answer. Name of the gate -> answer as recorded.

    What an answer lists stays in the record (`listed.jsonl`). A gate that raises leaves no record, so the artifact
    stays unusable.
    """
    artifact = workplace.store.open(ref)
    inputs = {kind: workplace.store.open_input(artifact.manifest, kind) for kind in artifact.manifest.inputs}

    def recorded(gate: Gate) -> Verdict:
        identity = _gate_identity(gate, workplace, ref)

        def build(workspace: Path) -> Built:
            verdict = gate.evaluate(workplace, artifact, inputs)
            if gate.external(workplace) != identity.external_inputs:
                raise IntegrityError(
                    f"A file that the gate '{gate.name}' reads was changed while it was read. Run again."
                )
            answer = {"outcome": verdict.outcome, "message": verdict.message, "evidence": verdict.evidence}
            (workspace / VERDICT_FILE).write_bytes(canonical_json(answer) + b"\n")
            if verdict.listed:
                listed = b"".join(canonical_json(each) + b"\n" for each in verdict.listed)
                (workspace / LISTED_FILE).write_bytes(listed)
            summary = {"gate": gate.name, "outcome": verdict.outcome}
            return Built(summary=summary, classification=verdict.classification)

        production = make_artifact(workplace, identity, build)
        return read_verdict(workplace.store.open(production.ref))

    return {gate.name: recorded(gate) for gate in stage.gates}


def assert_usable(stage: Stage, workplace: Workplace, ref: ArtifactRef) -> None:
    """The consumer's half of every gate, for an artifact and for all that it was made from.

    Each must be the line's current artifact, and every gate must have a record that is bound to its digest and lets it
    pass. Raises StaleInput, GateRefused, or IntegrityError when a manifest or a record was changed.
    """
    current = workplace.store.current(workplace.line.line, stage.kind)
    if current is None or current.digest != ref.digest:
        raise StaleInput(
            f"Line {workplace.line.line}: {stage.kind} {short(ref.digest)} was used further down, but the line's "
            f"current one is {short(current.digest) if current else 'absent'}. Materialize what lies between "
            f"{stage.kind} and here again: `sovereign run {workplace.line.line}`."
        )
    passthrough = stage.passthrough_of(workplace.line)
    if passthrough is not None:
        assert_usable(next(each for each in stage.inputs if each.kind == passthrough), workplace, ref)
        return
    for gate in stage.gates:
        passing_verdict(stage, gate, workplace, ref)
    manifest = workplace.store.read_manifest(ref)
    for upstream in stage.inputs:
        assert_usable(upstream, workplace, workplace.store.input_ref(manifest, upstream.kind))


def passing_verdict(stage: Stage, gate: Gate, workplace: Workplace, ref: ArtifactRef) -> RecordedVerdict:
    """The answer with which one gate lets exactly this artifact pass. Raises GateRefused when there is none."""
    answer = recorded_verdict(gate, workplace, ref)
    line = workplace.line.line
    if answer is None:
        raise GateRefused(
            f"Line {line}: the gate '{gate.name}' has no record for {stage.kind} {short(ref.digest)}, so nothing may "
            f"be made from it. Materialize {stage.kind}; its checks write the record."
        )
    if not answer.passes:
        said = "said no" if answer.verdict.outcome == "fail" else "could not tell, which is not a yes,"
        raise GateRefused(
            f"Line {line}: the gate '{gate.name}' {said} to {stage.kind} {short(ref.digest)}: {answer.verdict.message} "
            f"Correct the cause and materialize {stage.kind} again.{waiver_hint(gate, workplace, answer.verdict)}"
        )
    return answer


def recorded_verdict(gate: Gate, workplace: Workplace, ref: ArtifactRef) -> RecordedVerdict | None:
    """What the gate said of exactly this artifact under today's recipe; None when it was not asked.

    An acceptance is looked for only where the recipe allows one, so that one that was put there otherwise counts for
    nothing. Raises IntegrityError when record or acceptance was changed.
    """
    record = find_made(workplace, _gate_identity(gate, workplace, ref))
    if record is None:
        return None
    verdict = read_verdict(workplace.store.open(record))
    if not allows(gate.officer_may(workplace.line), verdict.outcome):
        return RecordedVerdict(record, verdict)
    acceptance = find_made(workplace, _waiver_identity(gate, workplace, record, verdict))
    if acceptance is not None:
        read_waiver(workplace.store.open(acceptance))
    return RecordedVerdict(record, verdict, acceptance)


def waiver_hint(gate: Gate, workplace: Workplace, verdict: Verdict) -> str:
    """The end of a message about an answer that does not pass: what an officer may do, where one may do anything."""
    if not allows(gate.officer_may(workplace.line), verdict.outcome):
        return ""
    return (
        f" Or an officer takes it on: `sovereign gates waive {workplace.line.line} {gate.name} --officer NAME "
        f"--reason TEXT`."
    )


def waive(
    stage: Stage, gate: Gate, workplace: Workplace, ref: ArtifactRef, officer: str, reason: str
) -> tuple[ArtifactRef, Waiver]:
    """Record that an officer lets one artifact pass a gate that did not. Bound to the digest of the gate's record, so
    another candidate, suite, incumbent or policy, which gives another record, has to be accepted anew.

    Raises GateRefused when there is no record or the line's recipe does not allow it, and InputError when the gate
    passed, was accepted before, or name or reason is empty.
    """
    line = workplace.line.line
    if not officer.strip() or not reason.strip():
        raise InputError("An acceptance stands for a name and a reason. Give both: --officer NAME --reason TEXT.")
    answer = recorded_verdict(gate, workplace, ref)
    if answer is None:
        raise GateRefused(
            f"Line {line}: the gate '{gate.name}' has no record for {stage.kind} {short(ref.digest)}, so there is "
            f"nothing to accept. Materialize {stage.kind}; its checks write the record."
        )
    if answer.verdict.passed:
        raise InputError(f"Line {line}: the gate '{gate.name}' passed, so there is nothing to accept.")
    if answer.waiver is not None:
        earlier = read_waiver(workplace.store.open(answer.waiver))
        raise InputError(f"Line {line}: {earlier.officer} accepted this answer of '{gate.name}' already.")
    outcome, may = answer.verdict.outcome, gate.officer_may(workplace.line)
    if not allows(may, outcome):
        raise GateRefused(
            f"Line {line}: the gate '{gate.name}' gave '{outcome}', and the line's recipe lets an officer "
            f"{'do nothing' if may == 'nothing' else 'accept an inconclusive answer only'}. Correct the cause and "
            f"materialize {stage.kind} again: {answer.verdict.message}"
        )
    acceptance = Waiver(gate=gate.name, kind=KIND_OF[outcome], officer=_one_line(officer), reason=_one_line(reason))

    def build(workspace: Path) -> Built:
        content = acceptance.model_dump(mode="json")
        (workspace / WAIVER_FILE).write_bytes(canonical_json(content) + b"\n")
        return Built(summary={"gate": gate.name, "kind": acceptance.kind})

    identity = _waiver_identity(gate, workplace, answer.record, answer.verdict)
    return make_artifact(workplace, identity, build).ref, acceptance


def read_verdict(record: Artifact) -> Verdict:
    """What a gate's record says. Records of earlier versions know yes and no alone."""
    answer = json.loads(record.file(VERDICT_FILE).read_bytes())
    outcome = answer["outcome"] if "outcome" in answer else "pass" if answer["passed"] else "fail"
    return Verdict(outcome == "pass", answer["message"], answer["evidence"], inconclusive=outcome == "inconclusive")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _gate_identity(gate: Gate, workplace: Workplace, judged: ArtifactRef) -> Identity:
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
        inputs={judged.kind: judged},
        external_inputs=gate.external(workplace),
        libraries={},
    )


def _waiver_identity(gate: Gate, workplace: Workplace, record: ArtifactRef, verdict: Verdict) -> Identity:
    """Of one record and one kind there is one acceptance at most: name and reason are what it says, not which it is."""
    return Identity(
        kind=GATE_WAIVER,
        line=workplace.line.line,
        ladder=workplace.institution.classification,
        code_version="1",
        config={"gate": gate.name, "kind": KIND_OF[verdict.outcome]},
        inputs={GATE_RECORD: record},
        external_inputs={},
        libraries={},
    )
