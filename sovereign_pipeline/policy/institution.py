"""Define and load `institution.yaml`: classification levels, approvals, reviews and settings for every line of
adapters."""

import calendar
import datetime
import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, get_args

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from sovereign_pipeline.base.errors import RecipeError
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS, Kind
from sovereign_pipeline.policy.recipe_model import RecipeModel, nearest_known, read_yaml
from sovereign_pipeline.policy.serving import Rollout, Serving


@dataclass(frozen=True)
class ClassificationLadder:
    """An institution's classification levels in order."""

    levels: tuple[str, ...]
    """Levels from lowest to highest, such as PUBLIC, INTERNAL, CONFIDENTIAL, SECRET."""

    def __post_init__(self) -> None:
        spellings = {unicodedata.normalize("NFKC", level).casefold() for level in self.levels}
        if not self.levels or len(spellings) != len(self.levels) or not all(map(_is_a_name, self.levels)):
            raise RecipeError(
                f"The classification levels {list(self.levels)} are invalid. At least one level is needed. Two names "
                f"must differ in more than letter case. A name must not contain line breaks or surrounding spaces.",
                "Correct `classification` in institution.yaml.",
            )

    def __contains__(self, level: object) -> bool:
        return level in self.levels

    def rank(self, level: str) -> int:
        """Return the level's position, 0 for the lowest. Raises RecipeError for an unknown level."""
        if level not in self.levels:
            raise RecipeError(
                f"'{level}' is not a classification level.", f"Use one of these levels: {', '.join(self.levels)}."
            )
        return self.levels.index(level)

    def highest(self, levels: Iterable[str]) -> str:
        """Return the highest of `levels`, or the institution's lowest level if `levels` is empty."""
        return max(levels, key=self.rank, default=self.levels[0])

    def exceeds(self, level: str, ceiling: str) -> bool:
        return self.rank(level) > self.rank(ceiling)


def _is_a_name(level: str) -> bool:
    return level.isprintable() and level.strip() == level != ""


TransitionName = Literal[
    "approve", "stage", "unstage", "promote", "promote_urgently", "roll_back", "reject", "recall", "retire"
]

Approvals = dict[TransitionName, int]

APPROVALS_BY_DEFAULT: Approvals = {
    "approve": 2,
    "stage": 1,
    "unstage": 0,
    "promote": 2,
    "promote_urgently": 0,
    "roll_back": 0,
    "reject": 0,
    "recall": 0,
    "retire": 0,
}
"""Default number of approvals for each transition. Transitions that withdraw an adapter need no approval, so that they
take effect at once."""


class Release(RecipeModel):
    """The rules for changes of an adapter's state."""

    approvals: Approvals = Field(default={}, examples=[{"approve": 2, "promote": 2}])
    """Maps a transition to the number of different officers, besides the requester, who must approve it. With 0, the
    transition takes effect with the request. The defaults are approve 2, stage 1, promote 2, and 0 for all other
    transitions. `promote_urgently`, and `retire` of an adapter in production, need at least as many approvals as
    `promote`."""

    approvals_by_level: dict[str, Approvals] = Field(default={}, examples=[{"SECRET": {"promote": 3}}])
    """Maps a classification level to the numbers of approvals for adapters of this level. These numbers take precedence
    over those in `approvals`."""

    request_days: int = Field(default=14, ge=1)
    """Number of days for which a request can be approved."""

    staged_hours: int = Field(default=0, ge=0)
    """Minimum number of hours that an adapter must be staged before it may be promoted."""

    promote_without_hold: tuple[str, ...] = Field(default=(), examples=[["PUBLIC"]])
    """Classification levels at which an adapter may be promoted without a trial among users. At every other level
    `promote` requires that the trial (`rollout.hold`) passed, or that an officer accepted an inconclusive trial. A
    line's first adapter needs no trial, because the line has no adapter to compare with. `promote_urgently` does not
    need a trial either."""

    blind_review: Literal["required", "not_required"] = "required"
    """Rule for approving an adapter without a blind review. `required`: the review must be passed, or its gate
    waived."""

    def approvals_for(self, transition: TransitionName, level: str, before: str | None = None) -> int:
        """Return how many officers besides the requester must approve a transition at a classification level.

        Args:
            before: the adapter's state. Retiring an adapter in production needs the approvals of `promote`, because the
                line's next adapter is then promoted without a comparison.
        """
        chosen = {**APPROVALS_BY_DEFAULT, **self.approvals, **self.approvals_by_level.get(level, {})}
        if transition == "promote_urgently" or (transition, before) == ("retire", "production"):
            return max(chosen[transition], chosen["promote"])
        return chosen[transition]


def is_transition(name: str) -> TypeGuard[TransitionName]:
    """Return True if the rules define a transition with this name."""
    return name in get_args(TransitionName)


@lru_cache(maxsize=64)
def release_in(content: bytes) -> Release:
    """Read the release rules in a copy of `institution.yaml`. Ignores keys that this version does not know. Raises
    ValueError if the rules cannot be read."""
    try:
        section = yaml.safe_load(content).get("release") or {}
        return Release.model_validate({name: section[name] for name in Release.model_fields if name in section})
    except (yaml.YAMLError, AttributeError, TypeError, RecursionError):
        raise ValueError("the release rules cannot be read") from None


@lru_cache(maxsize=64)
def levels_in(content: bytes) -> tuple[str, ...]:
    """Return the classification levels, lowest first, in a copy of `institution.yaml`. Return an empty tuple if the
    levels cannot be read."""
    try:
        return tuple(map(str, yaml.safe_load(content)["classification"]))
    except (yaml.YAMLError, KeyError, TypeError, RecursionError, UnicodeDecodeError):
        return ()


Event = Literal["base_superseded", "template_changed", "source_withdrawn", "policy_changed"]

_LENGTH = re.compile(r"([1-9][0-9]{0,3}) (day|week|month|year)s?")
_MONTHS = {"month": 1, "year": 12}
_DAYS = {"day": 1, "week": 7}
LONGEST_DAYS = 3660
"""Longest review interval in days: ten years."""


class Cadence(RecipeModel):
    """The schedule on which the line's newest adapter is reviewed."""

    every: str | None = Field(default=None, examples=["6 months"])
    """Time from registration, or from the last review, to the next review: `90 days`, `2 weeks`, `6 months`, `1 year`;
    at most ten years. Null: the institution's `review_every_days`."""

    on: tuple[Event, ...] = Field(default=(), examples=[["base_superseded", "source_withdrawn"]])
    """Events that make a review due at once. `base_superseded`: the files of the recipe's base model differ from those
    of the adapter's. `template_changed`: the chat template or the instruction has changed. `source_withdrawn`: a source
    file is missing, the recipe no longer lists the source, or a recall applies to the adapter. `policy_changed`: the
    institution's classification levels, or its treatment of a kind of personal data in this line, have changed."""

    retrain: bool = False
    """Once a review is due, let Dagster run the line again on the current sources. A failed run is not retried
    automatically."""

    @field_validator("every")
    @classmethod
    def _is_a_length_of_time(cls, every: str | None) -> str | None:
        if every is None:
            return every
        if not _LENGTH.fullmatch(every):
            raise ValueError("write a number and days, weeks, months or years, such as '6 months'")
        number, unit = _parts(every)
        if number * (_DAYS.get(unit) or 30 * _MONTHS[unit]) > LONGEST_DAYS:
            raise ValueError("the longest interval is ten years")
        return every

    def next_day(self, since: datetime.date, institutions_days: int) -> datetime.date:
        """Return the day on which the next review is due, counted from `since`."""
        if self.every is None:
            return since + datetime.timedelta(days=institutions_days)
        number, unit = _parts(self.every)
        if unit in _DAYS:
            return since + datetime.timedelta(days=number * _DAYS[unit])
        years, month = divmod(since.month - 1 + number * _MONTHS[unit], 12)
        year = since.year + years
        return datetime.date(year, month + 1, min(since.day, calendar.monthrange(year, month + 1)[1]))

    def period(self, due: datetime.date) -> str:
        """Return the name of the period in which a review is due, such as `2027-H1`, `2027-Q2`, `2027-03` or `2027`, or
        the day itself. A period is never longer than the time between two reviews, so its name is unique."""
        number, unit = _parts(self.every) if self.every is not None else (0, "day")
        months = number * _MONTHS.get(unit, 0)
        if months == 0 or (months not in (1, 3, 6) and months % 12):
            return due.isoformat()
        if months == 1:
            return f"{due.year}-{due.month:02d}"
        if months in (3, 6):
            return f"{due.year}-{'Q' if months == 3 else 'H'}{(due.month - 1) // months + 1}"
        return f"{due.year}"


def _parts(every: str) -> tuple[int, str]:
    number, unit = every.split()
    return int(number), unit.removesuffix("s")


EARLIEST, LATEST = 1800, 2100
"""First and last accepted year. Earlier years are from another calendar (Hijri). Later years are placeholders."""


def iso_day(text: str) -> datetime.date:
    """Parse an ISO date, with or without a time, in digits of any script. Raises ValueError for other text and for a
    year out of range. The error's message continues a sentence that begins with the field's name, and does not quote
    the text."""
    digits = "".join(str(unicodedata.decimal(each, each)) for each in text.strip())
    try:
        day = datetime.datetime.fromisoformat(digits).date()
    except ValueError:
        raise ValueError("is not an ISO date, such as 2024-12-31") from None
    if not EARLIEST <= day.year <= LATEST:
        raise ValueError(f"is not between the years {EARLIEST} and {LATEST} (a typing error, or another calendar)")
    return day


def _absolute(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError(f"'{path}' must be an absolute path without '..'")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
"""A DNS subdomain name (RFC 1123), the form that Kubernetes requires for the names of most objects."""


class Here(RecipeModel):
    """Run the trainer as a child process on the machine that runs the step."""

    where: Literal["here"] = "here"
    """Run the trainer on the machine that runs the step."""


class Volume(RecipeModel):
    """A persistent volume claim, and its mount path in the trainer's pods."""

    claim: Name
    """Name of the persistent volume claim."""

    path: AbsolutePath = Field(examples=["/srv/sovereign"])
    """Mount path in the pod. It must be the same path that Dagster uses."""

    read_only: bool = False
    """Mount the volume read-only."""


class Toleration(RecipeModel):
    """A pod's toleration: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/"""

    key: str
    """Key of the taint."""

    operator: Literal["Exists", "Equal"] = "Exists"
    """Comparison of key and value with the taint."""

    value: str | None = None
    """Value of the taint, for `Equal`."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; null: any."""


class Kubernetes(RecipeModel):
    """Start each training run as a `TrainJob` of Kubeflow Trainer, with one pod on each node."""

    where: Literal["kubernetes"]
    """Run the trainer on Kubernetes."""

    image: str = Field(min_length=1, examples=["registry.internal/sovereign-pipeline:0.1.0"])
    """Container image that contains the same version of this program, and its libraries."""

    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")]
    """Namespace of the jobs."""

    runtime: Name = "sovereign-trainer"
    """Name of the `TrainingRuntime` in the namespace; `deploy/kubernetes.yaml` defines it."""

    queue: Name | None = None
    """Kueue LocalQueue in which the jobs wait; null: none."""

    volumes: tuple[Volume, ...] = Field(min_length=1)
    """Volumes that the pods mount. They must contain everything that the trainer reads and writes."""

    interface: str = Field(default="eth0", pattern=r"^[A-Za-z0-9_.:-]{1,15}$")
    """Network interface of the pods, through which several nodes exchange tensors."""

    devices_per_node: int = Field(default=1, ge=1)
    """Number of devices that a training run uses on each node. A line with more devices (`training.devices.count`)
    trains on several nodes."""

    gpu_resource: str | None = "nvidia.com/gpu"
    """Resource name of the devices in the cluster; null: train on CPUs."""

    python: str = "python"
    """Python interpreter in the image."""

    kubeconfig: AbsolutePath | None = None
    """File with the cluster's address and credentials. Null: the service account of Dagster's pod; outside a cluster,
    the user's own kubeconfig."""

    service_account: Name | None = None
    """Service account of the pods. The pods get no token of this account."""

    image_pull_secrets: tuple[Name, ...] = ()
    """Secrets for pulling the image."""

    node_selector: dict[str, str] = Field(default={}, examples=[{"gpu": "h100"}])
    """Labels, with their values, of the nodes that may run the pods."""

    tolerations: tuple[Toleration, ...] = ()
    """Taints that the pods tolerate."""

    memory_gib: int | None = Field(default=None, ge=1)
    """Memory, in GiB, of each pod: both its request and its limit."""

    cpus: float | None = Field(default=None, gt=0)
    """Number of CPU cores that are requested for each pod."""


class Ray(RecipeModel):
    """Run the trainer as a job on a Ray cluster."""

    where: Literal["ray"]
    """Run the trainer on a Ray cluster."""

    address: str = Field(pattern=r"^https?://[^/\s]+/?$", examples=["http://ray-head:8265"])
    """URL of the head node's dashboard, which accepts jobs."""

    python: str = "python"
    """Python interpreter on the nodes, with this program at the same version."""

    devices_per_node: int | None = Field(default=None, ge=1)
    """Number of devices that a training run uses on each node. A line with more devices (`training.devices.count`)
    trains on several nodes. Null: every line trains on one node."""

    interface: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_.:-]{1,15}$", examples=["ib0"])
    """Network interface through which several nodes exchange tensors. It has the same name on every node."""

    gpus: float = Field(default=1, ge=0)
    """Number of devices that Ray reserves for the job on each of its nodes."""

    cpus: float | None = Field(default=None, gt=0)
    """Number of CPU cores that Ray reserves for the job on each of its nodes."""

    memory_gib: int | None = Field(default=None, ge=1)
    """Memory, in GiB, that Ray reserves for the job on each of its nodes."""

    resources: dict[str, float] = {}
    """Additional resources that Ray reserves on each node. Maps a resource's name in the cluster to the amount."""


OWN_SBATCH_OPTIONS = (
    *("array", "batch", "chdir", "clusters", "error", "export", "export-file", "get-user-env", "help", "hold"),
    *("input", "job-name", "nodes", "no-requeue", "ntasks", "ntasks-per-node", "open-mode", "output", "parsable"),
    *("quiet", "requeue", "signal", "test-only", "uid", "usage", "version", "wait", "wrap"),
)
"""Options of sbatch that the rules must not set: the launcher sets them, or could not monitor a job with them."""


class Slurm(RecipeModel):
    """Start each training run as a job of Slurm."""

    where: Literal["slurm"]
    """Run the trainer on a Slurm cluster."""

    interface: str = Field(pattern=r"^[A-Za-z0-9_.:-]{1,15}$", examples=["ib0"])
    """Network interface through which several nodes exchange tensors. It has the same name on every node."""

    devices_per_node: int = Field(default=1, ge=1)
    """Number of devices that a training run uses on each node. A line with more devices (`training.devices.count`)
    trains on several nodes."""

    gpu_resource: str | None = Field(default="gpu", pattern=r"^[A-Za-z0-9_.:-]+$", examples=["gpu:h100"])
    """Slurm generic resource (GRES) that is requested for each device; null: train on CPUs."""

    python: str = "python3"
    """Python interpreter on the nodes, with this program at the same version."""

    partition: str | None = None
    """Slurm partition of the job; null: the cluster's default partition."""

    account: str | None = None
    """Account to which Slurm charges the job; null: the user's default."""

    time: str | None = Field(default=None, pattern=r"^[0-9]+(-[0-9]+)?(:[0-9]+){0,2}$", examples=["1-00:00:00"])
    """Time limit of a job, in the format of sbatch and in quotes; null: the partition's limit. A training run that
    reaches the limit saves a checkpoint and is submitted again."""

    cpus: int | None = Field(default=None, ge=1)
    """Number of CPU cores for each device; null: the cluster's default."""

    memory_gib: int | None = Field(default=None, ge=1)
    """Memory, in GiB, on each node; null: the cluster's default."""

    sbatch: tuple[str, ...] = Field(default=(), examples=[["--constraint=h100", "--qos=training"]])
    """Additional long options of sbatch, each with its value."""

    @field_validator("sbatch")
    @classmethod
    def _options_are_free(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        for option in options:
            name = option.removeprefix("--").partition("=")[0]
            if not re.fullmatch(r"--[a-z][a-z-]*(=.+)?", option):
                raise ValueError(f"'{option}': write a long option with its value, such as --qos=training")
            if any(own.startswith(name) for own in OWN_SBATCH_OPTIONS):  # sbatch accepts abbreviations
                raise ValueError(f"'{option}' changes an option that the launcher sets")
        return options


TrainerPlace = Annotated[Here | Kubernetes | Ray | Slurm, Field(discriminator="where")]


Treatment = Literal["replace", "keep", "stop"]
"""Treatment of one kind of personal data: replace it by a placeholder, keep it, or stop the line of adapters."""


def _of_known_kinds(treatments: Any) -> Any:
    for kind in treatments if isinstance(treatments, dict) else ():
        if kind not in KINDS:
            raise ValueError(f"'{kind}' is not a kind of personal data; {nearest_known(str(kind), KINDS)}")
    return treatments


Treatments = Annotated[dict[Kind, Treatment], BeforeValidator(_of_known_kinds)]


class Institution(RecipeModel):
    """The rules that apply to every line of an institution."""

    name: str = Field(examples=["Ministry of Coasts and Small Harbours"])
    """Name of the institution in reports."""

    classification: tuple[str, ...] = Field(min_length=1, examples=[["PUBLIC", "INTERNAL", "CONFIDENTIAL", "SECRET"]])
    """Classification levels, lowest first. The level of derived data only rises."""

    review_every_days: int = Field(default=180, ge=1)
    """Days after which a registered adapter must be reviewed, if its line's recipe has no `review.every`."""

    sensitive: Treatments = Field(default={}, examples=[{"NAME": "replace", "PLACE": "keep", "CARD": "stop"}])
    """Maps a kind of personal data to its treatment. `replace` replaces the data by a placeholder, `keep` keeps it, and
    `stop` stops the line at the row. By default every kind is replaced, except URL, PLACE, ORGANISATION, NATIONALITY,
    DATE and AGE, which are kept."""

    sensitive_by_line: dict[str, Treatments] = Field(default={}, examples=[{"permits-desk": {"CARD": "stop"}}])
    """Maps a line to treatments for this line only. These treatments take precedence over those in `sensitive`."""

    vault_key: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Fingerprint of the vault's public key, which `sovereign-vault keygen` prints. Any other key stops every line.
    Null: the first key is trusted, and from then on only the key of the newest scrubbed corpus."""

    release: Release = Release()
    """Rules for changes of an adapter's state: the approvals, and how long a request is valid."""

    rollout: Rollout = Rollout()
    """Rules that select the users who get a staged adapter."""

    rollout_by_line: dict[str, Rollout] = Field(default={}, examples=[{"permits-desk": {"share": 0.2}}])
    """Maps a line to its own rollout rules. For this line, they replace all rules in `rollout`."""
    serving: Serving = Serving()
    """Permissions of the gateway's callers, limits, and engine."""

    trainer: TrainerPlace = Here()
    """Place where the trainer's process runs. The place is not part of any artifact's identity."""

    device_watts: float | None = Field(default=None, gt=0, le=100_000, examples=[700])
    """Mean power, in watts, of one device during training: of a GPU with its share of the machine, or of a machine
    without GPUs. If the devices have no readable energy counters, the energy of a training run is computed from this
    power. Null: the energy of such a run is unknown."""

    @field_validator("classification")
    @classmethod
    def _each_level_once(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(levels)) != len(levels):
            raise ValueError("each classification level may be listed only once")
        return levels

    @field_validator("trainer", mode="before")
    @classmethod
    def _place_is_named(cls, trainer: Any) -> Any:
        if isinstance(trainer, dict) and "where" not in trainer:
            raise ValueError("the key 'where' is missing; set it to here, kubernetes, ray or slurm")
        return trainer

    @model_validator(mode="after")
    def _levels_are_known(self) -> "Institution":
        named = [("release.approvals_by_level", each) for each in self.release.approvals_by_level]
        named += [("release.promote_without_hold", each) for each in self.release.promote_without_hold]
        named += [(f"serving.roles.{name}", role.clearance) for name, role in self.serving.roles.items()]
        for key, level in named:
            if level not in self.classification:
                known = nearest_known(level, self.classification)
                raise ValueError(f"{key}: '{level}' is not a classification level; {known}")
        return self

    @cached_property
    def ladder(self) -> ClassificationLadder:
        return ClassificationLadder(self.classification)

    def rollout_of(self, line: str) -> Rollout:
        """Return the rules that select the users whom a line's staged adapter answers."""
        return self.rollout_by_line.get(line, self.rollout)

    def treatments(self, line: str) -> Treatments:
        """Return the treatment of every kind of personal data in this line."""
        chosen = {**self.sensitive, **self.sensitive_by_line.get(line, {})}
        return {kind: chosen.get(kind, "keep" if kind in KEPT_BY_DEFAULT else "replace") for kind in KINDS}


def load_institution(data: Path, content: bytes | None = None) -> Institution:
    """Read `institution.yaml`. Raises RecipeError for a missing or invalid file, and for a rule or role that names a
    line or base model that does not exist.

    Args:
        content: the file's bytes, if they were read already.
    """
    path = data / "institution.yaml"
    if not path.is_file():
        raise RecipeError(
            f"{path}: there is no such file.",
            "Set the variable SOVEREIGN_DATA to your data directory, or create a data directory with `sovereign init`.",
        )
    institution = read_yaml(Institution, path, content=content)
    lines = sorted(file.stem for file in (data / "lines").glob("*.yaml"))
    named = [(f"sensitive_by_line.{line}", line) for line in institution.sensitive_by_line]
    named += [(f"rollout_by_line.{line}", line) for line in institution.rollout_by_line]
    named += [(f"serving.lines.{line}", line) for line in institution.serving.lines]
    for name, role in institution.serving.roles.items():
        named += [(f"serving.roles.{name}.lines.{line}", line) for line in role.lines or ()]
    models = sorted(file.stem for file in (data / "models").glob("*.yaml"))
    of_models = [(f"serving.base_models.{model}", model) for model in institution.serving.base_models]
    for what, names, known in (("line", named, lines), ("base model", of_models, models)):
        for key, name in names:
            if name not in known:
                raise RecipeError(
                    f"{path}: '{key}': there is no such {what}; {nearest_known(name, known)}",
                    "Correct the name, or remove the entry.",
                )
    return institution
