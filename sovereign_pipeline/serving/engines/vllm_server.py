"""What is asked of a vLLM server, whoever started it.

Few paths are used. The base model is asked for nothing beside others: on a processor, vLLM gives its rows another
adapter's.

What belongs here: asking the server, and seeing that it computes. What does not: starting it (`vllm_started.py`), what
must hold of one that others started (`vllm_reached.py`), and which adapters it is given (`vllm.py`).
"""

import asyncio
import contextlib
import json
import os
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from sovereign_pipeline.base.errors import EngineLost, EngineRefused
from sovereign_pipeline.policy.serving import Vllm

HEALTH, COMPLETIONS, MODELS, VERSION = "/health", "/v1/completions", "/v1/models", "/version"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
SECONDS_IDLE = 2.0
"""After which a connection is not used again: vLLM closes it after 5, and a request that comes just then is lost."""
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_PROBES = 3.0

Body = dict[str, Any]


@dataclass(frozen=True)
class VllmSettings:
    """How a vLLM server is run, or where it is reached."""

    options: Vllm
    python: Path | None = None
    """The interpreter of its environment, where it is started here."""
    records: Path | None = None
    """A directory of the gateway's account, for what it gives to a server that is merely reached."""
    threads: int = max(1, (os.cpu_count() or 2) // 2)
    """Where it computes on the processor."""
    hang_seconds: float = 60.0
    """A server that answers nothing for so long is given up."""
    start_seconds: float = 900.0
    """A server that is not ready by then is given up."""


class VllmServer(ABC):
    """One running server."""

    def __init__(self, copies: Path, template_sha256: str, url: str, connector: aiohttp.BaseConnector) -> None:
        """copies: where adapters are put for it to read."""
        self.copies, self.template_sha256 = copies, template_sha256
        self.names: dict[str, str] = {}
        """Adapter's digest -> the name that the server knows it by."""
        self.kept: set[str] = set()
        """Names that are used again and again, so that the server does not put them out."""
        self.heard_at = time.monotonic()
        self._url = url
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        self._salt = secrets.token_hex(32)
        self._gone = asyncio.Event()

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set()

    async def load(self, name: str, directory: Path) -> None:
        """Raises EngineRefused with the server's reason, and EngineLost."""
        await self.post(LOAD, {"lora_name": name, "lora_path": str(directory)})

    async def unload(self, name: str) -> None:
        """Raises EngineRefused where it knows no such name, and EngineLost."""
        await self.post(UNLOAD, {"lora_name": name})

    async def post(self, path: str, body: Body) -> Any:
        """The answer's JSON. Raises EngineRefused with the server's reason, and EngineLost."""
        try:
            async with self._session.post(self._url + path, json=body, allow_redirects=False) as response:
                content = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise lost() from error
        if response.status >= 500 and not await self._is_healthy():
            raise lost()
        if response.status != 200:
            raise EngineRefused(f"vLLM refuses it: {_reason(content)}", "")
        self.heard_at = time.monotonic()
        return json.loads(content) if response.content_type == "application/json" else None

    async def stream(self, body: Body) -> aiohttp.ClientResponse:
        """The response to a completion that is streamed. Raises EngineRefused, without the server's words: they may
        quote the prompt; and EngineLost."""
        try:
            response = await self._session.post(
                self._url + COMPLETIONS, json={**body, "stream": True}, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError) as error:
            raise lost() from error
        if response.status == 200:
            return response
        response.close()
        if response.status >= 500:
            raise lost()
        raise EngineRefused(f"vLLM does not take this request (status {response.status}).", "Shorten it.")

    def salt(self, group: str) -> str:
        """What parts the cached prompts of one group from those of others; nobody can guess it."""
        return f"{self._salt}:{group}"

    async def use(self, names: Iterable[str]) -> None:
        """Use adapters once: of those that are in the way, vLLM puts out the one that was used longest ago."""
        one_token = {"prompt": [0], "max_tokens": 1, "temperature": 0}
        await asyncio.gather(*(self.post(COMPLETIONS, {"model": name, **one_token}) for name in sorted(names)))

    async def watch(self, hang_seconds: float) -> None:
        """Return when the server is gone, or has answered nothing for so long that it hangs."""
        self.heard_at = looked_at = time.monotonic()
        probe: asyncio.Task[None] | None = None
        probed_at = 0.0
        look = min(SECONDS_BETWEEN_LOOKS, hang_seconds / 4)
        try:
            while not self.is_gone and time.monotonic() - self.heard_at <= hang_seconds:
                if (probe is None or probe.done()) and time.monotonic() - probed_at > SECONDS_BETWEEN_PROBES:
                    probe, probed_at = asyncio.create_task(self._probe()), time.monotonic()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(look):
                        await self._gone.wait()
                if time.monotonic() - looked_at > 3 * look:
                    self.heard_at = time.monotonic()  # this loop stood still, and could hear nothing
                looked_at = time.monotonic()
        finally:
            if probe is not None:
                probe.cancel()

    @abstractmethod
    async def end(self) -> None:
        """Give the server up; what is under way in it is lost."""

    async def _probe(self) -> None:
        """See whether it computes, and keep what is to stay in memory there."""
        with contextlib.suppress(EngineLost, EngineRefused):
            if self.kept:
                await self.use(self.kept)
            elif await self._is_healthy():
                self.heard_at = time.monotonic()

    async def _is_healthy(self) -> bool:
        try:
            async with self._session.get(self._url + HEALTH, allow_redirects=False) as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    async def _warm_up(self, base_name: str) -> None:
        """The first log-probabilities compile something, for seconds in which nothing else is answered."""
        one_token = {"prompt": [0], "max_tokens": 1, "logprobs": 1, "logprob_token_ids": [0]}
        await self.post(COMPLETIONS, {"model": base_name, **one_token})


def lost() -> EngineLost:
    return EngineLost("The vLLM engine ended before the answer was complete.", "Ask again in a moment.")


def _reason(content: bytes) -> str:
    try:
        found = json.loads(content)
        message = str(found.get("error", found).get("message", ""))
    except (ValueError, AttributeError):
        message = ""
    return message.strip().partition("\n")[0][:200] or "it gives no reason."
