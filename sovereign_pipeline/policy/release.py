"""`release` of `institution.yaml`: who must agree before an adapter changes its state.

What belongs here: how many officers each transition needs, and how long a request is good. What does not: which
officers there are and what each may approve, which the trust root says (`data/trust/`), and which transitions there are
(`release/standing.py`).
"""

from functools import lru_cache
from typing import Literal, TypeGuard, get_args

import yaml
from pydantic import Field

from sovereign_pipeline.policy.recipe_model import RecipeModel

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
