"""Run the local engine: transformers and PEFT in a child process, which is reached over a socket."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncGenerator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from sovereign_pipeline.base.errors import EngineLost, EngineRefused, PromptTooLong
from sovereign_pipeline.base_models.tool_form import ToolForm
from sovereign_pipeline.serving.engines.engine import (
    THREADS,
    Answer,
    CallForm,
    Deployable,
    EngineRequest,
    Piece,
    Process,
    SupervisedEngine,
    TokenLogprob,
    environment_of,
)
from sovereign_pipeline.serving.fingerprints import Mark, difference

LONGEST_MESSAGE = 64 << 20
"""Maximum size in bytes of a JSON line that the child process sends."""

Message = dict[str, Any]


@dataclass(frozen=True)
class LocalSettings:
    threads: int = THREADS
    rows: int = 16
    """Maximum number of answers computed at the same time."""
    gather_seconds: float = 0.03
    """Seconds that the first answer waits for other answers to join its batch."""
    cache_tokens: int = 16384
    """Maximum number of tokens in memory, over all answers, with padding. A single answer may exceed this limit."""
    chunk_tokens: int = 256
    """Number of tokens of a new prompt that are computed between two tokens of the running answers."""
    context: int | None = None
    """Maximum number of tokens of prompt and answer; None for the base model's limit."""
    hang_seconds: float = 60.0
    """Seconds without a message after which the process is killed."""
    start_seconds: float = 600.0
    """Seconds after which a process that has not loaded its base model is killed."""


class LocalEngine(SupervisedEngine["_Child"]):
    name = "local engine"

    def __init__(self, base: Path, settings: LocalSettings, base_model_digest: str) -> None:
        super().__init__(base_model_digest, settings.hang_seconds)
        self._base, self._settings = base, settings

    @classmethod
    async def start(cls, base: Path, settings: LocalSettings | None = None, *, base_model_digest: str = "") -> Self:
        """See `start_engine`."""
        engine = cls(base, settings or LocalSettings(), base_model_digest)
        await engine._begin()
        return engine

    async def answer(self, request: EngineRequest) -> Answer:
        child = self._running()
        if request.digest not in self._adapters:
            raise EngineRefused(f"Adapter {request.digest[:12]} is not loaded.", "Load the adapter first.")
        return await Answer.begun(_answer(child, request))

    async def _load_into(self, process: "_Child", adapter: Deployable) -> None:
        self._assert_of_this_base(process, adapter)
        fingerprint = adapter.fingerprint
        message = {
            "op": "load",
            "digest": adapter.digest,
            "directory": str(adapter.directory),
            "files": dict(adapter.files),
            "conversations": [each.model_dump() for each in fingerprint.conversations] if fingerprint else (),
            "marks": [mark.model_dump() for mark in fingerprint.marks] if fingerprint is not None else (),
        }
        loaded = await process.one_answer(message)
        if fingerprint is not None:
            marks = [Mark.model_validate(mark) for mark in loaded["marks"]]
            problem = difference(fingerprint, marks)
            if problem is not None:
                process.send({"op": "unload", "digest": adapter.digest})
                raise self._not_as_trained(adapter, problem)

    async def _unload_from(self, process: "_Child", digest: str) -> None:
        process.send({"op": "unload", "digest": digest})

    async def _start_process(self) -> "_Child":
        try:
            child = await _Child.start(self._base, self._settings)
        except OSError as error:
            raise EngineLost(f"The local engine's process cannot be started: {error.strerror}.", "") from None
        try:
            async with asyncio.timeout(self._settings.start_seconds):
                await child.ready
        except BaseException as error:
            await child.end()
            if isinstance(error, TimeoutError):
                raise EngineLost("The local engine did not load its base model in time.", "Free memory.") from None
            raise
        return child


class _Child(Process):
    def __init__(self, process: asyncio.subprocess.Process, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._process, self._writer = process, writer
        self._handle = os.pidfd_open(process.pid)
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Queue[Message | Exception]] = {}
        self._reader: asyncio.Task[None] | None = None
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def start(cls, base: Path, settings: LocalSettings) -> Self:
        here, there = socket.socketpair()
        with there:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "sovereign_pipeline.serving.engines.local_child",
                str(there.fileno()),
                str(os.getpid()),
                json.dumps({**asdict(settings), "base": str(base)}),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                pass_fds=(there.fileno(),),
                env={**environment_of(settings.threads), "HOME": "/nonexistent"},
                cwd="/",
                start_new_session=True,
            )
        reader, writer = await asyncio.open_connection(sock=here, limit=LONGEST_MESSAGE)
        child = cls(process, writer)
        child._reader = asyncio.create_task(child._read(reader))
        return child

    def send(self, message: Message) -> None:
        if not self.is_gone:
            self._writer.write(json.dumps(message).encode() + b"\n")

    def ask(self, message: Message) -> int:
        """Send a request and return its number. Raises EngineLost if the process is gone."""
        if self.is_gone:
            raise _lost()
        number = next(self._numbers)
        self._waiting[number] = asyncio.Queue()
        self.send({**message, "id": number})
        return number

    async def next_answer(self, number: int) -> Message:
        """Wait for the child process's next message about a request. Raises EngineRefused if the child rejects the
        request, and EngineLost if the child aborts the request or exits."""
        message = await self._waiting[number].get()
        if isinstance(message, Exception):
            raise message
        if message["op"] == "refused":
            kind = PromptTooLong if message["kind"] == PromptTooLong.__name__ else EngineRefused
            raise kind(message["message"], message["hint"])
        if message["op"] == "lost":
            raise EngineLost(f"The local engine aborted the request: {message['message']}.", "Try again.")
        return message

    def forget(self, number: int) -> None:
        self._waiting.pop(number, None)

    async def one_answer(self, message: Message) -> Message:
        number = self.ask(message)
        try:
            return await self.next_answer(number)
        finally:
            self.forget(number)

    async def _probe(self) -> None:
        self.send({"op": "ping"})

    async def end(self) -> None:
        self._lose_all()
        with contextlib.suppress(ProcessLookupError):
            # `Process.kill` would reap a process that is already dead, and asyncio would then miss its exit status.
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        self._writer.close()
        if self._reader is not None:
            self._reader.cancel()
        await self._process.wait()
        os.close(self._handle)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                self.heard_at = time.monotonic()
                self._take(json.loads(line))
        except (OSError, ValueError):
            pass  # an incomplete line: the process is gone
        finally:
            self._lose_all()

    def _take(self, message: Message) -> None:
        if message["op"] == "ready":
            self.template_sha256, form = message["template_sha256"], message["call_form"]
            self.call_form = CallForm(ToolForm(**form["form"]), form["special"]) if form else None
            self.ready.set_result(None)
        elif message["op"] == "failed":
            self.ready.set_exception(EngineRefused(message["message"], message["hint"]))
        elif message["op"] != "pong" and (waiting := self._waiting.get(message["id"])) is not None:
            waiting.put_nowait(message)

    def _lose_all(self) -> None:
        self._gone.set()
        for waiting in self._waiting.values():
            waiting.put_nowait(_lost())
        if not self.ready.done():
            self.ready.set_exception(_lost())


async def _answer(child: _Child, request: EngineRequest) -> AsyncGenerator[Any, None]:
    number, is_complete = child.ask({"op": "ask", **asdict(request)}), False
    try:
        yield (await child.next_answer(number))["prompt_tokens"]
        while not is_complete:
            message = await child.next_answer(number)
            is_complete = message["finish"] is not None
            logprobs = [TokenLogprob(*each) for each in message["logprobs"]]
            yield Piece(message["text"], message["tokens"], message["finish"], logprobs)
    finally:
        child.forget(number)
        if not is_complete:
            child.send({"op": "cancel", "id": number})


def _lost() -> EngineLost:
    return EngineLost("The local engine ended before the answer was complete.", "Try again in a moment.")
