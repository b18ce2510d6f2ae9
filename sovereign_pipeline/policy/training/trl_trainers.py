"""TRL's trainers that a recipe may name, and the arguments that it may give them.

What belongs here: the list, and why what is not on it is refused. What does not: running a trainer
(`training/trl_trainer.py`). The list is closed on purpose: an argument that a later TRL adds is refused until
somebody has looked at it. A test compares it with the argument classes of the installed TRL.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sovereign_pipeline.policy.recipe_model import nearest_known

TrlArgument = float | int | bool | str | tuple[str | float, ...]
"""A value of an argument."""

OPTIMIZER_ARGUMENTS = ("adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm", "weight_decay")
"""Of every trainer; the recipe has no keys of its own for them."""


@dataclass(frozen=True)
class TrlTrainer:
    """A trainer of TRL that learns from preference pairs with one model on one device, and without generating."""

    stability: Literal["stable", "experimental"]
    """TRL's own word. An experimental trainer may change or go with any release of TRL."""
    arguments: tuple[str, ...]
    """Names of the arguments that shape its loss."""
    has_reference: bool
    loss_types: tuple[str, ...] = ()
    """Its values of `loss_type`; others would fail at the first step only."""


TRAINERS = {
    "orpo": TrlTrainer("experimental", ("beta",), has_reference=False),
    "cpo": TrlTrainer(
        "experimental",
        ("alpha", "beta", "cpo_alpha", "label_smoothing", "loss_type", "simpo_gamma"),
        has_reference=False,
        loss_types=("sigmoid", "hinge", "ipo", "simpo", "alphapo"),
    ),
    "dpo": TrlTrainer(
        "stable",
        (
            "beta",
            "discopop_tau",
            "f_alpha_divergence_coef",
            "f_divergence_type",
            "label_smoothing",
            "ld_alpha",
            "loss_type",
            "loss_weights",
            "use_weighting",
        ),
        has_reference=True,
        loss_types=(
            *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot"),
            *("aot_unpaired", "apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
        ),
    ),
}

_FROM_A_REWARD = "it learns from replies that it generates and from their reward, which are no preference pairs"
_FROM_A_TEACHER = "it learns from another model, the teacher, which a line does not have"
_FROM_A_SERVER = "it needs a server, and a trainer opens no connection"

REFUSED_TRAINERS = {
    **dict.fromkeys(("grpo", "rloo", "gmpo", "a2po", "online_dpo"), _FROM_A_REWARD),
    **dict.fromkeys(("distillation", "gkd", "gold", "iw_opd", "sdft", "sdpo"), _FROM_A_TEACHER),
    **dict.fromkeys(
        ("async_grpo", "async_distillation", "server_distillation", "harbor", "openreward"), _FROM_A_SERVER
    ),
    "kto": "method: kto is built in",
    "reward": "it makes a reward model, not an adapter that replies",
    "sft": "the stage before it is SFT",
    "tpo": "it needs a third reply, and a pair has two",
}
"""Trainers of TRL that cannot learn here from pairs, and why."""

_RECIPE_KEYS = {
    "bf16": "training.sft.precision",
    "data_seed": "training.seed",
    "fp16": "training.sft.precision",
    "gradient_accumulation_steps": "training.preference.gradient_accumulation",
    "gradient_checkpointing": "training.sft.gradient_checkpointing",
    "learning_rate": "training.preference.learning_rate",
    "lr_scheduler_type": "training.preference.scheduler",
    "max_length": "training.preference.max_length",
    "max_steps": "training.preference.max_steps",
    "num_train_epochs": "training.preference.epochs",
    "optim": "training.sft.optimizer",
    "per_device_train_batch_size": "training.preference.batch_size",
    "save_steps": "training.checkpoints.every_steps",
    "save_total_limit": "training.checkpoints.keep",
    "seed": "training.seed",
    "warmup_steps": "training.preference.warmup_steps",
}
"""Argument of TRL -> the key of the recipe that decides it."""


def check_arguments(trainer: str | None, arguments: Mapping[str, TrlArgument]) -> None:
    """Raise ValueError, in words for the recipe's author, for a trainer or an argument that is not on the list."""
    known = sorted(TRAINERS)
    if trainer is None:
        raise ValueError(f"method trl needs a trainer: {', '.join(known)}")
    if trainer in REFUSED_TRAINERS:
        raise ValueError(f"trainer {trainer} of TRL is not for preference pairs: {REFUSED_TRAINERS[trainer]}")
    if trainer not in TRAINERS:
        raise ValueError(f"'{trainer}' is no trainer of TRL that is run here; {nearest_known(trainer, known)}")
    taken = sorted((*TRAINERS[trainer].arguments, *OPTIMIZER_ARGUMENTS))
    for name, value in arguments.items():
        if name in _RECIPE_KEYS:
            raise ValueError(f"argument '{name}' is decided by {_RECIPE_KEYS[name]}")
        if name not in taken:
            raise ValueError(f"trainer {trainer} is given no argument '{name}' here; {nearest_known(name, taken)}")
        if not _is_of_its_kind(name, value):
            raise ValueError(f"argument '{name}' must be {_kind(name)}")
    losses = TRAINERS[trainer].loss_types
    for loss in _parts(arguments.get("loss_type", ())):
        if loss not in losses:
            raise ValueError(f"'{loss}' is no loss_type of trainer {trainer}; {nearest_known(str(loss), losses)}")


def _kind(name: str) -> str:
    if name in ("loss_type", "f_divergence_type"):
        return "a text"
    if name == "use_weighting":
        return "true or false"
    if name == "loss_weights":
        return "a list of numbers"
    return "a number above 0" if name == "beta" else "a number"


def _is_of_its_kind(name: str, value: TrlArgument) -> bool:
    """TRL's argument classes take any value, and fail at the first step or train something else."""
    kind = _kind(name)
    if kind == "a text":
        return all(isinstance(each, str) for each in _parts(value))
    if kind == "true or false":
        return isinstance(value, bool)
    if isinstance(value, tuple) != (kind == "a list of numbers"):
        return False
    numbers = [each for each in _parts(value) if isinstance(each, int | float) and not isinstance(each, bool)]
    finite = len(numbers) == len(_parts(value)) and all(math.isfinite(each) for each in numbers)
    return finite and (name != "beta" or numbers[0] > 0)


def _parts(value: TrlArgument) -> tuple[str | float, ...]:
    return value if isinstance(value, tuple) else (value,)
