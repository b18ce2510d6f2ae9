"""Define the gateway's application: routes, streams and error handlers."""

import asyncio
import datetime
import json
import logging
import secrets
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from sovereign_pipeline.base.errors import place_of
from sovereign_pipeline.base.pages import REFUSAL, for_hosts
from sovereign_pipeline.serving.deployment import Deployed
from sovereign_pipeline.serving.engines.engine import Deployable
from sovereign_pipeline.serving.gateway import messages
from sovereign_pipeline.serving.gateway.admin import AdminSources, Name, overview, page_of
from sovereign_pipeline.serving.gateway.auth import Caller, Callers, auth_middleware
from sovereign_pipeline.serving.gateway.messages import Health, Kind, ModelFacts, Refusal, refused
from sovereign_pipeline.serving.gateway.metrics import CONTENT_TYPE, Figures
from sovereign_pipeline.serving.gateway.parameters import A_FIELD, CompletionRequest, read_request, request_schema
from sovereign_pipeline.serving.gateway.request_handler import RequestHandler, RoutedRequest, RunningAnswer
from sovereign_pipeline.serving.rollout.in_force import Flags

_LOG = logging.getLogger(__name__)
GONE = 499
SECONDS_WITHOUT_REGISTRY = 24 * 60 * 60
"""Seconds without the registry after which `/readyz` returns 503."""


@dataclass(frozen=True)
class Condition:
    """The state of the lines, the registry and the adapters that `/readyz` reports."""

    answers: bool = True
    """False if adapters should answer users, but no adapter that a flag has in production is loaded."""
    is_behind: bool = False
    """True if any line's newest flag is not in force in this gateway, or a flag in force has an error."""
    withdrawn: int = 0
    """Number of lines whose adapter in production is recalled. Such lines do not count for `answers`."""
    unreached_seconds: float | None = None
    """Number of seconds for which the registry has been down; None if the registry answers."""
    unloaded: int = 0
    """Number of adapters that should answer users according to the flags in force, but that no engine has loaded."""


def condition_of(deployed: Deployed, loaded: Collection[str], flags: Flags) -> Condition:
    """Compute the condition. loaded: ids of the adapters that are verified and in the engine."""
    named = [flag for flag in flags.flags().values() if flag.production is not None]
    given = {flag.production for flag in named}
    recalled = {each.adapter for each in deployed.withdrawn}
    withdrawn = recalled & given
    given -= withdrawn
    in_production = any(each.is_in_production for each in deployed.served)
    # If a flag names the adapter in production, the rejection of the line's other adapters does not matter, because no
    # user depends on them.
    others = {each for flag in named for each in flag.adapters if each != flag.production}
    refused = {*deployed.refused} - recalled - others
    is_asked_of = bool(given or in_production or refused)
    unreached = time.monotonic() - deployed.unreached_at if deployed.unreached_at is not None else None
    unloaded = flags.answering() - recalled - {*loaded}
    answers = not is_asked_of or bool(given & {*loaded})
    return Condition(answers, bool(flags.problems()), len(withdrawn), unreached, len(unloaded))


@dataclass(frozen=True)
class Gateway:
    """The state that every route shares."""

    handler: RequestHandler
    condition: Callable[[], Condition]
    """Function that returns the lines' present condition."""
    started: int
    """Unix time at which the gateway started. Every model reports it as `created`."""
    sources: AdminSources

    async def figures(self) -> Figures:
        places, is_reached = self.handler.places, self.condition().unreached_seconds is None
        counts, engines = self.handler.metrics.counts(), await self.sources.engines()
        return Figures(engines, dict(places.running), places.waiting, counts, is_reached)


def gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def caller_of(request: Request) -> Any:
    """Return the caller that the auth middleware authenticated. The caller is None only on open pages, if the proxy
    names no user."""
    return request.state.caller


Here = Annotated[Gateway, Depends(gateway_of)]
From = Annotated[Caller, Depends(caller_of)]


def create_gateway(
    handler: RequestHandler,
    callers: Callers,
    hosts: Collection[str],
    condition: Callable[[], Condition],
    sources: AdminSources,
) -> FastAPI:
    """Build the application. At shutdown, the server must call `end_within` of `state.gateway.handler`."""
    app = FastAPI(
        title="Sovereign Pipeline gateway", docs_url=None, redoc_url=None, redirect_slashes=False, version="1"
    )
    metrics = handler.metrics
    app.state.gateway = Gateway(handler, condition, int(time.time()), sources)
    app.include_router(health)
    app.include_router(api)
    app.include_router(pages)

    def refuse(refusal: Refusal) -> Response:
        if not refusal.is_counted:
            metrics.refused(refusal.status)
        return JSONResponse(refusal.body, refusal.status, headers=refusal.headers)

    def handle(kind: type[Exception], response: Callable[[Any], Response]) -> None:
        async def handled(request: Request, error: Exception) -> Response:
            return response(error)

        app.add_exception_handler(kind, handled)

    handle(Refusal, refuse)
    handle(RequestValidationError, lambda error: refuse(_invalid(error.errors())))
    handle(HTTPException, lambda error: refuse(_of_framework(error)))
    handle(CallerGone, lambda _: Response(status_code=GONE))
    app.add_middleware(auth_middleware, callers=callers, body_bytes=handler.limits.body_bytes, count=metrics.refused)
    # Added last, so that it runs first: a request from a foreign page is rejected before its caller is looked up.
    foreign = Refusal(403, REFUSAL.decode().strip(), "foreign_host")
    app.add_middleware(
        for_hosts, hosts=hosts, refusal=json.dumps(foreign.body).encode(), content_type=b"application/json"
    )
    return app


def _invalid(errors: Sequence[Any]) -> Refusal:
    """Return the error for the first invalid field of a feedback request. The error quotes no value."""
    error = errors[0]
    if error["type"] == "json_invalid":
        return Refusal(400, "The body is not JSON.", "invalid_json")
    path = [str(part) if isinstance(part, int) or A_FIELD.fullmatch(str(part)) else "…" for part in error["loc"][1:]]
    param = ".".join(path) or None
    if error["type"] == "extra_forbidden":
        return Refusal(400, f"The field '{param}' is unknown.", "unknown_parameter", param=param)
    if error["type"] == "missing":
        return Refusal(400, f"The field '{param}' is missing.", "missing_parameter", param=param)
    own = error.get("ctx", {}).get("error")  # from a rule of the model; pydantic's own message helps no caller
    where = f"The field '{param}' has a value that is not accepted." if param else "The body is not accepted."
    return Refusal(400, f"{where} {own or 'See /openapi.json.'}", "invalid_parameter", param=param)


def _of_framework(error: HTTPException) -> Refusal:
    known = {404: ("This page does not exist.", "not_found")}
    known[405] = ("This method is not allowed for this page.", "method_not_allowed")
    message, code = known.get(error.status_code, ("The request cannot be read.", "invalid_request"))
    return Refusal(error.status_code, message, code, headers=error.headers)


MEANINGS: dict[int | str, str] = {
    400: "A parameter of the request is invalid or not supported.",
    401: "No valid token was sent.",
    404: "The model or answer does not exist, or the caller may not use it.",
    408: "The request took too long to arrive.",
    413: "The request is too long.",
    429: "Too many requests; see Retry-After.",
    500: "An internal error of the gateway.",
    503: "The gateway or its engine cannot answer now; see Retry-After.",
    504: "The answer took too long.",
    "4XX": "Any other error in a request.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": messages.ErrorBody, "description": what} for status, what in MEANINGS.items()
}
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}

pages = APIRouter(include_in_schema=False)
health = APIRouter(responses={key: ERRORS[key] for key in (503, "4XX")})
api = APIRouter(dependencies=[Security(HTTPBearer(auto_error=False))], responses=ERRORS)


def _body(kind: Kind) -> dict[str, Any]:
    """Return the OpenAPI description of a request's body."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": request_schema(kind)}}}}


@api.post("/v1/chat/completions", response_model=messages.ChatCompletion, responses=STREAM, openapi_extra=_body("chat"))
async def chat(request: Request, here: Here, caller: From) -> Response:
    """Answer a conversation with text, with JSON that matches a schema, or with calls of the caller's tools."""
    return await _answer(request, here, caller, "chat")


@api.post("/v1/completions", response_model=messages.Completion, responses=STREAM, openapi_extra=_body("text"))
async def completions(request: Request, here: Here, caller: From) -> Response:
    """Answer a prompt, which becomes the only message of a conversation."""
    return await _answer(request, here, caller, "text")


@api.post("/v1/feedback", response_model=messages.FeedbackTaken)
async def feedback(here: Here, caller: From, said: messages.FeedbackRequest) -> messages.FeedbackTaken:
    """Rate an answer that you got. A newer rating replaces an older one, but a report of severity 1 stays counted."""
    await here.handler.take_feedback(caller, said.answer, said.feedback)
    return messages.FeedbackTaken(id=said.id)


@api.get("/v1/models", response_model=messages.ModelList)
async def models(here: Here, caller: From) -> messages.ModelList:
    """List the models that the caller may use."""
    visible = here.handler.catalog.visible(caller)
    return messages.ModelList(data=[_as_model(here, name, visible[name].adapter) for name in sorted(visible)])


@api.get("/v1/models/{model}", response_model=ModelFacts)
async def model(here: Here, caller: From, model: str) -> ModelFacts:
    """Return one model that the caller may use."""
    found = here.handler.catalog.visible(caller).get(model)
    if found is None:
        raise here.handler.catalog.missing(model, caller)
    return _as_model(here, model, found.adapter)


@api.get("/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def metrics_page(here: Here, caller: From) -> Response:
    """Return counters for Prometheus. They name every line, so callers need the permission `metrics`."""
    if not caller.may_read_metrics:
        raise refused("not_found")
    return Response(here.handler.metrics.page(await here.figures()), media_type=CONTENT_TYPE)


@api.get("/admin/state")
async def admin_state(here: Here, caller: From) -> dict[str, Any]:
    """Return the state of lines and engines. Callers need the permission `admin`."""
    if not caller.may_administer:
        raise refused("not_found")
    async with here.handler.rates.request(caller):
        figures, now = await here.figures(), datetime.datetime.now(datetime.UTC)
        return await asyncio.to_thread(overview, caller, here.handler.catalog, figures, here.sources, now)


@pages.get("/")
async def chat_page() -> Response:
    """Return the chat page, on which a person can try a line."""
    return _page("chat")


@pages.get("/admin")
async def admin_page(caller: Annotated[Caller | None, Depends(caller_of)]) -> Response:
    """Return the admin page, without data. A signed-in person without the permission `admin` gets 404."""
    if caller is not None and not caller.may_administer:
        raise refused("not_found")
    return _page("admin")


@health.get("/healthz", response_model=Health, response_model_exclude_none=True)
async def healthz() -> Health:
    """Report that this process answers."""
    return Health()


@health.get("/readyz", response_model=Health, response_model_exclude_none=True)
async def readyz(here: Here) -> Health:
    """Report whether requests are answered. Returns 503 in these cases: no engine is able to compute; no line is served
    although an adapter is in production; the journal cannot be written; the gateway is stopping; the registry has been
    down for a day. The status is `degraded` in these cases: the registry is down; an engine does not compute; an
    adapter that should answer is not loaded; the newest flag of a line is not in force; an officer withdrew a line's
    adapter."""
    if not here.handler.is_ready or not await here.handler.catalog.engine.is_well():
        raise Refusal(503, "The gateway does not answer requests now.", "not_ready", retry_after=10)
    condition = here.condition()
    if not condition.answers:
        raise Refusal(503, "No line is served, although an adapter is in production.", "no_line_served", retry_after=10)
    unreached = condition.unreached_seconds
    if (unreached or 0) > SECONDS_WITHOUT_REGISTRY:
        raise Refusal(503, "The registry has not been reached for a day.", "registry_unreached", retry_after=10)
    silent = sum(not engine.computes for engine in await here.sources.engines())
    degraded = {
        "The registry is down. Requests are answered by adapters that were verified before.": unreached is not None,
        f"Engines that do not compute: {silent}. The lines of all other engines still answer.": silent,
        f"Adapters that should answer but are not loaded: {condition.unloaded}. The log says why.": condition.unloaded,
        "A newer flag of a line is not in force here. The log says why.": condition.is_behind,
        f"Lines whose adapter was withdrawn by an officer: {condition.withdrawn}.": condition.withdrawn,
    }
    detail = next((text for text, holds in degraded.items() if holds), None)
    return Health(status="degraded", detail=detail) if detail is not None else Health()


async def _answer(request: Request, here: Gateway, caller: Caller, kind: Kind) -> Response:
    handler = here.handler
    sent = read_request(kind, request.headers.get("content-type", ""), await request.body())
    user = sent.sent.get("user")
    found = handler.catalog.find(sent.model, caller, user)
    line, sampling = found.adapter.line, sent.sampling(handler.limits)
    call_form = handler.catalog.engine.call_form(found.adapter.digest)
    if call_form is None:
        _assert_without_tools(sent)
    elif not call_form.form.mark and sent.form.schema is not None and sent.form.tools:
        message = "The parameter 'response_format' is not supported with 'tools': this model's calls are bare JSON."
        raise Refusal(400, message, "unsupported_parameter", param="response_format")
    if user is not None and caller.user_for(line, user) == caller.user_for(line, None):
        sent.ignored.append("user")
    routed = RoutedRequest(
        caller,
        found.adapter,
        sent,
        sampling,
        None if sent.is_task else found.choice,
        found.user,
        request.headers.get("traceparent"),
        line in handler.replaced,
        call_form,
    )
    choices = [routed.choice_of(index) for index in range(sent.choices(handler.limits))]
    if sent.stream:
        return EventStream(handler, choices)
    answer = await whole_answer(handler, choices, request.receive)
    return JSONResponse(answer.model_dump(mode="json"), headers=headers_of(handler, routed))


def _assert_without_tools(sent: CompletionRequest) -> None:
    """Raise Refusal if a request has tools, tool calls or results of calls. Called if the chat template does not
    support tool calls."""
    roles = [each["role"] for each in sent.conversation]
    called = next((place for place, each in enumerate(sent.conversation) if "tool_calls" in each), None)
    for param, is_there in (
        ("tools", bool(sent.tools)),
        (f"messages.{called}.tool_calls", called is not None),
        (f"messages.{roles.index('tool') if 'tool' in roles else 0}.role", "tool" in roles),
    ):
        if is_there:
            message = f"The parameter '{param}' is not supported: this model's chat template has no tool calls."
            raise Refusal(400, message, "unsupported_parameter", param=param)


def _as_model(here: Gateway, name: str, adapter: Deployable) -> ModelFacts:
    return ModelFacts(id=name, created=here.started, metadata=_level(here.handler, adapter))


def _level(handler: RequestHandler, adapter: Deployable) -> messages.Level:
    is_kept = handler.transcripts.keeps(adapter.line)
    return messages.Level(classification=adapter.classification, transcript="kept" if is_kept else None)


def _page(name: Name) -> Response:
    content, headers = page_of(name)
    return Response(content, media_type="text/html", headers=headers)


T = TypeVar("T")

SECONDS_FOR_THE_END = 3.0
"""Seconds allowed for sending the error event that ends a stream."""


class CallerGone(Exception):
    """Raised when the caller has disconnected."""


def headers_of(handler: RequestHandler, request: RoutedRequest) -> dict[str, str]:
    """Return the headers that state the adapter, the adapter's classification level, whether an encrypted transcript is
    kept, and which parameters of the request had no effect."""
    return {
        "X-Sovereign-Adapter": request.adapter.adapter,
        "X-Sovereign-Classification": _in_a_header(request.adapter.classification),
        **({"X-Sovereign-Transcript": "kept"} if handler.transcripts.keeps(request.adapter.line) else {}),
        **({"X-Sovereign-Ignored": ", ".join(request.sent.ignored)} if request.sent.ignored else {}),
    }


def _facts(handler: RequestHandler, request: RoutedRequest) -> dict[str, Any]:
    """Return the fields that are the same in all events of an answer."""
    return {
        "id": f"{'chatcmpl' if request.sent.kind == 'chat' else 'cmpl'}-{request.id}",
        "created": int(time.time()),
        "model": request.sent.model,
        "system_fingerprint": request.adapter.adapter,
        "metadata": _level(handler, request.adapter).model_dump(),
    }


async def whole_answer(
    handler: RequestHandler, choices: Sequence[RoutedRequest], receive: Receive
) -> messages.ChatCompletion | messages.Completion:
    """Compute all choices, and return the response. Raises Refusal if a choice fails, and CallerGone if the caller
    disconnects."""

    async def compute(request: RoutedRequest) -> RunningAnswer:
        async with handler.answer(request) as answer:
            async for _ in answer.pieces():
                pass
            return answer

    answers = await _while_connected(receive, _together(map(compute, choices)))
    first = choices[0]
    facts = {**_facts(handler, first), "usage": _used(answers)}
    made = [_choice(first, index, answer) for index, answer in enumerate(answers)]
    if first.sent.kind == "chat":
        return messages.ChatCompletion(choices=made, **facts)
    return messages.Completion(choices=made, **facts)


def _choice(request: RoutedRequest, index: int, answer: RunningAnswer) -> Any:
    logprobs = answer.logprobs if request.sampling.logprobs is not None else None
    facts: dict[str, Any] = {
        "index": index,
        "finish_reason": answer.finish,
        "logprobs": messages.logprobs_of(request.sent.kind, logprobs),
    }
    text, calls = "".join(answer.texts), _calls(answer)
    if request.sent.kind == "text":
        return messages.TextChoice(text=text, **facts)
    message = messages.AnswerMessage(content=text or (None if calls else ""), tool_calls=calls)
    return messages.ChatChoice(message=message, **facts)


def _calls(answer: RunningAnswer) -> list[messages.AnswerCall]:
    functions = [
        messages.CalledFunction(name=each.name, arguments=json.dumps(each.arguments, ensure_ascii=False))
        for each in answer.calls
    ]
    return [messages.AnswerCall(id=f"call_{secrets.token_hex(12)}", function=each) for each in functions]


def _used(answers: Sequence[RunningAnswer]) -> messages.Usage:
    """Return the number of tokens of all choices of a request. The prompt counts once."""
    prompt, answer = answers[0].prompt_tokens, sum(each.answer_tokens for each in answers)
    return messages.Usage(prompt_tokens=prompt, completion_tokens=answer, total_tokens=prompt + answer)


async def _together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines concurrently. If one raises an error, the others are cancelled."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class EventStream(Response):
    """Streams an answer as server-sent events. If an error occurs before the first piece, the caller gets an ordinary
    error response."""

    def __init__(self, handler: RequestHandler, choices: Sequence[RoutedRequest]) -> None:
        self._handler, self._choices = handler, choices
        sent, facts = choices[0].sent, _facts(handler, choices[0])
        self._chunks = [messages.Chunks(sent.kind, facts, sent.wants_usage, index) for index in range(len(choices))]
        self._begun = False
        self._beginning = asyncio.Lock()
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await _while_connected(receive, self._send_all(send))
        except CallerGone:
            return
        except Refusal as refusal:
            if not self._begun:
                raise
            await self._end_with(refusal, send)
        except Exception as error:
            if not self._begun:
                raise
            _LOG.error(place_of(error))
            await self._end_with(refused("internal_error"), send)

    async def _send_all(self, send: Send) -> None:
        works = [self._send_choice(send, *each) for each in zip(self._choices, self._chunks, strict=True)]
        answers = await _together(works)
        await _send(send, self._chunks[0].end(_used(answers)))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_choice(self, send: Send, request: RoutedRequest, chunks: messages.Chunks) -> RunningAnswer:
        async with self._handler.answer(request) as answer:
            async for piece in answer.pieces():
                async with self._beginning:
                    if not self._begun:
                        await self._begin(send)
                if piece.logprobs:
                    await _send(send, chunks.logprobs(piece.text, piece.logprobs))
                elif piece.text:
                    await _send(send, chunks.text(piece.text))
            assert answer.finish is not None  # otherwise the pieces end with an error
            await _send(send, chunks.calls(_calls(answer)) + chunks.last(answer.finish))
            return answer

    async def _begin(self, send: Send) -> None:
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        headers |= headers_of(self._handler, self._choices[0])
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._begun = True
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        for chunks in self._chunks:
            await _send(send, chunks.first())

    async def _end_with(self, refusal: Refusal, send: Send) -> None:
        """Send an error event without [DONE]. If a stream simply ends without an error event, clients treat the answer
        as complete."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(SECONDS_FOR_THE_END):
                await _send(send, messages.event(refusal.body))
                await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send(send: Send, content: bytes) -> None:
    if content:
        await send({"type": "http.response.body", "body": content, "more_body": True})


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return a coroutine's result. If the caller disconnects first, cancel it and raise CallerGone."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise CallerGone
    finally:
        for each in (gone, task):
            each.cancel()
        await asyncio.gather(gone, task, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _in_a_header(text: str) -> str:
    """Encode a classification level for a header: printable ASCII is unchanged, other text is percent-encoded."""
    return text if text.isascii() and text.isprintable() else quote(text)
