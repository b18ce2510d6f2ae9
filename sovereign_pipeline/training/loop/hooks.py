"""How the training loop reaches its process, which is another one in tests than in production.

What belongs here: the hooks, what they are given, and what a stop before the first step is. What does not: what the
process does in them (`processes/worker.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass

from sovereign_pipeline.base.errors import TrainingFailed


@dataclass(frozen=True)
class Step:
    """How far the training is."""

    step: int
    steps: int
    loss: float
    """Of this step."""
    tokens_per_second: float
    """Mean since the start of this process's training."""
    seconds_left: float
    """An estimate."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class TrainerHooks:
    """Functions of the process that the training loop calls."""

    on_step: Callable[[Step], None]
    progress: Callable[[str], None]
    """For messages to people; never given document text."""
    should_stop: Callable[[], bool] = _never
    """Whether a stop was requested; the training then saves a checkpoint and ends."""


def stopped_before_first_step() -> TrainingFailed:
    """The error of a training that was stopped while it prepared, where there is nothing to save."""
    return TrainingFailed(
        "The training was stopped, as requested, before its first step.",
        "Run again; a checkpoint of an earlier run is kept.",
    )
