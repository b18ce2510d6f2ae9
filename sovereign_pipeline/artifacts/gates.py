"""Evaluating gates, recording their verdicts, and the consumer's half of every gate.

`evaluate_gates` is the only way a gate's record comes into being. Whoever uses an artifact calls
`assert_inputs_usable` first.

What belongs here: acts on any gate. What does not: waiving one (`waiving.py`), what a record holds and how it is looked
up (`gate_records.py`), what a particular gate evaluates (each package's `stages.py`), and how a line's gates are listed
(`gate_status.py`).
"""

from collections.abc import Mapping
from pathlib import Path

from sovereign_pipeline.artifacts.gate_records import (
    LISTED_FILE,
    VERDICT_FILE,
    RecordedVerdict,
    gate_identity,
    may_be_waived,
    read_verdict,
    recorded_verdict,
)
from sovereign_pipeline.artifacts.making import make_artifact
from sovereign_pipeline.artifacts.manifest import ArtifactRef, Manifest
from sovereign_pipeline.artifacts.stage import Built, Gate, Stage, Verdict, Workplace
from sovereign_pipeline.base.errors import GateRefused, IntegrityError, StaleInput
from sovereign_pipeline.base.files import canonical_json, short
from sovereign_pipeline.base.text import and_more


def evaluate_gates(stage: Stage, workplace: Workplace, ref: ArtifactRef) -> dict[str, Verdict]:
    """Evaluate every gate of the stage for one artifact and record the verdicts. Gate's name -> recorded verdict.

    `Verdict.listed` stays in the record. A gate that raises leaves no record, so the artifact stays unusable.
    """
    artifact = workplace.store.open(ref)
    inputs = {kind: workplace.store.open_input(artifact.manifest, kind) for kind in artifact.manifest.inputs}

    def recorded(gate: Gate) -> Verdict:
        identity = gate_identity(gate, workplace, ref)

        def build(workspace: Path) -> Built:
            verdict = gate.evaluate(workplace, artifact, inputs)
            if gate.external(workplace) != identity.external_inputs:
                raise IntegrityError(
                    f"A file that the gate '{gate.name}' reads was changed while it was read.", "Run again."
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
    """Assert that an artifact, and everything it was made from, may be used: what `assert_inputs_usable` asserts."""
    _Usable(workplace).check(stage, ref)


def assert_inputs_usable(stage: Stage, workplace: Workplace, refs: Mapping[str, ArtifactRef]) -> None:
    """Assert that the inputs of a stage, and everything they were made from, are current and passed every gate.

    A verdict counts when it is recorded for exactly the artifact's digest, under today's recipe. Files outside the
    store must be as they were read: a row that was withdrawn or reclassified since is in no artifact that is used. No
    level may be below that of an input.

    Args:
        refs: a reference to the artifact of each input, by kind.

    Raises StaleInput, GateRefused, or IntegrityError when a manifest or a record was changed.
    """
    usable = _Usable(workplace)
    for upstream in stage.inputs_of(workplace.line):
        usable.check(upstream, refs[upstream.kind], with_outside_files=not stage.judges_what_is_recorded)


def assert_passed(stage: Stage, workplace: Workplace, ref: ArtifactRef) -> None:
    """What `assert_usable` asserts, without reading files outside the store."""
    _Usable(workplace).check(stage, ref, with_outside_files=False)


class _Usable:
    """Walks up from artifacts to the sources, and checks each artifact once."""

    def __init__(self, workplace: Workplace) -> None:
        self._workplace = workplace
        self._checked: set[tuple[str, ArtifactRef, bool]] = set()

    def check(self, stage: Stage, ref: ArtifactRef, with_outside_files: bool = True) -> None:
        outside = with_outside_files and not stage.judges_what_is_recorded
        if (stage.kind, ref, outside) in self._checked:
            return
        self._checked.add((stage.kind, ref, outside))
        self._assert_current(stage, ref)
        passthrough = stage.passthrough_input(self._workplace.line)
        if passthrough is not None:
            self.check(passthrough, ref, outside)
            return
        store = self._workplace.store
        manifest = store.read_manifest(ref)
        if outside:
            self._assert_outside_files(stage, ref, manifest)
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
        now = f"the current one is {short(current.digest)}" if current else "there is no current one"
        raise StaleInput(
            f"Line {line}: {stage.kind} {short(ref.digest)} is stale; {now}.",
            f"Materialize everything between {stage.kind} and this stage again.",
            act="run_line",
            line=line,
        )

    def _assert_made_of(self, stage: Stage, ref: ArtifactRef, manifest: Manifest, upstream: Stage) -> None:
        """An optional input may have been added to the recipe since."""
        if upstream.kind in manifest.inputs:
            return
        line = self._workplace.line.line
        raise StaleInput(
            f"Line {line}: {stage.kind} {short(ref.digest)} is stale. It was made without {upstream.kind}, which the "
            f"line reads for it now.",
            "Run the line again.",
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
            f"Line {line}: {stage.kind} {short(ref.digest)} is stale. It was made from other contents of "
            f"{and_more(changed)} than there are now{f': {rows}' if rows else ''}.",
            "Run the line again.",
            act="run_line",
            line=line,
        )

    def _assert_not_below(self, ref: ArtifactRef, manifest: Manifest, of_input: Manifest) -> None:
        ladder = self._workplace.institution.ladder
        if ladder.exceeds(of_input.classification, manifest.classification):
            raise IntegrityError(
                f"{self._workplace.store.path_of(ref.digest)}: this {manifest.kind} states {manifest.classification}, "
                f"and its {of_input.kind} is {of_input.classification}. A level never falls.",
                f"Find out who changed the store. Then materialize {manifest.kind} again.",
            )


def passing_verdict(stage: Stage, gate: Gate, workplace: Workplace, ref: ArtifactRef) -> RecordedVerdict:
    """The recorded verdict with which one artifact passes a gate. Raises GateRefused when there is none."""
    recorded = recorded_verdict(gate, workplace, ref)
    line, subject = workplace.line.line, f"{stage.kind} {short(ref.digest)}"
    if recorded is None:
        raise GateRefused(
            f"Line {line}: gate '{gate.name}' has no record for {subject}, so nothing may be made from it.",
            f"Materialize {stage.kind}; its checks write the record.",
            act="run_line",
            line=line,
        )
    if recorded.passes:
        return recorded
    verdict = recorded.verdict
    found = "failed" if verdict.outcome == "fail" else "is inconclusive"
    message = f"Line {line}: gate '{gate.name}' {found} for {subject}: {verdict.message}"
    hint = f"Correct the cause and materialize {stage.kind} again."
    if may_be_waived(gate, workplace, ref, verdict):
        raise GateRefused(
            message, f"{hint} Or an officer waives the gate.", act="waive_gate", line=line, gate=gate.name
        )
    raise GateRefused(message, hint)
