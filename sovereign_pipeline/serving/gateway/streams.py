"""Answers over HTTP, whole and streamed, for as long as the caller listens.

What belongs here: giving an answer up when its caller is gone, and ending every stream with a reason or an error event.
What does not: the course of an answer (`answering.py`), and the form of its events (`responses.py`).
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar
from urllib.parse import quote

from fastapi import Response
from starlette.types import Receive, Scope, Send

from sovereign_pipeline.base.errors import place_of
from sovereign_pipeline.serving.gateway.answering import Answering
from sovereign_pipeline.serving.gateway.exchange import Asked
from sovereign_pipeline.serving.gateway.refusal import Refusal, fault
from sovereign_pipeline.serving.gateway.responses import (
    ChatCompletion,
    Chunks,
    Completion,
    Kind,
    Level,
    event,
    level_of,
    usage,
    whole,
)

_LOG = logging.getLogger(__name__)
T = TypeVar("T")

ADAPTER_HEADER, LEVEL_HEADER = "X-Sovereign-Adapter", "X-Sovereign-Classification"
TRANSCRIPT_HEADER = "X-Sovereign-Transcript"


SECONDS_FOR_THE_END = 3.0
"""In which a caller must take the error event that ends a stream."""


class CallerGone(Exception):
    """Nobody listens any more."""


def headers_of(answering: Answering, asked: Asked) -> dict[str, str]:
    """Which adapter answered, at which level, and whether an encrypted transcript is kept."""
    return {
        ADAPTER_HEADER: asked.adapter.adapter,
        LEVEL_HEADER: _in_a_header(asked.adapter.classification),
        **({TRANSCRIPT_HEADER: "kept"} if answering.transcripts.keeps(asked.adapter.line) else {}),
    }


def _level(answering: Answering, asked: Asked) -> Level:
    return level_of(asked.adapter, answering.transcripts.keeps(asked.adapter.line))


async def whole_answer(
    answering: Answering, asked: Asked, kind: Kind, model: str, receive: Receive
) -> ChatCompletion | Completion:
    """Compute an answer to its end. Raises Refusal, and CallerGone."""

    async def compute() -> ChatCompletion | Completion:
        async with answering.exchange(asked) as exchange:
            async for _ in exchange.pieces():
                pass
            assert exchange.finish is not None  # else the pieces end with an error
            used = usage(exchange.prompt_tokens, exchange.answer_tokens)
            level, text = _level(answering, asked), "".join(exchange.texts)
            return whole(kind, id_of(kind, asked), model, asked.adapter, level, text, exchange.finish, used)

    return await _while_connected(receive, compute())


class EventStream(Response):
    """An answer as server-sent events. What fails before the first piece is an ordinary error."""

    def __init__(self, answering: Answering, asked: Asked, kind: Kind, model: str, with_usage: bool) -> None:
        self._answering = answering
        self._asked = asked
        self._chunks = Chunks(kind, id_of(kind, asked), model, asked.adapter, _level(answering, asked), with_usage)
        self._begun = False
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
            await self._end_with(fault(), send)

    async def _send_all(self, send: Send) -> None:
        async with self._answering.exchange(self._asked) as exchange:
            async for piece in exchange.pieces():
                if not self._begun:
                    await self._begin(send)
                if piece.text:
                    await _send(send, self._chunks.text(piece.text))
            assert exchange.finish is not None  # else the pieces end with an error
            used = usage(exchange.prompt_tokens, exchange.answer_tokens)
            await _send(send, self._chunks.last(exchange.finish, used))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Send) -> None:
        headers = {"Content-Type": "text/event-stream; charset=utf-8", "X-Accel-Buffering": "no"}
        headers |= headers_of(self._answering, self._asked)
        pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        self._begun = True
        await send({"type": "http.response.start", "status": 200, "headers": pairs})
        await _send(send, self._chunks.first())

    async def _end_with(self, refusal: Refusal, send: Send) -> None:
        """An error event, and no [DONE]: a stream that just ends would be taken for complete."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(SECONDS_FOR_THE_END):
                await _send(send, event(refusal.body))
                await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _send(send: Send, content: bytes) -> None:
    if content:
        await send({"type": "http.response.body", "body": content, "more_body": True})


def id_of(kind: Kind, asked: Asked) -> str:
    return f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{asked.id}"


async def _while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do work until it is done, or the caller is gone: then it is cancelled, and CallerGone is raised."""
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
    """A level as the institution names it; what is not plain ASCII is written as in an address."""
    return text if text.isascii() and text.isprintable() else quote(text)
