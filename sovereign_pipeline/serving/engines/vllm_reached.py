"""A vLLM server that others start, and that this gateway merely reaches, by an address of this machine or one that the
institution names.

Only this gateway loads adapters into it: it is refused where it holds others, and given up as soon as it does. The name
of its base model must be one that nobody can guess. Whether it has the right base model is seen by fingerprints, as
with every engine. Who else reaches it, and what it writes into its logs, is not seen from here.

What belongs here: what must hold of such a server. What does not: what is asked of it (`vllm_server.py`).
"""

import asyncio
import contextlib
import fcntl
import json
import os
import re
import shutil
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

import aiohttp

from sovereign_pipeline.base.errors import EngineLost, EngineRefused
from sovereign_pipeline.base.files import write_atomically
from sovereign_pipeline.policy.serving import UNIX
from sovereign_pipeline.serving.engines.vllm_server import LOAD, MODELS, SECONDS_IDLE, VERSION, VllmServer, VllmSettings

OLDEST = (0, 32)
"""The first version of vLLM in which no request under way is answered by another adapter."""
UNGUESSABLE = re.compile(r"[0-9a-f]{32,}")
SECONDS_TO_ANSWER = 30.0
SECONDS_TO_LEAVE = 5.0
LOADED, LOCK = "loaded.json", "lock"


class ReachedVllm(VllmServer):
    """A server that this gateway alone gives adapters."""

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
        """Name -> path, of everything that the server was told to load and not yet to unload."""
        self._confirmed: set[str] = set()
        """Names that the server must know."""

    @classmethod
    async def reach(cls, context: int, settings: VllmSettings, template_sha256: str) -> Self:
        """Raises EngineRefused for a server that is not this gateway's alone or does not fit, and EngineLost for one
        that does not answer."""
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
                raise EngineLost(f"The vLLM server at {options.url} does not answer.", "Start it.") from None
            if isinstance(error, OSError):
                raise EngineLost(f"{records}: {error.strerror}.", "Let the gateway write there.") from None
            raise
        return server

    async def load(self, name: str, directory: Path) -> None:
        self._given[name] = str(directory)
        self._note()  # before: what it loaded and nobody noted would keep this gateway out after a crash
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
        """Take what is this gateway's out of the server, and leave it."""
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
            return  # `watch` sees that it answers nothing
        if problem:
            self._gone.set()

    async def _begin(self, context: int) -> None:
        if self._socket is not None and _is_open_to_all(self._socket):
            raise EngineRefused(
                f"{self._socket}: every account of this machine can reach this vLLM server.",
                "Give its socket a directory that only the accounts of gateway and server may enter.",
            )
        version = str((await self._get(VERSION)).get("version", ""))
        numbers = tuple(int(each) for each in re.findall(r"\d+", version)[:2])
        if numbers < OLDEST:
            raise self._refused(f"it is vLLM {version or 'of no version'}", "Install vLLM 0.32 or later.")
        bases = await self._bases()
        if len(bases) != 1 or not UNGUESSABLE.fullmatch(str(bases[0].get("id"))):
            raise self._refused(
                "the name of its base model can be guessed, and who names it gets answers without an adapter",
                "Start it with one --served-model-name of 32 hex digits, as `openssl rand -hex 16` prints them.",
            )
        if not await self._loads_at_runtime():
            raise self._refused(
                "it loads no adapters while it runs",
                "Start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora.",
            )
        longest = int(bases[0].get("max_model_len") or 0)
        if longest < context:
            raise self._refused(
                f"it takes {longest} tokens of prompt and answer, and {context} are to be served",
                "Start it with a larger --max-model-len, or set serving.vllm.context.",
            )
        await self._take_back_of_before()
        problem = await self._strangeness()
        if problem:
            raise self._refused(problem, "Start it anew, and let nobody but this gateway load adapters into it.")
        await self._warm_up(str(bases[0]["id"]))

    async def _take_back_of_before(self) -> None:
        """Unload what this gateway loaded before it was killed."""
        try:
            before: dict[str, str] = json.loads((self._records / LOADED).read_bytes())
        except FileNotFoundError:
            before = {}
        except ValueError:
            raise self._refused("what was loaded into it before cannot be read", "Start it anew.") from None
        await self._take_out(before)
        self._note()
        await asyncio.to_thread(shutil.rmtree, self.copies, ignore_errors=True)

    async def _take_out(self, given: dict[str, str]) -> None:
        """Unload adapters, but none that somebody else put under the same name."""
        held = await self._adapters()
        for name, path in given.items():
            if held.get(name) == path:
                await self.unload(name)

    async def _strangeness(self) -> str:
        """What is in the server that this gateway did not load, or is not there though it did; empty where all is."""
        given, needed = dict(self._given), set(self._confirmed)
        held = await self._adapters()
        given |= self._given  # what was loaded meanwhile
        needed &= self._confirmed
        if any(given.get(name) != path for name, path in held.items()):
            return "it holds an adapter that this gateway did not load"
        if needed - held.keys():
            return "it does not hold any more what this gateway loaded"
        return ""

    async def _bases(self) -> list[Any]:
        """What the base model is known by."""
        return [each for each in await self._models() if not each.get("parent")]

    async def _adapters(self) -> dict[str, str]:
        """Name -> path."""
        return {str(each.get("id")): str(each.get("root")) for each in await self._models() if each.get("parent")}

    async def _models(self) -> list[Any]:
        listed = (await self._get(MODELS)).get("data")
        if not isinstance(listed, list) or not all(isinstance(each, dict) for each in listed):
            raise self._refused("it does not list models as vLLM does", "See serving.vllm.url.")
        return listed

    async def _loads_at_runtime(self) -> bool:
        """Without it there is no such path; with it, an empty body is refused in another way."""
        try:
            async with self._session.post(self._url + LOAD, json={}, allow_redirects=False) as response:
                return response.status in (400, 422)
        except (aiohttp.ClientError, OSError) as error:
            raise self._silent() from error

    async def _get(self, path: str) -> dict[str, Any]:
        """Raises EngineLost for a server that is not there, and EngineRefused for what is no vLLM server."""
        try:
            async with self._session.get(self._url + path, allow_redirects=False) as response:
                content = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            self._gone.set()
            raise self._silent() from error
        try:
            found = json.loads(content) if response.status == 200 else None
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise self._refused(f"it does not answer {path} as vLLM does", "See serving.vllm.url.")
        return found

    def _silent(self) -> EngineLost:
        return EngineLost(f"No vLLM server answers at {self._address}.", "Start it.")

    def _refused(self, why: str, hint: str) -> EngineRefused:
        return EngineRefused(f"The vLLM server at {self._address} is not used: {why}.", hint)

    def _forget(self, name: str) -> None:
        self._given.pop(name, None)
        self._note()

    def _note(self) -> None:
        try:
            write_atomically(self._records / LOADED, json.dumps(self._given))
        except OSError as error:
            raise EngineRefused(
                f"{self._records}: what vLLM is given cannot be noted ({error.strerror}).", "Make room there."
            ) from None

    def _take_lock(self) -> None:
        self._records.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self._records / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise self._refused("another gateway uses it", "Give each gateway a server of its own.") from None
        self._lock = lock


def _shared(directory: Path) -> Path:
    """Raises EngineRefused for a directory of copies that others can change."""
    try:
        found = directory.stat()
    except OSError as error:
        raise EngineRefused(f"{directory}: serving.vllm.copies is not there ({error.strerror}).", "Make it.") from None
    if found.st_uid != os.geteuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EngineRefused(
            f"{directory}: others than the gateway can change serving.vllm.copies.",
            "Give it to the gateway's account, with mode 0750 and the group of the account that runs vLLM.",
        )
    return directory


def _is_open_to_all(path: Path) -> bool:
    """Whether accounts of no group can connect to a socket: they may write it, and enter every directory above it."""
    try:
        if not path.stat().st_mode & stat.S_IWOTH:
            return False
        return all(each.stat().st_mode & stat.S_IXOTH for each in path.resolve().parents)
    except OSError:
        return False  # whoever connects is told
