"""A stage: how one artifact of the chain is made from others, and the gates that hold it.

Each room declares its stages with the function that builds them. What identifies an artifact (code version,
configuration, inputs, libraries) is kept apart from how it is run. Running one is `production.py`.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.policy.gates import OfficerMay
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.settings import Settings

Config = dict[str, Any]
Inputs = Mapping[str, Artifact]


# Where a stage tells people how far it is. Never given document text.
Progress = Callable[[str], None]


class Launch(Protocol):
    """Runs the trainer's process with a job file and waits. Raises TrainingFailed when it ends without a result."""

    def __call__(self, job: Path) -> None: ...


@dataclass(frozen=True)
class Workplace:
    """What a stage may use besides its inputs: the recipe, the paths, and three ways to reach the outside.

    lost_review: line -> digests of its adapters that lost their blind review. Reviews come after the evaluation in the
    order of the work, so whoever opens a workplace hands the look-up in.
    """

    store: ArtifactStore
    settings: Settings
    institution: Institution
    line: Line
    progress: Progress
    launch: Launch
    lost_review: Callable[[str], Collection[str]]


@dataclass(frozen=True)
class Built:
    """What a stage's build function returns once its files are in the workspace.

    summary: deterministic facts (counts, shares, names); part of the identity. measured: durations and rates; not.
    classification: the level of what the stage itself read from outside; the inputs' levels are always joined to it.
    after_commit: called once the artifact is in the store; removes what an interrupted build resumes from.
    """

    summary: dict[str, Any]
    measured: dict[str, float] = field(default_factory=dict)
    classification: str | None = None
    after_commit: Callable[[], None] = lambda: None


# inconclusive: what was observed shows neither; nothing may be made from the artifact then either.
Outcome = Literal["pass", "fail", "inconclusive"]


@dataclass(frozen=True)
class Verdict:
    """A gate's answer. message: one sentence with numbers and row ids, never text. evidence: numbers, JSON.

    listed: what is too long for both, such as every row id with what was found there; a file of its own in the record.
    classification: the level of what the gate itself read from outside; the artifact's is always joined to it.
    inconclusive: that it did not pass does not say that it failed.
    """

    passed: bool
    message: str
    evidence: dict[str, Any] = field(default_factory=dict)
    listed: tuple[dict[str, Any], ...] = ()
    classification: str | None = None
    inconclusive: bool = False

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
    """A question about one artifact whose answer is recorded and bound to the artifact's digest.

    evaluate: reads the artifact and its inputs, and answers; it must not trust what the build claims of itself.
    external: name -> SHA-256 of files outside the store that it reads; when one changes, the gate is asked again.
    policy: the part of `institution.yaml` it goes by, for this line. officer_may: what an officer may do when it does
    not pass; nothing, unless the line's recipe says otherwise.
    """

    name: str
    question: str
    code_version: str
    evaluate: Callable[[Workplace, Artifact, Inputs], Verdict]
    config: Callable[[Line], Config] = lambda line: {}
    external: Callable[[Workplace], dict[str, str]] = lambda workplace: {}
    policy: Callable[[Institution, Line], Config] = lambda institution, line: {}
    officer_may: Callable[[Line], OfficerMay] = lambda line: "nothing"

    def recipe(self, line: Line) -> Config:
        """All of the recipe that decides the answer and what it stands for."""
        may = self.officer_may(line)
        return {**self.config(line), **({"officer_may": may} if may != "nothing" else {})}


@dataclass(frozen=True)
class Stage:
    """kind: the asset's key and the artifact's kind. inputs: the stages whose artifacts it reads.

    config: exactly the part of the recipe the build reads. policy: the part of `institution.yaml` it reads, for this
    line. external: name -> SHA-256 of files outside the store.
    libraries: distributions whose version changes the result. passthrough_of: the kind of the input that is this
    stage's artifact as well, for a line where the stage has nothing to do (None: always build).
    """

    kind: str
    code_version: str
    build: Callable[[Workplace, Inputs, Path], Built]
    inputs: tuple["Stage", ...] = ()
    config: Callable[[Line], Config] = lambda line: {}
    policy: Callable[[Institution, Line], Config] = lambda institution, line: {}
    external: Callable[[Workplace], dict[str, str]] = lambda workplace: {}
    libraries: tuple[str, ...] = ()
    gates: tuple[Gate, ...] = ()
    passthrough_of: Callable[[Line], str | None] = lambda line: None

    def config_at(self, workplace: Workplace) -> Config:
        """All of the recipe and of the institution's policy that decides what the build makes."""
        return {**self.config(workplace.line), **self.policy(workplace.institution, workplace.line)}
