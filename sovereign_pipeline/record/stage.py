"""What a stage and a gate are, and making an artifact or finding it again."""

import datetime
import importlib.metadata
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, Protocol

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import digest_of, file_sha256, short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.evaluation import OfficerMay, stricter
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.record.manifest import ArtifactRef, Circumstances, FileEntry, Manifest, Producer
from sovereign_pipeline.record.store import Artifact, ArtifactStore, input_refs
from sovereign_pipeline.record.trust_root import Trust

Config = dict[str, Any]
"""A part of the recipe or of the institution's policy, as JSON; it is part of an artifact's identity."""

Inputs = Mapping[str, Artifact]
"""Kind -> verified artifact, one for each input of a stage."""

Progress = Callable[[str], None]
"""Reports how far a stage is. Never given document text."""

KindsIn = Callable[[str], Collection[Kind]]
"""Kinds of personal data in a value that the institution's policy does not keep."""

OutsideFiles = Callable[["Workplace"], dict[str, str]]
"""Name -> SHA-256 of each file outside the store that a stage or a gate reads."""


class Launch(Protocol):
    """Runs the trainer's process with a job file and waits.

    Raises TrainingFailed when the process ends without a result.
    """

    def __call__(self, job: Path) -> None: ...


class WaiverLog(Protocol):
    """Where officers' waivers are on record.

    A protocol, because the ledger comes after artifacts.
    """

    def enter(self, keyid: str, trust: Trust, subjects: Mapping[str, Any]) -> None:
        """Put a waiver on record, before it is made."""

    def index_of(self, statement: str) -> int | None:
        """The place in the log of the waiver whose signed statement has this SHA-256; None where it is in no entry."""


@dataclass(frozen=True)
class Workplace:
    """What a stage may use besides its inputs."""

    store: ArtifactStore
    settings: Settings
    institution: Institution
    line: Line
    """The recipe."""
    progress: Progress
    launch: Launch
    lost_review: Callable[[str], Collection[str]]
    """Line -> SHA-256 of all weights of it that lost their blind review.

    A function, because reviews come after the stages that need it.
    """
    kinds_in_columns: Callable[[Mapping[str, Any]], KindsIn]
    """Configuration of a raw corpus -> what finds personal data in a value of a column.

    A function, because privacy comes after the corpus.
    """
    waivers: WaiverLog
    column_secret: Callable[[], bytes]
    """The secret of this installation for the keys that take such values' places; made when it is first needed."""


@dataclass(frozen=True)
class Built:
    """What a stage's build function returns once its files are in the workspace."""

    summary: dict[str, Any]
    """Deterministic facts (counts, shares, names); part of the artifact's identity."""
    measured: dict[str, float] = field(default_factory=dict)
    """Durations and rates; not part of the identity."""
    classification: str | None = None
    """Of what the stage read from outside the store; the inputs' levels are always joined to it."""
    after_commit: Callable[[], None] = lambda: None
    """Called once the artifact is stored; removes what an interrupted build resumes from."""
    recorded: dict[str, str] = field(default_factory=dict)
    """Further facts of this run alone; not part of the identity."""


Outcome = Literal["pass", "fail", "inconclusive"]
"""`inconclusive`: the observations show neither; nothing may be made from the artifact then either."""


@dataclass(frozen=True)
class Verdict:
    """What a gate finds about one artifact."""

    passed: bool
    message: str
    """One sentence with numbers and row ids, never document text."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """Numbers, as JSON."""
    listed: tuple[dict[str, Any], ...] = ()
    """What is too long for message and evidence, such as every row id; a file of its own in the record."""
    classification: str | None = None
    """Of what the gate read from outside the store; the artifact's level is always joined to it."""
    inconclusive: bool = False
    """That it did not pass does not mean that it failed."""

    def __post_init__(self) -> None:
        if self.passed and self.inconclusive:
            raise ValueError("a verdict that passes is not inconclusive")

    @property
    def outcome(self) -> Outcome:
        if self.inconclusive:
            return "inconclusive"
        return "pass" if self.passed else "fail"


@dataclass(frozen=True)
class Gate:
    """A criterion for one artifact; its verdict is recorded and bound to the artifact's digest."""

    name: str
    question: str
    """What it evaluates, as a yes-or-no question for people."""
    code_version: str
    evaluate: Callable[[Workplace, Artifact, Inputs], Verdict]
    """Reads the artifact and its inputs. It recomputes, and does not trust what the build states about itself."""
    config: Callable[[Line], Config] = lambda line: {}
    """The part of the recipe that decides the verdict."""
    external: OutsideFiles = lambda workplace: {}
    """When one of these files changes, the gate is evaluated again."""
    policy: Callable[[Institution, Line], Config] = lambda institution, line: {}
    """The part of `institution.yaml` that decides the verdict."""
    officer_may: Callable[[Line], OfficerMay] = lambda line: "nothing"
    """What the recipe lets an officer do when the gate does not pass; part of the record's identity."""
    agreed: Callable[[Workplace, ArtifactRef], OfficerMay] = lambda workplace, ref: "override"
    """What was agreed about one artifact before it could be evaluated; a recipe loosened since does not count."""

    def recipe(self, line: Line) -> Config:
        """All of the recipe that decides the verdict and whether it may be waived."""
        may = self.officer_may(line)
        return {**self.config(line), **({"officer_may": may} if may != "nothing" else {})}

    def permission(self, workplace: Workplace, ref: ArtifactRef) -> OfficerMay:
        """What an officer may do about one artifact: what both today's recipe and the earlier agreement allow."""
        return stricter(self.officer_may(workplace.line), self.agreed(workplace, ref))


@dataclass(frozen=True)
class Stage:
    """How one kind of artifact is made, and everything that decides its bytes."""

    kind: str
    """The asset's key and the artifact's kind."""
    code_version: str
    build: Callable[[Workplace, Inputs, Path], Built]
    """Writes the artifact's files into a workspace directory."""
    inputs: tuple["Stage", ...] = ()
    """The stages whose artifacts it reads for every line."""
    optional_inputs: tuple["Stage", ...] = ()
    """The stages whose artifacts it reads for some lines only. For any other line they are no part of its identity."""
    reads_optional: Callable[[Line], Collection[str]] = lambda line: ()
    """Kinds of the optional inputs that it reads for a line."""
    config: Callable[[Line], Config] = lambda line: {}
    """Exactly the part of the recipe that the build reads."""
    policy: Callable[[Institution, Line], Config] = lambda institution, line: {}
    """Exactly the part of `institution.yaml` that the build reads."""
    external: OutsideFiles = lambda workplace: {}
    libraries: tuple[str, ...] = ()
    """Distributions whose version changes the result."""
    gates: tuple[Gate, ...] = ()
    passthrough_of: Callable[[Line], str | None] = lambda line: None
    """The kind of the input that is also this stage's artifact, for a line where the stage has nothing to do.

    None: the stage builds an artifact of its own.
    """
    is_recorded: Callable[[Workplace, ArtifactRef], bool] = lambda workplace, ref: True
    """Whether the artifact is on record where this stage enters it, such as in the registry."""
    changed_rows: Callable[[Workplace, ArtifactRef], str] = lambda workplace, ref: ""
    """For a message: which rows of files outside the store are no longer as this artifact has them, by their ids."""
    reads_corpus: Callable[[Line], bool] = lambda line: False
    """Whether it reads or writes unscrubbed text, so that its process is given the corpus root."""
    judges_what_is_recorded: bool = False
    """Its input is in the registry already and is judged as it was registered, whatever became of the sources since."""

    def inputs_of(self, line: Line) -> "tuple[Stage, ...]":
        """The stages whose artifacts it reads for a line."""
        read = self.reads_optional(line)
        return (*self.inputs, *(each for each in self.optional_inputs if each.kind in read))

    def config_at(self, workplace: Workplace) -> Config:
        """All of the recipe and of the institution's policy that decides what the build makes."""
        return {**self.config(workplace.line), **self.policy(workplace.institution, workplace.line)}

    def passthrough_input(self, line: Line) -> "Stage | None":
        """The input stage whose artifact this stage passes through, or None where it builds its own."""
        kind = self.passthrough_of(line)
        return next(each for each in self.inputs if each.kind == kind) if kind is not None else None


class Place(Protocol):
    """Where artifacts are made: a workplace, or what has no recipe but a store and an institution."""

    @property
    def store(self) -> ArtifactStore: ...

    @property
    def institution(self) -> Institution: ...


@dataclass(frozen=True)
class Production:
    """The artifact of a stage, made or reused."""

    ref: ArtifactRef
    reused: bool
    """The same work had been done before; its artifact was verified and taken."""


@dataclass(frozen=True)
class Identity:
    """Everything that decides an artifact's bytes; for an equal identity the artifact is reused."""

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
        return digest_of({**{each.name: getattr(self, each.name) for each in fields(self)}, "inputs": inputs})


def identity_of(stage: Stage, workplace: Workplace, inputs: Mapping[str, ArtifactRef]) -> Identity:
    """The identity of what the stage would make now from these inputs."""
    return Identity(
        kind=stage.kind,
        line=workplace.line.line,
        ladder=workplace.institution.classification,
        code_version=stage.code_version,
        config=stage.config_at(workplace),
        inputs=inputs,
        external_inputs=stage.external(workplace),
        libraries=library_versions(stage.libraries),
    )


def stated_identity(manifest: Manifest) -> Identity:
    """The identity that a stored artifact states in its manifest."""
    return Identity(
        kind=manifest.kind,
        line=manifest.line,
        ladder=manifest.ladder,
        code_version=manifest.producer.code_version,
        config=manifest.producer.config,
        inputs={ref.kind: ref for ref in input_refs(manifest)},
        external_inputs=manifest.external_inputs,
        libraries=manifest.producer.libraries,
    )


def library_versions(names: tuple[str, ...]) -> dict[str, str]:
    """Distribution -> installed version, sorted by name."""
    return {name: importlib.metadata.version(name) for name in sorted(names)}


@cache
def source_digest() -> str:
    """SHA-256 over this package's own source files, so that a record states exactly which code ran."""
    package = Path(__file__).resolve().parent.parent
    return digest_of({str(file.relative_to(package)): file_sha256(file) for file in sorted(package.rglob("*.py"))})


def find_artifact(workplace: Place, identity: Identity) -> ArtifactRef | None:
    """The stored artifact of exactly this identity, or None.

    The store's index is not trusted. Raises IntegrityError when it leads to an artifact of another identity.
    """
    ref = workplace.store.find(identity.fingerprint)
    if ref is None:
        return None
    if stated_identity(workplace.store.read_manifest(ref)).fingerprint != identity.fingerprint:
        raise IntegrityError(
            f"{workplace.store.root / '.index'}: leads from {identity.kind} to {short(ref.digest)}, which was made "
            f"from something else. Someone changed the index of the store.",
            "Delete the index, run again, and find out who changed it.",
        )
    return ref


def make_artifact(workplace: Place, identity: Identity, build: Callable[[Path], Built]) -> Production:
    """Build and store the artifact of an identity, or reuse and verify the stored one.

    Raises IntegrityError when a stored byte changed, NotFoundError before any work where nothing could be signed, and
    whatever the build raises; no artifact is left then.
    """
    store = workplace.store
    stored = find_artifact(workplace, identity)
    if stored is not None:
        store.open(stored)
        return Production(stored, reused=True)
    store.seals.assert_ready()
    started = time.monotonic()
    with store.workspace(identity.kind) as workspace:
        built = build(workspace)
        levels = [store.read_manifest(ref).classification for ref in identity.inputs.values()]
        if built.classification is not None:
            levels.append(built.classification)

        def describe(files: tuple[FileEntry, ...]) -> Manifest:
            return Manifest(
                kind=identity.kind,
                line=identity.line,
                classification=workplace.institution.ladder.highest(levels),
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
                    recorded=built.recorded,
                ),
            )

        ref = store.seal(workspace, describe)
    store.remember(identity.fingerprint, ref)
    built.after_commit()
    return Production(ref, reused=False)
