"""How people compare a candidate blind before it may ship: what the institution decides about a review.

What belongs here: who rates how much, what is pre-registered, who may close early. What does not: how a review is run
(`review/`), and the seed of its sides: that is drawn at random when it is opened and stays sealed until it is closed,
so no recipe can name it.
"""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from sovereign_pipeline.policy.recipe_model import RecipeModel

Criterion = Literal["accuracy", "helpfulness", "tone"]
OfficerMay = Literal["nothing", "accept_inconclusive"]
CRITERIA: tuple[Criterion, ...] = ("accuracy", "helpfulness", "tone")

FEWEST_OPERATORS, MOST_OPERATORS = 5, 10

# As an institution's proxy names a person: no spaces, so that it can stand in a header and in a list.
OperatorName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$")]


class Review(RecipeModel):
    """A blind review of one candidate against what it would replace.

    operators: their names, or how many there are, named when the review is opened. Five to ten: the interval stands on
    the operators, not on their ballots, and is twice as wide with five as with a hundred (Student's t).
    prompts_each: prompts of an operator's own, shown to nobody else; even, so that each side is A exactly half the
    time. shared_prompts: prompts beside these that every operator rates. Agreement is computed from them and nothing
    else is: counted with the others, one prompt would weigh as much as all operators together.
    guess_pairs: pairs that an operator sees again at the end, to say which answer is of the new side; even.
    ballots: the pre-registered number at which the review may be closed; None for every pair of every operator.
    margin: how far below zero the interval of the net preference may reach (in pairs won minus lost, as a share). At 0
    a candidate that is truly worse ships in at most 2.5 % of reviews; one that is as good as the other is inconclusive
    nearly always.
    officer_may: whether an officer may let an inconclusive answer pass, by name and with a reason. There is no word for
    more: what people like less does not ship, whoever says so.
    may_close_early: officers who may close before that number, each time with a reason. batch_size: prompts answered at
    once. link_days: how long a sign-in link can be used.
    """

    operators: int | tuple[OperatorName, ...] = FEWEST_OPERATORS
    prompts_each: int = Field(default=20, ge=2, multiple_of=2)
    shared_prompts: int = Field(default=2, ge=0, multiple_of=2)
    guess_pairs: int = Field(default=4, ge=2, multiple_of=2)
    criteria: tuple[Criterion, ...] = Field(default=CRITERIA, min_length=1)
    max_new_tokens: int = Field(default=256, ge=8)
    batch_size: int = Field(default=8, ge=1)
    ballots: int | None = Field(default=None, ge=1)
    margin: float = Field(default=0.0, ge=0, le=1)
    officer_may: OfficerMay = "nothing"
    may_close_early: tuple[str, ...] = ()
    link_days: int = Field(default=14, ge=1)

    @property
    def operator_count(self) -> int:
        return self.operators if isinstance(self.operators, int) else len(self.operators)

    @property
    def pairs(self) -> int:
        """Of all operators together."""
        return self.operator_count * (self.prompts_each + self.shared_prompts)

    @property
    def ballots_to_close(self) -> int:
        return self.pairs if self.ballots is None else self.ballots

    @property
    def prompts(self) -> int:
        """Different prompts that a review needs."""
        return self.operator_count * self.prompts_each + self.shared_prompts

    @model_validator(mode="after")
    def _can_be_held(self) -> "Review":
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
