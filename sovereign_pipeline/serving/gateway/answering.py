"""One answer from admission to its end: limits, engine, time-outs, and what is counted and noted of it.

What belongs here: the course of one answer. What does not: its pieces (`exchange.py`), and HTTP (`routes.py`,
`streams.py`).
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
from typing import Protocol, Self

from opentelemetry.trace import Tracer

from sovereign_pipeline.base.errors import EngineLost, EngineRefused, ScannerLost, TextTooLong
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline.policy.serving import Limits
from sovereign_pipeline.serving.engines.engine import Answer, Deployable, Engine, Piece, Sampling
from sovereign_pipeline.serving.gateway.admission import Places, Rates
from sovereign_pipeline.serving.gateway.auth import Caller
from sovereign_pipeline.serving.gateway.journal import Answered, Journal, Outcome, digest_of_answer, utc_now
from sovereign_pipeline.serving.gateway.messages import (
    Finish,
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
    with_instruction,
)
from sovereign_pipeline.serving.gateway.metrics import Metrics, state_use, traced
from sovereign_pipeline.serving.gateway.stores import GivenAnswers, digest_of_given
from sovereign_pipeline.serving.rollout.flag import Arm
from sovereign_pipeline.serving.rollout.in_force import Choice
from sovereign_pipeline.serving.rollout.telemetry import Ended, Feedback, Telemetry
from sovereign_pipeline.serving.screening import Screen, Screens
from sovereign_pipeline.serving.transcripts import Rating, Transcript, TranscriptFiles, Turn

ID_BYTES = 16


@dataclass(frozen=True)
class Asked:
    """What is to be answered by which adapter, for whom."""

    caller: Caller
    adapter: Deployable
    sent: Sequence[Mapping[str, str]]
    """The messages as the caller sent them."""
    sampling: Sampling
    choice: Choice | None = None
    """What the line's flag said, where it decided."""
    model: str = ""
    """The name by which it was asked for."""
    traceparent: str | None = None
    """The caller's span, as the caller's header has it."""
    id: str = field(default_factory=lambda: secrets.token_hex(ID_BYTES))

    @property
    def request(self) -> str:
        """The newest message, without the line's instruction."""
        return self.sent[-1]["content"] if self.sent else ""

    @property
    def messages(self) -> list[Mapping[str, str]]:
        """With the line's instruction where there is no other."""
        return with_instruction(self.sent, self.adapter)


class Stillness:
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

    def __init__(
        self, asked: Asked, answer: Answer, metrics: Metrics, began: float, stillness: Stillness, screen: Screen
    ) -> None:
        self.prompt_tokens = answer.prompt_tokens
        self.answer_tokens = 0
        self.first_seconds: float | None = None
        self.finish: Finish | None = None
        self.texts: list[str] = []
        """What was passed on."""
        self.is_at_caller = False
        """Whether the caller is yet to take what was computed."""
        self.screen = screen
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
            text = await self.screen.take(piece.text)
            if piece.finish is not None and not self.screen.is_over:
                text += await self.screen.end(is_cut=piece.finish == "length")
            self.texts.append(text)
            at_stop_text: Finish | None = "stop" if self.screen.is_at_stop_text else piece.finish
            self.finish = "content_filter" if self.screen.is_stopped else at_stop_text
            self._stillness.end()
            self.is_at_caller = True
            yield Piece(text, piece.tokens, piece.finish)
            self.is_at_caller = False
            self._stillness.end()
            if self.finish is not None:
                return
        raise EngineLost("The engine ended an answer without saying why.")


class Choose(Protocol):
    """Which adapter answers a user of a line; None for none."""

    def __call__(self, line: str, user: str, groups: frozenset[str]) -> Choice | None: ...


@dataclass(frozen=True)
class Visible:
    """An adapter that a caller may ask for."""

    adapter: Deployable
    choice: Choice | None = None
    """What the flag said, where the caller asks for the line and gets what it said."""


@dataclass(frozen=True)
class Catalog:
    """What is served now, by the names under which it is asked for."""

    engine: Engine
    served: Callable[[], Sequence[Deployable]]
    """What was verified last."""
    ladder: ClassificationLadder
    choose: Choose
    counts: Callable[[str, str], bool]
    """Whether what a caller, by its key, asks for a user is compared in a rollout."""

    def find(self, model: str, caller: Caller, user: str | None = None) -> Visible:
        """user: whom a caller asks for, by the word of one that speaks for several.

        Raises Refusal: 404 for what the caller may not know of, 503 for what is not loaded now.
        """
        user = user or None
        found = self.visible(caller, user).get(model)
        if found is None:
            raise no_such_model()
        if found.adapter.digest not in self.engine.loaded():
            raise Refusal(503, "This model is being loaded. Send it again later.", "model_not_loaded", retry_after=10)
        if found.choice is None or user is None or not caller.speaks_for_users(found.adapter.line):
            return found
        return found if self.counts(caller.key, user) else replace(found, choice=self._apart(found, caller))

    def visible(self, caller: Caller, user: str | None = None) -> dict[str, Visible]:
        """Name -> adapter, of everything that a caller may ask for."""
        served = {each.digest: each for each in self.served()}
        names = {
            each.adapter: Visible(each)
            for each in served.values()
            if not each.in_reserve and caller.may_name(each, self.ladder)
        }
        for line in self.lines():
            is_for_user = user is not None and caller.speaks_for_users(line)
            choice = self.choose(line, f"{caller.key}\n{user}" if is_for_user else caller.key, caller.groups)
            if choice is None:
                continue
            for digest in (choice.digest, choice.otherwise):
                adapter = served.get(digest or "")
                if adapter is not None and adapter.line == line and caller.may_use(adapter, self.ladder):
                    names[line] = Visible(adapter, choice if digest == choice.digest else None)
                    break
        return names

    def _apart(self, found: Visible, caller: Caller) -> Choice | None:
        """The same adapter, for one user too many: not compared, and what is reported is the caller's own word."""
        own = self.choose(found.adapter.line, caller.key, caller.groups)
        if found.choice is None or own is None:
            return None
        return replace(found.choice, drawn=False, user=own.user)

    def lines(self) -> frozenset[str]:
        return frozenset(each.line for each in self.served())


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
