"""The routes: chat and completions, models, health, metrics.

What belongs here: from a request to a response. What does not: who may do it (`doorway.py`, `catalog.py`), and what an
answer costs (`answering.py`).
"""

import asyncio
import datetime
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from sovereign_pipeline.serving.callers import Caller
from sovereign_pipeline.serving.engines.engine import Deployable, Engine
from sovereign_pipeline.serving.gateway import metrics
from sovereign_pipeline.serving.gateway.answering import Answering
from sovereign_pipeline.serving.gateway.catalog import Catalog
from sovereign_pipeline.serving.gateway.exchange import Asked
from sovereign_pipeline.serving.gateway.pages.overview import AdminState, Standing, overview
from sovereign_pipeline.serving.gateway.pages.shells import Name, shell
from sovereign_pipeline.serving.gateway.readiness import Condition
from sovereign_pipeline.serving.gateway.refusal import Refusal, no_such_model, no_such_page
from sovereign_pipeline.serving.gateway.requests import ChatRequest, CompletionRequest, FeedbackRequest
from sovereign_pipeline.serving.gateway.responses import (
    ChatCompletion,
    Completion,
    ErrorBody,
    FeedbackTaken,
    Health,
    Kind,
    ModelFacts,
    ModelList,
    level_of,
)
from sovereign_pipeline.serving.gateway.streams import EventStream, headers_of, whole_answer


@dataclass(frozen=True)
class Gateway:
    """What every route works with."""

    catalog: Catalog
    answering: Answering
    condition: Callable[[], Condition]
    """How it stands with the lines now."""
    started: int
    """Seconds since 1970: when every model here was 'created', as far as a caller is told."""
    standing: Standing
    """What `/admin` shows besides."""

    @property
    def engine(self) -> Engine:
        return self.catalog.engine


def gateway_of(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def named_caller(request: Request) -> Caller | None:
    """Whom the proxy names on a page that anybody may have."""
    caller: Caller | None = request.state.caller
    return caller


def caller_of(request: Request) -> Caller:
    """The doorway has put it there: no request without one comes so far."""
    caller: Caller = request.state.caller
    return caller


Here = Annotated[Gateway, Depends(gateway_of)]
From = Annotated[Caller, Depends(caller_of)]

MEANINGS: dict[int | str, str] = {
    400: "The request asks for something that is not there.",
    401: "No valid token was sent.",
    404: "The model or answer does not exist, or the caller may not use it.",
    408: "The request took too long to come.",
    413: "The request is too long.",
    429: "Too many requests; Retry-After says when.",
    500: "A fault of the gateway.",
    503: "No engine, or the gateway is being stopped; Retry-After says when.",
    504: "The answer took too long.",
    "4XX": "Anything else that is wrong with a request.",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": what} for status, what in MEANINGS.items()
}
STREAM: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}}}

pages = APIRouter(include_in_schema=False)
health = APIRouter(responses={key: ERRORS[key] for key in (503, "4XX")})
api = APIRouter(dependencies=[Security(HTTPBearer(auto_error=False))], responses=ERRORS)


@api.post("/v1/chat/completions", response_model=ChatCompletion, responses=STREAM)
async def chat(request: Request, here: Here, caller: From, asked: ChatRequest) -> Response:
    """Answer a conversation. Only text, one answer, no tools."""
    return await _answer(request, here, caller, asked, "chat")


@api.post("/v1/completions", response_model=Completion, responses=STREAM)
async def completions(request: Request, here: Here, caller: From, asked: CompletionRequest) -> Response:
    """Answer a prompt, as the one message of a conversation."""
    return await _answer(request, here, caller, asked, "text")


@api.post("/v1/feedback", response_model=FeedbackTaken)
async def feedback(here: Here, caller: From, said: FeedbackRequest) -> FeedbackTaken:
    """Say something of an answer that you got: the last word stands."""
    await here.answering.take_feedback(caller, said.answer, said.feedback)
    return FeedbackTaken(id=said.id)


@api.get("/v1/models", response_model=ModelList)
async def models(here: Here, caller: From) -> ModelList:
    """What the caller may use, and nothing else."""
    visible = here.catalog.visible(caller)
    return ModelList(data=[_as_model(here, name, visible[name].adapter) for name in sorted(visible)])


@api.get("/v1/models/{model}", response_model=ModelFacts)
async def model(here: Here, caller: From, model: str) -> ModelFacts:
    """One model that the caller may use."""
    found = here.catalog.visible(caller).get(model)
    if found is None:
        raise no_such_model()
    return _as_model(here, model, found.adapter)


@api.get("/metrics", responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}})
async def metrics_page(here: Here, caller: From) -> Response:
    """Counters for Prometheus, for callers who may read them: they name every line."""
    if not caller.may_read_metrics:
        raise no_such_page()
    places = here.answering.places
    page = here.answering.metrics.page(
        engines=await here.standing.engines(),
        waiting=places.waiting,
        running=places.running,
    )
    return Response(page, media_type=metrics.CONTENT_TYPE)


@api.get("/admin/state", response_model=AdminState)
async def admin_state(here: Here, caller: From) -> AdminState:
    """How it stands with what the caller may use, for callers who may see it."""
    if not caller.may_administer:
        raise no_such_page()
    async with here.answering.rates.request(caller):
        engines, now = await here.standing.engines(), datetime.datetime.now(datetime.UTC)
        return await asyncio.to_thread(overview, caller, here.catalog, here.answering, here.standing, engines, now)


@pages.get("/")
async def chat_page() -> Response:
    """Try a line: the page asks for everything else with the caller's token."""
    return _page("chat")


@pages.get("/admin")
async def admin_page(caller: Annotated[Caller | None, Depends(named_caller)]) -> Response:
    """The page alone; there is none for whom the proxy names and who may not see what it shows."""
    if caller is not None and not caller.may_administer:
        raise no_such_page()
    return _page("admin")


@health.get("/healthz", response_model=Health, response_model_exclude_none=True)
async def healthz() -> Health:
    """Whether this process answers."""
    return Health()


@health.get("/readyz", response_model=Health, response_model_exclude_none=True)
async def readyz(here: Here) -> Health:
    """Whether requests are answered: an engine computes, a line is served where one is in production, answers can be
    noted, and nobody is ending it. Degraded: some are answered by an older flag than the newest, or not at all,
    because the engine of their base model does not compute."""
    if not here.answering.is_ready or not await here.engine.is_well():
        raise Refusal(503, "The gateway does not answer requests now.", "not_ready", retry_after=10)
    condition = here.condition()
    if not condition.answers:
        raise Refusal(503, "No line is served, though one is in production.", "no_line_served", retry_after=10)
    silent = sum(not engine.computes for engine in await here.standing.engines())
    if silent:
        return Health(status="degraded", detail=f"Engines that do not compute: {silent}. The other lines are answered.")
    if condition.is_behind:
        return Health(status="degraded", detail="A newer flag of a line is not in force here. The log says why.")
    return Health()


async def _answer(
    request: Request, here: Gateway, caller: Caller, sent: ChatRequest | CompletionRequest, kind: Kind
) -> Response:
    found = here.catalog.find(sent.model, caller, sent.user)
    sampling = sent.sampling(here.answering.limits)
    asked = Asked(
        caller,
        found.adapter,
        sent.conversation,
        sampling,
        found.choice,
        sent.model,
        request.headers.get("traceparent"),
    )
    if sent.stream:
        return EventStream(here.answering, asked, kind, sent.model, sent.wants_usage)
    answer = await whole_answer(here.answering, asked, kind, sent.model, request.receive)
    return JSONResponse(answer.model_dump(mode="json"), headers=headers_of(here.answering, asked))


def _as_model(here: Gateway, name: str, adapter: Deployable) -> ModelFacts:
    level = level_of(adapter, here.answering.transcripts.keeps(adapter.line))
    return ModelFacts(id=name, created=here.started, metadata=level)


def _page(name: Name) -> Response:
    page = shell(name)
    return Response(page.content, media_type="text/html", headers=dict(page.headers))
