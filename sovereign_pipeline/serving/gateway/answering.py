"""One answer from admission to its end: limits, engine, time-outs, and what is counted and noted of it.

What belongs here: the course of one answer. What does not: HTTP (`routes.py`, `streams.py`).
"""

import asyncio
import logging
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Literal, Self

from opentelemetry.trace import Tracer

from sovereign_pipeline.errors import EngineLost, EngineRefused
from sovereign_pipeline.policy.serving import Limits
from sovereign_pipeline.serving.callers import Caller
from sovereign_pipeline.serving.engines.engine import Answer, Deployable, Piece, Sampling
from sovereign_pipeline.serving.flags.flag import Arm
from sovereign_pipeline.serving.flags.in_force import Choice
from sovereign_pipeline.serving.gateway.admission import Places, Rates
from sovereign_pipeline.serving.gateway.catalog import Catalog
from sovereign_pipeline.serving.gateway.given_answers import GivenAnswers
from sovereign_pipeline.serving.gateway.journal import Answered, Journal, Outcome, digest_of_answer
from sovereign_pipeline.serving.gateway.metrics import Metrics
from sovereign_pipeline.serving.gateway.refusal import (
    Refusal,
    ending,
    engine_lost,
    feedback_lost,
    no_such_answer,
    no_such_model,
    too_slow,
)
from sovereign_pipeline.serving.gateway.tracing import state_use, traced
from sovereign_pipeline.serving.rollout.feedback import Feedback
from sovereign_pipeline.serving.rollout.telemetry import Telemetry

_LOG = logging.getLogger(__name__)
ID_BYTES = 16
Leave = Callable[[type[BaseException] | None, BaseException | None, TracebackType | None], None]
"""What is called as a context is left, with the error that it is left by."""


@dataclass(frozen=True)
class Asked:
    """What is to be answered by which adapter, for whom."""

    caller: Caller
    adapter: Deployable
    messages: Sequence[Mapping[str, str]]
    sampling: Sampling
    choice: Choice | None = None
    """What the line's flag said, where it decided."""
    model: str = ""
    """The name by which it was asked for."""
    traceparent: str | None = None
    """The caller's span, as the caller's header has it."""
    id: str = field(default_factory=lambda: secrets.token_hex(ID_BYTES))


class _Stillness:
    """Ends an answer of which nothing was heard or taken for so long. One timer, however many tokens there are."""

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()

    def end(self) -> None:
        """Something was heard, or taken."""
        self._since = self._loop.time()

    def __enter__(self) -> Self:
        self._timer = self._loop.call_at(self._since + self._seconds, self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        until = self._since + self._seconds
        if self._loop.time() < until:
            self._timer = self._loop.call_at(until, self._look)
        elif not self._limit.expired():
            self._limit.reschedule(self._loop.time())


class Exchange:
    """An answer that has begun: its prompt's length, and its pieces."""

    def __init__(self, asked: Asked, answer: Answer, metrics: Metrics, began: float, stillness: "_Stillness") -> None:
        self.prompt_tokens = answer.prompt_tokens
        self.answer_tokens = 0
        self.first_seconds: float | None = None
        self.finish: Literal["stop", "length"] | None = None
        self.texts: list[str] = []
        self.is_at_caller = False
        """Whether the caller is yet to take what was computed."""
        self._answer = answer
        self._stillness = stillness
        self._first, self._each = metrics.of_tokens(asked.adapter.line, asked.adapter.adapter)
        self._began = began

    async def pieces(self) -> AsyncIterator[Piece]:
        """Ends after the piece with `finish`; an engine that ends without one is lost."""
        last = self._began
        async for piece in self._answer.pieces:
            now = time.monotonic()
            if self.answer_tokens == 0:
                self.first_seconds = now - self._began
                self._first.observe(self.first_seconds)
            elif piece.tokens:
                self._each.observe((now - last) / piece.tokens)
            last = now
            self.answer_tokens += piece.tokens
            self.texts.append(piece.text)
            self.finish = piece.finish
            self._stillness.end()
            self.is_at_caller = True
            yield piece
            self.is_at_caller = False
            self._stillness.end()
            if piece.finish is not None:
                return
        raise EngineLost("The engine ended an answer without saying why.")


class Answering:
    """Everything that a gateway answers, while it answers."""

    def __init__(
        self,
        catalog: Catalog,
        limits: Limits,
        metrics: Metrics,
        journal: Journal,
        telemetry: Telemetry,
        given: GivenAnswers,
        tracer: Tracer,
    ) -> None:
        self.limits = limits
        self.metrics = metrics
        self.rates = Rates(limits)
        self.places = Places(limits, catalog.lines)
        self._catalog = catalog
        self._journal = journal
        self._telemetry = telemetry
        self._given = given
        self._tracer = tracer
        self._running: set[asyncio.Timeout] = set()
        self.is_ending = False

    @asynccontextmanager
    async def exchange(self, asked: Asked) -> AsyncIterator[Exchange]:
        """An answer, counted, noted and traced however it ends. Raises Refusal where there is none, or no more."""
        with traced(self._tracer, asked.model, asked.adapter, asked.sampling, asked.traceparent) as span:
            async with self._begun(asked) as exchange:
                try:
                    yield exchange
                finally:
                    used = (exchange.prompt_tokens, exchange.answer_tokens)
                    state_use(span, *used, exchange.finish, exchange.first_seconds)

    @asynccontextmanager
    async def _begun(self, asked: Asked) -> AsyncIterator[Exchange]:
        if self.is_ending:
            raise ending()
        if not self._journal.is_whole():
            raise Refusal(
                503,
                "Answers cannot be noted now, so none is given. Tell the administrator.",
                "journal_full",
                retry_after=60,
            )
        began, exchange, is_computed = time.monotonic(), None, False
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self.rates.request(asked.caller))
                limit = await stack.enter_async_context(self._limited(self.limits.answer_seconds))
                await stack.enter_async_context(self.places.place(asked.adapter.line))
                stillness = stack.enter_context(_Stillness(limit, self.limits.first_token_seconds))
                is_computed = True
                answer = await self._catalog.engine.answer(
                    asked.adapter.digest, asked.messages, asked.sampling, asked.caller.cache_group
                )
                exchange = Exchange(asked, answer, self.metrics, began, stillness)
                stack.push_async_callback(_close, answer)
                stack.push(self._noting(asked, exchange, began, limit))
                self._remember(asked)
                yield exchange
        except asyncio.CancelledError:
            if exchange is None and is_computed:
                self._compare(asked, "", 0, time.monotonic() - began, "cancelled")
            raise
        except (EngineRefused, EngineLost, TimeoutError) as error:
            refusal = self._refusal(asked, error)
            refusal.is_counted = exchange is not None
            if exchange is None and not isinstance(error, EngineRefused):
                self._compare(asked, "", 0, time.monotonic() - began, "lost")
            raise refusal from None

    async def take_feedback(self, caller: Caller, id: str, feedback: Feedback) -> None:
        """Count what a caller says of an answer. Raises Refusal where that caller got no such answer."""
        async with self.rates.request(caller):
            try:
                given = self._given.take(id, caller, feedback)
            except (sqlite3.Error, OSError) as error:
                _LOG.warning("feedback cannot be noted (%s)", type(error).__name__)
                raise feedback_lost() from None
        if given is None:
            raise no_such_answer()
        self.metrics.said(given.line, given.adapter, feedback)
        if given.choice is not None:
            self._telemetry.rate(given.line, given.choice, feedback, given.before)

    @property
    def is_ready(self) -> bool:
        return not self.is_ending and self._journal.is_whole()

    def end_within(self, seconds: float) -> None:
        """Begin nothing more, and give up in so many seconds what then still runs."""
        self.is_ending = True
        by = asyncio.get_running_loop().time() + seconds
        for running in self._running:
            when = running.when()
            if when is None or when > by:
                running.reschedule(by)

    @asynccontextmanager
    async def _limited(self, seconds: float) -> AsyncIterator[asyncio.Timeout]:
        async with asyncio.timeout(seconds) as limit:
            self._running.add(limit)
            try:
                yield limit
            finally:
                self._running.discard(limit)

    def _noting(self, asked: Asked, exchange: Exchange, began: float, limit: asyncio.Timeout) -> Leave:
        """What counts and notes an answer as it ends, before the engine is told to give an unfinished one up."""

        def leave(kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
            by_caller = exchange.is_at_caller or not limit.expired()
            given_up = kind is not None and not issubclass(kind, Exception) and by_caller
            outcome: Outcome = "complete" if exchange.finish else "cancelled" if given_up else "lost"
            self._note(asked, exchange, outcome, time.monotonic() - began)

        return leave

    def _note(self, asked: Asked, exchange: Exchange, outcome: Outcome, seconds: float) -> None:
        line, adapter = asked.adapter.line, asked.adapter.adapter
        used = exchange.prompt_tokens + exchange.answer_tokens
        self.rates.charge(asked.caller, used)
        self.metrics.ended(line, adapter, outcome, seconds, exchange.prompt_tokens, exchange.answer_tokens)
        digest = digest_of_answer(asked.id, adapter, asked.messages, "".join(exchange.texts))
        self._compare(asked, "".join(exchange.texts), exchange.answer_tokens, seconds, outcome)
        self._journal.note(Answered(line=line, adapter=adapter, outcome=outcome, tokens=used, digest=digest))

    def _remember(self, asked: Asked) -> None:
        """So that its caller can say something of it. Who names a version is told apart from users that are drawn, and
        what they say of the staged adapter counts for its rollout too."""
        line, adapter, caller = asked.adapter.line, asked.adapter.adapter, asked.caller
        choice = asked.choice
        if choice is None:
            of_line = self._catalog.choose(line, caller.key, caller.groups)
            if of_line is not None:
                arm: Arm = "staged" if adapter == of_line.staged else "production"
                choice = replace(of_line, adapter=adapter, digest=asked.adapter.digest, arm=arm, drawn=False)
        self._given.remember(asked.id, caller, line, adapter, choice)

    def _compare(self, asked: Asked, text: str, tokens: int, seconds: float, outcome: Outcome) -> None:
        """Count what an adapter did in its line's rollout."""
        if asked.choice is not None and not self.is_ending:
            self._telemetry.note(asked.adapter.line, asked.choice, text, tokens, seconds, outcome)

    def _refusal(self, asked: Asked, error: EngineRefused | EngineLost | TimeoutError) -> Refusal:
        """What an engine refuses is the request's fault, unless the adapter went away meanwhile."""
        if isinstance(error, EngineLost):
            return engine_lost()
        if isinstance(error, TimeoutError):
            return ending() if self.is_ending else too_slow()
        if asked.adapter.digest not in self._catalog.engine.loaded():
            return no_such_model()
        return Refusal(400, f"{error.message} {error.hint}".strip(), "refused_by_engine", param="messages")


async def _close(answer: Answer) -> None:
    """Give an answer up; nothing happens to one that is complete."""
    close = getattr(answer.pieces, "aclose", None)
    if close is not None:
        with suppress(EngineLost):
            await close()
