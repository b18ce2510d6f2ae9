"""A vLLM server in processes of its own, and what is asked of it over a Unix socket.

Its socket lies in a directory that this account alone may enter: vLLM's own key leaves paths open that load adapters
and answer prompts. Four paths are used. The base model has a random name, and is asked for nothing beside others: on a
processor, vLLM gives its rows another adapter's.

What belongs here: starting, watching and asking the server. What does not: which adapters it is given (`vllm.py`).
"""

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import aiohttp

from sovereign_pipeline.errors import EngineLost, EngineRefused
from sovereign_pipeline.policy.serving import Vllm
from sovereign_pipeline.serving.engines.supervised import INHERITED_VARIABLES
from sovereign_pipeline.settings import OFFLINE_ENVIRONMENT, PROJECT_ROOT

DEVICE_VARIABLES = ("CUDA_HOME", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
HEALTH, COMPLETIONS = "/health", "/v1/completions"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
BLOCK_TOKENS = 32
"""What is kept of prompts is kept by so many tokens; on a processor vLLM's own choice is longer than most letters."""
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_PROBES = 3.0
LINES_KEPT = 200
"""Of what the server prints until it is ready; what it prints later is read and dropped."""

Body = dict[str, Any]


@dataclass(frozen=True)
class VllmSettings:
    """How a vLLM server is run."""

    options: Vllm
    threads: int = max(1, (os.cpu_count() or 2) // 2)
    """Where it computes on the processor."""
    hang_seconds: float = 60.0
    """A server that answers nothing for so long is killed."""
    start_seconds: float = 900.0
    """A server that is not ready by then is killed."""


class VllmServer:
    """One running server."""

    def __init__(self, directory: Path, template_sha256: str) -> None:
        self.directory, self.template_sha256 = directory, template_sha256
        self.names: dict[str, str] = {}
        """Adapter's digest -> the name that the server knows it by."""
        self.kept: set[str] = set()
        """Names that are used again and again, so that the server does not put them out."""
        self.heard_at = time.monotonic()
        self._socket = str(directory / "api")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(self._socket, limit=0), timeout=aiohttp.ClientTimeout(total=None)
        )
        self._base_name = secrets.token_hex(16)
        self._salt = secrets.token_hex(32)
        self._printed: deque[str] = deque(maxlen=LINES_KEPT)
        self._gone = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._pipe: int | None = None
        """Closes when this process is gone."""
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, base: Path, context: int, settings: VllmSettings, template_sha256: str) -> Self:
        """A server that is ready. Raises EngineRefused where vLLM does not start, and EngineLost where it takes too
        long."""
        server = cls(Path(tempfile.mkdtemp(prefix="vllm-")), template_sha256)
        try:
            await server._start(base, context, settings)
            async with asyncio.timeout(settings.start_seconds):
                await server._wait_until_ready()
        except BaseException as error:
            await server.end()
            if isinstance(error, TimeoutError):
                raise EngineLost("vLLM did not load its base model in time.", "Look at memory.") from None
            if isinstance(error, OSError):
                raise EngineLost(f"vLLM cannot be started: {error.strerror}.", "") from None
            raise
        return server

    async def _start(self, base: Path, context: int, settings: VllmSettings) -> None:
        reading, self._pipe = os.pipe()
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "sovereign_pipeline.serving.engines.vllm_keeper",
                str(reading),
                str(self.directory),
                *_command(base, self._base_name, context, settings, self._socket),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(reading,),
                env=_environment(settings, self.directory),
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(reading)
        self._tasks = [asyncio.create_task(self._read_output(process)), asyncio.create_task(self._note_end(process))]

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set()

    async def post(self, path: str, body: Body) -> Any:
        """The answer's JSON. Raises EngineRefused with the server's reason, and EngineLost."""
        try:
            async with self._session.post(f"http://vllm{path}", json=body) as response:
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
            response = await self._session.post(f"http://vllm{COMPLETIONS}", json={**body, "stream": True})
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

    async def end(self) -> None:
        """Kill the server with all its processes; what is under way in it is lost."""
        self._gone.set()
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
        if self._process is not None:
            await self._process.wait()  # the keeper sees the pipe close, and kills the rest
        for task in self._tasks:
            task.cancel()
        await self._session.close()
        await asyncio.to_thread(shutil.rmtree, self.directory, ignore_errors=True)

    async def _probe(self) -> None:
        """See whether it computes, and keep what is to stay in memory there."""
        with contextlib.suppress(EngineLost, EngineRefused):
            if self.kept:
                await self.use(self.kept)
            elif await self._is_healthy():
                self.heard_at = time.monotonic()

    async def _is_healthy(self) -> bool:
        try:
            async with self._session.get(f"http://vllm{HEALTH}") as response:
                return response.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    async def _wait_until_ready(self) -> None:
        while not await self._is_healthy():
            if self.is_gone:
                raise EngineRefused(f"vLLM ended before it was ready: {self._why()}", "See serving.vllm.")
            await asyncio.sleep(0.25)
        # The first log-probabilities compile something, for seconds in which nothing else is answered.
        one_token = {"prompt": [0], "max_tokens": 1, "logprobs": 1, "logprob_token_ids": [0]}
        await self.post(COMPLETIONS, {"model": self._base_name, **one_token})
        self._printed = deque(maxlen=0)  # from here on it may print what callers wrote

    def _why(self) -> str:
        """The last line that tells of an error, of what was printed before the first prompt."""
        errors = [line for line in self._printed if "Error" in line or "error:" in line]
        return (errors or list(self._printed) or ["it printed nothing"])[-1].strip()[-300:]

    async def _read_output(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while block := await process.stdout.read(1 << 16):
            self._printed.extend(block.decode(errors="replace").splitlines())

    async def _note_end(self, process: asyncio.subprocess.Process) -> None:
        await process.wait()
        await asyncio.wait(self._tasks[:1], timeout=1)
        self._gone.set()


def lost() -> EngineLost:
    return EngineLost("The vLLM engine ended before the answer was complete.", "Ask again in a moment.")


def _command(base: Path, name: str, context: int, settings: VllmSettings, socket: str) -> list[str]:
    options = settings.options
    given: Mapping[str, object] = {
        "model": base,
        "served-model-name": name,
        "uds": socket,
        "dtype": options.precision,
        "max-model-len": context,
        "max-num-seqs": options.answers,
        "max-num-batched-tokens": max(options.step_tokens, options.answers),
        "max-loras": options.adapters + 1,  # and the one that does nothing
        "max-cpu-loras": options.adapters + 1,
        "max-lora-rank": options.rank,
        "block-size": BLOCK_TOKENS,
        "tensor-parallel-size": options.tensor_parallel,
        "gpu-memory-utilization": options.gpu_memory,
        "generation-config": "vllm",  # the base model's own would change how tokens are drawn
        "seed": secrets.randbits(31),
    }
    flags = ("enable-lora", "disable-uvicorn-access-log", "disable-log-stats")
    command = [options.python, "-m", "vllm.entrypoints.openai.api_server", *(f"--{flag}" for flag in flags)]
    for name, value in given.items():
        command += [f"--{name}", str(value)]
    return command


def _environment(settings: VllmSettings, directory: Path) -> dict[str, str]:
    inherited = (*INHERITED_VARIABLES, *DEVICE_VARIABLES)
    threads = str(settings.threads)
    return {
        **{name: os.environ[name] for name in inherited if name in os.environ},
        **OFFLINE_ENVIRONMENT,
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "VLLM_RPC_BASE_PATH": str(directory),
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.options.cpu_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "MKL_NUM_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": str(PROJECT_ROOT),  # of the keeper alone
    }


def _reason(content: bytes) -> str:
    try:
        found = json.loads(content)
        message = str(found.get("error", found).get("message", ""))
    except (ValueError, AttributeError):
        message = ""
    return message.strip().partition("\n")[0][:200] or "it gives no reason."
