"""`data/institution.yaml`: what holds for every line of one institution."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sovereign_pipeline.base.errors import RecipeError
from sovereign_pipeline.policy.classification import ClassificationLadder
from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, KINDS, Kind
from sovereign_pipeline.policy.recipe_model import RecipeModel, nearest_known, read_yaml
from sovereign_pipeline.policy.release import Release
from sovereign_pipeline.policy.rollout import Rollout
from sovereign_pipeline.policy.serving import Serving
from sovereign_pipeline.policy.trainer import Here, TrainerPlace

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
