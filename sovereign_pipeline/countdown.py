"""How far a long piece of work is and how long the rest will take, told now and then.

What belongs here: the timing and the wording. What does not: where it is told (`Workplace.progress`).
"""

import time
from collections.abc import Callable

SECONDS_BETWEEN_MESSAGES = 5.0


def silent(message: str) -> None:
    """Progress of work that nobody waits for."""


class Countdown:
    """Reports the progress of work of a known size; says nothing when it ends before the first message is due."""

    def __init__(self, progress: Callable[[str], None], work: str, total: int, unit: str = "") -> None:
        """
        Args:
            work: what is done, such as `gate end_of_turn_trained, base model`.
            unit: what is counted, in the singular, such as `row`.
        """
        self._progress = progress
        self._work = work
        self._total = total
        self._unit = f"{unit} " if unit else ""
        self._started = self._reported = time.monotonic()

    def reached(self, done: int) -> None:
        """Report `work: unit 12 of 40, 30 s left`, at most once in `SECONDS_BETWEEN_MESSAGES`."""
        now = time.monotonic()
        if done < 1 or now - self._reported < SECONDS_BETWEEN_MESSAGES:
            return
        self._reported = now
        left = (now - self._started) / done * max(0, self._total - done)
        self._progress(f"{self._work}: {self._unit}{done:,} of {self._total:,}, {duration(left)} left")


def duration(seconds: float) -> str:
    """For people: `40 s`, `3 min 05 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
