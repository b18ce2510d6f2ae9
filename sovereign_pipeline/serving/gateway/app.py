"""The application: routes, error handlers and the doorway put together.

What belongs here: the wiring, and errors of the framework in OpenAI's form. What does not: any route (`routes.py`).
"""

import json
import re
import time
from collections.abc import Callable, Collection, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from opentelemetry.trace import NoOpTracer, Tracer
from starlette.exceptions import HTTPException

from sovereign_pipeline.base.hosts import REFUSAL, for_hosts
from sovereign_pipeline.policy.serving import Limits
from sovereign_pipeline.serving.gateway.answering import Answering
from sovereign_pipeline.serving.gateway.catalog import Catalog
from sovereign_pipeline.serving.gateway.doorway import Callers, doorway
from sovereign_pipeline.serving.gateway.given_answers import GivenAnswers
from sovereign_pipeline.serving.gateway.journal import Journal
from sovereign_pipeline.serving.gateway.metrics import Metrics
from sovereign_pipeline.serving.gateway.pages.overview import NOTHING_BESIDES, Standing
from sovereign_pipeline.serving.gateway.readiness import Condition
from sovereign_pipeline.serving.gateway.refusal import Refusal
from sovereign_pipeline.serving.gateway.routes import Gateway, api, health, pages
from sovereign_pipeline.serving.gateway.streams import CallerGone
from sovereign_pipeline.serving.rollout.telemetry import Telemetry
from sovereign_pipeline.serving.scanning.screen import NOTHING_SEARCHED, Screens
from sovereign_pipeline.serving.transcripts.keeping import NOTHING_KEPT, TranscriptFiles

A_FIELD = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")
"""What the name of a field looks like; anything else that was sent in its place is not repeated."""
GONE = 499


def create_gateway(
    catalog: Catalog,
    callers: Callers,
    limits: Limits,
    journal: Journal,
    telemetry: Telemetry,
    given: GivenAnswers,
    hosts: Collection[str],
    condition: Callable[[], Condition] = Condition,
    standing: Standing = NOTHING_BESIDES,
    tracer: Tracer | None = None,
    screens: Screens = NOTHING_SEARCHED,
    transcripts: TranscriptFiles = NOTHING_KEPT,
) -> FastAPI:
    """Build the application. `state.gateway.answering` is told when it is to end."""
    app = FastAPI(
        title="Sovereign Pipeline gateway", docs_url=None, redoc_url=None, redirect_slashes=False, version="1"
    )
    metrics = Metrics()
    answering = Answering(
        catalog, limits, metrics, journal, telemetry, given, tracer or NoOpTracer(), screens, transcripts
    )
    app.state.gateway = Gateway(catalog, answering, condition, int(time.time()), standing)
    app.include_router(health)
    app.include_router(api)
    app.include_router(pages)

    def refuse(refusal: Refusal) -> Response:
        if not refusal.is_counted:
            metrics.refused(refusal.status)
        return JSONResponse(refusal.body, refusal.status, headers=refusal.headers)

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refusal)
        return refuse(error)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return refuse(_invalid(error.errors()))

    async def unknown(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return refuse(_of_framework(error))

    async def gone(request: Request, error: Exception) -> Response:
        return Response(status_code=GONE)

    app.add_exception_handler(Refusal, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, unknown)
    app.add_exception_handler(CallerGone, gone)
    app.add_middleware(doorway, callers=callers, body_bytes=limits.body_bytes, refused=metrics.refused)
    # Last, so that it stands before everything: what a page elsewhere sent is not asked who sends it.
    foreign = Refusal(403, REFUSAL.decode().strip(), "foreign_host")
    app.add_middleware(
        for_hosts, hosts=hosts, refusal=json.dumps(foreign.body).encode(), content_type=b"application/json"
    )
    return app


def _invalid(errors: Sequence[Any]) -> Refusal:
    """The first thing that is wrong, by the field; no value is repeated."""
    error = errors[0]
    if error["type"] == "json_invalid":
        return Refusal(400, "The body is not JSON.", "invalid_json")
    path = [str(part) if isinstance(part, int) or A_FIELD.fullmatch(str(part)) else "…" for part in error["loc"][1:]]
    param = ".".join(path) or None
    if error["type"] == "extra_forbidden":
        return Refusal(400, f"The field '{param}' is not one of this API.", "unknown_parameter", param=param)
    if error["type"] == "missing":
        return Refusal(400, f"The field '{param}' is missing.", "missing_parameter", param=param)
    where = f"The field '{param}': " if param else ""
    return Refusal(400, f"{where}{error['msg']}.", "invalid_parameter", param=param)


def _of_framework(error: HTTPException) -> Refusal:
    messages = {404: "There is no such page here.", 405: "This page is not asked in this way."}
    message = messages.get(error.status_code, "The request cannot be read.")
    codes = {404: "not_found", 405: "method_not_allowed"}
    code = codes.get(error.status_code, "invalid_request")
    return Refusal(error.status_code, message, code, headers=error.headers)
