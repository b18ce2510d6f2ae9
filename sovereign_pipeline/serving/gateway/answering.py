"""One answer from admission to its end: limits, engine, time-outs, and what is counted and noted of it.

What belongs here: the course of one answer. What does not: its pieces (`exchange.py`), and HTTP (`routes.py`,
`streams.py`).
"""

import asyncio
import logging
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from types import TracebackType

from opentelemetry.trace import Tracer

from sovereign_pipeline.base.errors import EngineLost, EngineRefused, ScannerLost, TextTooLong
from sovereign_pipeline.policy.serving import Limits
from sovereign_pipeline.serving.callers import Caller
from sovereign_pipeline.serving.engines.engine import Answer
from sovereign_pipeline.serving.flags.flag import Arm
from sovereign_pipeline.serving.gateway.admission import Places, Rates
from sovereign_pipeline.serving.gateway.catalog import Catalog
from sovereign_pipeline.serving.gateway.exchange import Asked, Exchange, Stillness
from sovereign_pipeline.serving.gateway.given_answers import GivenAnswers, digest_of_given
from sovereign_pipeline.serving.gateway.journal import Answered, Journal, Outcome, digest_of_answer, utc_now
from sovereign_pipeline.serving.gateway.metrics import Metrics
from sovereign_pipeline.serving.gateway.refusal import (
    Refusal,
    ending,
    engine_lost,
    feedback_lost,
    no_such_answer,
    no_such_model,
    personal_data_sent,
    scanner_lost,
    too_long_to_search,
    too_slow,
    transcripts_lost,
)
from sovereign_pipeline.serving.gateway.requests import with_instruction
from sovereign_pipeline.serving.gateway.tracing import state_use, traced
from sovereign_pipeline.serving.rollout.feedback import Feedback
from sovereign_pipeline.serving.rollout.telemetry import Ended, Telemetry
from sovereign_pipeline.serving.scanning.screen import Screen, Screens
from sovereign_pipeline.serving.transcripts.keeping import TranscriptFiles
from sovereign_pipeline.serving.transcripts.records import Rating, Transcript, Turn

_LOG = logging.getLogger(__name__)
Leave = Callable[[type[BaseException] | None, BaseException | None, TracebackType | None], None]
"""What is called as a context is left, with the error that it is left by."""


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
        screens: Screens,
        transcripts: TranscriptFiles,
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
        self._screens = screens
        self.transcripts = transcripts
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
        if not self.transcripts.is_whole(asked.adapter.line):
            raise transcripts_lost()
        began, exchange, is_computed = time.monotonic(), None, False
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self.rates.request(asked.caller))
                limit = await stack.enter_async_context(self._limited(self.limits.answer_seconds))
                screen = await self._screened(asked)
                await stack.enter_async_context(self.places.place(asked.adapter.line))
                stillness = stack.enter_context(Stillness(limit, self.limits.first_token_seconds))
                is_computed = True
                answer = await self._catalog.engine.answer(
                    asked.adapter.digest,
                    with_instruction(screen.messages, asked.adapter),
                    replace(asked.sampling, stop=screen.stops),
                    asked.caller.cache_group,
                )
                exchange = Exchange(asked, answer, self.metrics, began, stillness, screen)
                stack.push_async_callback(_close, answer)
                stack.push(self._noting(asked, exchange, began, limit))
                self._remember(asked)
                yield exchange
        except asyncio.CancelledError:
            if exchange is None and is_computed:
                self._compare(asked, "", 0, time.monotonic() - began, "cancelled")
            raise
        except (EngineRefused, EngineLost, ScannerLost, TimeoutError) as error:
            refusal = self._refusal(asked, error)
            refusal.is_counted = exchange is not None
            if exchange is None and is_computed and not isinstance(error, EngineRefused):
                self._compare(asked, "", 0, time.monotonic() - began, "lost")
            raise refusal from None

    async def _screened(self, asked: Asked) -> Screen:
        """The request as the line lets it pass. Raises Refusal and ScannerLost."""
        line, adapter = asked.adapter.line, asked.adapter.adapter
        screen = self._screens.of(line, asked.sent, asked.sampling.stop)
        try:
            may_pass = await screen.take_request()
        except TextTooLong:
            raise too_long_to_search() from None
        self.metrics.found(line, adapter, "request", screen.in_request)
        if not may_pass:
            raise personal_data_sent(screen.in_request)
        return screen

    async def take_feedback(self, caller: Caller, id: str, feedback: Feedback) -> None:
        """Count what a caller says of an answer. Raises Refusal where that caller got no such answer."""
        async with self.rates.request(caller):
            try:
                given = self._given.take(id, caller, feedback, self.transcripts.is_whole)
            except (sqlite3.Error, OSError) as error:
                _LOG.warning("feedback cannot be noted (%s)", type(error).__name__)
                raise feedback_lost() from None
        if given is None:
            raise no_such_answer()
        self.metrics.said(given.line, given.adapter, feedback)
        if given.choice is not None:
            self._telemetry.rate(given.line, given.choice, feedback, given.before)
        rating = Rating(given=digest_of_given(id, caller).hex(), at=utc_now(), feedback=feedback)
        self.transcripts.rate(given.line, rating)

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
        text, screen = "".join(exchange.texts), exchange.screen
        self.metrics.found(line, adapter, "answer", screen.in_answer)
        self.metrics.unsearched(line, adapter, screen.failures)
        digest = digest_of_answer(asked.id, adapter, asked.messages, text)
        ended: Ended = "stopped" if screen.is_stopped else outcome
        holds_personal_data = bool(screen.in_answer) if screen.is_answer_searched else None
        self._compare(asked, text, exchange.answer_tokens, seconds, ended, holds_personal_data)
        transcript = self._transcribe(asked, screen) if ended == "complete" else None
        self._journal.note(
            Answered(line=line, adapter=adapter, outcome=outcome, tokens=used, digest=digest, transcript=transcript)
        )

    def _transcribe(self, asked: Asked, screen: Screen) -> str | None:
        """Keep a complete answer, where its line asks for it. Returns the digest of what was sealed."""
        if not self.transcripts.keeps(asked.adapter.line):
            return None
        record = Transcript(
            given=digest_of_given(asked.id, asked.caller).hex(),
            line=asked.adapter.line,
            adapter=asked.adapter.adapter,
            classification=asked.adapter.classification,
            at=utc_now(),
            messages=tuple(Turn.model_validate(dict(each)) for each in screen.messages),
            answer="".join(screen.with_placeholders),
            originals=screen.originals,
        )
        return self.transcripts.keep(record)

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

    def _compare(
        self,
        asked: Asked,
        text: str,
        tokens: int,
        seconds: float,
        ended: Ended,
        holds_personal_data: bool | None = None,
    ) -> None:
        """Count what an adapter did in its line's rollout. holds_personal_data: None where it was not searched."""
        if asked.choice is not None and not self.is_ending:
            self._telemetry.note(
                asked.adapter.line,
                asked.choice,
                text,
                tokens,
                seconds,
                ended,
                asked.request,
                holds_personal_data=holds_personal_data,
            )

    def _refusal(self, asked: Asked, error: EngineRefused | EngineLost | ScannerLost | TimeoutError) -> Refusal:
        """What an engine refuses is the request's fault, unless the adapter went away meanwhile."""
        if isinstance(error, ScannerLost):
            _LOG.warning(error.message)
            return scanner_lost()
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
