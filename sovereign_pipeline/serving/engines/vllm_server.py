"""Start a vLLM server or connect to a running one, and send requests to it.

While a server has requests for adapters, it gets no request for the bare base model. On a CPU, vLLM would compute the
base model's rows with the last adapter.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import re
import secrets
import shutil
import stat
import sys
import time
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import aiohttp

from sovereign_pipeline.base.errors import EngineLost, EngineRefused
from sovereign_pipeline.base.files import write_atomically
from sovereign_pipeline.policy.serving import UNIX, Vllm
from sovereign_pipeline.serving.engines.engine import INHERITED_VARIABLES, THREADS, Process, environment_of
from sovereign_pipeline.serving.engines.vllm_supervisor import HeldDirectory, remove_left_behind

HEALTH, COMPLETIONS, MODELS, VERSION = "/health", "/v1/completions", "/v1/models", "/version"
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"
SECONDS_IDLE = 2.0
"""Seconds after which the gateway closes an idle connection, before vLLM does so (after 5 seconds)."""

Body = dict[str, Any]


@dataclass(frozen=True)
class VllmSettings:
    options: Vllm
    python: Path | None = None
    """Python interpreter of vLLM's environment, if the gateway starts the server."""
    records: Path | None = None
    """Directory in which the gateway records the adapters that it loaded into a shared server."""
    threads: int = THREADS
    hang_seconds: float = 60.0
    """Seconds without a response after which a server counts as hung."""
    start_seconds: float = 900.0
    """Seconds after which a server that is not ready is killed."""


class VllmServer(Process):
    def __init__(self, copies: Path, template_sha256: str, url: str, connector: aiohttp.BaseConnector) -> None:
        """Connect to a server. copies: directory from which the server reads adapters."""
        super().__init__(template_sha256)
        self.copies = copies
        self.names: dict[str, str] = {}
        """Maps an adapter's digest to the adapter's name on the server."""
        self.kept: set[str] = set()
        """Names of adapters that regularly get a request, so that the server does not evict them."""
        self._url = url
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None))
        self._salt = secrets.token_hex(32)

    async def load(self, name: str, directory: Path) -> None:
        """Load an adapter. Raises EngineRefused if the server rejects it, and EngineLost if the server is gone."""
        await self.post(LOAD, {"lora_name": name, "lora_path": str(directory)})

    async def unload(self, name: str) -> None:
        """Unload an adapter. Raises EngineRefused if the server lacks it, and EngineLost if the server is gone."""
        await self.post(UNLOAD, {"lora_name": name})

    async def post(self, path: str, body: Body) -> Any:
        """Send a request and return the response's JSON object, or None. Raises EngineRefused, with the server's
        reason, if the server rejects the request, and EngineLost if the server is gone."""
        status, content = await self._sent("POST", path, body)
        if status >= 500 and not await self._is_healthy():
            raise lost()
        if status != 200:
            raise EngineRefused(f"vLLM rejects the request: {_reason(content)}", "")
        self.heard_at = time.monotonic()
        return json.loads(content) if content.startswith(b"{") else None

    async def stream(self, body: Body) -> aiohttp.ClientResponse:
        """Send a streamed completion request and return its response. Raises EngineRefused if the server rejects it,
        and EngineLost if the server fails. The errors omit the server's message, which may quote the prompt."""
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
        raise EngineRefused(f"vLLM rejects this request (status {response.status}).", "Shorten the request.")

    def salt(self, group: str) -> str:
        """Return a secret salt that separates the cached prompts of groups."""
        return f"{self._salt}:{group}"

    async def use(self, names: Iterable[str]) -> None:
        """Send one request to each named adapter, so that vLLM does not evict it as the least recently used."""
        one_token = {"prompt": [0], "max_tokens": 1, "temperature": 0}
        await asyncio.gather(*(self.post(COMPLETIONS, {"model": name, **one_token}) for name in sorted(names)))

    async def _probe(self) -> None:
        """Probe the server, and keep the adapters in `kept` from being evicted."""
        with contextlib.suppress(EngineLost, EngineRefused):
            if self.kept:
                await self.use(self.kept)
            elif await self._is_healthy():
                self.heard_at = time.monotonic()

    async def _is_healthy(self) -> bool:
        with contextlib.suppress(EngineLost):
            return (await self._sent("GET", HEALTH))[0] == 200
        return False

    async def _sent(self, method: str, path: str, body: Body | None = None) -> tuple[int, bytes]:
        """Send a request and return the response's status and content. Raises EngineLost if the connection fails."""
        try:
            async with self._session.request(method, self._url + path, json=body, allow_redirects=False) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise lost() from error

    async def _warm_up(self, base_name: str) -> None:
        """Request log-probabilities once: the first such request compiles code and blocks all others for seconds."""
        one_token = {"prompt": [0], "max_tokens": 1, "logprobs": 1, "logprob_token_ids": [0]}
        await self.post(COMPLETIONS, {"model": base_name, **one_token})


def lost() -> EngineLost:
    return EngineLost("The vLLM engine ended before the answer was complete.", "Try again in a moment.")


def _reason(content: bytes) -> str:
    try:
        found = json.loads(content)
        message = str(found.get("error", found).get("message", ""))
    except (ValueError, AttributeError):
        message = ""
    return message.strip().partition("\n")[0][:200] or "no reason is given."


DEVICE_VARIABLES = ("CUDA_HOME", "CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")
BLOCK_TOKENS = 32
"""Number of tokens per block of the prefix cache. vLLM's default on a CPU is longer than most documents."""
LINES_KEPT = 200
"""Maximum number of output lines that are stored until the server is ready. Later output is dropped."""


class StartedVllm(VllmServer):
    """A server that this gateway started and uses alone."""

    def __init__(self, directory: HeldDirectory, template_sha256: str) -> None:
        self._directory = directory
        self._socket = str(directory.path / "api")
        connector = aiohttp.UnixConnector(self._socket, limit=0, keepalive_timeout=SECONDS_IDLE)
        super().__init__(directory.path / "adapters", template_sha256, "http://vllm", connector)
        self._base_name = secrets.token_hex(16)
        self._printed: deque[str] = deque(maxlen=LINES_KEPT)
        self._process: asyncio.subprocess.Process | None = None
        self._pipe: int | None = None
        """Descriptor of a pipe that closes when this process is gone."""
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def start(cls, base: Path, context: int, settings: VllmSettings, template_sha256: str) -> Self:
        """Start a server and wait until it is ready. Raises EngineRefused if vLLM ends before that, and EngineLost if
        vLLM cannot be started or takes too long."""
        await asyncio.to_thread(remove_left_behind)
        try:
            server = cls(HeldDirectory.make(), template_sha256)
        except OSError as error:
            raise EngineLost(
                f"The gateway cannot create a directory for vLLM: {error.strerror}.",
                "Set TMPDIR to a writable directory.",
            ) from None
        try:
            await server._start(base, context, settings)
            async with asyncio.timeout(settings.start_seconds):
                await server._wait_until_ready()
        except BaseException as error:
            await server.end()
            if isinstance(error, TimeoutError):
                raise EngineLost("vLLM did not load its base model in time.", "Free memory.") from None
            if isinstance(error, OSError):
                raise EngineLost(f"vLLM cannot be started: {error.strerror}.", "") from None
            raise
        return server

    async def end(self) -> None:
        self._gone.set()
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None
        if self._process is not None:
            await self._process.wait()  # the supervisor notices that the pipe closes, and kills the other processes
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
                "sovereign_pipeline.serving.engines.vllm_supervisor",
                str(reading),
                str(self._directory.path),
                *_command(base, self._base_name, context, settings, self._socket),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                pass_fds=(reading, self._directory.lock),  # locked as long as the gateway or the supervisor lives
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
                raise EngineRefused(
                    f"vLLM ended before it was ready: {self._why()}", "Correct serving.vllm in institution.yaml."
                )
            await asyncio.sleep(0.25)
        await self._warm_up(self._base_name)
        self._printed = deque(maxlen=0)  # from here on, the server may print callers' texts

    def _why(self) -> str:
        """Return the last error line (or else the last line) that the server printed before it was ready."""
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
        "max-loras": options.adapters + 1,  # plus one slot for the adapter without effect
        "max-cpu-loras": options.adapters + 1,
        "max-lora-rank": options.rank,
        "block-size": BLOCK_TOKENS,
        "tensor-parallel-size": options.tensor_parallel,
        "gpu-memory-utilization": options.gpu_memory,
        "generation-config": "vllm",  # the base model's own settings would change how tokens are drawn
        "structured-outputs-config": '{"backend": "guidance"}',
        "seed": secrets.randbits(31),
    }
    flags = ("enable-lora", "disable-uvicorn-access-log", "disable-log-stats")
    command = [str(settings.python), "-m", "vllm.entrypoints.openai.api_server", *(f"--{flag}" for flag in flags)]
    for name, value in given.items():
        command += [f"--{name}", str(value)]
    return command


def _environment(settings: VllmSettings, directory: Path) -> dict[str, str]:
    return {
        **environment_of(settings.threads, (*INHERITED_VARIABLES, *DEVICE_VARIABLES)),
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "VLLM_RPC_BASE_PATH": str(directory),
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.options.cpu_cache_gib),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }


OLDEST = (0, 32)
"""Oldest supported version of vLLM. Earlier versions may answer a running request with another adapter."""
UNGUESSABLE = re.compile(r"[0-9a-f]{32,}")
SECONDS_TO_ANSWER = 30.0
SECONDS_TO_LEAVE = 5.0
LOADED, LOCK = "loaded.json", "lock"


class ReachedVllm(VllmServer):
    """A server that this gateway did not start. Only this gateway loads adapters into it."""

    def __init__(self, records: Path, copies: Path, template_sha256: str, address: str) -> None:
        path = address.removeprefix(UNIX)
        is_socket = path != address
        connector = (
            aiohttp.UnixConnector(path, limit=0, keepalive_timeout=SECONDS_IDLE)
            if is_socket
            else aiohttp.TCPConnector(limit=0, keepalive_timeout=SECONDS_IDLE)
        )
        super().__init__(copies, template_sha256, "http://vllm" if is_socket else address.rstrip("/"), connector)
        self._address, self._socket = address, Path(path) if is_socket else None
        self._records = records
        self._lock: int | None = None
        self._given: dict[str, str] = {}
        """Maps the name of each adapter that this gateway has loaded to the path of the adapter's copy."""
        self._confirmed: set[str] = set()
        """Names of the adapters whose load the server has confirmed."""

    @classmethod
    async def reach(cls, context: int, settings: VllmSettings, template_sha256: str) -> Self:
        """Connect to a server. Raises EngineRefused if the server is unsuitable or another gateway uses it, and
        EngineLost if it does not answer or the directory of records cannot be used."""
        options = settings.options
        assert options.url is not None and settings.records is not None
        records = settings.records / sha256(options.url.encode()).hexdigest()[:16]
        copies = records / "adapters" if options.copies is None else _shared(Path(options.copies)) / records.name
        server = cls(records, copies, template_sha256, options.url)
        try:
            server._take_lock()
            async with asyncio.timeout(SECONDS_TO_ANSWER):
                await server._begin(context)
        except BaseException as error:
            await server.end()
            if isinstance(error, TimeoutError):
                raise EngineLost(f"The vLLM server at {options.url} does not answer.", "Start the server.") from None
            if isinstance(error, OSError):
                raise EngineLost(
                    f"{records}: the gateway cannot use this directory ({error.strerror}).",
                    "Give the gateway write access to the directory.",
                ) from None
            raise
        return server

    async def load(self, name: str, directory: Path) -> None:
        self._given[name] = str(directory)
        self._note()  # first, because after a crash the gateway would reject a server with an unrecorded adapter
        try:
            await super().load(name, directory)
        except EngineRefused:
            self._forget(name)
            raise
        self._confirmed.add(name)

    async def unload(self, name: str) -> None:
        self._confirmed.discard(name)
        await super().unload(name)
        self._forget(name)

    async def end(self) -> None:
        """Unload this gateway's adapters, and leave the server running."""
        is_ours = self._lock is not None
        self._gone.set()
        if is_ours:
            with contextlib.suppress(EngineRefused, EngineLost, TimeoutError):
                async with asyncio.timeout(SECONDS_TO_LEAVE):
                    await self._take_out(dict(self._given))
        await self._session.close()
        if self._lock is not None:
            await asyncio.to_thread(shutil.rmtree, self.copies, ignore_errors=True)
            os.close(self._lock)
            self._lock = None

    async def _probe(self) -> None:
        await super()._probe()
        try:
            async with asyncio.timeout(SECONDS_TO_ANSWER):
                problem = await self._strangeness()
        except EngineRefused as error:
            problem = error.message
        except (EngineLost, TimeoutError):
            return  # `watch` notices that the server does not answer
        if problem:
            self._gone.set()

    async def _begin(self, context: int) -> None:
        if self._socket is not None and _is_open_to_all(self._socket):
            raise EngineRefused(
                f"{self._socket}: every account of this machine can reach this vLLM server.",
                "Move the socket to a directory that only the accounts of the gateway and the server may enter.",
            )
        version = str((await self._get(VERSION)).get("version", ""))
        numbers = tuple(int(each) for each in re.findall(r"\d+", version)[:2])
        if numbers < OLDEST:
            raise self._refused(f"it is vLLM {version or 'of unknown version'}", "Install vLLM 0.32 or later.")
        bases = [each for each in await self._models() if not each.get("parent")]
        if len(bases) != 1 or not UNGUESSABLE.fullmatch(str(bases[0].get("id"))):
            raise self._refused(
                "the name of its base model can be guessed, and requests with that name bypass the adapters",
                "Start it with one --served-model-name of 32 hex digits, as `openssl rand -hex 16` prints them.",
            )
        # If adapters can be loaded, an empty body and a missing path get different statuses.
        if (await self._sent("POST", LOAD, {}))[0] not in (400, 422):
            raise self._refused(
                "it cannot load adapters while it runs",
                "Start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora.",
            )
        longest = int(bases[0].get("max_model_len") or 0)
        if longest < context:
            raise self._refused(
                f"its limit is {longest} tokens of prompt and answer, but this gateway serves {context}",
                "Start it with a larger --max-model-len, or set serving.vllm.context.",
            )
        await self._take_back_of_before()
        problem = await self._strangeness()
        if problem:
            raise self._refused(problem, "Restart it, and let only this gateway load adapters into it.")
        await self._warm_up(str(bases[0]["id"]))

    async def _take_back_of_before(self) -> None:
        """Unload the adapters that an earlier process of this gateway loaded."""
        try:
            before: dict[str, str] = json.loads((self._records / LOADED).read_bytes())
        except FileNotFoundError:
            before = {}
        except ValueError:
            raise self._refused("the record of its loaded adapters cannot be read", "Restart it.") from None
        await self._take_out(before)
        self._note()
        await asyncio.to_thread(shutil.rmtree, self.copies, ignore_errors=True)

    async def _take_out(self, given: dict[str, str]) -> None:
        """Unload adapters. given: mapping of name to path. Skips a name if the server has a different path."""
        held = await self._adapters()
        for name, path in given.items():
            if held.get(name) == path:
                await self.unload(name)

    async def _strangeness(self) -> str:
        """Describe how the server's adapters differ from those that this gateway loaded; "" if they do not."""
        given, needed = dict(self._given), set(self._confirmed)
        held = await self._adapters()
        given |= self._given  # adapters that were loaded meanwhile
        needed &= self._confirmed
        if any(given.get(name) != path for name, path in held.items()):
            return "it has an adapter that this gateway did not load"
        if needed - held.keys():
            return "it has lost an adapter that this gateway loaded"
        return ""

    async def _adapters(self) -> dict[str, str]:
        return {str(each.get("id")): str(each.get("root")) for each in await self._models() if each.get("parent")}

    async def _models(self) -> list[Any]:
        listed = (await self._get(MODELS)).get("data")
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise self._refused("it does not list models as vLLM does", "Set serving.vllm.url to a vLLM server.")
        return listed

    async def _get(self, path: str) -> dict[str, Any]:
        """Send a GET request. Raises EngineLost if no server answers, and EngineRefused if the server is not vLLM."""
        try:
            status, content = await self._sent("GET", path)
        except EngineLost as error:
            self._gone.set()
            raise EngineLost(f"No vLLM server answers at {self._address}.", "Start the server.") from error
        try:
            found = json.loads(content) if status == 200 else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._refused(f"it does not answer {path} as vLLM does", "Set serving.vllm.url to a vLLM server.")
        return found

    def _refused(self, why: str, hint: str) -> EngineRefused:
        return EngineRefused(f"The gateway does not use the vLLM server at {self._address}: {why}.", hint)

    def _forget(self, name: str) -> None:
        self._given.pop(name, None)
        self._note()

    def _note(self) -> None:
        try:
            write_atomically(self._records / LOADED, json.dumps(self._given))
        except OSError as error:
            raise EngineRefused(
                f"{self._records}: the list of vLLM's adapters cannot be saved ({error.strerror}).", "Free disk space."
            ) from None

    def _take_lock(self) -> None:
        self._records.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._records / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise self._refused("another gateway uses the same server", "Start one server per gateway.") from None
        self._lock = lock


def _shared(directory: Path) -> Path:
    """Return the directory of copies. Raises EngineRefused if it is missing or another account can change it."""
    try:
        found = directory.stat()
    except OSError as error:
        raise EngineRefused(
            f"{directory}: this directory, which serving.vllm.copies names, cannot be read ({error.strerror}).",
            "Create the directory.",
        ) from None
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EngineRefused(
            f"{directory}: accounts other than the gateway's can change this directory (serving.vllm.copies).",
            "Give the directory to the gateway's account, with mode 0750 and the group of the account that runs vLLM.",
        )
    return directory


def _is_open_to_all(path: Path) -> bool:
    """Return True if accounts outside the group can connect to a socket: if they can write to the socket and enter
    every directory above it."""
    try:
        if not path.stat().st_mode & stat.S_IWOTH:
            return False
        return all(each.stat().st_mode & stat.S_IXOTH for each in path.resolve().parents)
    except OSError:
        return False  # connecting reports the error
