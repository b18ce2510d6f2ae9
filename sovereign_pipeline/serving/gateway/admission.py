"""Limit the rates of callers, and share an engine's places fairly between lines."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sovereign_pipeline.policy.serving import Limits
from sovereign_pipeline.serving.gateway.auth import Caller
from sovereign_pipeline.serving.gateway.messages import Refusal

SECONDS_OF_A_RATE = 60.0
MOST_BUCKETS = 10_000
"""Number of callers whose rate is remembered. Beyond it, the longest idle callers start with a full bucket again."""

Clock = Callable[[], float]


@dataclass
class Bucket:
    """A token bucket that refills over a minute."""

    per_minute: float
    at: float
    level: float = field(init=False)

    def __post_init__(self) -> None:
        self.level = self.per_minute

    def seconds_until(self, amount: float, now: float) -> float:
        """Return the seconds until the level reaches `amount`; 0 if it has. An amount above the capacity waits for a
        full bucket."""
        self._flow(now)
        return max(0.0, (min(amount, self.per_minute) - self.level) * SECONDS_OF_A_RATE / self.per_minute)

    def take(self, amount: float, now: float) -> None:
        """Subtract an amount. The level may become negative, because an answer's length is known only at its end."""
        self._flow(now)
        self.level -= amount

    def _flow(self, now: float) -> None:
        flown = max(0.0, now - self.at) * self.per_minute / SECONDS_OF_A_RATE
        self.level = min(self.per_minute, self.level + flown)
        self.at = now


class Rates:
    """The rate limits of all callers."""

    def __init__(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._buckets: dict[str, tuple[Bucket, Bucket]] = {}
        self._running: Counter[str] = Counter()

    @asynccontextmanager
    async def request(self, caller: Caller) -> AsyncIterator[None]:
        """Count one request for as long as it runs. Raises Refusal (429) if it exceeds a limit."""
        if self._running[caller.key] >= self._limits.concurrent_per_caller:
            raise _too_many("You have as many requests running as you may.", 1.0)
        now = self._clock()
        requests, tokens = self._of(caller, now)
        wait = max(requests.seconds_until(1, now), tokens.seconds_until(1, now))
        if wait > 0:
            raise _too_many("You have sent as many requests or tokens as you may in a minute.", wait)
        requests.take(1, now)
        self._running[caller.key] += 1
        try:
            yield
        finally:
            self._running[caller.key] -= 1
            if not self._running[caller.key]:
                del self._running[caller.key]

    def charge(self, caller: Caller, tokens: int) -> None:
        """Charge the tokens that a request has used."""
        now = self._clock()
        _, bucket = self._of(caller, now)
        bucket.take(tokens, now)

    def _of(self, caller: Caller, now: float) -> tuple[Bucket, Bucket]:
        found = self._buckets.pop(caller.key, None) or (
            Bucket(self._limits.requests_per_minute, now),
            Bucket(self._limits.tokens_per_minute, now),
        )
        self._buckets[caller.key] = found  # the newest last
        if len(self._buckets) > MOST_BUCKETS:
            self._buckets.pop(next(iter(self._buckets)))
        return found


class Places:
    """The places of an engine. The waiting line with the fewest running requests is next, so that no line blocks
    another.

    A line may take all places except one for each other line, and at least half of them.
    """

    def __init__(self, limits: Limits, lines: Callable[[], Collection[str]]) -> None:
        self._limits = limits
        self._lines = lines
        self.running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> dict[str, int]:
        """Line -> number of its waiting requests."""
        return {line: len(queue) for line, queue in self._waiting.items()}

    @asynccontextmanager
    async def place(self, line: str) -> AsyncIterator[None]:
        """Occupy a place while the context is open. Raises Refusal (429) if too many requests wait or the wait is too
        long."""
        if not self._waiting.get(line) and self._may_begin(line):
            self.running[line] += 1
        else:
            await self._wait(line)
        try:
            yield
        finally:
            self._give_back(line)

    async def _wait(self, line: str) -> None:
        if len(self._waiting.get(line, ())) >= self._limits.waiting_per_line:
            raise _too_many("Too many requests wait for this model.", self._limits.first_token_seconds / 4)
        queue = self._waiting.setdefault(line, deque())
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(turn)
        try:
            async with asyncio.timeout(self._limits.waiting_seconds):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # the place came as the wait ended
                self._give_back(line)
            elif turn in queue:
                queue.remove(turn)
            if isinstance(error, TimeoutError):
                raise _too_many("No place became free for this request.", self._limits.waiting_seconds) from None
            raise
        finally:
            if not queue and self._waiting.get(line) is queue:
                del self._waiting[line]

    def _give_back(self, line: str) -> None:
        self.running[line] -= 1
        if not self.running[line]:
            del self.running[line]
        while (following := self._next()) is not None:
            self.running[following] += 1
            self._waiting[following].popleft().set_result(None)

    def _next(self) -> str | None:
        """Return the line whose oldest waiting request starts now; None if none may."""
        for queue in self._waiting.values():
            while queue and queue[0].done():  # whoever waited has gone, and has not been told yet
                queue.popleft()
        able = [line for line, queue in self._waiting.items() if queue and self._may_begin(line)]
        return min(able, key=lambda line: self.running[line], default=None)

    def _may_begin(self, line: str) -> bool:
        total = self._limits.concurrent
        others = len({*self._lines(), line}) - 1
        share = max(1, total - min(others, total // 2))
        return self.running.total() < total and self.running[line] < share


def _too_many(message: str, seconds: float) -> Refusal:
    return Refusal(429, message, "rate_limit_exceeded", retry_after=seconds)
