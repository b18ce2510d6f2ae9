"""Run one engine per base model behind a single `Engine`."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import EngineLost, EngineRefused, InputError, SovereignError, place_of
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.policy.serving import EngineChoice
from sovereign_pipeline.serving.engines.engine import (
    THREADS,
    Answer,
    CallForm,
    Deployable,
    Engine,
    EngineRequest,
    EngineState,
    SupervisedEngine,
)
from sovereign_pipeline.serving.high_water_marks import serving_directory

SECONDS_BETWEEN_LOOKS = 1.0
"""Seconds between two checks whether an engine hangs. The checks run while a load or an unload is awaited."""
SECONDS_BEFORE_ANOTHER_START = 30.0
"""Seconds before a failed start is retried."""
SECONDS_WITHOUT_ADAPTERS = 900.0
"""Seconds after which an engine without adapters is closed. No answer takes this long."""
DIGITS = 12


@dataclass(frozen=True)
class Started:
    engine: Engine
    kind: str
    """Kind of engine, such as `local`."""
    base_model: str
    problem: Callable[[], str] = str
    """Function that returns the reason why the engine does not compute, or "" if the reason is unknown."""
    is_of_others: bool = False
    """True if this gateway did not start the server. The gateway then cannot know who else has access to the server."""


Start = Callable[[str], Awaitable[Started]]
"""Function that takes a base model's digest and starts an engine. Raises SovereignError if the start fails."""


@dataclass
class _Held:
    starting: asyncio.Task[Started]
    failed_at: float | None = None
    """Time (`time.monotonic`) at which the failed start was noticed."""
    closing: asyncio.TimerHandle | None = None

    @property
    def started(self) -> Started | None:
        if not self.starting.done() or self.starting.cancelled() or self.starting.exception() is not None:
            return None
        return self.starting.result()

    @property
    def problem(self) -> SovereignError | None:
        """Return the error of a failed start; None if the start has not failed."""
        if not self.starting.done():
            return None
        error = None if self.starting.cancelled() else self.starting.exception()
        if error is None or isinstance(error, SovereignError):
            return error
        place = place_of(error) if isinstance(error, Exception) else type(error).__name__
        return EngineLost(f"The engine was not started: {place}.", "")

    def keep(self) -> None:
        """Cancel the scheduled closing of this engine."""
        if self.closing is not None:
            self.closing.cancel()
            self.closing = None


class Engines:
    """Runs one engine per base model, and implements the `Engine` protocol for all of them."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._held: dict[str, _Held] = {}
        """Maps the digest of a base model to the model's engine."""
        self._base_of: dict[str, str] = {}
        """Maps the digest of each adapter that should be loaded to the digest of its base model."""
        self._ready: set[str] = set()
        """Digests of loaded adapters."""
        self._left: set[asyncio.Task[None]] = set()
        """Unfinished loads and unloads."""

    async def begin(self, base_model_digest: str) -> Started:
        """Start the first engine and wait for it. Raises SovereignError if the start fails."""
        return await self._hold(base_model_digest).starting

    async def load(self, adapter: Deployable) -> None:
        """Load an adapter into its base model's engine, and start that engine if necessary. Raises EngineLost while the
        engine starts or hangs, and the error of a failed start or load."""
        base = adapter.base_model_digest
        self._base_of[adapter.digest] = base
        engine = self._running(base).engine
        await self._within(engine, engine.load(adapter))
        if self._base_of.get(adapter.digest) == base:
            self._ready.add(adapter.digest)

    async def unload(self, digest: str) -> None:
        """Unload an adapter. The adapter gets no new requests from now on, even if its engine is starting or hangs."""
        self._ready.discard(digest)
        base = self._base_of.pop(digest, "")
        held = self._held.get(base)
        if held is None:
            return
        if base not in self._base_of.values():
            held.keep()
            later = asyncio.get_running_loop().call_later
            held.closing = later(SECONDS_WITHOUT_ADAPTERS, self._close_unless_needed, base, held)
        if held.started is not None:
            await self._within(held.started.engine, held.started.engine.unload(digest))

    def loaded(self) -> Mapping[str, str]:
        """Return a mapping of digest to adapter id for all loaded adapters. Thread-safe."""
        found: dict[str, str] = {}
        for held in list(self._held.values()):
            if held.started is not None:
                found |= held.started.engine.loaded()
        return {digest: adapter for digest, adapter in found.items() if digest in self._ready}

    def call_form(self, digest: str) -> CallForm | None:
        held = self._held.get(self._base_of.get(digest, ""))
        return held.started.engine.call_form(digest) if held is not None and held.started is not None else None

    async def answer(self, request: EngineRequest) -> Answer:
        held = self._held.get(self._base_of.get(request.digest, ""))
        started = held.started if held is not None and request.digest in self._ready else None
        if started is None:
            raise EngineRefused(f"Adapter {request.digest[:DIGITS]} is not loaded.", "Load the adapter first.")
        return await started.engine.answer(request)

    async def is_well(self) -> bool:
        """Return True if any engine computes, or if there is no engine. `states` lists all engines."""
        return any(each.computes for each in await self.states()) or not self._held

    async def states(self) -> list[EngineState]:
        return list(await asyncio.gather(*(self._state(base, held) for base, held in self._held.items())))

    async def close(self) -> None:
        for task in self._left:
            task.cancel()
        await asyncio.gather(*(self._close(base, held) for base, held in list(self._held.items())))

    def _hold(self, base: str) -> _Held:
        held = self._held[base] = _Held(asyncio.ensure_future(self._start(base)))
        held.starting.add_done_callback(_told)
        return held

    def _running(self, base: str) -> Started:
        """Return a base model's engine, and start it if necessary. Raises EngineLost while the engine starts, and the
        error of a failed start."""
        held = self._held.get(base) or self._hold(base)
        held.keep()
        if held.started is not None:
            return held.started
        problem = held.problem
        if problem is None:
            raise EngineLost(f"The engine of base model {base[:DIGITS]} is being started.", "Try again in a moment.")
        if held.failed_at is None:
            held.failed_at = time.monotonic()
        elif time.monotonic() - held.failed_at > SECONDS_BEFORE_ANOTHER_START:
            self._hold(base)
        raise problem

    async def _within(self, engine: Engine, doing: Coroutine[Any, Any, None]) -> None:
        """Wait until the coroutine `doing` has finished, and raise its error. If the engine hangs meanwhile, raises
        EngineLost without cancelling the coroutine."""
        task = self._leave(doing)
        while not task.done():
            await asyncio.wait([task], timeout=SECONDS_BETWEEN_LOOKS)
            if not task.done() and not await engine.is_well():
                raise EngineLost("The engine hangs.", "Try again in a moment.")
        task.result()

    def _leave(self, doing: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a coroutine as a task that runs to its end, even if no caller awaits it."""
        task = asyncio.create_task(doing)
        self._left.add(task)
        task.add_done_callback(self._left.discard)
        task.add_done_callback(_told)
        return task

    def _close_unless_needed(self, base: str, held: _Held) -> None:
        if base not in self._base_of.values():
            self._leave(self._close(base, held))

    async def _close(self, base: str, held: _Held) -> None:
        if self._held.get(base) is held:
            del self._held[base]
        held.keep()
        held.starting.cancel()
        await asyncio.wait([held.starting])
        if held.started is not None:
            with contextlib.suppress(SovereignError):
                await held.started.engine.close()

    async def _state(self, base: str, held: _Held) -> EngineState:
        started, error = held.started, held.problem
        if started is None:
            why = error.message if error is not None else "The engine is being started."
            return EngineState("", base[:DIGITS], base, False, 0, why)
        adapters = sum(digest in self._ready for digest in started.engine.loaded())
        computes = await started.engine.is_well()
        problem = started.problem()
        return EngineState(started.kind, started.base_model, base, computes, adapters, problem, started.is_of_others)


def _told(task: "asyncio.Task[None] | asyncio.Task[Started]") -> None:
    """Retrieve a task's exception, so that asyncio does not print it."""
    if not task.cancelled():
        task.exception()


async def start_engine(
    chosen: EngineChoice, settings: Settings, base: Path, base_model_digest: str, threads: int | None = None
) -> SupervisedEngine[Any]:
    """Start an engine and return it once its base model is in memory.

    Args:
        base: a verified model directory.
        base_model_digest: digest over the base model's files. Adapters of a different base model are rejected.
        threads: number of CPU threads; None for the configured number.

    Raises EngineRefused for an unsupported base model or server, EngineLost if the engine cannot be started or reached,
    and InputError if vLLM is not configured.
    """
    threads = threads or chosen.threads or THREADS
    if chosen.engine == "vllm":
        from sovereign_pipeline.serving.engines.vllm import VllmEngine
        from sovereign_pipeline.serving.engines.vllm_server import VllmSettings

        if settings.vllm_python is None and chosen.vllm.url is None:
            raise InputError(
                f"serving.engine is vllm, but {VARIABLES['vllm_python']} does not name an interpreter with vLLM.",
                "Set this variable in the gateway's environment, for example to /opt/vllm/bin/python.",
            )
        with_vllm = VllmSettings(chosen.vllm, settings.vllm_python, serving_directory(settings) / "vllm", threads)
        return await VllmEngine.start(base, with_vllm, base_model_digest=base_model_digest)
    from sovereign_pipeline.serving.engines.local import LocalEngine, LocalSettings

    here = LocalSettings(threads, cache_tokens=chosen.local.cache_tokens)
    return await LocalEngine.start(base, here, base_model_digest=base_model_digest)
