"""Evaluate gates, record and look up their verdicts, and record an officer's waiver of a gate."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sovereign_pipeline.base.errors import (
    ConflictError,
    GateRefused,
    InputError,
    IntegrityError,
    NotFoundError,
    StaleInput,
)
from sovereign_pipeline.base.files import Frozen, canonical_json, digest_of, short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.policy.evaluation import allows
from sovereign_pipeline.policy.recipe_model import nearest_known
from sovereign_pipeline.record import officers
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.stage import (
    Built,
    Gate,
    Identity,
    Outcome,
    Stage,
    Verdict,
    WaiverLog,
    Workplace,
    find_artifact,
    make_artifact,
)
from sovereign_pipeline.record.statements import WAIVER, Statement, Subject, sign_statement
from sovereign_pipeline.record.store import Artifact, ArtifactStore

GATE_WAIVER = "gate_waiver"
WAIVER_FILE = "waiver.json"
SIGNATURE_FILE = "waiver.sigstore.json"
WAIVE = "waive"
"""Permission that an officer needs in the trust root to waive a gate."""

WaiverKind = Literal["accept", "override"]
KIND_OF: dict[Outcome, WaiverKind] = {"inconclusive": "accept", "fail": "override"}
"""Maps a gate's outcome to the kind of waiver for this outcome."""


class Waiver(Frozen):
    """The content of `waiver.json`. The artifact's manifest also contains the time (in `circumstances`) and the record
    of the waived gate (the artifact's only input)."""

    gate: str
    kind: WaiverKind
    officer: str
    reason: str


def stated_waiver(artifact: Artifact) -> Waiver:
    """Return the content of a waiver without verifying its signature. Raises IntegrityError if the file is not a
    waiver, or if its gate or kind differs from the manifest."""
    path = artifact.file(WAIVER_FILE)
    try:
        waiver = Waiver.model_validate_json(path.read_bytes())
    except ValidationError:
        raise IntegrityError(
            f"{path}: this file is not an officer's waiver.", "Remove the artifact, and find out who created it."
        ) from None
    stated = artifact.manifest.producer.config
    if (waiver.gate, waiver.kind) != (stated.get("gate"), stated.get("kind")):
        raise IntegrityError(f"{path}: the waiver's gate or kind differs from that in the artifact's manifest.")
    return waiver


def read_waiver(store: ArtifactStore, settings: Settings, log: WaiverLog, artifact: Artifact) -> Waiver:
    """Read a waiver and verify it. Raises IntegrityError unless the waiver is logged in the ledger, and an officer with
    the permission to waive gates at the artifact's classification level signed exactly this waiver."""
    waiver = stated_waiver(artifact)
    if SIGNATURE_FILE not in {entry.path for entry in artifact.manifest.files}:
        raise IntegrityError(
            f"{artifact.path}: no officer signed this waiver, so it is invalid.",
            "Have an officer waive the gate and sign the waiver.",
        )
    path = artifact.file(SIGNATURE_FILE)
    bundle = path.read_bytes()
    index = log.index_of(hashlib.sha256(bundle).hexdigest())
    if index is None:
        raise IntegrityError(f"{path}: this waiver has no ledger entry.", "Find out who created the waiver, and how.")
    try:
        verified = officers.verify_act(
            bundle,
            officers.trust_root(settings),
            WAIVE,
            [artifact.manifest.classification],
            predicate_type=WAIVER,
            sha256=hashlib.sha256(artifact.file(WAIVER_FILE).read_bytes()).hexdigest(),
            at_index=index,
        )
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error.message}", error.hint) from None
    said = dict(verified.statement.predicate)
    (record,) = artifact.manifest.inputs
    (evaluated,) = store.read_manifest(store.input_ref(artifact.manifest, record)).inputs.values()
    expected = waiver_predicate(artifact.manifest.line, waiver, evaluated, artifact.manifest.inputs[record])
    if said != expected or verified.key.keyid != waiver.officer:
        raise IntegrityError(
            f"{path}: this waiver differs from the one that the officer signed.", "Find out who created the waiver."
        )
    return waiver


def waiver_predicate(line: str, waiver: Waiver, evaluated: str, record: str) -> dict[str, Any]:
    """Return the content of a waiver's signed statement.

    Args:
        evaluated: digest of the artifact that the gate evaluated.
        record: digest of the gate's record.
    """
    return {
        "line": line,
        "gate": waiver.gate,
        "artifact": evaluated,
        "record": record,
        "kind": waiver.kind,
        "reason": waiver.reason,
    }


GATE_RECORD = "gate_record"
VERDICT_FILE = "verdict.json"
LISTED_FILE = "listed.jsonl"
"""File with the objects of `Verdict.listed`, one per line as JSON. The file is missing if nothing is listed."""
WAIVER_VERSION = "2"


@dataclass(frozen=True)
class RecordedVerdict:
    """The verdict in a gate's record, and its waiver if there is one."""

    record: ArtifactRef
    verdict: Verdict
    waiver: ArtifactRef | None = None
    """The officer's waiver. None if no officer waived the gate, or if the recipe does not permit a waiver."""

    @property
    def passes(self) -> bool:
        return self.verdict.passed or self.waiver is not None


def recorded_verdict(gate: Gate, workplace: Workplace, ref: ArtifactRef) -> RecordedVerdict | None:
    """Return the recorded verdict of a gate for exactly this artifact under today's recipe, or None.

    A waiver is looked up only if the recipe permits one, so that a planted waiver has no effect. Raises IntegrityError
    if the record or waiver was changed, or if a signature is invalid.
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
    return read_waiver(workplace.store, workplace.settings, workplace.waivers, workplace.store.open(ref))


def may_be_waived(gate: Gate, workplace: Workplace, ref: ArtifactRef, verdict: Verdict) -> bool:
    """Return True if the verdict did not pass and an officer may waive its outcome (`Gate.permission`)."""
    return verdict.outcome != "pass" and allows(gate.permission(workplace, ref), verdict.outcome)


def read_verdict(record: Artifact) -> Verdict:
    content = json.loads(record.file(VERDICT_FILE).read_bytes())
    outcome = content["outcome"]
    return Verdict(outcome == "pass", content["message"], content["evidence"], inconclusive=outcome == "inconclusive")


def gate_identity(gate: Gate, workplace: Workplace, evaluated: ArtifactRef) -> Identity:
    """Return the identity of a gate's record for one artifact under today's recipe."""
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
    """Return the identity of a waiver. The identity omits officer and reason, so that a gate's record can have only one
    waiver of each kind."""
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


def evaluate_gates(stage: Stage, workplace: Workplace, ref: ArtifactRef) -> dict[str, Verdict]:
    """Evaluate every gate of the stage for one artifact, and record the verdicts. Reuses a record with the same
    identity. Returns a mapping of the gate's name to the recorded verdict, without `Verdict.listed`.

    If a gate raises an error, this gate and the gates after it are not recorded, so the artifact cannot be used.
    """
    artifact = workplace.store.open(ref)
    inputs = {kind: workplace.store.open_input(artifact.manifest, kind) for kind in artifact.manifest.inputs}

    def recorded(gate: Gate) -> Verdict:
        identity = gate_identity(gate, workplace, ref)

        def build(workspace: Path) -> Built:
            verdict = gate.evaluate(workplace, artifact, inputs)
            if gate.external(workplace) != identity.external_inputs:
                raise IntegrityError(
                    f"A file that the gate '{gate.name}' reads was changed while it was read.", "Run the line again."
                )
            content = {"outcome": verdict.outcome, "message": verdict.message, "evidence": verdict.evidence}
            (workspace / VERDICT_FILE).write_bytes(canonical_json(content) + b"\n")
            if verdict.listed:
                listed = b"".join(canonical_json(each) + b"\n" for each in verdict.listed)
                (workspace / LISTED_FILE).write_bytes(listed)
            summary = {"gate": gate.name, "outcome": verdict.outcome}
            return Built(summary=summary, classification=verdict.classification)

        production = make_artifact(workplace, identity, build)
        return read_verdict(workplace.store.open(production.ref))

    return {gate.name: recorded(gate) for gate in stage.gates}


def assert_usable(stage: Stage, workplace: Workplace, ref: ArtifactRef) -> None:
    """Assert that an artifact and everything upstream of it may be used, by the rules of `assert_inputs_usable`."""
    Usable(workplace).check(stage, ref)


def assert_inputs_usable(stage: Stage, workplace: Workplace, refs: Mapping[str, ArtifactRef]) -> None:
    """Assert that the inputs of a stage, and everything upstream, are current, and that each gate passed or was waived.

    A verdict must be recorded for exactly the artifact's digest under today's recipe. No artifact may have a lower
    classification level than its input. Files outside the store must be unchanged, so that no artifact with a withdrawn
    or reclassified row is used. A stage with `judges_what_is_recorded` skips the check of these files.

    Args:
        refs: maps the kind of each input to its artifact.

    Raises:
        StaleInput: an artifact is not the line's current one, lacks an input that the recipe now requires, or was built
            before a change of outside files or of settings that select its rows.
        GateRefused: a gate has no record, or did not pass and was not waived.
        IntegrityError: a manifest or a record was changed, or an artifact has a lower level than its input.
    """
    usable = Usable(workplace)
    for upstream in stage.inputs_of(workplace.line):
        usable.check(upstream, refs[upstream.kind], with_outside_files=not stage.judges_what_is_recorded)


class Usable:
    """Walks upstream from artifacts to the sources and checks each artifact once."""

    def __init__(self, workplace: Workplace) -> None:
        self._workplace = workplace
        self._checked: dict[tuple[int, ArtifactRef, bool], Stage] = {}
        """The successful checks. A key contains the `id` of the stage object, the artifact, and True if outside files
        were checked. The `id` is needed because two stages may have the same name."""

    def check(self, stage: Stage, ref: ArtifactRef, with_outside_files: bool = True) -> None:
        """Assert that an artifact and everything upstream of it may be used, by the rules of `assert_inputs_usable`.

        Args:
            with_outside_files: False skips the check of files outside the store.
        """
        outside = with_outside_files and not stage.judges_what_is_recorded
        if (id(stage), ref, outside) in self._checked:
            return
        self._assert_current(stage, ref)
        passthrough = stage.passthrough_input(self._workplace.line)
        if passthrough is not None:
            self.check(passthrough, ref, outside)
        else:
            self._check_made(stage, ref, outside)
        # Added only at the end, so that a failed check is repeated for the next consumer.
        self._checked[id(stage), ref, outside] = stage

    def _check_made(self, stage: Stage, ref: ArtifactRef, outside: bool) -> None:
        store = self._workplace.store
        manifest = store.read_manifest(ref)
        if outside:
            self._assert_outside_files(stage, ref, manifest)
            self._assert_rows_selected_as_now(stage, ref, manifest)
        for gate in stage.gates:
            passing_verdict(stage, gate, self._workplace, ref)
        for upstream in stage.inputs_of(self._workplace.line):
            self._assert_made_of(stage, ref, manifest, upstream)
            given = store.input_ref(manifest, upstream.kind)
            self._assert_not_below(ref, manifest, store.read_manifest(given))
            self.check(upstream, given, outside)

    def _assert_current(self, stage: Stage, ref: ArtifactRef) -> None:
        line = self._workplace.line.line
        current = self._workplace.store.current(line, stage.kind)
        if current is not None and current.digest == ref.digest:
            return
        now = f"the current artifact is {short(current.digest)}" if current else "there is no current artifact"
        raise StaleInput(
            f"Line {line}: {stage.kind} {short(ref.digest)} is stale; {now}.",
            f"Run the line again. It rebuilds every artifact that depends on {stage.kind}.",
            act="run_line",
            line=line,
        )

    def _assert_made_of(self, stage: Stage, ref: ArtifactRef, manifest: Manifest, upstream: Stage) -> None:
        """Raise StaleInput if the recipe now requires an optional input that the artifact was built without."""
        if upstream.kind in manifest.inputs:
            return
        line = self._workplace.line.line
        raise StaleInput(
            f"Line {line}: {stage.kind} {short(ref.digest)} is stale. It was built without {upstream.kind}, "
            "which the recipe now requires.",
            act="run_line",
            line=line,
        )

    def _assert_outside_files(self, stage: Stage, ref: ArtifactRef, manifest: Manifest) -> None:
        now = stage.external(self._workplace)
        names = sorted(now.keys() | manifest.external_inputs.keys())
        changed = [name for name in names if now.get(name) != manifest.external_inputs.get(name)]
        if not changed:
            return
        line = self._workplace.line.line
        rows = stage.changed_rows(self._workplace, ref)
        raise StaleInput(
            f"Line {line}: {stage.kind} {short(ref.digest)} is stale. Files outside the store have changed "
            f"since it was built: {and_more(changed)}{f': {rows}' if rows else ''}.",
            act="run_line",
            line=line,
        )

    def _assert_rows_selected_as_now(self, stage: Stage, ref: ArtifactRef, manifest: Manifest) -> None:
        then, now = manifest.producer.config, stage.config_at(self._workplace)
        if not stage.selects_rows or manifest.producer.config_sha256 == digest_of(now):
            return
        line = self._workplace.line.line
        changed = sorted(name for name in {*then, *now} if then.get(name) != now.get(name))
        raise StaleInput(
            f"Line {line}: {stage.kind} {short(ref.digest)} is stale. In the recipe or institution.yaml, settings that "
            f"decide its rows or their levels have changed since it was built: {and_more(changed)}.",
            act="run_line",
            line=line,
        )

    def _assert_not_below(self, ref: ArtifactRef, manifest: Manifest, of_input: Manifest) -> None:
        ladder = self._workplace.institution.ladder
        if ladder.exceeds(of_input.classification, manifest.classification):
            raise IntegrityError(
                f"{self._workplace.store.path_of(ref.digest)}: this {manifest.kind} has the level "
                f"{manifest.classification}, but its input {of_input.kind} has the level {of_input.classification}. "
                f"An artifact's level is never lower than its input's.",
                f"Find out who changed the store. Then materialize {manifest.kind} again.",
            )


def passing_verdict(stage: Stage, gate: Gate, workplace: Workplace, ref: ArtifactRef) -> RecordedVerdict:
    """Return a gate's recorded verdict if the gate passed or was waived. Raises GateRefused otherwise, and the errors
    of `recorded_verdict`."""
    recorded = recorded_verdict(gate, workplace, ref)
    line, subject = workplace.line.line, f"{stage.kind} {short(ref.digest)}"
    if recorded is None:
        raise _no_record(workplace, stage, gate, ref, "this artifact cannot be used")
    if recorded.passes:
        return recorded
    verdict = recorded.verdict
    found = "failed" if verdict.outcome == "fail" else "is inconclusive"
    message = f"Line {line}: gate '{gate.name}' {found} for {subject}: {verdict.message}"
    hint = f"Correct the cause and materialize {stage.kind} again."
    if may_be_waived(gate, workplace, ref, verdict):
        raise GateRefused(
            message, f"{hint} Or ask an officer to waive the gate.", act="waive_gate", line=line, gate=gate.name
        )
    raise GateRefused(message, hint)


def _no_record(workplace: Workplace, stage: Stage, gate: Gate, ref: ArtifactRef, so: str) -> GateRefused:
    line = workplace.line.line
    return GateRefused(
        f"Line {line}: gate '{gate.name}' has no record for {stage.kind} {short(ref.digest)}, so {so}.",
        f"Materialize {stage.kind}. Its gates are then evaluated and recorded.",
        act="run_line",
        line=line,
    )


@dataclass(frozen=True)
class GateStatus:
    stage: Stage
    gate: Gate
    ref: ArtifactRef
    recorded: RecordedVerdict | None
    """The recorded verdict, or None if the gate was not evaluated for this artifact under today's recipe."""


def gate_statuses(stages: Sequence[Stage], workplace: Workplace) -> Iterator[GateStatus]:
    """Yield the status of every gate, in the order of `stages`. Skips stages that have no current artifact or pass
    their input through. Raises IntegrityError if a gate's record or waiver was changed."""
    for stage in stages:
        ref = workplace.store.current(workplace.line.line, stage.kind)
        if ref is None or stage.passthrough_of(workplace.line) is not None:
            continue
        for gate in stage.gates:
            yield GateStatus(stage, gate, ref, recorded_verdict(gate, workplace, ref))


def find_gate(stages: Sequence[Stage], workplace: Workplace, name: str) -> GateStatus:
    """Return the status of the gate with this name, written as GATE or STAGE.GATE. Raises NotFoundError if several
    current artifacts have a gate with this name, or if none has; the error then suggests the nearest name."""
    every = list(gate_statuses(stages, workplace))
    named = [each for each in every if name in (each.gate.name, _full_name(each))]
    if len(named) == 1:
        return named[0]
    line = workplace.line.line
    if named:
        full = ", ".join(map(_full_name, named))
        raise NotFoundError(f"Line {line}: several gates have the name '{name}'.", f"Give one of these names: {full}.")
    if not every:
        raise NotFoundError(
            f"Line {line}: there is no gate '{name}', because no stage has been materialized yet.",
            "Run the line first.",
            act="run_line",
            line=line,
        )
    names = [each.gate.name for each in every]
    known = [each.gate.name if names.count(each.gate.name) == 1 else _full_name(each) for each in every]
    raise NotFoundError(f"Line {line}: no current artifact has a gate '{name}'; {nearest_known(name, known)}")


def _full_name(status: GateStatus) -> str:
    return f"{status.stage.kind}.{status.gate.name}"


@dataclass(frozen=True)
class WaiverProposal:
    """A waiver before it is signed."""

    workplace: Workplace
    stage: Stage
    gate: Gate
    evaluated: ArtifactRef
    recorded: RecordedVerdict
    kind: WaiverKind
    reason: str
    classification: str
    """Classification level at which the officer needs the permission to waive."""

    def question(self) -> dict[str, str]:
        """Return the facts that the officer confirms before signing the waiver."""
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
    """Compose the waiver of a gate that an artifact did not pass. Raises GateRefused if the gate has no record, or if
    the recipe permits no waiver of the outcome. Raises InputError if the gate passed or was already waived, or if the
    reason is empty."""
    line = workplace.line.line
    reason = officers.officers_words(reason, "A waiver")
    recorded = recorded_verdict(gate, workplace, ref)
    if recorded is None:
        raise _no_record(workplace, stage, gate, ref, "there is nothing to waive")
    if recorded.verdict.passed:
        raise InputError(f"Line {line}: gate '{gate.name}' passed, so there is nothing to waive.")
    if recorded.waiver is not None:
        earlier = officers.officer_shown(
            officers.trust_root_if_any(workplace.settings), waiver_in(workplace, recorded.waiver).officer
        )
        raise InputError(f"Line {line}: {earlier} has already waived this verdict of '{gate.name}'.")
    outcome = recorded.verdict.outcome
    if not may_be_waived(gate, workplace, ref, recorded.verdict):
        permitted = "nothing" if gate.permission(workplace, ref) == "nothing" else "only an inconclusive verdict"
        raise GateRefused(
            f"Line {line}: the recipe does not let an officer waive gate '{gate.name}' with the outcome '{outcome}'. "
            f"It permits waiving {permitted}. The verdict: {recorded.verdict.message}",
            f"Correct the cause and materialize {stage.kind} again.",
        )
    level = workplace.store.read_manifest(recorded.record).classification
    return WaiverProposal(workplace, stage, gate, ref, recorded, KIND_OF[outcome], reason, level)


def waive(proposal: WaiverProposal, signer: Signer) -> tuple[ArtifactRef, Waiver]:
    """Sign a waiver, log it in the ledger, and store it as an artifact. Returns the artifact and the waiver. Raises
    SignInError if the trust root does not permit the officer to waive at the proposal's classification level, and
    ConflictError if another officer has already waived the verdict.

    The waiver is bound to the gate's record. A different candidate, suite, incumbent or policy leads to a new record,
    which needs a waiver of its own.
    """
    workplace, gate, recorded = proposal.workplace, proposal.gate, proposal.recorded
    trust = officers.trust_root(workplace.settings)
    officers.assert_may(officers.officer_of(trust, signer.keyid), WAIVE, [proposal.classification])
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
        raise ConflictError(f"Line {line}: another officer has waived this verdict of '{gate.name}' in the meantime.")
    return production.ref, waiver_in(workplace, production.ref)
