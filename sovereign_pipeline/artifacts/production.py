"""Making artifacts: `produce` is the only way one comes into being, `judge` the only way a gate's record does, `accept`
the only way an officer's acceptance of one does, and `keep` the only way a part of a stage's work is kept by itself.

`assert_usable` is the consumer's half of every gate. What an artifact is: `manifest.py`; what a stage is: `stage.py`.
"""

import datetime
import importlib.metadata
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from sovereign_pipeline.artifacts.acceptance import (
    ACCEPTANCE_FILE,
    GATE_ACCEPTANCE,
    KIND_OF,
    Acceptance,
    read_acceptance,
)
from sovereign_pipeline.artifacts.hashing import canonical_json, digest_of, file_sha256, short
from sovereign_pipeline.artifacts.manifest import ArtifactRef, Circumstances, FileEntry, Manifest, Producer
from sovereign_pipeline.artifacts.stage import Built, Config, Gate, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.errors import GateRefused, InputError, IntegrityError, StaleInput
from sovereign_pipeline.policy.gates import allows

GATE_RECORD = "gate_record"
VERDICT_FILE = "verdict.json"
LISTED_FILE = "listed.jsonl"
"""In a gate's record, where the gate lists more than its message can say: one JSON object a line."""


@dataclass(frozen=True)
class Production:
    """reused: the same work had been done before; its artifact was verified and taken."""

    ref: ArtifactRef
    reused: bool


EVERY_LINE = "*"
"""The line of what is kept for all of them; none can have this name."""


@dataclass(frozen=True)
class Part:
    """A part of a stage's work that is kept by itself, and found again by whichever line needs exactly this.

    config: settings that decide the result. made_from: name -> digest of all that it is made from. libraries:
    distributions whose version changes the result. classification: the highest of all that it is made from; what was
    made from the same at another level is something else.
    """

    kind: str
    code_version: str
    config: Config
    made_from: Mapping[str, str]
    libraries: tuple[str, ...]
    classification: str


@dataclass(frozen=True)
class Answer:
    """What a gate's record says of one artifact. acceptance: an officer's; None where the recipe allows none."""

    record: ArtifactRef
    verdict: Verdict
    acceptance: ArtifactRef | None = None

    @property
    def lets_pass(self) -> bool:
        return self.verdict.passed or self.acceptance is not None


@dataclass(frozen=True)
class _Identity:
    """Everything that decides an artifact's bytes; equal fingerprints mean that the work need not be done again."""

    kind: str
    line: str
    ladder: tuple[str, ...]
    code_version: str
    config: Config
    inputs: Mapping[str, ArtifactRef]
    external_inputs: Mapping[str, str]
    libraries: Mapping[str, str]

    @property
    def fingerprint(self) -> str:
        inputs = {kind: ref.digest for kind, ref in self.inputs.items()}
        return digest_of({**asdict(self), "inputs": inputs})


def fingerprint(stage: Stage, workplace: Workplace, inputs: Mapping[str, ArtifactRef]) -> str:
    """Digest of everything that decides what the stage would make from these inputs."""
    return _identity(stage, workplace, inputs).fingerprint


def produce(stage: Stage, workplace: Workplace, inputs: Mapping[str, ArtifactRef]) -> Production:
    """Make the stage's artifact, or find it made. `inputs`: one reference for each of `stage.inputs`, by kind.

    Raises StaleInput or GateRefused when an input may not be used, IntegrityError when bytes changed, and whatever the
    build raises. Nothing is left behind on any error.
    """
    opened = {kind: workplace.store.open(ref) for kind, ref in inputs.items()}
    for upstream in stage.inputs:
        assert_usable(upstream, workplace, inputs[upstream.kind])
    handed_on = stage.passes_on(workplace.line)
    if handed_on is not None:
        return Production(inputs[handed_on], reused=True)
    identity = _identity(stage, workplace, inputs)

    def build(workspace: Path) -> Built:
        built = stage.build(workplace, opened, workspace)
        if stage.external(workplace) != identity.external_inputs:
            raise IntegrityError(f"A file that {stage.kind} reads was changed while it was read. Run again.")
        return built

    return _make(workplace, identity, build)


def keep(workplace: Workplace, part: Part, build: Callable[[Path], dict[str, int]]) -> Production:
    """Make a part of a stage's work, or find it made. build: fills the workspace and returns the summary.

    It has no gates of its own and is nobody's input: what may be made from it, the stage decides whose work it is.
    Raises IntegrityError when bytes changed, and whatever the build raises. Nothing is left behind on any error.
    """
    identity = _Identity(
        kind=part.kind,
        line=EVERY_LINE,
        ladder=workplace.institution.classification,
        code_version=part.code_version,
        config={**part.config, "classification": part.classification},
        inputs={},
        external_inputs=part.made_from,
        libraries=library_versions(part.libraries),
    )
    return _make(workplace, identity, lambda workspace: Built(build(workspace), classification=part.classification))


def judge(stage: Stage, workplace: Workplace, ref: ArtifactRef) -> dict[str, Verdict]:
    """Ask every gate of the stage about one artifact and record each answer. Name of the gate -> answer as recorded.

    What an answer lists stays in the record (`listed.jsonl`). A gate that raises leaves no record, so the artifact
    stays unusable.
    """
    artifact = workplace.store.open(ref)
    inputs = {kind: workplace.store.open_input(artifact.manifest, kind) for kind in artifact.manifest.inputs}

    def recorded(gate: Gate) -> Verdict:
        identity = _gate_identity(gate, workplace, ref)

        def build(workspace: Path) -> Built:
            verdict = gate.judge(workplace, artifact, inputs)
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

        production = _make(workplace, identity, build)
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
    handed_on = stage.passes_on(workplace.line)
    if handed_on is not None:
        assert_usable(next(each for each in stage.inputs if each.kind == handed_on), workplace, ref)
        return
    for gate in stage.gates:
        passing_answer(stage, gate, workplace, ref)
    manifest = workplace.store.read_manifest(ref)
    for upstream in stage.inputs:
        assert_usable(upstream, workplace, workplace.store.input_ref(manifest, upstream.kind))


def passing_answer(stage: Stage, gate: Gate, workplace: Workplace, ref: ArtifactRef) -> Answer:
    """The answer with which one gate lets exactly this artifact pass. Raises GateRefused when there is none."""
    answer = answer_of(gate, workplace, ref)
    line = workplace.line.line
    if answer is None:
        raise GateRefused(
            f"Line {line}: the gate '{gate.name}' has no record for {stage.kind} {short(ref.digest)}, so nothing may "
            f"be made from it. Materialize {stage.kind}; its checks write the record."
        )
    if not answer.lets_pass:
        said = "said no" if answer.verdict.outcome == "fail" else "could not tell, which is not a yes,"
        raise GateRefused(
            f"Line {line}: the gate '{gate.name}' {said} to {stage.kind} {short(ref.digest)}: {answer.verdict.message} "
            f"Correct the cause and materialize {stage.kind} again.{officers_way(gate, workplace, answer.verdict)}"
        )
    return answer


def answer_of(gate: Gate, workplace: Workplace, ref: ArtifactRef) -> Answer | None:
    """What the gate said of exactly this artifact under today's recipe; None when it was not asked.

    An acceptance is looked for only where the recipe allows one, so that one that was put there otherwise counts for
    nothing. Raises IntegrityError when record or acceptance was changed.
    """
    record = _found(workplace, _gate_identity(gate, workplace, ref))
    if record is None:
        return None
    verdict = read_verdict(workplace.store.open(record))
    if not allows(gate.officer_may(workplace.line), verdict.outcome):
        return Answer(record, verdict)
    acceptance = _found(workplace, _acceptance_identity(gate, workplace, record, verdict))
    if acceptance is not None:
        read_acceptance(workplace.store.open(acceptance))
    return Answer(record, verdict, acceptance)


def officers_way(gate: Gate, workplace: Workplace, verdict: Verdict) -> str:
    """The end of a message about an answer that does not pass: what an officer may do, where one may do anything."""
    if not allows(gate.officer_may(workplace.line), verdict.outcome):
        return ""
    return (
        f" Or an officer takes it on: `sovereign gates accept {workplace.line.line} {gate.name} --officer NAME "
        f"--reason TEXT`."
    )


def accept(
    stage: Stage, gate: Gate, workplace: Workplace, ref: ArtifactRef, officer: str, reason: str
) -> tuple[ArtifactRef, Acceptance]:
    """Record that an officer lets one artifact pass a gate that did not. Bound to the digest of the gate's record, so
    another candidate, suite, incumbent or policy, which gives another record, has to be accepted anew.

    Raises GateRefused when there is no record or the line's recipe does not allow it, and InputError when the gate
    passed, was accepted before, or name or reason is empty.
    """
    line = workplace.line.line
    if not officer.strip() or not reason.strip():
        raise InputError("An acceptance stands for a name and a reason. Give both: --officer NAME --reason TEXT.")
    answer = answer_of(gate, workplace, ref)
    if answer is None:
        raise GateRefused(
            f"Line {line}: the gate '{gate.name}' has no record for {stage.kind} {short(ref.digest)}, so there is "
            f"nothing to accept. Materialize {stage.kind}; its checks write the record."
        )
    if answer.verdict.passed:
        raise InputError(f"Line {line}: the gate '{gate.name}' passed, so there is nothing to accept.")
    if answer.acceptance is not None:
        earlier = read_acceptance(workplace.store.open(answer.acceptance))
        raise InputError(f"Line {line}: {earlier.officer} accepted this answer of '{gate.name}' already.")
    outcome, may = answer.verdict.outcome, gate.officer_may(workplace.line)
    if not allows(may, outcome):
        raise GateRefused(
            f"Line {line}: the gate '{gate.name}' gave '{outcome}', and the line's recipe lets an officer "
            f"{'do nothing' if may == 'nothing' else 'accept an inconclusive answer only'}. Correct the cause and "
            f"materialize {stage.kind} again: {answer.verdict.message}"
        )
    acceptance = Acceptance(gate=gate.name, kind=KIND_OF[outcome], officer=_one_line(officer), reason=_one_line(reason))

    def build(workspace: Path) -> Built:
        content = acceptance.model_dump(mode="json")
        (workspace / ACCEPTANCE_FILE).write_bytes(canonical_json(content) + b"\n")
        return Built(summary={"gate": gate.name, "kind": acceptance.kind})

    identity = _acceptance_identity(gate, workplace, answer.record, answer.verdict)
    return _make(workplace, identity, build).ref, acceptance


def read_verdict(record: Artifact) -> Verdict:
    """What a gate's record says. Records of earlier versions know yes and no alone."""
    answer = json.loads(record.file(VERDICT_FILE).read_bytes())
    outcome = answer["outcome"] if "outcome" in answer else "pass" if answer["passed"] else "fail"
    return Verdict(outcome == "pass", answer["message"], answer["evidence"], inconclusive=outcome == "inconclusive")


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in sorted(names)}


@cache
def source_digest() -> str:
    """SHA-256 over this package's own source files, so that a record says exactly which code ran."""
    package = Path(__file__).resolve().parent.parent
    return digest_of({str(file.relative_to(package)): file_sha256(file) for file in sorted(package.rglob("*.py"))})


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _identity(stage: Stage, workplace: Workplace, inputs: Mapping[str, ArtifactRef]) -> _Identity:
    return _Identity(
        kind=stage.kind,
        line=workplace.line.line,
        ladder=workplace.institution.classification,
        code_version=stage.code_version,
        config=stage.config_at(workplace),
        inputs=inputs,
        external_inputs=stage.external(workplace),
        libraries=library_versions(stage.libraries),
    )


def _gate_identity(gate: Gate, workplace: Workplace, judged: ArtifactRef) -> _Identity:
    return _Identity(
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


def _acceptance_identity(gate: Gate, workplace: Workplace, record: ArtifactRef, verdict: Verdict) -> _Identity:
    """Of one record and one kind there is one acceptance at most: name and reason are what it says, not which it is."""
    return _Identity(
        kind=GATE_ACCEPTANCE,
        line=workplace.line.line,
        ladder=workplace.institution.classification,
        code_version="1",
        config={"gate": gate.name, "kind": KIND_OF[verdict.outcome]},
        inputs={GATE_RECORD: record},
        external_inputs={},
        libraries={},
    )


def _found(workplace: Workplace, identity: _Identity) -> ArtifactRef | None:
    """What was made from exactly this before. The index that leads there is not trusted: the manifest must say so."""
    ref = workplace.store.find(identity.fingerprint)
    if ref is None:
        return None
    manifest = workplace.store.read_manifest(ref)
    said = _Identity(
        kind=manifest.kind,
        line=manifest.line,
        ladder=manifest.ladder,
        code_version=manifest.producer.code_version,
        config=manifest.producer.config,
        inputs={kind: ref.model_copy(update={"digest": digest}) for kind, digest in manifest.inputs.items()},
        external_inputs=manifest.external_inputs,
        libraries=manifest.producer.libraries,
    )
    if said.fingerprint != identity.fingerprint:
        raise IntegrityError(
            f"The index of the store leads from {identity.kind} to {short(ref.digest)}, which was made from something "
            f"else. Someone changed {workplace.store.root / '.index'}; delete it, and find out who."
        )
    return ref


def _make(workplace: Workplace, identity: _Identity, build: Callable[[Path], Built]) -> Production:
    store = workplace.store
    found = _found(workplace, identity)
    if found is not None:
        store.open(found)
        return Production(found, reused=True)
    started = time.monotonic()
    with store.workspace() as workspace:
        built = build(workspace)
        inherited = [store.read_manifest(ref).classification for ref in identity.inputs.values()]
        own = [built.classification] if built.classification is not None else []

        def describe(files: tuple[FileEntry, ...]) -> Manifest:
            return Manifest(
                kind=identity.kind,
                line=identity.line,
                classification=workplace.institution.ladder.highest(inherited + own),
                ladder=identity.ladder,
                files=files,
                inputs={kind: ref.digest for kind, ref in identity.inputs.items()},
                external_inputs=dict(identity.external_inputs),
                producer=Producer(
                    code_version=identity.code_version,
                    config=identity.config,
                    config_sha256=digest_of(identity.config),
                    libraries=dict(identity.libraries),
                ),
                summary=built.summary,
                circumstances=Circumstances(
                    created_at=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                    source_sha256=source_digest(),
                    measured={"seconds": round(time.monotonic() - started, 3), **built.measured},
                    input_manifests={kind: ref.manifest_sha256 for kind, ref in identity.inputs.items()},
                ),
            )

        ref = store.seal(workspace, describe)
    store.remember(identity.fingerprint, ref)
    built.once_sealed()
    return Production(ref, reused=False)
