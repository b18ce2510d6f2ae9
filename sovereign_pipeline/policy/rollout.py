"""`rollout` of `institution.yaml`: who gets a staged adapter before it may become the one in production.

What belongs here: the share, the groups and the margins. What does not: which adapter is staged, which officers decide
(`policy/release.py`), and how a user is assigned (`serving/rollout/`).
"""

import math
from typing import Annotated

from pydantic import Field

from sovereign_pipeline.policy.recipe_model import RecipeModel

Group = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]

Margin = Annotated[float, Field(gt=0, le=1)]


class Hold(RecipeModel):
    """What a staged adapter must show among the users that are drawn, and by how much it may be worse."""

    days: int = Field(default=7, ge=1, le=60)
    """Days before it is judged as good. 7: every weekday is in it."""

    users: int = Field(default=20, ge=10)
    """Users of each of both adapters before it is judged as good."""

    answers: int = Field(default=200, ge=50)
    """Answers of each of both adapters before it is judged as good."""

    lost: Margin = 0.02
    """Largest accepted rise in the share of answers that the engine begins and does not complete."""

    given_up: Margin = 0.05
    """Largest accepted rise in the share of answers that callers do not wait for."""

    empty: Margin = 0.02
    """Largest accepted rise in the share of empty answers."""

    looping: Margin = 0.05
    """Largest accepted rise in the share of answers that fall into repetition."""

    other_script: Margin = 0.05
    """Largest accepted rise in the share of answers in another script than their request, as Latin to an Arabic one."""

    slower: Margin = 0.25
    """Largest accepted rise in the time that an answer takes or is waited for, as a share of it (geometric mean)."""

    longer: Margin = 0.5
    """Largest accepted rise in the tokens of an answer, as a share of them (geometric mean)."""

    shorter: Margin = 0.5
    """Largest accepted fall in the same, counted the other way: 0.5 where the other one's are half as long again."""

    disliked: Margin = 0.02
    """Largest accepted rise in the share of answers that get the thumb down."""

    personal_data: Margin = 0.02
    """Largest accepted rise in the share of answers that hold personal data which the caller did not give. Compared
    where the line's answers are searched: `serving.lines.<line>.privacy.answers`."""

    def margin_of(self, measure: str) -> float:
        """The margin of a measure: of shares as it is, of the others as a logarithm of the ratio."""
        margin: float = getattr(self, measure)
        return math.log1p(margin) if measure in ("slower", "longer", "shorter") else margin


class Rollout(RecipeModel):
    """Who gets a line's staged adapter; everybody else gets the one in production."""

    share: float = Field(default=0.1, ge=0, le=0.5)
    """Share of the users, drawn by a hash: who once gets the staged adapter keeps it, also when the share is raised. At
    most half: more would leave too few to compare with. 0: the groups alone."""

    groups: tuple[Group, ...] = Field(default=(), examples=[["pilot-desk"]])
    """Groups, as the institution's proxy names roles, whose members all get it."""

    hold: Hold = Hold()
    """What it must show meanwhile."""
