"""A vLLM server that the gateway starts, in processes of its own.

Its socket lies in a directory that this account alone may enter: vLLM's own key leaves paths open that load adapters
and answer prompts. The base model has a random name.

What belongs here: starting and ending it. What does not: what is asked of it (`vllm_server.py`).
"""

import asyncio
import os
import secrets
import shutil
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Self

import aiohttp

from sovereign_pipeline.base.errors import EngineLost, EngineRefused
from sovereign_pipeline.base.settings import OFFLINE_ENVIRONMENT, PROJECT_ROOT
from sovereign_pipeline.serving.engines.supervised import INHERITED_VARIABLES
from sovereign_pipeline.serving.engines.vllm_keeper import HeldDirectory, remove_left_behind
from sovereign_pipeline.serving.engines.vllm_server import SECONDS_IDLE, VllmServer, VllmSettings

DEVICE_VARIABLES = ("CUDA_HOME", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
BLOCK_TOKENS = 32
"""What is kept of prompts is kept by so many tokens; on a processor vLLM's own choice is longer than most letters."""
LINES_KEPT = 200
"""Of what the server prints until it is ready; what it prints later is read and dropped."""


class StartedVllm(VllmServer):
    """A server of this gateway alone."""

    def __init__(self, directory: HeldDirectory, template_sha256: str) -> None:
        self._directory = directory
        self._socket = str(directory.path / "api")
        connector = aiohttp.UnixConnector(self._socket, limit=0, keepalive_timeout=SECONDS_IDLE)
        super().__init__(directory.path / "adapters", template_sha256, "http://vllm", connector)
        self._base_name = secrets.token_hex(16)
        self._printed: deque[str] = deque(maxlen=LINES_KEPT)
        self._process: asyncio.subprocess.Process | None = None
        self._pipe: int | None = None
        """Closes when this process is gone."""
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, base: Path, context: int, settings: VllmSettings, template_sha256: str) -> Self:
        """A server that is ready. Raises EngineRefused where vLLM does not start, and EngineLost where it takes too
        long."""
        await asyncio.to_thread(remove_left_behind)
        try:
            server = cls(HeldDirectory.make(), template_sha256)
        except OSError as error:
            raise EngineLost(f"There is no directory for vLLM: {error.strerror}.", "See TMPDIR.") from None
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

    async def end(self) -> None:
        """Kill the server with all its processes."""
        self._gone.set()
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
        if self._process is not None:
            await self._process.wait()  # the keeper sees the pipe close, and kills the rest
        for task in self._tasks:
            task.cancel()
        await self._session.close()
        await asyncio.to_thread(shutil.rmtree, self._directory.path, ignore_errors=True)
        self._directory.let_go()

    async def _start(self, base: Path, context: int, settings: VllmSettings) -> None:
        reading, self._pipe = os.pipe()
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "sovereign_pipeline.serving.engines.vllm_keeper",
                str(reading),
                str(self._directory.path),
                *_command(base, self._base_name, context, settings, self._socket),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(reading, self._directory.lock),  # held for as long as either lives
                env=_environment(settings, self._directory.path),
                cwd="/",
                start_new_session=True,
            )
        finally:
            os.close(reading)
        self._tasks = [asyncio.create_task(self._read_output(process)), asyncio.create_task(self._note_end(process))]

    async def _wait_until_ready(self) -> None:
        while not await self._is_healthy():
            if self.is_gone:
                raise EngineRefused(f"vLLM ended before it was ready: {self._why()}", "See serving.vllm.")
            await asyncio.sleep(0.25)
        await self._warm_up(self._base_name)
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
    command = [str(settings.python), "-m", "vllm.entrypoints.openai.api_server", *(f"--{flag}" for flag in flags)]
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
