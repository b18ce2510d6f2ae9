"""Assemble the gateway of an installation, and serve it until it is stopped."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import cached_property
from socket import socket
from typing import Any

import h11
from fastapi import FastAPI
from opentelemetry.trace import NoOpTracer
from uvicorn import Config, Server
from uvicorn.loops.auto import auto_loop_factory
from uvicorn.protocols.http.h11_impl import H11Protocol

from sovereign_pipeline.base.errors import InputError, SovereignError, place_of
from sovereign_pipeline.base.pages import LOOPBACK, listen
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.release.trial import enter_reports
from sovereign_pipeline.serving.deployment import Deployment, ServingBase, Sources
from sovereign_pipeline.serving.engines.by_base import Engines, Started, start_engine
from sovereign_pipeline.serving.gateway.admin import AdminSources, Reviews
from sovereign_pipeline.serving.gateway.app import condition_of, create_gateway
from sovereign_pipeline.serving.gateway.auth import Tokens, callers_of, file_of
from sovereign_pipeline.serving.gateway.metrics import Collector
from sovereign_pipeline.serving.gateway.request_handler import Catalog, RequestHandler
from sovereign_pipeline.serving.gateway.stores import FeedbackStore, Journal, UserQuota
from sovereign_pipeline.serving.high_water_marks import serving_directory
from sovereign_pipeline.serving.rollout.hold import Watcher
from sovereign_pipeline.serving.rollout.in_force import Flags
from sovereign_pipeline.serving.rollout.publishing import FlagSync, WorkplaceOf
from sovereign_pipeline.serving.rollout.telemetry import Telemetry, counts_directory, read_reports
from sovereign_pipeline.serving.screening import start_screens
from sovereign_pipeline.serving.transcripts import transcript_files

_LOG = logging.getLogger(__name__)
TIME = "%Y-%m-%dT%H:%M:%S%z"
"""Format of the time before each line of the log."""
SECONDS_AFTER_THE_DRAIN = 5
"""Seconds after the drain during which the last error events are sent."""
SECONDS_FOR_HEADERS = 10.0
"""Maximum seconds for the headers of a request, counted from the connection or the end of the previous answer."""
SECONDS_BETWEEN_COMPARISONS = 5.0
"""Seconds between comparisons of tokens and flags with the ledger."""
SECONDS_BETWEEN_HOLDS = 30.0
SECONDS_BETWEEN_HOURS = 60.0
"""Seconds between two checks for finished hours in the journal, and between two removals of old transcripts."""
SECONDS_BETWEEN_REVIEWS = 600.0

Task = Callable[[], Coroutine[Any, Any, None]]
"""Background task that runs for as long as the gateway serves."""
Report = Callable[[str], None]


def serve(settings: Settings, port: int, threads: int | None, report: Report, workplace_of: WorkplaceOf) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        threads: number of the engine's CPU threads; None for the engine's default.

    Raises InputError for a port that is in use, an incomplete proxy configuration, or a registry that is down before
    any adapter was verified, and NotFoundError if no adapter may be served and none is recalled.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s: %(message)s", datefmt=TIME)
    gateway = _Installation(settings, lambda text: report(f"{time.strftime(TIME)} {text}"), workplace_of)
    with (
        listen(port, "--port") as socket,
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=auto_loop_factory()) as runner,
    ):
        runner.run(gateway.serve(socket, threads))


class _Installation:
    def __init__(self, settings: Settings, report: Report, workplace_of: WorkplaceOf) -> None:
        self.settings, self.report, self.workplace_of = settings, report, workplace_of
        self.sources = Sources(settings, report)
        self.institution = self.sources.institution
        self.tokens = Tokens(file_of(settings))
        self.journal = Journal(serving_directory(settings) / "answers")
        self.callers = callers_of(settings, self.institution, self.tokens)

    @cached_property
    def registry(self) -> Registry:
        return open_registry(self.settings)

    async def serve(self, socket: socket, threads: int | None) -> None:
        settings, institution, report = self.settings, self.institution, self.report
        sources = self.sources
        first = await asyncio.to_thread(sources.base_to_serve)
        transcripts = transcript_files(settings, institution)
        screens = start_screens(settings, institution, report)

        async def start(digest: str) -> Started:
            base = first
            if base is None or base.digest != digest:
                base = await asyncio.to_thread(sources.base_of, digest)
            return await self._start_engine(base, threads)

        engine = Engines(start)
        if first is not None:
            await engine.begin(first.digest)

        def loaded() -> set[str]:
            in_engine = engine.loaded()
            return {each.adapter for each in deployment.deployed.served if each.digest in in_engine}

        flags = Flags(settings, loaded)
        deployment = Deployment(engine, sources, report, flags.answering)
        telemetry = Telemetry(counts_directory(settings))
        collector = Collector(settings.otlp_url) if settings.otlp_url is not None else None
        watcher = Watcher(settings, institution, flags, telemetry, report)
        reviews = Reviews(settings, lambda: self.registry)
        directory, limits = serving_directory(settings), institution.serving.limits
        quota = UserQuota(directory / "spoken-for.db", limits.new_users_per_day)
        handler = RequestHandler(
            Catalog(
                engine,
                lambda: deployment.deployed.served,
                institution.ladder,
                flags.which,
                quota.counts,
                lambda: deployment.deployed.withdrawn,
            ),
            limits,
            self.journal,
            telemetry,
            FeedbackStore(directory / "given-answers.db"),
            collector.tracer if collector is not None else NoOpTracer(),
            screens,
            transcripts,
            {line for line, served in institution.serving.lines.items() if served.system == "replace"},
        )
        admin = AdminSources(
            engines=engine.states,
            flags=flags.flags,
            behind=flags.problems,
            hold=watcher.state,
            review=reviews.of,
        )
        app = create_gateway(
            handler,
            self.callers,
            settings.ui_hosts,
            lambda: condition_of(deployment.deployed, loaded(), flags),
            admin,
        )
        sync = FlagSync(settings, flags, lambda: self.registry, self.workplace_of)
        entering = asyncio.Lock()

        def log_reports() -> None:
            telemetry.write()
            enter_reports(self.registry, read_reports(telemetry.directory))

        async def report_at_once() -> None:
            """Log new reports, judge the trials and update the flags. A user's report is confirmed only after that."""
            async with entering:
                for look in (log_reports, watcher.look, sync.look):
                    if problem := await _tried(look):
                        _LOG.warning("holds: %s", problem)

        handler.on_severe_report = report_at_once
        for each in (self._compare_tokens, sync.look):
            await _tried(each)  # errors are ignored here, because the tasks below report them
        tasks = [
            deployment.keep,
            repeated("holds", watcher.look, SECONDS_BETWEEN_HOLDS),
            repeated("reports", log_reports, SECONDS_BETWEEN_HOLDS),
            repeated("flags", sync.look, SECONDS_BETWEEN_COMPARISONS),
            repeated("tokens", self._compare_tokens, SECONDS_BETWEEN_COMPARISONS),
            repeated("reviews", reviews.look, SECONDS_BETWEEN_REVIEWS),
            repeated("journal", lambda: self.journal.enter(self.registry), SECONDS_BETWEEN_HOURS),
            repeated("transcripts", transcripts.remove_oldest, SECONDS_BETWEEN_HOURS),
        ]
        port = socket.getsockname()[1]
        address = f"http://{LOOPBACK}:{port}"
        report(f"gateway {address}   Ctrl-C ends")
        report(f"try a line at {address}/")
        report(f"see what is served at {address}/admin")
        try:
            await GatewayServer(app, port, tasks, engine.close).serve(sockets=[socket])
        finally:
            screens.close()
            if collector is not None:
                await asyncio.to_thread(collector.close)

    async def _start_engine(self, base: ServingBase, threads: int | None) -> Started:
        self.report(f"loading the base model {base.name}")
        chosen = self.institution.serving.engine_of(base.name)
        engine = await start_engine(chosen, self.settings, base.directory, base.digest, threads)
        if chosen.is_of_others:
            self.report(
                f"{base.name}: this gateway did not start the vLLM server, so it cannot know who else uses the server"
            )
        return Started(engine, chosen.engine, base.name, lambda: engine.problem, chosen.is_of_others)

    def _compare_tokens(self) -> None:
        for id, why in self.tokens.compare_with(self.registry).items():
            raise InputError(f"Token {id} is rejected: {why}.", "Revoke it, and find out who changed the file.")


class _Connection(h11.Connection):
    """Rejects a request that has both `Content-Length` and `Transfer-Encoding`, because a proxy and this server could
    disagree on where the request ends."""

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request):
            names = {name for name, _ in event.headers}
            if {b"content-length", b"transfer-encoding"} <= names:
                raise h11.RemoteProtocolError("The request states two lengths.")
        return event


class _Protocol(H11Protocol):
    """HTTP/1.1 with a time limit for the headers of a request, and for a body that is still arriving after the answer.
    A client that sends slowly cannot extend the limit."""

    def __init__(self, config: Config, *args: Any, **options: Any) -> None:
        super().__init__(config, *args, **options)
        self.conn = _Connection(h11.SERVER)
        self._limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._limit_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        self._limit_headers()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._limit_headers()

    def _limit_headers(self) -> None:
        is_answered = self.cycle is not None and self.cycle.response_complete
        waits_for = (h11.IDLE, h11.SEND_BODY) if is_answered else (h11.IDLE,)
        if self.conn.their_state not in waits_for:
            self._stop()
        elif self._limit is None:
            self._limit = self.loop.call_later(SECONDS_FOR_HEADERS, self.transport.close)

    def _stop(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None


class GatewayServer(Server):
    """An HTTP server on the loopback interface, behind a proxy that terminates TLS. When the server is stopped,
    running answers have `drain_seconds` to finish, and are then aborted."""

    def __init__(self, app: FastAPI, port: int, tasks: Sequence[Task], last: Callable[[], Awaitable[object]]) -> None:
        """Create the server. last: function that is called when no answer is running any more."""
        self._handler: RequestHandler = app.state.gateway.handler
        self._tasks, self._last = tasks, last
        self._running: list[asyncio.Task[None]] = []
        super().__init__(
            Config(
                app,
                host=LOOPBACK,
                port=port,
                proxy_headers=False,  # otherwise a header would replace the address of the trusted proxy
                server_header=False,
                access_log=False,
                log_level="error",  # it warns about requests, so anybody could flood the log
                log_config=None,  # otherwise its log lines have no time
                http=_Protocol,  # the other parser does not limit the length of headers
                ws="none",
                timeout_graceful_shutdown=int(self._handler.limits.drain_seconds + SECONDS_AFTER_THE_DRAIN),
            )
        )

    async def startup(self, sockets: list[socket] | None = None) -> None:
        self._running = [asyncio.create_task(each()) for each in self._tasks]
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self._handler.end_within(self._handler.limits.drain_seconds)
        try:
            await super().shutdown(sockets)
        finally:
            for task in self._running:
                task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*self._running, return_exceptions=True)
            await self._last()


def repeated(name: str, act: Callable[[], object], seconds: float) -> Task:
    """Return a task that repeats an action in a thread. A failure is logged when it first occurs and when its message
    changes. The next success is logged too."""

    async def repeat() -> None:
        logged = ""
        while True:
            message = await _tried(act)
            if message != logged:
                _LOG.warning("%s: %s", name, message or "the problem is resolved")
            logged = message
            await asyncio.sleep(seconds)

    return repeat


async def _tried(act: Callable[[], object]) -> str:
    """Run an action in a thread. Return "" or, if it fails, an error message without any text of a request."""
    try:
        await asyncio.to_thread(act)
    except Exception as error:
        return str(error) if isinstance(error, SovereignError) else place_of(error)
    return ""
