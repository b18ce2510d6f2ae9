"""The server of the gateway, on loopback, and what is done beside answering.

What belongs here: how it listens, what is looked at again every few seconds, and how it ends. What does not: what it
serves (`app.py`), and TLS: the institution's proxy ends it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from socket import socket
from typing import Any

from fastapi import FastAPI
from uvicorn import Config, Server
from uvicorn.loops.auto import auto_loop_factory

from sovereign_pipeline.base.errors import InputError, SovereignError, place_of
from sovereign_pipeline.base.hosts import LOOPBACK, listen
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import Institution, load_institution
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.serving.deployment import UNREACHED, Deployment, ServingBase, Sources
from sovereign_pipeline.serving.engines.by_base import Engines, Started, start_engine
from sovereign_pipeline.serving.gateway.admin import Holds, Reviews, Standing
from sovereign_pipeline.serving.gateway.answering import Answering, Catalog
from sovereign_pipeline.serving.gateway.app import condition_of, create_gateway
from sovereign_pipeline.serving.gateway.auth import Callers, Tokens, callers_of, file_of
from sovereign_pipeline.serving.gateway.journal import Journal
from sovereign_pipeline.serving.gateway.metrics import Collector
from sovereign_pipeline.serving.gateway.stores import GivenAnswers, SpokenFor
from sovereign_pipeline.serving.high_water_marks import serving_directory
from sovereign_pipeline.serving.rollout.hold import Watcher, state_of
from sovereign_pipeline.serving.rollout.in_force import Flags, seen_file
from sovereign_pipeline.serving.rollout.publishing import Keeper, WorkplaceOf
from sovereign_pipeline.serving.rollout.telemetry import Telemetry, counts_directory
from sovereign_pipeline.serving.screening import start_screens
from sovereign_pipeline.serving.transcripts import transcript_files

SECONDS_AFTER_THE_DRAIN = 5
"""For the last error events to be sent."""

Act = Callable[[], Awaitable[object]]
Beside = Callable[[], Coroutine[Any, Any, None]]
"""Something that goes on for as long as the gateway serves."""


class GatewayServer(Server):
    """Serves until it is told to end, then lets running answers end first."""

    def __init__(self, app: FastAPI, port: int, beside: Sequence[Beside], last: Act) -> None:
        """last: what is done once nothing is answered any more."""
        self._answering: Answering = app.state.gateway.answering
        self._beside = beside
        self._last = last
        self._tasks: list[asyncio.Task[None]] = []
        super().__init__(
            Config(
                app,
                host=LOOPBACK,
                port=port,
                proxy_headers=False,  # else the proxy's header would replace the address that trust is decided by
                server_header=False,
                access_log=False,
                log_level="warning",
                http="h11",  # the other parser takes headers without end
                ws="none",
                timeout_graceful_shutdown=int(self._answering.limits.drain_seconds + SECONDS_AFTER_THE_DRAIN),
            )
        )

    async def startup(self, sockets: list[socket] | None = None) -> None:
        self._tasks = [asyncio.create_task(each()) for each in self._beside]
        await super().startup(sockets)

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        self._answering.end_within(self._answering.limits.drain_seconds)
        try:
            await super().shutdown(sockets)
        finally:
            for task in self._tasks:
                task.cancel()
            with suppress(asyncio.CancelledError):
                await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._last()


def repeated(name: str, act: Act, seconds: float) -> Beside:
    """Do something again and again. What fails is told once, until it goes well or fails in another way."""

    async def go_on() -> None:
        told = ""
        while True:
            message = await tried(act)
            if message and message != told:
                _LOG.warning("%s: %s", name, message)
            told = message
            await asyncio.sleep(seconds)

    return go_on


async def tried(act: Act) -> str:
    """What went wrong, without any text of a request; empty where nothing did."""
    try:
        await act()
    except Exception as error:
        return str(error) if isinstance(error, SovereignError) else place_of(error)
    return ""


_LOG = logging.getLogger(__name__)
SECONDS_BETWEEN_COMPARISONS = 5.0
"""Of tokens and flags with the ledger."""
SECONDS_BETWEEN_HOURS = 60.0
"""Between two looks for an hour of answers that is over."""
SECONDS_BETWEEN_REVIEWS = 600.0
"""Between two looks for reviews that are due."""
SECONDS_BETWEEN_HOLDS = 30.0
"""Between two looks at what is counted of staged adapters."""

Report = Callable[[str], None]


def serve(settings: Settings, port: int, threads: int | None, report: Report, workplace_of: WorkplaceOf) -> None:
    """Serve until Ctrl-C or SIGTERM. `threads`: of the engine; None for its own default.

    Raises InputError for a port that is taken, for a proxy that is half set up and for a registry that is not reached,
    and NotFoundError where no adapter may be served.
    """
    institution = load_institution(settings.data)
    tokens = Tokens(file_of(settings))
    journal = Journal(serving_directory(settings) / "answers")
    callers = callers_of(settings, institution, tokens)
    parts = _Parts(tokens, journal, callers)
    with (
        listen(port, "--port") as held,
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=auto_loop_factory()) as runner,
    ):
        runner.run(_serve(settings, institution, parts, held, threads, report, workplace_of))


@dataclass(frozen=True)
class _Parts:
    """What is there before the engine."""

    tokens: Tokens
    journal: Journal
    callers: Callers


async def _base_of(sources: Sources) -> ServingBase:
    """The base model to load. Raises InputError where the registry does not say what may be served."""
    try:
        return await asyncio.to_thread(sources.base_to_serve)
    except UNREACHED as error:
        raise InputError(
            f"The registry is not reached ({type(error).__name__}), and it says what may be served.",
            "Start its database, and then the gateway.",
        ) from None


class _Ledger:
    """The registry, opened once it answers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def registry(self) -> Registry:
        return open_registry(self._settings)


async def _serve(
    settings: Settings,
    institution: Institution,
    parts: _Parts,
    held: socket,
    threads: int | None,
    report: Report,
    workplace_of: WorkplaceOf,
) -> None:
    sources = Sources(settings, report)
    first = await _base_of(sources)
    transcripts = transcript_files(settings, institution)
    screens = start_screens(settings, institution, report)

    async def start(digest: str) -> Started:
        base = first if digest == first.digest else await asyncio.to_thread(sources.base_of, digest)
        report(f"loading the base model {base.name}")
        chosen = institution.serving.engine_of(base.name)
        engine = await start_engine(chosen, settings, base.directory, base.digest, threads)
        if chosen.is_of_others:
            report(
                f"{base.name}: others started its vLLM server; who else reaches it, and what it logs, is not known here"
            )
        return Started(engine, chosen.engine, base.name, lambda: engine.problem, chosen.is_of_others)

    engine = Engines(start)
    await engine.begin(first.digest)

    def loaded() -> set[str]:
        """Digests of what is both verified and in the engine."""
        return {each.digest for each in deployment.deployed.served} & {*engine.loaded()}

    def answering() -> set[str]:
        return flags.answering()

    deployment = Deployment(engine, sources, report, answering)
    flags = Flags(settings, seen_file(settings), loaded)
    spoken_for = SpokenFor(serving_directory(settings) / "spoken-for.db", institution.serving.limits.new_users_per_day)
    catalog = Catalog(engine, lambda: deployment.deployed.served, institution.ladder, flags.which, spoken_for.counts)
    telemetry = Telemetry(counts_directory(settings))
    collector = Collector(settings.otlp_url) if settings.otlp_url is not None else None
    watcher = Watcher(settings, institution, flags, telemetry, report)
    ledger = _Ledger(settings)
    holds = Holds(lambda flag: state_of(settings, telemetry.directory, flag, institution))
    reviews = Reviews(settings, lambda: ledger.registry)
    app = create_gateway(
        catalog,
        parts.callers,
        institution.serving.limits,
        parts.journal,
        telemetry,
        GivenAnswers(serving_directory(settings) / "given-answers.db"),
        settings.ui_hosts,
        lambda: condition_of(deployment.deployed, loaded(), flags),
        Standing(
            engines=engine.states,
            flags=flags.flags,
            behind=flags.problems,
            hold=holds.of,
            rules=lambda line: institution.rollout_of(line).hold,
            review=reviews.of,
        ),
        collector.tracer if collector is not None else None,
        screens,
        transcripts,
    )
    keeper = Keeper(settings, flags, lambda: ledger.registry, workplace_of)

    async def keep_flags() -> None:
        await asyncio.to_thread(keeper.look)

    async def compare_tokens() -> None:
        refused = await asyncio.to_thread(lambda: parts.tokens.compare_with(ledger.registry))
        for id, why in refused.items():
            raise InputError(f"Token {id} is refused: {why}.", "Revoke it, and find out who changed the file.")

    async def enter_hours() -> None:
        await asyncio.to_thread(lambda: parts.journal.enter(ledger.registry))

    async def remove_transcripts() -> None:
        await asyncio.to_thread(transcripts.remove_oldest)

    async def look_up_reviews() -> None:
        await asyncio.to_thread(reviews.look)

    async def watch_holds() -> None:
        await asyncio.to_thread(watcher.look)

    problem = await tried(compare_tokens)
    if problem:
        _LOG.warning("tokens: %s", problem)
    await tried(keep_flags)  # what it finds is told below, again and again
    beside = [
        deployment.keep,
        repeated("holds", watch_holds, SECONDS_BETWEEN_HOLDS),
        repeated("flags", keep_flags, SECONDS_BETWEEN_COMPARISONS),
        repeated("tokens", compare_tokens, SECONDS_BETWEEN_COMPARISONS),
        repeated("reviews", look_up_reviews, SECONDS_BETWEEN_REVIEWS),
        repeated("journal", enter_hours, SECONDS_BETWEEN_HOURS),
        repeated("transcripts", remove_transcripts, SECONDS_BETWEEN_HOURS),
    ]
    port = held.getsockname()[1]
    address = f"http://{LOOPBACK}:{port}"
    report(f"gateway {address}   Ctrl-C ends")
    report(f"try a line at {address}/")
    report(f"see what is served at {address}/admin")
    try:
        await GatewayServer(app, port, beside, engine.close).serve(sockets=[held])
    finally:
        screens.close()
        if collector is not None:
            await asyncio.to_thread(collector.close)
