"""Handle a request: choose the adapter, apply the limits, run the engine, and count and journal the answer."""

import asyncio
import logging
import secrets
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from opentelemetry.trace import NoOpTracer, Tracer

from sovereign_pipeline.base.errors import EngineLost, EngineRefused, PromptTooLong, ScannerLost, TextTooLong
from sovereign_pipeline.corpus.document import Message, ToolCall
from sovereign_pipeline.dataset.jsonl import Prompt, as_served, message_of
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline.policy.serving import Limits
from sovereign_pipeline.serving.deployable import WithdrawnAdapter
from sovereign_pipeline.serving.engines.engine import (
    Answer,
    CallForm,
    Deployable,
    Engine,
    EngineRequest,
    Piece,
    Sampling,
    TokenLogprob,
)
from sovereign_pipeline.serving.gateway.admission import Places, Rates
from sovereign_pipeline.serving.gateway.auth import Caller
from sovereign_pipeline.serving.gateway.messages import Finish, Refusal, personal_data_sent, refused
from sovereign_pipeline.serving.gateway.metrics import Metrics, state_use, traced
from sovereign_pipeline.serving.gateway.parameters import CallReader, CompletionRequest, FormCheck
from sovereign_pipeline.serving.gateway.stores import (
    Answered,
    FeedbackStore,
    Journal,
    Outcome,
    Rated,
    answer_digest,
    digest_of_answer,
    utc_now,
)
from sovereign_pipeline.serving.rollout.flag import Arm
from sovereign_pipeline.serving.rollout.in_force import Choice
from sovereign_pipeline.serving.rollout.telemetry import Ended, Feedback, Telemetry
from sovereign_pipeline.serving.screening import NOTHING_SEARCHED, Screen, Screens, SentTexts
from sovereign_pipeline.serving.transcripts import NOTHING_KEPT, Rating, Transcript, TranscriptFiles

_LOG = logging.getLogger(__name__)
ID_BYTES = 16


@dataclass(frozen=True)
class Visible:
    """An adapter that a caller may use."""

    adapter: Deployable
    choice: Choice | None = None
    """The flag's choice if the caller requested a line and gets the adapter that the flag chose. Otherwise None."""
    user: str | None = None
    """Hash of the person for whom the caller sends the request; None if the caller sends it for itself."""


@dataclass(frozen=True)
class Catalog:
    """Finds the served adapter for a model name that a caller requests."""

    engine: Engine
    served: Callable[[], Sequence[Deployable]]
    """Function that returns the adapters verified last."""
    ladder: ClassificationLadder
    choose: Callable[[str, str, frozenset[str]], Choice | None]
    """Function that takes a line, a user and the user's groups, and returns the flag's choice of an adapter. Returns
    None if no adapter answers."""
    counts: Callable[[str, str], bool]
    """Function that takes a caller and a user. Returns True if the caller's requests for this user count in a rollout's
    comparison."""
    withdrawn: Callable[[], Sequence[WithdrawnAdapter]] = tuple
    """Function that returns the adapters that are not served because officers recalled them."""

    def find(self, model: str, caller: Caller, user: object = None) -> Visible:
        """Return the adapter that answers if this caller requests this model name.

        Args:
            user: `user` of the request, any JSON value; used only if the caller sends requests for several people.

        Raises Refusal: 404 if the caller may not see the adapter, 503 if the adapter is not loaded now.
        """
        found = self.visible(caller, user).get(model)
        if found is None:
            raise self.missing(model, caller)
        if found.adapter.digest not in self.engine.loaded():
            raise refused("model_not_loaded")
        person = caller.user_for(found.adapter.line, user)
        found = replace(found, user=person)
        if found.choice is None or person is None or self.counts(caller.key, person):
            return found
        # A user above the quota gets the same adapter, but is not compared. Feedback counts as the caller's own.
        own = self.choose(found.adapter.line, caller.key, caller.groups)
        return replace(found, choice=replace(found.choice, drawn=False, user=own.user) if own is not None else None)

    def missing(self, model: str, caller: Caller) -> Refusal:
        """Return the error for a model that is not visible to the caller. Only callers whose grants cover the model
        learn that it was withdrawn. A line counts as withdrawn if its adapter in production was withdrawn. If only the
        staged adapter was withdrawn, the line still answers.
        """
        for each in self.withdrawn():
            is_named = model == each.adapter and caller.may_name(each, self.ladder)
            is_line = model == each.line and caller.may_use(each, self.ladder)
            if is_named or (is_line and each.adapter == self._last_resort(each.line, caller)):
                return refused("model_withdrawn")
        return refused("model_not_found")

    def _last_resort(self, line: str, caller: Caller) -> str | None:
        """Return the line's adapter in production. If the line has none, return the adapter that the flag gives to the
        caller."""
        choice = self.choose(line, caller.key, caller.groups)
        return (choice.otherwise or choice.adapter) if choice is not None else None

    def visible(self, caller: Caller, user: object = None) -> dict[str, Visible]:
        """Return a mapping of model name to adapter, for all models that a caller may use."""
        served = {each.adapter: each for each in self.served()}  # by id: two adapters may have the same weights
        names = {
            each.adapter: Visible(each)
            for each in served.values()
            if not each.in_reserve and caller.may_name(each, self.ladder)
        }
        for line in self.lines():
            person = caller.user_for(line, user)
            choice = self.choose(line, f"{caller.key}\n{person}" if person is not None else caller.key, caller.groups)
            if choice is None:
                continue
            for name in (choice.adapter, choice.otherwise):
                adapter = served.get(name or "")
                if adapter is not None and adapter.line == line and caller.may_use(adapter, self.ladder):
                    names[line] = Visible(adapter, choice if name == choice.adapter else None)
                    break
        return names

    def lines(self) -> frozenset[str]:
        return frozenset(each.line for each in self.served())


@dataclass(frozen=True)
class RoutedRequest:
    """A validated request and the adapter that will answer it."""

    caller: Caller
    adapter: Deployable
    sent: CompletionRequest
    sampling: Sampling
    choice: Choice | None = None
    """The flag's choice; None if the flag did not choose the adapter, or if the answer does not count in a rollout."""
    user: str | None = None
    """Hash of the person for whom the caller sends the request; None if the caller sends it for itself."""
    traceparent: str | None = None
    """The caller's trace span, from the request's `traceparent` header."""
    replaces_instruction: bool = False
    """True if the caller's system message replaces the line's instruction."""
    call_form: CallForm | None = None
    """The chat template's tool-call syntax; None if the template does not support tool calls."""
    form_check: FormCheck = field(default_factory=FormCheck)
    id: str = field(default_factory=lambda: secrets.token_hex(ID_BYTES))

    def choice_of(self, index: int) -> "RoutedRequest":
        """Return the request for one of the `n` choices. Choices after the first do not count in a rollout and cannot
        be rated."""
        if index == 0:
            return self
        seed = None if self.sampling.seed is None else self.sampling.seed + index
        sampling, id = replace(self.sampling, seed=seed), secrets.token_hex(ID_BYTES)
        return replace(self, sampling=sampling, choice=None, id=id)

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> Prompt:
        """Return the prompt for these messages. It includes the line's instruction, unless the caller's system message
        replaces the instruction."""
        return as_served(messages, self.adapter.instruction, self.replaces_instruction)

    def digest_with(self, answer: str) -> str:
        """Return the digest that the journal stores for this request and its answer."""
        return digest_of_answer(self.id, self.adapter.adapter, self.prompt(self.sent.conversation).messages, answer)


class RunningAnswer:
    """An answer that has begun: its prompt's length, and its pieces."""

    def __init__(
        self,
        request: RoutedRequest,
        answer: Answer,
        metrics: Metrics,
        began: float,
        limit: "_Limit",
        screen: Screen,
    ) -> None:
        self.prompt_tokens = answer.prompt_tokens
        self.answer_tokens = 0
        self.first_seconds: float | None = None
        self.finish: Finish | None = None
        self.texts: list[str] = []
        """Text that was sent to the caller."""
        self.logprobs: list[TokenLogprob] = []
        self.calls: list[ToolCall] = []
        """Tool calls that were sent to the caller."""
        self.is_at_caller = False
        """True while a piece is being sent to the caller."""
        self.screen = screen
        self._answer = answer
        self._reader = CallReader(request.call_form.form) if request.sent.tools and request.call_form else None
        self._limit = limit
        self._first, self._each = metrics.of_tokens(request.adapter.line, request.adapter.adapter)
        self._began = began

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield pieces up to the one with `finish`. Raises EngineLost if the engine sends no such piece, and the errors
        of `Screen.take`."""
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
            text = await self.screen.take(self._reader.feed(piece.text) if self._reader else piece.text)
            if piece.finish is not None and not self.screen.is_over:
                text += await self._end(piece.finish)
            self.texts.append(text)
            at_end: Finish | None = "tool_calls" if self.calls and piece.finish == "stop" else piece.finish
            at_stop_text = "stop" if self.screen.is_at_stop_text else at_end
            self.finish = "content_filter" if self.screen.is_stopped else at_stop_text
            self.logprobs += piece.logprobs
            self._limit.progress()
            self.is_at_caller = True
            yield replace(piece, text=text)
            self.is_at_caller = False
            self._limit.progress()
            if self.finish is not None:
                return
        raise EngineLost("The engine ended an answer without a finish reason.")

    async def _end(self, finish: Finish) -> str:
        """Store the answer's tool calls, and return the rest of its text."""
        rest, calls = self._reader.end() if self._reader else ("", [])
        text = await self.screen.take(rest) if rest else ""
        if not self.screen.is_over:
            text += await self.screen.end(is_cut=finish == "length")
        self.calls = await self.screen.take_calls(calls)
        return text

    @property
    def as_text(self) -> str:
        """Return the answer's sent text and sent tool calls as one text."""
        return Message(role="assistant", content="".join(self.texts), tool_calls=tuple(self.calls)).as_text


@dataclass
class RequestHandler:
    catalog: Catalog
    limits: Limits
    journal: Journal
    telemetry: Telemetry
    feedback: FeedbackStore
    tracer: Tracer = field(default_factory=NoOpTracer)
    screens: Screens = NOTHING_SEARCHED
    transcripts: TranscriptFiles = field(default_factory=lambda: NOTHING_KEPT)
    replaced: Collection[str] = frozenset()
    """Lines in which a caller's system message replaces the line's instruction."""
    metrics: Metrics = field(default_factory=Metrics)

    def __post_init__(self) -> None:
        self.rates = Rates(self.limits)
        self.places = Places(self.limits, self.catalog.lines)
        self.on_severe_report: Callable[[], Awaitable[None]] | None = None
        """Function that logs a report of severity 1. It is called before the report is confirmed to the caller."""
        self.is_ending = False
        self._running: set[_Limit] = set()

    @property
    def is_ready(self) -> bool:
        return not self.is_ending and self.journal.is_whole()

    @asynccontextmanager
    async def answer(self, request: RoutedRequest) -> AsyncIterator[RunningAnswer]:
        """Begin an answer. The answer is counted, journalled and traced, however it ends. Raises Refusal if it cannot
        be given."""
        with traced(self.tracer, request.sent.model, request.adapter, request.sampling, request.traceparent) as span:
            async with self._begun(request) as answer:
                try:
                    yield answer
                finally:
                    used = (answer.prompt_tokens, answer.answer_tokens)
                    state_use(span, *used, answer.finish, answer.first_seconds)

    async def take_feedback(self, caller: Caller, id: str, feedback: Feedback) -> None:
        """Store and count feedback on an answer. Raises Refusal if this caller did not get this answer (404), if the
        feedback cannot be stored (503), or if the caller exceeds a rate limit (429)."""
        async with self.rates.request(caller):
            try:
                given = self.feedback.take(id, caller, feedback, self.transcripts.is_whole)
            except (sqlite3.Error, OSError) as error:
                _LOG.warning("feedback cannot be stored (%s)", type(error).__name__)
                raise refused("feedback_not_noted") from None
        if given is None:
            raise refused("answer_not_found")
        self.metrics.said(given.line, given.adapter, feedback)
        if given.choice is not None:
            self.telemetry.rate(given.line, given.choice, feedback, given.before)
        if feedback.is_worst:
            user = given.choice.user if given.choice is not None else answer_digest(id, caller).hex()
            self.telemetry.report(given.line, given.adapter, user)
            if self.on_severe_report is not None:
                await self.on_severe_report()
        rating = Rating(given=answer_digest(id, caller).hex(), at=utc_now(), feedback=feedback)
        if (sealed := self.transcripts.rate(given.line, rating)) is not None:
            self.journal.note(Rated(line=given.line, given=rating.given, rating=sealed))

    def end_within(self, seconds: float) -> None:
        """Accept no new request, and abort running answers after `seconds`."""
        self.is_ending = True
        for running in self._running:
            running.end_within(seconds)

    @asynccontextmanager
    async def _begun(self, request: RoutedRequest) -> AsyncIterator[RunningAnswer]:
        self._assert_can_answer(request)
        began, answer, is_computed = time.monotonic(), None, False
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self.rates.request(request.caller, request.user))
                limit = await stack.enter_async_context(self._limited())
                await request.form_check.of(request.sent.form)
                screen = await self._screened(request)
                await stack.enter_async_context(self.places.place(request.adapter.line))
                limit.progress(self.limits.first_token_seconds)
                request.digest_with("")  # raises if the answer could not be journalled
                is_computed, prompt = True, request.prompt(screen.sent.messages)
                callable_names = {tool["function"]["name"] for tool in request.sent.form.tools}
                tools = [tool for tool in screen.sent.tools if tool["function"]["name"] in callable_names]
                form = replace(request.sent.form, schema=screen.sent.schema, tools=tools)
                of_engine = await self.catalog.engine.answer(
                    EngineRequest(
                        request.adapter.digest,
                        prompt.messages,
                        replace(request.sampling, stop=screen.stops),
                        request.caller.cache_group,
                        prompt.shared,
                        form.grammar(request.call_form),
                        screen.sent.tools,
                    )
                )
                answer = RunningAnswer(request, of_engine, self.metrics, began, limit, screen)
                stack.push_async_callback(of_engine.pieces.aclose)
                stack.push(partial(self._note, request, answer, began, limit))
                self._remember(request)
                yield answer
        except asyncio.CancelledError:
            if answer is None and is_computed:
                self._compare(request, "cancelled", time.monotonic() - began)
            raise
        except (EngineRefused, EngineLost, ScannerLost, TimeoutError) as error:
            refusal = self._refusal(request, error)
            refusal.is_counted = answer is not None
            if answer is None and is_computed and not isinstance(error, EngineRefused):
                self._compare(request, "lost", time.monotonic() - began)
            raise refusal from None

    def _assert_can_answer(self, request: RoutedRequest) -> None:
        if self.is_ending:
            raise refused("gateway_stopping")
        if not self.journal.is_whole():
            raise refused("journal_full")
        if not self.transcripts.is_whole(request.adapter.line):
            raise refused("transcripts_full")

    async def _screened(self, request: RoutedRequest) -> Screen:
        """Search the request for personal data, and return the request's screen. Raises Refusal if the request may not
        be answered, and ScannerLost if the search fails."""
        line, adapter = request.adapter.line, request.adapter.adapter
        sent = SentTexts(request.sent.conversation, request.sent.tools, request.sent.form.schema)
        screen = self.screens.of(line, sent, request.sampling.stop)
        if request.sampling.logprobs is not None and screen.changes_text:
            message = "The parameter 'logprobs' is not supported: this model replaces personal data. Leave it out."
            raise Refusal(400, message, "unsupported_parameter", param="logprobs")
        try:
            may_pass = await screen.take_request()
        except TextTooLong:
            message = "The request is too long to be searched for personal data."
            raise Refusal(400, message, "context_length_exceeded", param="messages") from None
        self.metrics.found(line, adapter, "request", screen.in_request)
        if not may_pass:
            raise personal_data_sent(screen.in_request)
        return screen

    @asynccontextmanager
    async def _limited(self) -> AsyncIterator["_Limit"]:
        limit = _Limit(self.limits)
        async with limit.timeout:
            self._running.add(limit)
            try:
                yield limit
            finally:
                self._running.discard(limit)

    def _note(
        self,
        request: RoutedRequest,
        answer: RunningAnswer,
        began: float,
        limit: "_Limit",
        kind: type[BaseException] | None,
        *_: object,
    ) -> None:
        """Count and journal an answer when it ends. An unfinished answer is counted before the engine aborts it."""
        by_caller = answer.is_at_caller or not limit.timeout.expired()
        # If the answer's grammar becomes too complex, the request counts as cancelled by the caller.
        given_up = kind is not None and (
            issubclass(kind, EngineRefused) or (not issubclass(kind, Exception) and by_caller)
        )
        outcome: Outcome = "complete" if answer.finish else "cancelled" if given_up else "lost"
        line, adapter, seconds = request.adapter.line, request.adapter.adapter, time.monotonic() - began
        used = answer.prompt_tokens + answer.answer_tokens
        self.rates.charge(request.caller, used, request.user)
        self.metrics.ended(line, adapter, outcome, seconds, answer.prompt_tokens, answer.answer_tokens)
        text, screen = answer.as_text, answer.screen
        self.metrics.found(line, adapter, "answer", screen.in_answer)
        self.metrics.unsearched(line, adapter, screen.failures)
        ended: Ended = "stopped" if screen.is_stopped else outcome
        holds_personal_data = bool(screen.in_answer) if screen.is_answer_searched else None
        noted = Answered(line=line, adapter=adapter, outcome=outcome, tokens=used, digest=request.digest_with(text))
        try:
            self._compare(request, ended, seconds, text, answer.answer_tokens, holds_personal_data)
            if ended == "complete":
                noted = noted.model_copy(update={"transcript": self._transcribe(request, screen)})
        finally:
            self.journal.note(noted)

    def _transcribe(self, request: RoutedRequest, screen: Screen) -> str | None:
        """Store a complete answer as an encrypted record, and return the record's digest. If the line keeps no
        transcripts, do nothing and return None."""
        if not self.transcripts.keeps(request.adapter.line):
            return None
        record = Transcript(
            given=answer_digest(request.id, request.caller).hex(),
            line=request.adapter.line,
            adapter=request.adapter.adapter,
            classification=request.adapter.classification,
            at=utc_now(),
            messages=tuple(map(message_of, screen.sent.messages)),
            tools=tuple(map(dict, screen.sent.tools)),
            answer="".join(screen.with_placeholders),
            calls=screen.calls_with_placeholders,
            originals=screen.originals,
        )
        return self.transcripts.keep(record)

    def _remember(self, request: RoutedRequest) -> None:
        """Store which caller got the answer, so that the caller can rate it. If the flag did not choose the adapter,
        for example if the caller named a version, the answer does not count in a comparison. The caller's reports about
        a staged adapter still count for the adapter's rollout."""
        line, adapter, caller = request.adapter.line, request.adapter.adapter, request.caller
        choice = request.choice
        if choice is None:
            of_line = self.catalog.choose(line, caller.key, caller.groups)
            if of_line is not None:
                arm: Arm = "staged" if adapter == of_line.staged else "production"
                choice = replace(of_line, adapter=adapter, digest=request.adapter.digest, arm=arm, drawn=False)
        self.feedback.remember(request.id, caller, line, adapter, choice)

    def _compare(
        self,
        request: RoutedRequest,
        ended: Ended,
        seconds: float,
        text: str = "",
        tokens: int = 0,
        found: bool | None = None,
    ) -> None:
        """Count an answer in its line's rollout. found: True if the answer contains personal data; None if the answer
        was not searched."""
        if request.choice is not None and not self.is_ending:
            line, newest = request.adapter.line, request.sent.conversation[-1]["content"]
            counted = (line, request.choice, text, tokens, seconds, ended, newest)
            self.telemetry.note(*counted, holds_personal_data=found)

    def _refusal(
        self, request: RoutedRequest, error: EngineRefused | EngineLost | ScannerLost | TimeoutError
    ) -> Refusal:
        """Convert an error of the engine or scanner to an error for the caller. EngineRefused counts as an error in the
        request, except if the adapter is no longer loaded."""
        if isinstance(error, ScannerLost):
            _LOG.warning(error.message)
            return refused("scanner_lost")
        if isinstance(error, EngineLost):
            return refused("engine_lost")
        if isinstance(error, TimeoutError):
            return refused("gateway_stopping" if self.is_ending else "answer_timeout")
        if request.adapter.digest not in self.catalog.engine.loaded():
            return self.catalog.missing(request.sent.model, request.caller)
        message = f"{error.message} {error.hint}".strip()
        code = "context_length_exceeded" if isinstance(error, PromptTooLong) else "refused_by_engine"
        return Refusal(400, message, code, param="messages")


class _Limit:
    """The time limits of one answer: for the whole answer, and for each pause between two pieces."""

    def __init__(self, limits: Limits) -> None:
        self._pause_seconds = limits.pause_seconds
        self._end = asyncio.get_running_loop().time() + limits.answer_seconds
        self.timeout = asyncio.timeout_at(self._end)

    def progress(self, seconds: float | None = None) -> None:
        """Restart the time limit for the pause before the next piece. seconds: limit to use instead of the usual one,
        for example before the first piece."""
        if not self.timeout.expired():
            pause = self._pause_seconds if seconds is None else seconds
            self.timeout.reschedule(min(self._end, asyncio.get_running_loop().time() + pause))

    def end_within(self, seconds: float) -> None:
        self._end = min(self._end, asyncio.get_running_loop().time() + seconds)
        if not self.timeout.expired():
            self.timeout.reschedule(min(self._end, self.timeout.when() or self._end))
