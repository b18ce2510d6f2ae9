"""Define the protocol of engines, and supervise an engine's process."""

import asyncio
import contextlib
import datetime
import os
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, NamedTuple, Protocol, Self, TypeVar

from sovereign_pipeline.base.errors import EngineLost, EngineRefused
from sovereign_pipeline.base.settings import OFFLINE_ENVIRONMENT, PROJECT_ROOT
from sovereign_pipeline.base_models.tool_form import ToolForm
from sovereign_pipeline.serving.fingerprints import Fingerprint
from sovereign_pipeline.training.tuned_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS


@dataclass(frozen=True)
class Deployable:
    """An adapter whose state, signatures, approvals and files were verified. Engines load only such adapters."""

    adapter: str
    """Adapter id, such as `permits-desk-1.0.0`. The engine identifies the adapter only by `digest`."""
    line: str
    digest: str
    """Digest of the artifact that contains the adapter's weights, 64 hex digits."""
    directory: Path
    """PEFT directory in the artifact store."""
    classification: str
    template_sha256: str
    """SHA-256 of the chat template that the adapter was trained with."""
    instruction: str | None
    """The line's instruction, which is put before the text of the first user turn, as in training (`as_served`). It is
    never sent as a system message. In some lines, a caller's system message replaces it."""
    base_model_digest: str = ""
    """Digest over the files of the adapter's base model. An engine with a different base model rejects the adapter. If
    empty, the engine does not compare base models."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Mapping of file name to SHA-256, from the artifact's manifest. The engine rejects any changed file."""
    pinned: bool = False
    """True for adapters in production or kept for a rollback. Their weights are never evicted."""
    in_reserve: bool = False
    """True if the adapter is loaded only for a possible rollback. Callers cannot request it."""
    registered_at: datetime.datetime | None = None
    fingerprint: Fingerprint | None = None
    """Values that the training libraries compute with the adapter. The engine must reproduce these values at each load.
    If None, the check is skipped."""

    @property
    def is_in_production(self) -> bool:
        return self.pinned and not self.in_reserve


@dataclass(frozen=True)
class Sampling:
    max_tokens: int
    temperature: float = 0.0
    """Sampling temperature. At 0, the most likely token is chosen."""
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Texts that end the answer. The answer does not include them."""
    logprobs: int | None = None
    """Number of most likely tokens to return at each position, in addition to the chosen token. If None, no
    log-probabilities are returned."""


@dataclass(frozen=True)
class EngineRequest:
    """A conversation that an adapter is to answer. The engine renders it with the base model's chat template."""

    digest: str
    messages: Sequence[Mapping[str, Any]]
    """Turns in OpenAI's format, except that the arguments of tool calls are objects instead of JSON strings."""
    sampling: Sampling
    cache_group: str = ""
    """Group of callers that share cached prompts. If all callers shared one cache, a caller could infer the prompts of
    others from response times."""
    shared: int = 0
    """Number of leading characters of the first user turn that other requests share. The prompt may be cached up to
    this position."""
    grammar: str = ""
    """Grammar of the answer, in llguidance's variant of Lark. If empty, any text is allowed."""
    tools: Sequence[Mapping[str, Any]] = ()
    """Tools that the model may call, in OpenAI's format. They are rendered with the conversation. If there are tools,
    the text of the answer includes the delimiters of tool calls."""


@dataclass(frozen=True)
class CallForm:
    """The syntax in which the chat template of a base model writes tool calls."""

    form: ToolForm
    special: Mapping[str, int]
    """Mapping of each special token in the tool-call syntax to the token's id. Grammars use these ids."""


class TokenLogprob(NamedTuple):
    """A token of an answer, and the most likely tokens at its position. Log-probabilities are computed over the tokens
    that the grammar allows, before temperature is applied."""

    text: str
    logprob: float
    likeliest: Sequence[tuple[str, float]] = ()


@dataclass(frozen=True)
class Piece:
    """A streamed part of an answer."""

    text: str
    tokens: int
    finish: Literal["stop", "length"] | None = None
    """Finish reason, set on the last piece only."""
    logprobs: Sequence[TokenLogprob] = ()
    """Log-probabilities of the piece's tokens. Empty unless the request asks for log-probabilities."""


@dataclass(frozen=True)
class Answer:
    """An answer in progress: the length of the prompt in tokens, and a stream of pieces."""

    prompt_tokens: int
    pieces: AsyncGenerator[Piece, None]
    """Generator of the answer's pieces. The last piece has `finish`. Before it, the generator raises EngineLost if the
    engine ends, and EngineRefused if the grammar is too complex. Closing the generator aborts the answer."""

    @classmethod
    async def begun(cls, parts: AsyncGenerator[Any, None]) -> Self:
        """Wait until an answer has begun. parts: generator that yields the prompt's length first, and then the pieces.
        This function starts the generator, because only a started generator cleans up when it is closed."""
        return cls(await anext(parts), parts)


@dataclass(frozen=True)
class EngineState:
    kind: str
    base_model: str
    base_model_digest: str
    computes: bool
    adapters: int
    """Number of adapters that can answer now."""
    problem: str = ""
    """Reason why the engine does not compute; "" if the engine computes or the reason is unknown."""
    is_of_others: bool = False


class Engine(Protocol):
    """Runs one base model with several adapters. Safe for concurrent use."""

    async def load(self, adapter: Deployable) -> None:
        """Load an adapter, and keep the adapters that are already loaded.

        Raises EngineLost if the engine's process is gone. Raises EngineRefused if the adapter does not fit the base
        model, if its files have changed, or if the engine does not reproduce its fingerprint.
        """

    async def unload(self, digest: str) -> None:
        """Unload an adapter. Its running requests still finish. An unknown digest is ignored."""

    def loaded(self) -> Mapping[str, str]:
        """Return a mapping of digest to adapter id for all adapters that can answer now."""

    async def answer(self, request: EngineRequest) -> Answer:
        """Begin an answer. Raises EngineRefused if the adapter is not loaded, the prompt is too long or the template
        rejects the conversation, and EngineLost if the engine's process is gone."""

    def call_form(self, digest: str) -> CallForm | None:
        """Return the tool-call syntax of a loaded adapter's chat template. Returns None if the template does not
        support tool calls. An engine that is not running may return None, too."""

    async def is_well(self) -> bool:
        """Return True if the engine runs and does not hang. Always returns within two seconds."""

    async def close(self) -> None:
        """Stop the engine and free its memory. Running requests raise EngineLost."""


INHERITED_VARIABLES = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR")
"""Environment variables that an engine's process inherits. None of them contains a key or a proxy address."""


def environment_of(threads: int, inherited: Sequence[str] = INHERITED_VARIABLES) -> dict[str, str]:
    """Return the environment variables that every engine's process gets. inherited: names of variables to copy."""
    return {
        **{name: os.environ[name] for name in inherited if name in os.environ},
        **OFFLINE_ENVIRONMENT,
        "MKL_NUM_THREADS": str(threads),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONPATH": str(PROJECT_ROOT),
    }


THREADS = max(1, (os.cpu_count() or 2) // 2)
"""Default number of an engine's CPU threads: half of the CPUs. On a busy machine, fewer threads are faster."""
WELL_SECONDS = 10.0
"""Seconds without a message after which the engine counts as hung. One step of the model takes less time."""
LONGEST_PAUSE = 30.0
"""Maximum pause in seconds before a crashed process is restarted."""


SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_PROBES = 3.0


class Process(ABC):
    def __init__(self, template_sha256: str = "", call_form: CallForm | None = None) -> None:
        self.template_sha256, self.call_form = template_sha256, call_form
        self.heard_at = time.monotonic()
        """Time of the last message from the process."""
        self._gone = asyncio.Event()

    @property
    def is_gone(self) -> bool:
        return self._gone.is_set()

    @abstractmethod
    async def _probe(self) -> None:
        """Request a message from the process. When the message arrives, `heard_at` is updated."""

    @abstractmethod
    async def end(self) -> None:
        """Kill the process if the gateway started it. In any case, running requests are lost."""

    async def watch(self, hang_seconds: float) -> None:
        """Return once the process is gone, or has sent no message for `hang_seconds`."""
        self.heard_at = looked_at = time.monotonic()
        probe: asyncio.Task[None] | None = None
        probed_at = 0.0
        look, pause = (min(each, hang_seconds / 4) for each in (SECONDS_BETWEEN_LOOKS, SECONDS_BETWEEN_PROBES))
        try:
            while not self.is_gone and time.monotonic() - self.heard_at <= hang_seconds:
                if (probe is None or probe.done()) and time.monotonic() - probed_at > pause:
                    probe, probed_at = asyncio.create_task(self._probe()), time.monotonic()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(look):
                        await self._gone.wait()
                if time.monotonic() - looked_at > 3 * look:
                    self.heard_at = time.monotonic()  # this event loop was blocked, and could receive no message
                looked_at = time.monotonic()
        finally:
            if probe is not None:
                probe.cancel()


P = TypeVar("P", bound=Process)


class SupervisedEngine(ABC, Generic[P]):
    """Base class of engines that compute in a supervised process. It implements parts of the protocol `Engine`."""

    name: ClassVar[str]
    """Engine's name in messages, such as "local engine"."""

    def __init__(self, base_model_digest: str, hang_seconds: float) -> None:
        self._digest, self._hang_seconds = base_model_digest, hang_seconds
        self._adapters: dict[str, Deployable] = {}
        self._process: P | None = None
        self._closing = False
        self._supervisor: asyncio.Task[None] | None = None
        self._loading = asyncio.Lock()
        self.starts = 0
        """Number of attempts to start the process."""
        self.problem = ""
        """Reason why the last restart of the process failed; "" if it did not fail."""

    @abstractmethod
    async def _start_process(self) -> P:
        """Start a process and return it once its base model is in memory. Raises EngineLost if the process cannot be
        started or reached, and EngineRefused if the process rejects the base model or is unsuitable."""

    @abstractmethod
    async def _load_into(self, process: P, adapter: Deployable) -> None:
        """Load an adapter into the process. Raises the errors of `load`."""

    @abstractmethod
    async def _unload_from(self, process: P, digest: str) -> None: ...

    @abstractmethod
    async def answer(self, request: EngineRequest) -> Answer: ...

    def call_form(self, digest: str) -> CallForm | None:
        return self._process.call_form if self._process is not None else None

    async def load(self, adapter: Deployable) -> None:
        async with self._loading:
            process = self._running()
            if self._adapters.get(adapter.digest) != adapter:
                await self._load_into(process, adapter)
                self._adapters[adapter.digest] = adapter

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
        """Start the process, and supervise it. Raises the errors of `_start_process`."""
        self.starts += 1
        self._process = await self._start_process()
        self._supervisor = asyncio.create_task(self._supervise(self._process))

    def _running(self) -> P:
        if self._process is None or self._process.is_gone:
            state = "was closed" if self._closing else "is starting again"
            raise EngineLost(f"The {self.name} {state}.", "Try again in a moment.")
        return self._process

    def _assert_of_this_base(self, process: P, adapter: Deployable) -> None:
        if adapter.base_model_digest and self._digest and adapter.base_model_digest != self._digest:
            raise EngineRefused(
                f"{adapter.adapter} was trained on the base model {adapter.base_model_digest[:12]}, but this engine's "
                f"base model is {self._digest[:12]}.",
                "Start an engine with the adapter's base model.",
            )
        if adapter.template_sha256 != process.template_sha256:
            raise EngineRefused(
                f"{adapter.adapter} was trained with the chat template {adapter.template_sha256[:12]}, but this "
                f"engine's template is {process.template_sha256[:12]}.",
                "Restore the base model's files.",
            )

    def _not_as_trained(self, adapter: Deployable, problem: str) -> EngineRefused:
        return EngineRefused(
            f"{adapter.adapter}: the {self.name} does not reproduce the results of training: {problem}.",
            "Find the cause before you serve this adapter.",
        )

    async def _supervise(self, process: P) -> None:
        """Watch the process and restart it when it is gone, until the engine is closed."""
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
                continue  # `watch` returns at once if the process is gone
            async with self._loading:
                await self._load_again(process)
                self._process, self.problem = process, ""

    async def _load_again(self, process: P) -> None:
        """Reload all adapters. Forget an adapter that the process rejects; the deployment reports the error."""
        for digest, adapter in list(self._adapters.items()):
            try:
                await self._load_into(process, adapter)
            except EngineRefused:
                del self._adapters[digest]
            except EngineLost:
                return


def read_adapter(directory: Path, files: Mapping[str, str]) -> dict[str, bytes]:
    """Read an adapter's files and check their hashes. Each file is read only once, so the checked bytes are the loaded
    bytes. Raises EngineRefused for an unreadable or changed file."""
    found: dict[str, bytes] = {}
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        path = directory / name
        try:
            found[name] = path.read_bytes()
        except OSError as error:
            raise EngineRefused(f"{path} cannot be read ({type(error).__name__}).", "Restore it from a copy.") from None
        if files.get(name) != sha256(found[name]).hexdigest():
            raise EngineRefused(f"{path}: the bytes are not the recorded ones.", "Restore the file from a copy.")
    return found
