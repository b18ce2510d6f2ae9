"""How the training loop reaches its process, which is another one in tests than in production.

What belongs here: the hooks and what they are given. What does not: what the process does in them
(`processes/worker.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass


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
