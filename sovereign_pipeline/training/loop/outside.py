"""MODULE DOCSTRING."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """Where the training stands. loss: of this step; tokens_per_second: since the start; seconds_left: an estimate."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Outside:
    """How the trainer reaches its process. stop: whether somebody asked for an end, which a checkpoint precedes."""

    on_step: Callable[[Step], None]
    tell: Callable[[str], None]
    stop: Callable[[], bool] = lambda: False
