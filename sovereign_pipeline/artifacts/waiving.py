"""Waiving a gate that an artifact did not pass, by an officer's key. There is no other way in which a waiver is made.

What belongs here: composing a waiver, and making it. What does not: what one holds and whether it counts
(`waiver.py`), and where it is on record (`ledger/waiver_log.py`).
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.artifacts.gate_records import (
    RecordedVerdict,
    may_be_waived,
    recorded_verdict,
    waiver_identity,
    waiver_in,
)
from sovereign_pipeline.artifacts.making import make_artifact
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Built, Gate, Stage, Workplace
from sovereign_pipeline.artifacts.waiver import (
    KIND_OF,
    SIGNATURE_FILE,
    WAIVE,
    WAIVER_FILE,
    Waiver,
    WaiverKind,
    waiver_predicate,
)
from sovereign_pipeline.base.errors import ConflictError, GateRefused, InputError
from sovereign_pipeline.base.files import canonical_json, short
from sovereign_pipeline.signing.keys import Signer
from sovereign_pipeline.signing.officers import (
    assert_may,
    officer_of,
    officer_shown,
    trust_root,
    trust_root_if_any,
)
from sovereign_pipeline.signing.officers_words import officers_words
from sovereign_pipeline.signing.predicates import WAIVER
from sovereign_pipeline.signing.statements import Statement, Subject, sign_statement


@dataclass(frozen=True)
class WaiverProposal:
    """What an officer would sign, before a key is used."""

    workplace: Workplace
    stage: Stage
    gate: Gate
    evaluated: ArtifactRef
    recorded: RecordedVerdict
    kind: WaiverKind
    reason: str
    classification: str
    """The level at which the officer must be allowed to waive."""

    def question(self) -> dict[str, str]:
        """For the officer to read."""
        return {
            "line": self.workplace.line.line,
            "stage": self.stage.kind,
            "artifact": short(self.evaluated.digest),
            "classification": self.classification,
            "gate": self.gate.name,
            "outcome": self.recorded.verdict.outcome,
            "found": self.recorded.verdict.message,
            "waiver": self.kind,
            "reason": self.reason,
        }


def propose_waiver(stage: Stage, gate: Gate, workplace: Workplace, ref: ArtifactRef, reason: str) -> WaiverProposal:
    """Compose the waiver of a gate that one artifact did not pass.

    Raises GateRefused when there is no record or the recipe does not allow it, and InputError when the gate passed, was
    waived before, or the reason is empty.
    """
    line = workplace.line.line
    reason = officers_words(reason, "A waiver")
    recorded = recorded_verdict(gate, workplace, ref)
    if recorded is None:
        raise GateRefused(
            f"Line {line}: gate '{gate.name}' has no record for {stage.kind} {short(ref.digest)}, so there is nothing "
            f"to waive.",
            f"Materialize {stage.kind}; its checks write the record.",
            act="run_line",
            line=line,
        )
    if recorded.verdict.passed:
        raise InputError(f"Line {line}: gate '{gate.name}' passed, so there is nothing to waive.")
    if recorded.waiver is not None:
        earlier = officer_shown(trust_root_if_any(workplace.settings), waiver_in(workplace, recorded.waiver).officer)
        raise InputError(f"Line {line}: {earlier} waived this verdict of '{gate.name}' already.")
    outcome = recorded.verdict.outcome
    if not may_be_waived(gate, workplace, ref, recorded.verdict):
        permitted = "nothing" if gate.permission(workplace, ref) == "nothing" else "an inconclusive verdict only"
        raise GateRefused(
            f"Line {line}: the outcome of gate '{gate.name}' is '{outcome}', and its recipe lets an officer waive "
            f"{permitted}: {recorded.verdict.message}",
            f"Correct the cause and materialize {stage.kind} again.",
        )
    level = workplace.store.read_manifest(recorded.record).classification
    return WaiverProposal(workplace, stage, gate, ref, recorded, KIND_OF[outcome], reason, level)


def waive(proposal: WaiverProposal, signer: Signer) -> tuple[ArtifactRef, Waiver]:
    """Sign a waiver, put it on record, and make it.

    The waiver is bound to the gate's record: another candidate, suite, incumbent or policy gives another record and
    needs another waiver. Raises SignInError where the trust root does not let the officer waive at this level.
    """
    workplace, gate, recorded = proposal.workplace, proposal.gate, proposal.recorded
    trust = trust_root(workplace.settings)
    assert_may(officer_of(trust, signer.keyid), WAIVE, [proposal.classification])
    waiver = Waiver(gate=gate.name, kind=proposal.kind, officer=signer.keyid, reason=proposal.reason)
    content = canonical_json(waiver.model_dump(mode="json")) + b"\n"
    subject = Subject(WAIVER_FILE, hashlib.sha256(content).hexdigest())
    line, evaluated, record = workplace.line.line, proposal.evaluated.digest, recorded.record.digest
    predicate = waiver_predicate(line, waiver, evaluated, record)
    bundle = sign_statement(signer, Statement((subject,), WAIVER, predicate))
    subjects = {**predicate, "stage": proposal.stage.kind, "statement": hashlib.sha256(bundle).hexdigest()}
    workplace.waivers.enter(signer.keyid, trust, subjects)

    def build(workspace: Path) -> Built:
        (workspace / WAIVER_FILE).write_bytes(content)
        (workspace / SIGNATURE_FILE).write_bytes(bundle)
        return Built(summary={"gate": gate.name, "kind": waiver.kind})

    identity = waiver_identity(gate, workplace, recorded.record, recorded.verdict)
    production = make_artifact(workplace, identity, build)
    if production.reused:
        raise ConflictError(f"Line {line}: another officer waived this verdict of '{gate.name}' meanwhile.")
    return production.ref, waiver_in(workplace, production.ref)
