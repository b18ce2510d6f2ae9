"""`rollout` of `institution.yaml`: who gets a staged adapter before it may become the one in production.

What belongs here: the share and the groups. What does not: which adapter is staged, which officers decide
(`policy/release.py`), and how a user is assigned (`serving/flags/`).
"""

from typing import Annotated

from pydantic import Field

from sovereign_pipeline.policy.recipe_model import RecipeModel

Group = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Rollout(RecipeModel):
    """Who gets a line's staged adapter; everybody else gets the one in production."""

    share: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the users, drawn by a hash: who once gets the staged adapter keeps it, also when the share is raised. At
    most half: more would leave too few to compare with. 0: the groups alone."""

    groups: tuple[Group, ...] = Field(default=(), examples=[["pilot-desk"]])
    """Groups, as the institution's proxy names roles, whose members all get it."""
