"""The server of the gateway, on loopback, and what is done beside answering.

What belongs here: how it listens, what is looked at again every few seconds, and how it ends. What does not: what it
serves (`app.py`), and TLS: the institution's proxy ends it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from socket import socket

from fastapi import FastAPI
from uvicorn import Config, Server

from sovereign_pipeline.errors import SovereignError, place_of
from sovereign_pipeline.loopback import LOOPBACK
from sovereign_pipeline.serving.gateway.answering import Answering

_LOG = logging.getLogger(__name__)
SECONDS_AFTER_THE_DRAIN = 5
"""For the last error events to be sent."""

Act = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Repeated:
    """Something that is done again and again while the gateway serves."""

    name: str
    act: Act
    every_seconds: float


class GatewayServer(Server):
    """Serves until it is told to end, then lets running answers end first."""

    def __init__(self, app: FastAPI, port: int, repeated: Sequence[Repeated], last: Act) -> None:
        """last: what is done once nothing is answered any more."""
        self._answering: Answering = app.state.gateway.answering
        self._repeated = repeated
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
                ws="none",
                timeout_graceful_shutdown=int(self._answering.limits.drain_seconds + SECONDS_AFTER_THE_DRAIN),
            )
        )

    async def startup(self, sockets: list[socket] | None = None) -> None:
        self._tasks = [asyncio.create_task(_repeat(each)) for each in self._repeated]
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


async def _repeat(what: Repeated) -> None:
    """What fails is told once, until it goes well again or fails in another way, and is tried again."""
    told = ""
    while True:
        try:
            await what.act()
            told = ""
        except Exception as error:
            message = str(error) if isinstance(error, SovereignError) else place_of(error)
            if message != told:
                _LOG.warning("%s: %s", what.name, message)
            told = message
        await asyncio.sleep(what.every_seconds)
