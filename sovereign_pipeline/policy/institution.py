"""The institution file: classification levels, approvals, reviews and what all lines share."""

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
from pydantic import AfterValidator, Field, field_validator, model_validator

from sovereign_pipeline.base.errors import RecipeError
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS, Kind
from sovereign_pipeline.policy.recipe_model import RecipeModel, nearest_known, read_yaml
from sovereign_pipeline.policy.serving import Rollout, Serving


@dataclass(frozen=True)
class ClassificationLadder:
    """The classification levels of one institution."""

    levels: tuple[str, ...]
    """From lowest to highest, such as PUBLIC, INTERNAL, CONFIDENTIAL, SECRET."""

    def __post_init__(self) -> None:
        if not self.levels or len(set(self.levels)) != len(self.levels):
            raise RecipeError(
                f"The classification ladder {list(self.levels)} must hold at least one level, each named once.",
                "Correct `classification` in institution.yaml.",
            )

    def __contains__(self, level: object) -> bool:
        return level in self.levels

    def rank(self, level: str) -> int:
        """Position on the ladder, 0 for the lowest. Raises RecipeError for a name that is not a level."""
        if level not in self.levels:
            raise RecipeError(
                f"'{level}' is not a classification level.", f"Use one of the ladder: {', '.join(self.levels)}."
            )
        return self.levels.index(level)

    def highest(self, levels: Iterable[str]) -> str:
        """The highest of the given levels; the lowest level of the ladder when there are none."""
        return max(levels, key=self.rank, default=self.levels[0])

    def exceeds(self, level: str, ceiling: str) -> bool:
        """Whether a level lies above a ceiling."""
        return self.rank(level) > self.rank(ceiling)


TransitionName = Literal["approve", "stage", "unstage", "promote", "roll_back", "reject", "recall", "retire"]

Approvals = dict[TransitionName, int]

APPROVALS_BY_DEFAULT: Approvals = {
    "approve": 2,
    "stage": 1,
    "unstage": 0,
    "promote": 2,
    "roll_back": 0,
    "reject": 0,
    "recall": 0,
    "retire": 0,
}
"""What takes an adapter further needs others; what takes one back must not wait for them."""


class Release(RecipeModel):
    """What a change of an adapter's state needs."""

    approvals: Approvals = Field(default={}, examples=[{"approve": 2, "promote": 2}])
    """Transition -> how many officers besides the requester approve it, each another person. At 0 it takes effect with
    the request. One that is not named has its default: approve 2, stage 1, promote 2, the others 0."""

    approvals_by_level: dict[str, Approvals] = Field(default={}, examples=[{"SECRET": {"promote": 3}}])
    """Classification level -> the same for adapters of this level; it takes precedence over `approvals`."""

    request_days: int = Field(default=14, ge=1)
    """Days for which a request can be approved."""

    staged_hours: int = Field(default=0, ge=0)
    """Hours for which an adapter must have been staged before it may be promoted."""

    promote_without_hold: tuple[str, ...] = Field(default=(), examples=[["PUBLIC"]])
    """Classification levels at which an adapter is promoted without a hold among users. At every other level `promote`
    needs that the hold was judged to promote, or that an officer accepted it once; but for a line's first adapter,
    which nothing can be compared with."""

    blind_review: Literal["required", "not_required"] = "required"
    """Whether an adapter must have passed a blind review, or an officer waived its gate, before it is approved."""

    def approvals_for(self, transition: TransitionName, level: str) -> int:
        """How many officers besides the requester a transition needs at a classification level."""
        chosen = {**APPROVALS_BY_DEFAULT, **self.approvals, **self.approvals_by_level.get(level, {})}
        return chosen[transition]


def is_transition(name: str) -> TypeGuard[TransitionName]:
    """Whether rules are about a transition of this name."""
    return name in get_args(TransitionName)


@lru_cache(maxsize=64)
def release_in(content: bytes) -> Release:
    """The rules of a copy of `institution.yaml`, which may have keys that only another version knows.

    Raises ValueError where there is none to read.
    """
    try:
        section = yaml.safe_load(content).get("release") or {}
        return Release.model_validate({name: section[name] for name in Release.model_fields if name in section})
    except (yaml.YAMLError, AttributeError, TypeError, RecursionError):
        raise ValueError("no rules") from None


Event = Literal["base_superseded", "template_changed", "source_withdrawn", "policy_changed"]

_LENGTH = re.compile(r"([1-9][0-9]{0,3}) (day|week|month|year)s?")
_MONTHS = {"month": 1, "year": 12}
_DAYS = {"day": 1, "week": 7}
LONGEST_DAYS = 3660
"""Ten years: what is reviewed later is not reviewed."""


class Cadence(RecipeModel):
    """When the line's newest adapter is reviewed."""

    every: str | None = Field(default=None, examples=["6 months"])
    """Time from registration, or from the last review, to the next review: `90 days`, `2 weeks`, `6 months`, `1 year`;
    ten years at most. It takes precedence over `review_every_days` of the institution; null: that holds."""

    on: tuple[Event, ...] = Field(default=(), examples=[["base_superseded", "source_withdrawn"]])
    """What makes a review due at once. `base_superseded`: the recipe's base model has other files than the adapter's.
    `template_changed`: the chat template or the instruction is another one. `source_withdrawn`: a source file is gone,
    the recipe no longer names the source, or a recall holds for the adapter. `policy_changed`: the institution's
    ladder, or what it does with a kind of personal data in this line, is another one."""

    retrain: bool = False
    """Whether Dagster runs the chain again once a review is due: the same recipe on today's sources. A run that fails
    is not repeated by itself."""

    @field_validator("every")
    @classmethod
    def _is_a_length_of_time(cls, every: str | None) -> str | None:
        if every is None:
            return every
        if not _LENGTH.fullmatch(every):
            raise ValueError("write a number and days, weeks, months or years, such as '6 months'")
        number, unit = _parts(every)
        if number * (_DAYS.get(unit) or 30 * _MONTHS[unit]) > LONGEST_DAYS:
            raise ValueError("ten years is the longest")
        return every

    def next_day(self, since: datetime.date, institutions_days: int) -> datetime.date:
        """The day of the review after this one."""
        if self.every is None:
            return since + datetime.timedelta(days=institutions_days)
        number, unit = _parts(self.every)
        if unit in _DAYS:
            return since + datetime.timedelta(days=number * _DAYS[unit])
        years, month = divmod(since.month - 1 + number * _MONTHS[unit], 12)
        year = since.year + years
        return datetime.date(year, month + 1, min(since.day, calendar.monthrange(year, month + 1)[1]))

    def period(self, due: datetime.date) -> str:
        """The period in which a review is due: `2027-H1`, `2027-Q2`, `2027-03`, `2027`, or the day itself.

        It is never longer than the time between two reviews, so no two have one name.
        """
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
"""Years. An earlier one is of another calendar (1446 is 2024 in the Hijri one), a later one stands for no date."""


def iso_day(text: str) -> datetime.date:
    """The day of an ISO date, with or without a time, in digits of any script.

    Raises ValueError, which does not quote the text and goes on a sentence that begins with the date's name.
    """
    digits = "".join(str(unicodedata.decimal(each, each)) for each in text.strip())
    try:
        day = datetime.datetime.fromisoformat(digits).date()
    except ValueError:
        raise ValueError("is not an ISO date, such as 2024-12-31") from None
    if not EARLIEST <= day.year <= LATEST:
        raise ValueError(f"is not between the years {EARLIEST} and {LATEST}: a slip, or of another calendar")
    return day


def _absolute(path: Path) -> Path:
    if not path.is_absolute() or ".." in path.parts:
        raise ValueError(f"'{path}' must be an absolute path without '..'")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$")]
"""A DNS label as Kubernetes requires it of namespaces, claims and accounts (RFC 1123)."""


class Here(RecipeModel):
    """On the machine that runs the step, as its child process."""

    where: Literal["here"] = "here"
    """On the machine that runs the step."""


class Volume(RecipeModel):
    """A persistent volume claim, and where the trainer's pod mounts it."""

    claim: Name
    """Name of the persistent volume claim."""

    path: AbsolutePath = Field(examples=["/srv/sovereign"])
    """Where the pod mounts it: the same path that it has for Dagster."""

    read_only: bool = False
    """Mount it for reading only."""


class Toleration(RecipeModel):
    """A pod's toleration: https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/"""

    key: str
    """Key of the taint."""

    operator: Literal["Exists", "Equal"] = "Exists"
    """How key and value are compared with the taint's."""

    value: str | None = None
    """Value of the taint, for `Equal`."""

    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Effect of the taint; null: any."""


class Kubernetes(RecipeModel):
    """On Kubernetes, in a pod of its own for each training."""

    where: Literal["kubernetes"]
    """On Kubernetes."""

    image: str = Field(min_length=1, examples=["registry.internal/sovereign-pipeline:0.1.0"])
    """Container image that holds this program at the same version, with its libraries."""

    namespace: Name
    """Namespace of the pods."""

    volumes: tuple[Volume, ...] = Field(min_length=1)
    """Volumes that the pod mounts; they must hold everything that the trainer reads and writes."""

    python: str = "python"
    """The interpreter in the image."""

    kubeconfig: AbsolutePath | None = None
    """File with the cluster's address and credentials; null: the service account of the pod that Dagster runs in, or
    else the user's own file."""

    service_account: Name | None = None
    """Service account of the trainer's pod, which is given no token of it."""

    image_pull_secrets: tuple[Name, ...] = ()
    """Secrets with which the image is pulled."""

    node_selector: dict[str, str] = Field(default={}, examples=[{"gpu": "h100"}])
    """Label -> value of the nodes that may run the pod."""

    tolerations: tuple[Toleration, ...] = ()
    """Taints that the pod tolerates."""

    gpus: int = Field(default=1, ge=0)
    """Devices that are requested."""

    gpu_resource: str = "nvidia.com/gpu"
    """The cluster's resource name of the devices."""

    memory_gib: int | None = Field(default=None, ge=1)
    """Memory, in GiB: requested, and the limit."""

    cpus: float | None = Field(default=None, gt=0)
    """CPU cores that are requested."""


class Ray(RecipeModel):
    """On a Ray cluster, as a job."""

    where: Literal["ray"]
    """On a Ray cluster."""

    address: str = Field(pattern=r"^https?://[^/\s]+/?$", examples=["http://ray-head:8265"])
    """URL of the head's dashboard, which accepts jobs."""

    python: str = "python"
    """The interpreter on the nodes, with this program at the same version."""

    gpus: float = Field(default=1, ge=0)
    """Devices that Ray reserves for the job."""

    cpus: float | None = Field(default=None, gt=0)
    """CPU cores that Ray reserves for the job."""

    memory_gib: int | None = Field(default=None, ge=1)
    """Memory, in GiB, that Ray reserves for the job."""

    resources: dict[str, float] = {}
    """Further resources that Ray reserves for the job: name in the cluster -> amount."""


TrainerPlace = Annotated[Here | Kubernetes | Ray, Field(discriminator="where")]


Treatment = Literal["replace", "keep", "stop"]
"""What is done with personal data of one kind: a placeholder takes its place, it stays, or it stops the line."""

Treatments = dict[Kind, Treatment]


class Institution(RecipeModel):
    """What holds for every line of one institution."""

    name: str = Field(examples=["Ministry of Coasts and Small Harbours"])
    """The institution's name, as reports show it."""

    classification: tuple[str, ...] = Field(min_length=1, examples=[["PUBLIC", "INTERNAL", "CONFIDENTIAL", "SECRET"]])
    """The classification ladder, lowest level first. Levels only rise."""

    review_every_days: int = Field(default=180, ge=1)
    """Days after which a registered adapter must be reviewed, where the recipe of its line has no `review.every`."""

    sensitive: Treatments = Field(default={}, examples=[{"NAME": "replace", "PLACE": "keep", "CARD": "stop"}])
    """Kind of personal data -> what is done with it: `replace` by a placeholder, `keep`, or `stop` the line at the row.
    A kind that is not named is replaced, except URL, PLACE, ORGANISATION, NATIONALITY, DATE and AGE, which are kept."""

    sensitive_by_line: dict[str, Treatments] = Field(default={}, examples=[{"permits-desk": {"CARD": "stop"}}])
    """Line -> the same for this line alone; it takes precedence over `sensitive`."""

    vault_key: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    """Fingerprint of the vault's public key, as `sovereign-vault keygen` prints it: another key in its place stops
    every line. Null: it must be the key that the newest scrubbed corpus was sealed to, and the first one is trusted."""

    release: Release = Release()
    """What a change of an adapter's state needs: who agrees, and how long a request is good."""

    rollout: Rollout = Rollout()
    """Who gets a staged adapter."""

    rollout_by_line: dict[str, Rollout] = Field(default={}, examples=[{"permits-desk": {"share": 0.2}}])
    """Line -> the same for this line alone; it takes the place of `rollout` as a whole."""
    serving: Serving = Serving()
    """What callers of the gateway may use, and how much of it."""

    trainer: TrainerPlace = Here()
    """Where the trainer's process runs. It is part of no artifact's identity."""

    @field_validator("classification")
    @classmethod
    def _each_level_once(cls, levels: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(levels)) != len(levels):
            raise ValueError("each classification level may be named once only")
        return levels

    @field_validator("sensitive", mode="before")
    @classmethod
    def _kinds_are_known(cls, treatments: Any) -> Any:
        for kind in treatments if isinstance(treatments, dict) else ():
            if kind not in KINDS:
                raise ValueError(f"'{kind}' is not a kind of personal data; {nearest_known(str(kind), KINDS)}")
        return treatments

    @field_validator("sensitive_by_line", mode="before")
    @classmethod
    def _kinds_by_line_are_known(cls, by_line: Any) -> Any:
        for treatments in by_line.values() if isinstance(by_line, dict) else ():
            cls._kinds_are_known(treatments)
        return by_line

    @field_validator("trainer", mode="before")
    @classmethod
    def _place_is_named(cls, trainer: Any) -> Any:
        if isinstance(trainer, dict) and "where" not in trainer:
            raise ValueError("say where the trainer runs: where: here, kubernetes or ray")
        return trainer

    @model_validator(mode="after")
    def _levels_of_release_are_known(self) -> "Institution":
        named = [("approvals_by_level", each) for each in self.release.approvals_by_level]
        named += [("promote_without_hold", each) for each in self.release.promote_without_hold]
        for field, level in named:
            if level not in self.classification:
                raise ValueError(
                    f"release.{field}: '{level}' is no classification level; "
                    f"{nearest_known(level, self.classification)}"
                )
        return self

    @model_validator(mode="after")
    def _levels_of_roles_are_known(self) -> "Institution":
        for name, role in self.serving.roles.items():
            if role.clearance not in self.classification:
                raise ValueError(
                    f"serving.roles.{name}: '{role.clearance}' is no classification level; "
                    f"{nearest_known(role.clearance, self.classification)}"
                )
        return self

    @cached_property
    def ladder(self) -> ClassificationLadder:
        """The classification levels in their order."""
        return ClassificationLadder(self.classification)

    def rollout_of(self, line: str) -> Rollout:
        """Who gets a staged adapter of a line."""
        return self.rollout_by_line.get(line, self.rollout)

    def treatments(self, line: str) -> Treatments:
        """What is done with each kind of personal data in this line; every kind is a key."""
        chosen = {**self.sensitive, **self.sensitive_by_line.get(line, {})}
        return {kind: chosen.get(kind, "keep" if kind in KEPT_BY_DEFAULT else "replace") for kind in KINDS}


def load_institution(data: Path) -> Institution:
    """Read `institution.yaml`. Raises RecipeError, also for a policy or a role of a line that does not exist: it would
    protect nobody."""
    path = data / "institution.yaml"
    institution = read_yaml(Institution, path)
    lines = sorted(file.stem for file in (data / "lines").glob("*.yaml"))
    named = [(f"sensitive_by_line.{line}", line) for line in institution.sensitive_by_line]
    named += [(f"serving.lines.{line}", line) for line in institution.serving.lines]
    for name, role in institution.serving.roles.items():
        named += [(f"serving.roles.{name}.lines.{line}", line) for line in role.lines or ()]
    for key, line in named:
        if line not in lines:
            raise RecipeError(
                f"{path}: '{key}': there is no such line; {nearest_known(line, lines)}",
                "Correct the name, or remove the entry.",
            )
    return institution
