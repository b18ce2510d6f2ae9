"""An exchange: what was asked by whom, and the answer to it while it is computed.

What belongs here: its pieces, and the time-out for one of which nothing is heard. What does not: whether it may begin,
and what is counted and noted as it ends (`answering.py`).
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from sovereign_pipeline.base.errors import EngineLost
from sovereign_pipeline.serving.callers import Caller
from sovereign_pipeline.serving.engines.engine import Answer, Deployable, Piece, Sampling
from sovereign_pipeline.serving.flags.in_force import Choice
from sovereign_pipeline.serving.gateway.metrics import Metrics
from sovereign_pipeline.serving.gateway.requests import with_instruction
from sovereign_pipeline.serving.gateway.responses import Finish
from sovereign_pipeline.serving.scanning.screen import Screen

ID_BYTES = 16


@dataclass(frozen=True)
class Asked:
    """What is to be answered by which adapter, for whom."""

    caller: Caller
    adapter: Deployable
    sent: Sequence[Mapping[str, str]]
    """The messages as the caller sent them."""
    sampling: Sampling
    choice: Choice | None = None
    """What the line's flag said, where it decided."""
    model: str = ""
    """The name by which it was asked for."""
    traceparent: str | None = None
    """The caller's span, as the caller's header has it."""
    id: str = field(default_factory=lambda: secrets.token_hex(ID_BYTES))

    @property
    def request(self) -> str:
        """The newest message, without the line's instruction."""
        return self.sent[-1]["content"] if self.sent else ""

    @property
    def messages(self) -> list[Mapping[str, str]]:
        """With the line's instruction where there is no other."""
        return with_instruction(self.sent, self.adapter)


class Stillness:
    """Ends an answer of which nothing was heard or taken for so long. One timer, however many tokens there are."""

    def __init__(self, limit: asyncio.Timeout, seconds: float) -> None:
        self._limit = limit
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()

    def end(self) -> None:
        """Something was heard, or taken."""
        self._since = self._loop.time()

    def __enter__(self) -> Self:
        self._timer = self._loop.call_at(self._since + self._seconds, self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        until = self._since + self._seconds
        if self._loop.time() < until:
            self._timer = self._loop.call_at(until, self._look)
        elif not self._limit.expired():
            self._limit.reschedule(self._loop.time())


class Exchange:
    """An answer that has begun: its prompt's length, and its pieces."""

    def __init__(
        self, asked: Asked, answer: Answer, metrics: Metrics, began: float, stillness: Stillness, screen: Screen
    ) -> None:
        self.prompt_tokens = answer.prompt_tokens
        self.answer_tokens = 0
        self.first_seconds: float | None = None
        self.finish: Finish | None = None
        self.texts: list[str] = []
        """What was passed on."""
        self.is_at_caller = False
        """Whether the caller is yet to take what was computed."""
        self.screen = screen
        self._answer = answer
        self._stillness = stillness
        self._first, self._each = metrics.of_tokens(asked.adapter.line, asked.adapter.adapter)
        self._began = began

    async def pieces(self) -> AsyncIterator[Piece]:
        """Ends after the piece with `finish`; an engine that ends without one is lost."""
        last = self._began
        async for piece in self._answer.pieces:
            now = time.monotonic()
            if self.answer_tokens == 0:
                self.first_seconds = now - self._began
                self._first.observe(self.first_seconds)
            elif piece.tokens:
                self._each.observe((now - last) / piece.tokens)
            last = now
            self.answer_tokens += piece.tokens
            text = await self.screen.take(piece.text)
            if piece.finish is not None and not self.screen.is_over:
                text += await self.screen.end(is_cut=piece.finish == "length")
            self.texts.append(text)
            at_stop_text: Finish | None = "stop" if self.screen.is_at_stop_text else piece.finish
            self.finish = "content_filter" if self.screen.is_stopped else at_stop_text
            self._stillness.end()
            self.is_at_caller = True
            yield Piece(text, piece.tokens, piece.finish)
            self.is_at_caller = False
            self._stillness.end()
            if self.finish is not None:
                return
        raise EngineLost("The engine ended an answer without saying why.")
