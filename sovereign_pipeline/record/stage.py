"""Define stages and gates, and build an artifact or find a stored one with the same identity."""

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
"""A part of the recipe or of the institution's policy, as JSON. It is part of an artifact's identity."""

Inputs = Mapping[str, Artifact]
"""Mapping of kind to verified artifact, for each input of a stage."""

Progress = Callable[[str], None]
"""Function that reports a stage's progress, without document text."""

KindsIn = Callable[[str], Collection[Kind]]
"""Function that returns the kinds of personal data in a value, except the kinds that the institution does not
remove."""

OutsideFiles = Callable[["Workplace"], dict[str, str]]
"""Function that returns a mapping of name to SHA-256, for each file outside the store that a stage or gate reads."""


class Launch(Protocol):
    """Function that runs the training process with a job file. Raises TrainingFailed if the process ends without a
    result."""

    def __call__(self, job: Path) -> None: ...


class WaiverLog(Protocol):
    """Interface of the log of officers' waivers. `catalog.py`, which imports this module, implements the interface."""

    def enter(self, keyid: str, trust: Trust, subjects: Mapping[str, Any]) -> None:
        """Log a waiver before its artifact is stored."""

    def index_of(self, statement: str) -> int | None:
        """Return the ledger index of the waiver whose signed statement has this SHA-256, or None."""


@dataclass(frozen=True)
class Workplace:
    """Everything that a stage may use besides its inputs."""

    store: ArtifactStore
    settings: Settings
    institution: Institution
    line: Line
    rules: Mapping[str, str]
    """Mapping of file name to SHA-256, for the files from which `institution` and `line` were read."""
    progress: Progress
    launch: Launch
    lost_review: Callable[[str], Collection[str]]
    """Takes a line's name, and returns the SHA-256 of each of the line's weights that lost a blind review. This
    function is injected, because the review package depends on this module."""
    open_recalls: Callable[[str], Collection[str]]
    """Takes an adapter's id, and returns the ids of the recalls that apply to the adapter. This function is injected,
    because the release package depends on this module."""
    recalls_of_data: Callable[[Collection[str], Collection[str], Collection[str]], Collection[str]]
    """Takes digests of datasets, digests of base models, and adapter ids. Returns the ids of the recalls of these
    datasets, their documents or sources, and these base models. Omits a recall that was waived for one of the adapters.
    """
    kinds_in_columns: Callable[[Mapping[str, Any]], KindsIn]
    """Takes a raw corpus's configuration, and returns a function that finds personal data in a column's value. This
    function is injected, because the privacy package depends on the corpus package."""
    column_parts: Callable[[], dict[str, str]]
    """Returns a mapping of name to digest, for everything outside the recipe that `kinds_in_columns` reads."""
    waivers: WaiverLog
    column_secret: Callable[[], bytes]
    """Returns the installation's secret for pseudonyms in columns. The secret is created on first use."""


@dataclass(frozen=True)
class Built:
    """The result of a stage's build function. The function has already written the artifact's files to the
    workspace."""

    summary: dict[str, Any]
    """Deterministic facts (counts, shares, names). The artifact's digest covers them."""
    measured: dict[str, float] = field(default_factory=dict)
    """Durations and rates. The artifact's digest does not cover them."""
    classification: str | None = None
    """Classification level of data read from outside the store. The artifact's level is the highest of this level and
    the inputs' levels."""
    after_commit: Callable[[], None] = lambda: None
    """Function that is called after the artifact is stored. It removes the files with which an interrupted build can
    resume."""
    recorded: dict[str, str] = field(default_factory=dict)
    """Further facts about this run. The artifact's digest does not cover them."""


Outcome = Literal["pass", "fail", "inconclusive"]
"""Outcome of a gate. `inconclusive` means that the data support neither `pass` nor `fail`. Both `inconclusive` and
`fail` block the artifact."""


@dataclass(frozen=True)
class Verdict:
    """The result of a gate for one artifact."""

    passed: bool
    message: str
    """One sentence with numbers and row ids, without document text."""
    evidence: dict[str, Any] = field(default_factory=dict)
    """Numbers behind the verdict, as JSON."""
    listed: tuple[dict[str, Any], ...] = ()
    """Details, such as every row id. The gate's record stores them in a separate file."""
    classification: str | None = None
    """Classification level of data read from outside the store. The record's level is the higher of this level and the
    artifact's level."""
    inconclusive: bool = False
    """True if the data support neither pass nor fail; `passed` is then False."""

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
    """A criterion for one artifact. The verdict is recorded, and is valid only for the artifact's digest."""

    name: str
    question: str
    """The criterion as a yes-or-no question, for display."""
    code_version: str
    evaluate: Callable[[Workplace, Artifact, Inputs], Verdict]
    """Returns the verdict on an artifact. Recomputes all numbers instead of trusting the numbers from the build."""
    config: Callable[[Line], Config] = lambda line: {}
    """Returns the part of the recipe that decides the verdict."""
    external: OutsideFiles = lambda workplace: {}
    """Returns the files outside the store that the gate reads. If a file changes, the gate is evaluated again."""
    policy: Callable[[Institution, Line], Config] = lambda institution, line: {}
    """Returns the part of `institution.yaml` that decides the verdict."""
    officer_may: Callable[[Line], OfficerMay] = lambda line: "nothing"
    """Returns the outcomes that the recipe lets an officer waive. They are part of the identity of the gate's
    record."""
    agreed: Callable[[Workplace, ArtifactRef], OfficerMay] = lambda workplace, ref: "override"
    """Returns the outcomes that an officer may waive by terms fixed before the evaluation, such as the sealed plan of a
    blind review. Loosening the recipe after that has no effect. By default, only the recipe decides."""

    def recipe(self, line: Line) -> Config:
        """Return the recipe's keys that decide the verdict, and `officer_may` unless its value is `nothing`."""
        may = self.officer_may(line)
        return {**self.config(line), **({"officer_may": may} if may != "nothing" else {})}

    def permission(self, workplace: Workplace, ref: ArtifactRef) -> OfficerMay:
        """Return the outcomes that an officer may waive according to both today's recipe and `agreed`."""
        return stricter(self.officer_may(workplace.line), self.agreed(workplace, ref))


@dataclass(frozen=True)
class Stage:
    """The definition of one kind of artifact: its build function and everything that decides its bytes."""

    kind: str
    """Key of the asset, and kind of its artifact."""
    code_version: str
    build: Callable[[Workplace, Inputs, Path], Built]
    """Writes the artifact's files into a workspace directory."""
    inputs: tuple["Stage", ...] = ()
    """Stages whose artifacts this stage reads for every line."""
    optional_inputs: tuple["Stage", ...] = ()
    """Stages whose artifacts this stage reads for some lines only. For these lines, these inputs are part of the
    identity of this stage's artifact."""
    reads_optional: Callable[[Line], Collection[str]] = lambda line: ()
    """Returns the kinds of the optional inputs that the stage reads for a line."""
    config: Callable[[Line], Config] = lambda line: {}
    """Returns exactly the part of the recipe that the build reads."""
    policy: Callable[[Institution, Line], Config] = lambda institution, line: {}
    """Returns exactly the part of `institution.yaml` that the build reads."""
    external: OutsideFiles = lambda workplace: {}
    libraries: tuple[str, ...] = ()
    """Names of the Python distributions whose version affects the result."""
    gates: tuple[Gate, ...] = ()
    passthrough_of: Callable[[Line], str | None] = lambda line: None
    """Returns the kind of the input that this stage passes through unchanged, if it has nothing to do for a line.
    Returns None if the stage builds an artifact."""
    is_recorded: Callable[[Workplace, ArtifactRef], bool] = lambda workplace, ref: True
    """Returns False if this stage must also record its artifact in another place, such as the registry, and has not
    done so."""
    changed_rows: Callable[[Workplace, ArtifactRef], str] = lambda workplace, ref: ""
    """Returns text for a message: the ids of rows that changed in files outside the store since the artifact was
    built."""
    reads_corpus: Callable[[Line], bool] = lambda line: False
    """Returns True if the stage reads or writes unscrubbed text, so that its process needs the corpus root."""
    selects_rows: bool = False
    """True if the stage's settings decide which rows are used, and at which level. If these settings change, downstream
    stages reject the stage's artifact as stale."""
    judges_what_is_recorded: bool = False
    """True if the stage evaluates an input as it was registered. Changes of the input's sources after that are ignored.
    """

    def inputs_of(self, line: Line) -> "tuple[Stage, ...]":
        """Return the stages whose artifacts this stage reads for a line."""
        read = self.reads_optional(line)
        return (*self.inputs, *(each for each in self.optional_inputs if each.kind in read))

    def config_at(self, workplace: Workplace) -> Config:
        """Return the parts of the recipe and the institution's policy that decide what the stage builds."""
        return {**self.config(workplace.line), **self.policy(workplace.institution, workplace.line)}

    def passthrough_input(self, line: Line) -> "Stage | None":
        """Return the input stage whose artifact this stage passes through, or None."""
        kind = self.passthrough_of(line)
        return next(each for each in self.inputs if each.kind == kind) if kind is not None else None


class Place(Protocol):
    """The store and the institution for which artifacts are built. `Workplace` implements this interface."""

    @property
    def store(self) -> ArtifactStore: ...

    @property
    def institution(self) -> Institution: ...


@dataclass(frozen=True)
class Production:
    ref: ArtifactRef
    reused: bool
    """True if a stored artifact of the same identity was verified and reused."""


@dataclass(frozen=True)
class Identity:
    """Everything that decides an artifact's bytes. A stored artifact with an equal identity is reused."""

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
    """Return the identity of the artifact that the stage would build from these inputs now."""
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
    return {name: importlib.metadata.version(name) for name in sorted(names)}


@cache
def source_digest() -> str:
    """Return a digest of the paths and contents of this package's files, so that a record states which code ran."""
    package = Path(__file__).resolve().parent.parent
    files = sorted(file for file in package.rglob("*") if file.is_file() and file.parent.name != "__pycache__")
    return digest_of({str(file.relative_to(package)): file_sha256(file) for file in files})


def find_artifact(workplace: Place, identity: Identity) -> ArtifactRef | None:
    """Return the stored artifact with exactly this identity, or None. Raises IntegrityError if the store's index points
    to an artifact with a different identity."""
    ref = workplace.store.find(identity.fingerprint)
    if ref is None:
        return None
    if stated_identity(workplace.store.read_manifest(ref)).fingerprint != identity.fingerprint:
        raise IntegrityError(
            f"{workplace.store.root / '.index'}: an entry for {identity.kind} points to {short(ref.digest)}, which has "
            "a different identity. Another program changed the store's index.",
            "Delete the index and run the line again. Find out who changed the index.",
        )
    return ref


def make_artifact(workplace: Place, identity: Identity, build: Callable[[Path], Built]) -> Production:
    """Build and store the artifact with this identity, or verify and reuse a stored one. Stores nothing on an error.

    Raises IntegrityError if a stored file changed, and any error of the build. If signing is impossible, raises the
    error of `Seals.assert_ready` before the build.
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
