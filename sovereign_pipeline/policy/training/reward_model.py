"""The `training.reward_model` section of a recipe: a score for replies, learned from preference pairs.

What belongs here: the choices, their defaults and where these come from. What does not: the training
(`training/reward_model/`).
"""

from pydantic import Field, model_validator

from sovereign_pipeline.policy.training.tuning import Tuning, changed_fields


class RewardModel(Tuning):
    """A LoRA of the shape in `training.sft` and a scalar head on the line's base model, trained by TRL's RewardTrainer.

    It learns from the pairs of the preference dataset to score the chosen reply higher than the rejected one (Bradley
    and Terry 1952; Ouyang et al. 2022, section 3.5). It is measured on held-out pairs, which it never learns from.
    """

    learning_rate: float = Field(default=1e-4, gt=0)
    """Highest learning rate, of adapter and head. 1e-4 (TRL's default for reward models)."""

    centring: float = Field(default=0.01, ge=0)
    """Weight of the squared sum of both scores of a pair, which keeps scores around zero. 0.01 (Eisenstein et al. 2023,
    "Helping or Herding?", as in TRL's guide); 0: none."""

    @model_validator(mode="after")
    def _trl_pads(self) -> "RewardModel":
        if changed_fields(self, "packing"):
            raise ValueError("a reward model has no packing: TRL pads the rows of a batch")
        return self
