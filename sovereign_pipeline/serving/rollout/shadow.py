"""Shadow answers: the staged adapter answers some requests too, after their callers have their answer; nobody sees it.

One at a time, and only while callers need the engine for nothing: begun when they do not, given up as soon as they do.
What belongs here: when one is computed. What does not: which requests (`flags/`, `gateway/answering.py`), and what is
counted of them (`shadow_counts.py`).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.errors import EngineLost, EngineRefused, place_of
from sovereign_pipeline.serving.engines.engine import Deployable, Engine, Piece, Sampling
from sovereign_pipeline.serving.rollout.shadow_counts import AnswerOf, Outcome, ShadowCounts, ShadowTally, compared

_LOG = logging.getLogger(__name__)
MOST_WAITING = 8
"""Requests whose texts are held in memory for a shadow answer; the next one is dropped."""
SECONDS_TO_WAIT = 30.0
"""For an engine that callers do not need; then a request is dropped."""
SECONDS_BETWEEN_LOOKS = 0.05
SECONDS_OF_AN_ANSWER = 120.0
"""After which one is lost."""


@dataclass(frozen=True)
class Shadowing:
    """A request that was answered, and that the staged adapter answers too."""

    adapter: Deployable
    comparison: Path
    """Where its comparison is counted."""
    request: str
    """The newest message, as its caller sent it."""
    messages: Sequence[Mapping[str, str]]
    sampling: Sampling
    cache_group: str
    given: AnswerOf
    is_due: Callable[[], bool]
    """Whether the adapter still shadows the line, and its caller may still use it."""


class Shadows:
    """The shadow answers of one gateway."""

    def __init__(
        self,
        engine: Callable[[], Engine],
        is_busy: Callable[[], bool],
        counts: ShadowCounts,
        told: Callable[[Deployable, Outcome], None],
    ) -> None:
        """is_busy: whether callers need the engine. told: what became of one, for the metrics."""
        self._engine = engine
        self._is_busy = is_busy
        self._counts = counts
        self._told = told
        self._waiting: deque[tuple[float, Shadowing]] = deque()
        self._working: asyncio.Task[None] | None = None
        self._is_over = False

    def offer(self, shadowing: Shadowing) -> None:
        """Have a request answered too, once there is time. Returns at once, and raises nothing."""
        if self._is_over:
            return
        self._counts.add(shadowing.comparison, ShadowTally(drawn=1))
        if len(self._waiting) >= MOST_WAITING:
            self._tell(shadowing, "dropped")
            return
        self._waiting.append((time.monotonic() + SECONDS_TO_WAIT, shadowing))
        if self._working is None:
            self._working = asyncio.get_running_loop().create_task(self._work())

    def end(self) -> None:
        """Give up what is computed, and take nothing more."""
        self._is_over = True
        self._waiting.clear()
        if self._working is not None:
            self._working.cancel()

    async def _work(self) -> None:
        try:
            while self._waiting:
                until, shadowing = self._waiting.popleft()
                self._tell(shadowing, await self._outcome(shadowing, until))
        finally:
            self._working = None

    async def _outcome(self, shadowing: Shadowing, until: float) -> Outcome:
        while self._is_busy():
            if time.monotonic() > until:
                return "dropped"
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
        if not shadowing.is_due():
            return "dropped"
        computing = asyncio.ensure_future(self._computed(shadowing))
        try:
            while not computing.done():
                await asyncio.wait({computing}, timeout=SECONDS_BETWEEN_LOOKS)
                if not computing.done() and self._is_busy():
                    return "dropped"
            return computing.result()
        finally:
            computing.cancel()
            await asyncio.gather(computing, return_exceptions=True)

    async def _computed(self, shadowing: Shadowing) -> Outcome:
        """Whatever fails, fails here alone."""
        try:
            async with asyncio.timeout(SECONDS_OF_AN_ANSWER):
                answer = await self._answer(shadowing)
            is_likeliest = shadowing.sampling.temperature == 0
            more = compared(shadowing.request, answer, shadowing.given, is_likeliest=is_likeliest)
        except (EngineRefused, EngineLost, TimeoutError):
            return "lost"
        except Exception as error:
            _LOG.warning("a shadow answer failed: %s", place_of(error))
            return "lost"
        self._counts.add(shadowing.comparison, more)
        return "compared"

    async def _answer(self, shadowing: Shadowing) -> AnswerOf:
        """Raises EngineRefused and EngineLost."""
        began, texts, tokens = time.monotonic(), [], 0
        answer = await self._engine().answer(
            shadowing.adapter.digest, shadowing.messages, shadowing.sampling, shadowing.cache_group
        )
        try:
            async for piece in answer.pieces:
                texts.append(piece.text)
                tokens += piece.tokens
                if piece.finish is not None:
                    return AnswerOf("".join(texts), tokens, time.monotonic() - began)
        finally:
            await _close(answer.pieces)
        raise EngineLost("The engine ended a shadow answer without saying why.")

    def _tell(self, shadowing: Shadowing, outcome: Outcome) -> None:
        if outcome != "compared":
            ended = ShadowTally(lost=int(outcome == "lost"), dropped=int(outcome == "dropped"))
            self._counts.add(shadowing.comparison, ended)
        self._told(shadowing.adapter, outcome)


async def _close(pieces: AsyncIterator[Piece]) -> None:
    """Give an answer up; nothing happens to one that is complete."""
    close = getattr(pieces, "aclose", None)
    if close is not None:
        with suppress(EngineLost):
            await close()
