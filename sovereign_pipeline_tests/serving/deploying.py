"""A deployment that looks when it is told to, over an engine that notes what it is given."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sovereign_pipeline.base.errors import EngineLost, EngineRefused
from sovereign_pipeline.serving.deployment import Deployed, Deployment, Sources
from sovereign_pipeline.serving.engines.engine import Answer, Deployable, Sampling
from sovereign_pipeline.serving.fingerprints import compute
from sovereign_pipeline_tests.serving.served_office import ServedOffice


class NotedEngine:
    """An engine that computes nothing, and notes what it is told to load."""

    def __init__(self) -> None:
        self.adapters: dict[str, Deployable] = {}
        self.loads: list[str] = []
        self.refuses: set[str] = set()
        self.is_lost = False
        self.before_unloading: Callable[[str], None] = lambda _: None

    async def load(self, adapter: Deployable) -> None:
        if self.is_lost:
            raise EngineLost("gone")
        if adapter.adapter in self.refuses:
            raise EngineRefused(f"{adapter.adapter} does not fit.")
        self.adapters[adapter.digest] = adapter
        self.loads.append(adapter.adapter)

    async def unload(self, digest: str) -> None:
        self.before_unloading(digest)
        self.adapters.pop(digest, None)

    def loaded(self) -> Mapping[str, str]:
        return {} if self.is_lost else {digest: each.adapter for digest, each in self.adapters.items()}

    async def answer(
        self, digest: str, messages: Sequence[Mapping[str, str]], sampling: Sampling, cache_group: str = ""
    ) -> Answer:
        raise NotImplementedError

    async def is_well(self) -> bool:
        return not self.is_lost

    async def close(self) -> None:
        return None

    @property
    def names(self) -> list[str]:
        return sorted(self.loaded().values())


class Deploying:
    """A deployment that looks when it is told to."""

    def __init__(self, served: ServedOffice, **changes: Any) -> None:
        """changes: of the office's settings."""
        self.said: list[str] = []
        self.engine = NotedEngine()
        self.sources = Sources(replace(served.office.bench.settings, **changes), compute=compute)
        self.answering: set[str] = set()
        self.deployment = Deployment(self.engine, self.sources, self.said.append, lambda: self.answering)

    def look(self) -> Deployed:
        return asyncio.run(self.deployment.look())
