"""An engine whose computing is done by another process, which is watched and replaced.

A process that died or hangs is started again, and what was loaded is loaded again, with the same bytes and the same
fingerprint. What belongs here: that. What does not: any one engine's process (`local.py`, `vllm.py`).
"""

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar, Generic, Protocol, TypeVar

from sovereign_pipeline.base.errors import EngineLost, EngineRefused
from sovereign_pipeline.serving.engines.engine import Answer, Deployable, Sampling

INHERITED_VARIABLES = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR")
"""All that an engine's process gets of this one's environment; no key and no address of a proxy is among it."""
WELL_SECONDS = 10.0
"""An engine that has answered nothing for so long is not well; one step takes less."""
LONGEST_PAUSE = 30.0
"""Seconds before a process that ends again and again is started anew."""


class Process(Protocol):
    """What computes."""

    heard_at: float
    """When it said something last."""
    template_sha256: str

    @property
    def is_gone(self) -> bool: ...

    async def watch(self, hang_seconds: float) -> None:
        """Return when the process is gone, or has answered nothing for so long that it hangs."""

    async def end(self) -> None:
        """Kill the process; what is under way in it is lost."""


P = TypeVar("P", bound=Process)


class SupervisedEngine(ABC, Generic[P]):
    """What engines have in common that compute in another process. See `Engine`."""

    name: ClassVar[str]
    """As it stands in messages, such as "local engine"."""

    def __init__(self, base_model_digest: str, hang_seconds: float) -> None:
        self._digest, self._hang_seconds = base_model_digest, hang_seconds
        self._adapters: dict[str, Deployable] = {}
        self._process: P | None = None
        self._closing = False
        self._supervisor: asyncio.Task[None] | None = None
        self._loading = asyncio.Lock()
        self.starts = 0
        """How often the process was started."""
        self.problem = ""
        """Why there is none, where it was to be started again."""

    @abstractmethod
    async def _start_process(self) -> P:
        """A process that has its base model in memory. Raises EngineLost and EngineRefused."""

    @abstractmethod
    async def _load_into(self, process: P, adapter: Deployable) -> Deployable:
        """Load an adapter. Returns it with the digests of the bytes that were loaded. Raises as `load`."""

    @abstractmethod
    async def _unload_from(self, process: P, digest: str) -> None: ...

    @abstractmethod
    async def answer(
        self, digest: str, messages: Sequence[Mapping[str, str]], sampling: Sampling, cache_group: str = ""
    ) -> Answer: ...

    async def load(self, adapter: Deployable) -> None:
        async with self._loading:
            process = self._running()
            known = self._adapters.get(adapter.digest)
            if known is not None and replace(adapter, files=known.files) == known:
                return
            self._adapters[adapter.digest] = await self._load_into(process, adapter)

    async def unload(self, digest: str) -> None:
        async with self._loading:
            if self._adapters.pop(digest, None) is not None and self._process is not None:
                await self._unload_from(self._process, digest)

    def loaded(self) -> Mapping[str, str]:
        if self._process is None or self._process.is_gone:
            return {}
        return {digest: adapter.adapter for digest, adapter in list(self._adapters.items())}  # for other threads too

    async def is_well(self) -> bool:
        if self._process is None or self._process.is_gone:
            return False
        return time.monotonic() - self._process.heard_at < min(WELL_SECONDS, self._hang_seconds)

    async def close(self) -> None:
        self._closing = True
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        if self._process is not None:
            await self._process.end()
            self._process = None

    async def _begin(self) -> None:
        """Start the process for the first time. Raises EngineLost and EngineRefused."""
        self.starts += 1
        self._process = await self._start_process()
        self._supervisor = asyncio.create_task(self._supervise(self._process))

    def _running(self) -> P:
        if self._process is None or self._process.is_gone:
            state = "was closed" if self._closing else "is starting again"
            raise EngineLost(f"The {self.name} {state}.", "Ask again in a moment.")
        return self._process

    def _assert_of_this_base(self, process: P, adapter: Deployable) -> None:
        if adapter.base_model_digest and self._digest and adapter.base_model_digest != self._digest:
            raise EngineRefused(
                f"{adapter.adapter} was trained on the base model {adapter.base_model_digest[:12]}, and this engine "
                f"has {self._digest[:12]}.",
                "Start another engine with its base model.",
            )
        if adapter.template_sha256 != process.template_sha256:
            raise EngineRefused(
                f"{adapter.adapter} was trained with the chat template {adapter.template_sha256[:12]}, and this engine "
                f"has {process.template_sha256[:12]}.",
                "Restore the base model's files.",
            )

    def _not_as_trained(self, adapter: Deployable, problem: str) -> EngineRefused:
        return EngineRefused(
            f"{adapter.adapter}: the {self.name} does not compute what the training side does: {problem}.",
            "Find out what differs before this adapter is served.",
        )

    async def _supervise(self, process: P) -> None:
        """Watch the process, and start another one when it is gone, until this engine is closed."""
        pause, started = 0.0, time.monotonic()
        while True:
            await process.watch(self._hang_seconds)
            self._process = None
            await process.end()
            lived = time.monotonic() - started
            pause = 0.0 if lived > LONGEST_PAUSE else min(LONGEST_PAUSE, max(1.0, 2 * pause))
            await asyncio.sleep(pause)
            started = time.monotonic()
            self.starts += 1
            try:
                process = await self._start_process()
            except (EngineLost, EngineRefused) as error:
                self.problem = error.message
                continue  # `watch` ends at once for the process that is gone
            async with self._loading:
                await self._load_again(process)
                self._process, self.problem = process, ""

    async def _load_again(self, process: P) -> None:
        """What is not the same any more is not loaded; whoever deploys sees it missing, and says why."""
        for digest, adapter in list(self._adapters.items()):
            try:
                await self._load_into(process, adapter)
            except EngineRefused:
                del self._adapters[digest]
            except EngineLost:
                return
