"""A stage: how one artifact of the chain is made from others, and the gates on it.

Each package declares its stages beside the functions that build them.

What belongs here: the types that a stage is declared with and that its functions get. What does not: running a stage
(`production.py`) and evaluating a gate (`gates.py`).
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.margins import OfficerMay, stricter
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.signing.trusted import Trust

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
