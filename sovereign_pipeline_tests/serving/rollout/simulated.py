"""Rollouts that are drawn: users who differ, requests of each, and looks in between."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sovereign_pipeline.serving.rollout.hold import Sums

Arms = tuple[dict[str, Sums], dict[str, Sums]]


@dataclass(frozen=True)
class Rollout:
    """What is drawn. The share of failures of a user is from a beta distribution with this correlation."""

    users: int = 60
    requests: int = 112
    """Of each user, over the hold."""
    looks: int = 56
    rate: float = 0.03
    rise: float = 0.0
    """Of the staged adapter's rate."""
    correlation: float = 0.05

    def looks_at(self, seed: int) -> Iterator[Arms]:
        """Both arms at every look, half of the users in each."""
        draw = random.Random(seed)
        rates = {True: self.rate + self.rise, False: self.rate}
        own = {number: self._own(draw, rates[number % 2 == 0]) for number in range(self.users)}
        seen = dict.fromkeys(own, (0, 0))
        for look in range(self.looks):
            asked = (look + 1) * self.requests // self.looks
            for number, rate in own.items():
                count, total = seen[number]
                seen[number] = (asked, total + sum(draw.random() < rate for _ in range(asked - count)))
            sums = {number: Sums(*each) for number, each in seen.items()}
            yield (
                {str(number): each for number, each in sums.items() if number % 2 == 0},
                {str(number): each for number, each in sums.items() if number % 2},
            )

    def _own(self, draw: random.Random, rate: float) -> float:
        if not self.correlation:
            return rate
        spread = 1 / self.correlation - 1
        return draw.betavariate(rate * spread, (1 - rate) * spread)


def aborted(rollout: Rollout, seeds: range, is_worse: Callable[[Arms], bool]) -> float:
    """The share of rollouts in which a test says so at any look."""
    return sum(any(is_worse(arms) for arms in rollout.looks_at(seed)) for seed in seeds) / len(seeds)
