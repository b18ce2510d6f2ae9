"""Streams of OpenAI's API over bare sockets: one that sends tokens at a steady pace, and one that reads them.

Each token is the moment at which it was sent, so whoever reads it knows how long it was under way, whatever stands
between. A client of a library would cost more than what is measured. What belongs here: both ends. What does not: what
stands between (`proxies.py`).
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.base.errors import EngineLost
from sovereign_pipeline.base.pages import LOOPBACK
from sovereign_pipeline.serving.engines.engine import Answer, Deployable, EngineRequest, Piece

MODEL = "line"
SECONDS_OF_AN_ANSWER = 120


class Refused(Exception):
    """The answer's status, which is not 200."""


async def serve_paced(port: int, tokens_per_second: float) -> None:
    """Answer every request with `max_tokens` tokens at a steady pace, for ever."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(
                    (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), b""
                )
                body = json.loads(await reader.readexactly(int(length.partition(b":")[2] or b"0")) or b"{}")
                writer.write(
                    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
                )
                await _send_tokens(writer, body.get("max_tokens") or 16, tokens_per_second)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async with await asyncio.start_server(answer, LOOPBACK, port) as server:
        await server.serve_forever()


async def _send_tokens(writer: asyncio.StreamWriter, tokens: int, tokens_per_second: float) -> None:
    began = time.monotonic()
    for number in range(tokens):
        await asyncio.sleep(max(0.0, began + number / tokens_per_second - time.monotonic()))
        _write_event(writer, {"content": f"{time.monotonic():.6f} "}, None)
        await writer.drain()
    _write_event(writer, {}, "stop")
    _write_chunk(writer, b"data: [DONE]\n\n")
    _write_chunk(writer, b"")
    await writer.drain()


def _write_event(writer: asyncio.StreamWriter, delta: Mapping[str, str], finish: str | None) -> None:
    choice = {"index": 0, "delta": {"role": "assistant", **delta}, "logprobs": None, "finish_reason": finish}
    told = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": MODEL, "choices": [choice]}
    _write_chunk(writer, b"data: " + json.dumps(told).encode() + b"\n\n")


def _write_chunk(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(content), content))


@dataclass
class Told:
    """What came of one stream, besides its texts."""

    adapter: str | None = None
    """Of the gateway's header."""
    finished: bool = False
    """Whether it ended with `[DONE]`."""
    error: str | None = None
    """Of an error event."""


async def read_stream(port: int, token: str, max_tokens: int, told: Told, model: str = MODEL) -> AsyncIterator[str]:
    """The texts of one streamed answer. Raises Refused, and OSError or EOFError where the connection breaks."""
    reader, writer = await asyncio.open_connection(LOOPBACK, port)
    try:
        body = json.dumps(
            {
                "model": model,
                "stream": True,
                "max_tokens": max_tokens,
                "messages": [{"role": "user", "content": "We ask for a permit to moor a barge at quay four."}],
            }
        ).encode()
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {LOOPBACK}:{port}\r\nAuthorization: Bearer {token}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        head = await reader.readuntil(b"\r\n\r\n")
        status = head.split(b" ", 2)[1].decode()
        if status != "200":
            raise Refused(status)
        told.adapter = _header(head, b"x-sovereign-adapter")
        async for event in _events(reader):
            if event == b"[DONE]":
                told.finished = True
                return
            content: dict[str, Any] = json.loads(event)
            if "error" in content:
                told.error = str(content["error"].get("code"))
                continue
            for choice in content["choices"]:
                if text := choice["delta"].get("content"):
                    yield text
    finally:
        writer.close()


def _header(head: bytes, name: bytes) -> str | None:
    for line in head.split(b"\r\n"):
        if line.lower().startswith(name + b":"):
            return line.partition(b":")[2].strip().decode()
    return None


async def _events(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The data of each server-sent event of a chunked body."""
    left = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        left += (await reader.readexactly(size + 2))[:-2]
        *whole, left = left.split(b"\n\n")
        for event in whole:
            if event.startswith(b"data: "):
                yield event.removeprefix(b"data: ")


class RelayedEngine:
    """The paced source as an engine of the gateway: what it sends is read over HTTP, as a proxy reads it."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.adapters: dict[str, str] = {}

    async def load(self, adapter: Deployable) -> None:
        self.adapters[adapter.digest] = adapter.adapter

    async def unload(self, digest: str) -> None:
        self.adapters.pop(digest, None)

    def loaded(self) -> Mapping[str, str]:
        return self.adapters

    async def answer(self, request: EngineRequest) -> Answer:
        return Answer(7, self._pieces(request.sampling.max_tokens))

    async def _pieces(self, tokens: int) -> AsyncGenerator[Piece, None]:
        try:
            async for text in read_stream(self._port, "", tokens, Told()):
                yield Piece(text, 1)
        except (OSError, EOFError, Refused) as error:
            raise EngineLost(type(error).__name__) from None
        yield Piece("", 0, "stop")

    async def is_well(self) -> bool:
        return True

    async def close(self) -> None:
        return None
