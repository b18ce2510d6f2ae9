"""Limit the rates of callers, and share the gateway's places for running requests fairly between lines."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from sovereign_pipeline.policy.serving import Limits
from sovereign_pipeline.serving.gateway.auth import Caller
from sovereign_pipeline.serving.gateway.messages import Refusal

SECONDS_OF_A_RATE = 60.0
MOST_BUCKETS = 10_000
"""Maximum number of accounts (callers and persons) whose buckets are stored. If there are more, the account that was
idle longest is removed, and starts again with full buckets."""

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
        """Return the seconds until the level reaches `amount`. If the bucket is too small for `amount`, return the
        seconds until the bucket is full."""
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


OF_CALLER = (
    "You have reached your limit of concurrent requests.",
    "You have reached your limit of requests or tokens per minute.",
)
OF_PERSON = (
    "This person has reached the limit of concurrent requests.",
    "This person has reached the limit of requests or tokens per minute.",
)


@dataclass(frozen=True)
class Allowance:
    concurrent: int
    requests: float
    """Requests per minute."""
    tokens: float
    """Tokens per minute."""


class Rates:
    def __init__(self, limits: Limits, clock: Clock = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._buckets: dict[str, tuple[Bucket, Bucket]] = {}
        self._running: Counter[str] = Counter()

    @asynccontextmanager
    async def request(self, caller: Caller, user: str | None = None) -> AsyncIterator[None]:
        """Count one request as running while the context is open. Raises Refusal (429) if the request exceeds a limit.
        user: hash of the person for whom the caller sends the request."""
        now, accounts = self._clock(), self._accounts(caller, user)
        for key, allowance in accounts.items():
            at_once, in_a_minute = OF_CALLER if key == caller.key else OF_PERSON
            if self._running[key] >= allowance.concurrent:
                raise _too_many(at_once, 1.0)
            requests, tokens = self._of(key, allowance, now)
            wait = max(requests.seconds_until(1, now), tokens.seconds_until(1, now))
            if wait > 0:
                raise _too_many(in_a_minute, wait)
        for key, allowance in accounts.items():
            self._of(key, allowance, now)[0].take(1, now)
            self._running[key] += 1
        try:
            yield
        finally:
            for key in accounts:
                self._running[key] -= 1
                if not self._running[key]:
                    del self._running[key]

    def charge(self, caller: Caller, tokens: int, user: str | None = None) -> None:
        now = self._clock()
        for key, allowance in self._accounts(caller, user).items():
            self._of(key, allowance, now)[1].take(tokens, now)

    def _accounts(self, caller: Caller, user: str | None) -> dict[str, Allowance]:
        """Return a mapping of account key to limits, for the accounts that a request is charged to. A caller with
        several grants gets the largest limits of these grants."""
        rules = [grant.front_end for grant in caller.grants]
        accounts = {caller.key: self._allowance([(each.concurrent, each.per_minute) for each in rules])}
        if user is not None:
            of_people = [grant.front_end for grant in caller.grants if grant.users]
            of_user = [(each.user_concurrent, each.user_per_minute) for each in of_people]
            accounts[f"{caller.key}\n{user}"] = self._allowance(of_user)
        return accounts

    def _allowance(self, given: Sequence[tuple[int | None, float | None]]) -> Allowance:
        limits = self._limits
        at_once, per_minute = limits.concurrent_per_caller, limits.requests_per_minute
        concurrent = max((each or at_once for each, _ in given), default=at_once)
        requests = max((each or per_minute for _, each in given), default=per_minute)
        return Allowance(concurrent, requests, limits.tokens_per_minute * requests / per_minute)

    def _of(self, key: str, allowance: Allowance, now: float) -> tuple[Bucket, Bucket]:
        found = self._buckets.pop(key, None) or (Bucket(allowance.requests, now), Bucket(allowance.tokens, now))
        self._buckets[key] = found  # moved to the end, which is the newest
        if len(self._buckets) > MOST_BUCKETS:
            self._buckets.pop(next(iter(self._buckets)))
        return found


class Places:
    """The gateway's places for running requests. The next free place goes to the line of adapters that has the fewest
    running requests among those with waiting requests, so that no line blocks another.

    A line leaves one place free for each other line, but in total at most half of all places.
    """

    def __init__(self, limits: Limits, lines: Callable[[], Collection[str]]) -> None:
        self._limits = limits
        self._lines = lines
        self.running: Counter[str] = Counter()
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}

    @property
    def waiting(self) -> dict[str, int]:
        """Return a mapping of line name to the number of the line's waiting requests."""
        return {line: len(queue) for line, queue in self._waiting.items()}

    @asynccontextmanager
    async def place(self, line: str) -> AsyncIterator[None]:
        """Occupy a place while the context is open. Raises Refusal (429) if too many requests of the line wait, or if
        this request waits too long."""
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
            if turn.done() and not turn.cancelled():  # the place became free just as the wait ended
                self._give_back(line)
            elif turn in queue:
                queue.remove(turn)
            if isinstance(error, TimeoutError):
                raise _too_many(
                    "The engine had no free place for this request in time.", self._limits.waiting_seconds
                ) from None
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
        """Return the line whose oldest waiting request starts now; None if no waiting request may start."""
        for queue in self._waiting.values():
            while queue and queue[0].done():  # the waiting request has ended, and its future is already done
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
