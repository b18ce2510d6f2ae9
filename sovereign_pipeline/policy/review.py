"""`gates.review` of a recipe: the blind comparison by people before a candidate may be released.

What belongs here: who rates how much, what is pre-registered, who may close early. What does not: how a review is run
(`review/`). The seed of its arms is no key: it is drawn when the review is opened and sealed until it is closed.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from sovereign_pipeline.policy.recipe_model import RecipeModel

Criterion = Literal["accuracy", "helpfulness", "tone"]
OfficerMay = Literal["nothing", "accept_inconclusive"]
CRITERIA: tuple[Criterion, ...] = ("accuracy", "helpfulness", "tone")

FEWEST_OPERATORS, MOST_OPERATORS = 5, 10

OperatorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]
"""As an institution's proxy names a person: no spaces, so that it can be in a header and in a list."""


class Review(RecipeModel):
    """A blind review of one candidate against what it would replace."""

    operators: int | tuple[OperatorName, ...] = Field(
        default=FEWEST_OPERATORS, examples=[["amal", "badr", "dana", "eid", "fay"]]
    )
    """The operators' names, or how many there are, named when the review is opened; 5 to 10. The interval depends on
    the number of operators, not of ballots: it is twice as wide with five as with a hundred (Student's t)."""

    prompts_each: int = Field(default=20, ge=2, multiple_of=2)
    """Prompts that one operator alone sees; even, so that each arm is A exactly half the time."""

    shared_prompts: int = Field(default=2, ge=0, multiple_of=2)
    """Further prompts that every operator rates. They serve the agreement alone: counted with the others, one prompt
    would weigh as much as all operators together."""

    guess_pairs: int = Field(default=4, ge=2, multiple_of=2)
    """Pairs that an operator sees again at the end, to guess which answer is the candidate's; even."""

    criteria: tuple[Criterion, ...] = Field(default=CRITERIA, min_length=1)
    """What each pair is rated by."""

    max_new_tokens: int = Field(default=256, ge=8)
    """Longest answer, in tokens."""

    batch_size: int = Field(default=8, ge=1)
    """Prompts answered at once."""

    ballots: int | None = Field(default=None, ge=1)
    """The pre-registered number of ballots at which the review may be closed; null: every pair of every operator."""

    margin: float = Field(default=0.0, ge=0, le=1)
    """Largest accepted loss of the net preference (share of pairs won minus share lost). At 0 a candidate that is truly
    worse passes at most 2.5 % of reviews; one as good as the other is nearly always inconclusive."""

    officer_may: OfficerMay = "nothing"
    """What an officer may waive, by name and with a reason: `accept_inconclusive`, an inconclusive result. A lost blind
    review cannot be waived."""

    may_close_early: tuple[str, ...] = ()
    """Officers who may close the review before `ballots` is reached, each time with a key and a reason. Their names, as
    the trust root has them."""

    link_days: int = Field(default=14, ge=1)
    """Days for which a sign-in link is valid."""

    @property
    def operator_count(self) -> int:
        """How many operators there are, named or not."""
        return self.operators if isinstance(self.operators, int) else len(self.operators)

    @property
    def pairs(self) -> int:
        """Pairs of all operators together."""
        return self.operator_count * (self.prompts_each + self.shared_prompts)

    @property
    def ballots_to_close(self) -> int:
        """Ballots at which the review may be closed."""
        return self.pairs if self.ballots is None else self.ballots

    @property
    def prompts(self) -> int:
        """Different prompts that the review needs."""
        return self.operator_count * self.prompts_each + self.shared_prompts

    @model_validator(mode="after")
    def _is_consistent(self) -> "Review":
        if not FEWEST_OPERATORS <= self.operator_count <= MOST_OPERATORS:
            raise ValueError(
                f"a review has {FEWEST_OPERATORS} to {MOST_OPERATORS} operators, not {self.operator_count}"
            )
        if not isinstance(self.operators, int) and len(set(self.operators)) != len(self.operators):
            raise ValueError("an operator is named twice")
        if len(set(self.criteria)) != len(self.criteria):
            raise ValueError("a criterion is named twice")
        if self.ballots is not None and self.ballots > self.pairs:
            raise ValueError(f"ballots: {self.ballots} are more than the {self.pairs} pairs that there are")
        if self.guess_pairs > self.prompts_each:
            raise ValueError("guess_pairs cannot be more than prompts_each")
        return self
