"""The server of the gateway, on loopback, and what is done beside answering.

What belongs here: how it listens, what is looked at again every few seconds, and how it ends. What does not: what it
serves (`app.py`), and TLS: the institution's proxy ends it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from socket import socket
from typing import Any

from fastapi import FastAPI
from uvicorn import Config, Server

from sovereign_pipeline.base.errors import SovereignError, place_of
from sovereign_pipeline.base.hosts import LOOPBACK
from sovereign_pipeline.serving.gateway.answering import Answering

_LOG = logging.getLogger(__name__)
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
