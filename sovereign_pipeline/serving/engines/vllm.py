"""Implement the vLLM engine: load adapters into a vLLM server, and stream answers from the server.

Each adapter is copied under a name that identifies its bytes, because vLLM caches prompts by name. vLLM reloads an
evicted adapter from its copy. Unloading an adapter does not free its slot in vLLM.
"""

import asyncio
import contextlib
import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, Self

import aiohttp

from sovereign_pipeline.base.errors import EngineLost, EngineRefused
from sovereign_pipeline.serving.engines.engine import (
    Answer,
    CallForm,
    Deployable,
    EngineRequest,
    Piece,
    Sampling,
    SupervisedEngine,
    TokenLogprob,
    read_adapter,
)
from sovereign_pipeline.serving.engines.text import (
    Messages,
    Prompts,
    TextPieces,
    Tools,
    answer_limit,
    reading_base_model,
)
from sovereign_pipeline.serving.engines.vllm_server import (
    COMPLETIONS,
    Body,
    ReachedVllm,
    StartedVllm,
    VllmServer,
    VllmSettings,
    lost,
)
from sovereign_pipeline.serving.fingerprints import Fingerprint, LogProbabilities, Mark, difference
from sovereign_pipeline.training.tuned_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS, refused_by_vllm

Shapes = Mapping[str, tuple[int, ...]]
_TENSOR = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


def base_shapes(base: Path) -> Shapes:
    """Return a mapping of each module of the base model to the shape of the module's weight. Raises EngineRefused if
    there is no weights file."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(base.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = stream.read(int.from_bytes(stream.read(8), "little"))
        found |= _shapes(header)
    if not found:
        raise EngineRefused(
            f"{base} contains no *.safetensors file.", "Restore the base model's files, or fetch them again."
        )
    return {name.removesuffix(".weight"): shape for name, shape in found.items()}


def assert_served(digest: str, content: Mapping[str, bytes], base: Shapes, largest_rank: int) -> None:
    """Raise EngineRefused for an adapter whose files are invalid, that does not fit the base model, or whose outputs in
    vLLM would differ from its outputs in training. largest_rank: vLLM's maximum rank of adapters."""
    try:
        config = json.loads(content[ADAPTER_CONFIG])
        reasons = refused_by_vllm(config, largest_rank)
        weights = content[ADAPTER_WEIGHTS]
        tensors = _shapes(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    except (ValueError, TypeError, KeyError, AttributeError):
        raise EngineRefused(f"Adapter {digest[:12]}: its files are not valid.", "Train the adapter again.") from None
    if reasons:
        raise EngineRefused(
            f"vLLM does not serve adapter {digest[:12]}: {'; '.join(reasons)}.",
            "Train it without these features, or serve the line with the local engine.",
        )
    wrong = _without_place(tensors, base, config)
    if wrong or not tensors:
        example = f", such as {wrong[0]}" if wrong else ""
        raise EngineRefused(
            f"Adapter {digest[:12]} does not fit this base model: {len(wrong)} of {len(tensors)} tensors match no "
            f"module of the model{example}.",
            "Check whether it belongs to a different base model, or was changed after its training.",
        )


def name_of(digest: str, content: Mapping[str, bytes]) -> str:
    """Return a name that depends on the adapter's bytes, because vLLM caches prompts by name."""
    over = sha256(content[ADAPTER_CONFIG] + b"\0" + content[ADAPTER_WEIGHTS]).hexdigest()
    return f"{digest}-{over[:16]}"


def write_adapter(directory: Path, content: Mapping[str, bytes], for_the_group: bool = False) -> None:
    """Write an adapter's files. for_the_group: True if the group that owns the directory `serving.vllm.copies` may read
    the files. vLLM's account is in this group."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in content.items():
        (directory / name).write_bytes(data)
    if not for_the_group:
        return
    group = directory.parent.parent.stat().st_gid
    for path, mode in ((directory.parent, 0o750), (directory, 0o750), *((directory / name, 0o640) for name in content)):
        os.chown(path, -1, group)
        path.chmod(mode)


def without_effect(content: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of an adapter without effect: one pair of tensors of the adapter in `content`, set to zero."""
    import numpy
    from safetensors.numpy import save

    weights = content[ADAPTER_WEIGHTS]
    tensors = _shapes(weights[8 : 8 + int.from_bytes(weights[:8], "little")])
    down = min(name for name in tensors if name.endswith(".lora_A.weight"))
    pair = (down, down.replace(".lora_A.", ".lora_B."))
    zeros = {name: numpy.zeros(tensors[name], dtype="float32") for name in pair}
    return {ADAPTER_CONFIG: content[ADAPTER_CONFIG], ADAPTER_WEIGHTS: save(zeros)}


def _without_place(tensors: Shapes, base: Shapes, config: Mapping[str, object]) -> list[str]:
    """List tensors that match no module, and modules whose pair of tensors is incomplete or has wrong shapes. A tensor
    of a module that the configuration does not target also counts as matching no module."""
    pairs: dict[str, dict[str, tuple[int, ...]]] = {}
    wrong = []
    for name, shape in tensors.items():
        match = _TENSOR.fullmatch(name)
        if match is None or match["module"] not in base or not _is_target(match["module"], config["target_modules"]):
            wrong.append(name)
        else:
            pairs.setdefault(match["module"], {})[match["side"]] = shape
    patterned = bool(config.get("rank_pattern"))
    for module, pair in pairs.items():
        rank = pair["A"][0] if "A" in pair and patterned else config["r"]
        out_in = base[module]
        if len(out_in) != 2 or pair != {"A": (rank, out_in[1]), "B": (out_in[0], rank)}:
            wrong.append(module)
    return sorted(wrong)


def _is_target(module: str, targets: object) -> bool:
    """Return whether `targets`, the configuration's `target_modules`, matches a module according to PEFT's rules."""
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return isinstance(targets, list) and any(module == each or module.endswith(f".{each}") for each in targets)


def _shapes(header: bytes) -> dict[str, tuple[int, ...]]:
    tensors = json.loads(header)
    return {name: tuple(each["shape"]) for name, each in tensors.items() if name != "__metadata__"}


PREFIX = "token_id:"


def id_of(name: str) -> int:
    """Return a token's id from the name that vLLM gives it with `return_tokens_as_token_ids`."""
    return int(name.removeprefix(PREFIX))


async def _mark(server: VllmServer, name: str, mark: Mark) -> Mark:
    (tokens, of_adapter), (_, of_base) = await asyncio.gather(
        _follow(server, name, mark), _follow(server, NO_EFFECT, mark)
    )
    return mark.model_copy(update={"tokens": tokens, "adapter": of_adapter, "base": of_base})


async def _follow(server: VllmServer, name: str, mark: Mark) -> tuple[tuple[int, ...], LogProbabilities]:
    """Return two tuples, computed with the expected tokens before each position: the server's most likely token at each
    position of `mark.tokens`, and the server's log-probabilities of the tokens in `mark.top`."""
    likeliest: list[int] = []
    values: list[tuple[float, ...]] = []
    while len(values) < len(mark.top):
        begin = len(values)
        found, places = await _begin(server, name, mark, begin)
        for token, place in zip(found, places, strict=True):
            values.append(tuple(place[id] for id in mark.top[len(values)]))
            likeliest.append(token)
            if token != (*mark.tokens, token)[len(values) - 1]:
                break
    return tuple(likeliest[: len(mark.tokens)]), tuple(values)


async def _begin(server: VllmServer, name: str, mark: Mark, begin: int) -> tuple[list[int], list[dict[int, float]]]:
    """Generate tokens after the prompt and the first `begin` expected tokens. Return the generated (most likely)
    tokens, and for each of their positions a mapping of token id to log-probability."""
    body = {
        "model": name,
        "prompt": [*mark.prompt, *mark.tokens[:begin]],
        "max_tokens": len(mark.top) - begin,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": 1,
        "logprob_token_ids": sorted({id for ids in mark.top[begin:] for id in ids}),
        "return_tokens_as_token_ids": True,
        "return_token_ids": True,
        "cache_salt": server.salt("fingerprints"),
    }
    answer: Any = await server.post(COMPLETIONS, body)
    try:
        choice = answer["choices"][0]
        places = [
            {id_of(name): float(value) for name, value in place.items()} for place in choice["logprobs"]["top_logprobs"]
        ]
        return [int(token) for token in choice["token_ids"]], places
    except (KeyError, TypeError, IndexError, ValueError):
        raise EngineRefused("vLLM's response does not have the expected fields.", "") from None


NO_EFFECT = "no-effect"
"""Name of the adapter without effect. Its outputs equal those of the base model."""
COLDEST = 0.01
"""Lowest sampling temperature that vLLM supports. Lower temperatures are decoded greedily."""
SECONDS_TO_LEAVE = 60.0
"""Seconds for which an unloaded adapter's copy is kept after its last answer."""


@dataclass(frozen=True)
class _Base:
    """The tokenizer, tensor shapes and settings from the base model's files, which are read only once."""

    prompts: Prompts
    decode: Callable[..., str]
    end_of_turn: tuple[int, ...]
    context: int
    shapes: Shapes

    @classmethod
    def read(cls, directory: Path, context: int | None) -> Self:
        """Read a base model's directory. Raises EngineRefused if it contains no base model with a chat template."""
        prompts = Prompts.read(directory)
        with reading_base_model(directory):
            config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
            longest = int(config.get("text_config", config)["max_position_embeddings"])
            own = directory / "generation_config.json"
            generation = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else config
        return cls(
            prompts=prompts,
            decode=Prompts.read(directory).decode,  # a second tokenizer, because the first is used in its own thread
            end_of_turn=tuple(sorted(prompts.end_of_turn(generation.get("eos_token_id")))),
            context=min(longest, context or longest),
            shapes=base_shapes(directory),
        )


class VllmEngine(SupervisedEngine[VllmServer]):
    """An engine that uses a vLLM server of one base model."""

    name = "vLLM engine"

    def __init__(self, directory: Path, base: _Base, settings: VllmSettings, base_model_digest: str) -> None:
        super().__init__(base_model_digest, settings.hang_seconds)
        self._directory, self.base, self._settings = directory, base, settings
        self._rendering = ThreadPoolExecutor(1)  # a tokenizer is for one thread at a time
        self._answering: Counter[str] = Counter()
        """Maps an adapter's name to the number of its running answers."""
        self._leaving: dict[str, float] = {}
        """Maps the name of an unloaded adapter to the time of its last use."""

    @classmethod
    async def start(cls, base: Path, settings: VllmSettings, *, base_model_digest: str = "") -> Self:
        """See `start_engine`."""
        read = await asyncio.to_thread(_Base.read, base, settings.options.context)
        engine = cls(base, read, settings, base_model_digest)
        await engine._begin()
        return engine

    async def close(self) -> None:
        await super().close()
        self._rendering.shutdown(wait=False)

    async def answer(self, request: EngineRequest) -> Answer:
        server = self._running()
        name = self._name(server, request.digest)
        prompt = await self._render(request.messages, request.tools)
        limit = answer_limit(len(prompt), self.base.context, request.sampling.max_tokens)
        body = {
            "model": name,
            "prompt": prompt,
            "max_tokens": limit,
            "stop_token_ids": self.base.end_of_turn,
            "return_token_ids": True,
            "cache_salt": server.salt(request.cache_group),
            **_drawing(request.sampling),
            **({"structured_outputs": {"grammar": request.grammar}} if request.grammar else {}),
        }
        return await Answer.begun(self._answer(server, request, body))

    async def _answer(self, server: VllmServer, request: EngineRequest, body: Body) -> AsyncGenerator[Any, None]:
        name, text = body["model"], _Text(self.base, request)
        self._answering[name] += 1
        try:
            with contextlib.closing(await server.stream(body)) as response:  # closing it stops vLLM's computation
                yield len(body["prompt"])
                while True:
                    if (piece := text.piece(await _next_event(server, response))) is not None:
                        if piece.finish is not None:
                            response.close()  # vLLM does not know the stop texts, and would continue meanwhile
                        yield piece
                        if piece.finish is not None:
                            return
        finally:
            self._ended(server, name)

    async def _start_process(self) -> VllmServer:
        self._answering.clear()
        self._leaving.clear()
        context, template = self.base.context, self.base.prompts.template_sha256
        if self._settings.options.url is not None:
            return await ReachedVllm.reach(context, self._settings, template)
        return await StartedVllm.start(self._directory, context, self._settings, template)

    async def _load_into(self, process: VllmServer, adapter: Deployable) -> None:
        self._assert_of_this_base(process, adapter)
        content = await asyncio.to_thread(read_adapter, adapter.directory, adapter.files)
        assert_served(adapter.digest, content, self.base.shapes, self._settings.options.rank)
        self._remove_those_that_left(process)
        name, before = name_of(adapter.digest, content), process.names.get(adapter.digest)
        if NO_EFFECT not in process.kept:
            await self._give(process, NO_EFFECT, without_effect(content))
            process.kept.add(NO_EFFECT)
        if name != before:
            await self._give(process, name, content)
        try:
            await self._compare(process, name, adapter)
        except BaseException:
            await self._take_back(process, name)
            raise
        if before is not None and before != name:
            await self._take_back(process, before)
        process.names[adapter.digest] = name
        (process.kept.add if adapter.pinned else process.kept.discard)(name)

    async def _give(self, server: VllmServer, name: str, content: Mapping[str, bytes]) -> None:
        """Copy an adapter's files and load them into the server. The server may evict another adapter that is not
        pinned."""
        directory = server.copies / name
        try:
            await asyncio.to_thread(write_adapter, directory, content, self._settings.options.copies is not None)
        except OSError as error:  # an error of one adapter, so no other adapter is unloaded
            raise EngineRefused(
                f"{directory.parent}: the gateway cannot write an adapter's copy for vLLM to this directory "
                f"({error.strerror}).",
                "Free space on this disk, and permit the gateway to set the directory's group.",
            ) from None
        self._leaving.pop(name, None)
        await server.use(server.kept)
        await server.load(name, directory)

    def _name(self, server: VllmServer, digest: str) -> str:
        """Return an adapter's name on the server. Raises EngineRefused if the adapter is not loaded."""
        name = server.names.get(digest)
        if digest not in self._adapters or name is None:
            raise EngineRefused(f"Adapter {digest[:12]} is not loaded.", "Load the adapter first.")
        return name

    async def _measure(self, server: VllmServer, name: str, fingerprint: Fingerprint) -> list[Mark]:
        """Return the server's values for the fingerprint's prompts. If a prompt is rendered into different tokens than
        in the fingerprint, measures nothing and returns `Mark`s with the rendered prompts."""
        rendered = [
            mark.model_copy(update={"prompt": tuple(await self._render(each.messages, each.tools))})
            for each, mark in zip(fingerprint.conversations, fingerprint.marks, strict=True)
        ]
        if rendered != list(fingerprint.marks):
            return rendered
        return list(await asyncio.gather(*(_mark(server, name, mark) for mark in rendered)))

    async def _compare(self, server: VllmServer, name: str, adapter: Deployable) -> None:
        """Raise EngineRefused if the server does not reproduce the fingerprint."""
        if adapter.fingerprint is None:
            return
        marks = await self._measure(server, name, adapter.fingerprint)
        problem = difference(adapter.fingerprint, marks, self._settings.options.precision)
        if problem is not None:
            raise self._not_as_trained(adapter, problem)

    async def _unload_from(self, process: VllmServer, digest: str) -> None:
        name = process.names.pop(digest, None)
        if name is not None:
            await self._take_back(process, name)

    async def _take_back(self, server: VllmServer, name: str) -> None:
        """Unload an adapter by its name on the server. Running answers finish with the adapter."""
        server.kept.discard(name)
        for digest in [digest for digest, known in server.names.items() if known == name]:
            del server.names[digest]
        self._leave(server, name)
        with contextlib.suppress(EngineRefused, EngineLost):
            await server.unload(name)

    def _leave(self, server: VllmServer, name: str) -> None:
        self._leaving[name] = time.monotonic()
        asyncio.get_running_loop().call_later(SECONDS_TO_LEAVE + 0.1, self._remove_those_that_left, server)

    def _remove_those_that_left(self, server: VllmServer) -> None:
        """Remove the copies of adapters that were unloaded a while ago and that no running answer uses."""
        before = time.monotonic() - SECONDS_TO_LEAVE
        for name, since in list(self._leaving.items()):
            if self._answering[name] == 0 and since < before:
                del self._leaving[name]
                shutil.rmtree(server.copies / name, ignore_errors=True)

    async def _render(self, messages: Messages, tools: Tools = ()) -> list[int]:
        """Render a conversation to token ids. Raises EngineRefused if the template rejects it."""
        render = self.base.prompts.render
        return await asyncio.get_running_loop().run_in_executor(self._rendering, render, messages, tools)

    def call_form(self, digest: str) -> CallForm | None:
        return self.base.prompts.call_form

    def _ended(self, server: VllmServer, name: str) -> None:
        if self._answering[name] > 0:
            self._answering[name] -= 1
        if name in self._leaving:
            self._leave(server, name)


class _Text:
    """Decodes the text of one answer from vLLM's tokens. The text that vLLM sends may contain incomplete characters."""

    def __init__(self, base: _Base, request: EngineRequest) -> None:
        self._base, self._decode = base, partial(base.decode, with_marks=bool(request.tools))
        self._texts = TextPieces(self._decode, request.sampling.stop)
        self._likeliest = request.sampling.logprobs
        self._unsent = 0
        self._logprobs: list[TokenLogprob] = []

    def piece(self, event: dict[str, Any]) -> Piece | None:
        """Return the next piece if there is new text or the answer has ended. Otherwise return None."""
        choice = event["choices"][0] if event.get("choices") else {}
        tokens = choice.get("token_ids") or ()
        if self._likeliest is not None:
            self._note(tokens, choice["logprobs"])
        text, finish = self._taken(tokens, choice.get("finish_reason"))
        if not text and finish is None:
            return None
        piece = Piece(text, self._unsent, finish, self._logprobs)
        self._unsent, self._logprobs = 0, []
        return piece

    def _note(self, tokens: Sequence[int], logprobs: Any) -> None:
        """Store the log-probabilities of tokens other than the end of turn."""
        for token, value, place in zip(tokens, logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True):
            if token not in self._base.end_of_turn:
                found = sorted(((id_of(name), each) for name, each in place.items()), key=lambda pair: -pair[1])
                likeliest = [(self._decode([id]), each) for id, each in found[: self._likeliest]]
                self._logprobs.append(TokenLogprob(self._decode([token]), value, likeliest))

    def _taken(self, tokens: Sequence[int], finish: str | None) -> tuple[str, Literal["stop", "length"] | None]:
        """Add tokens. Return the text that is now final, and the finish reason or None. Raises EngineLost if `finish`
        is an unknown reason."""
        text = ""
        for token in tokens:
            self._unsent += 1
            if token in self._base.end_of_turn:
                return text + self._texts.rest(), "stop"
            text += self._texts.add(token)
            if self._texts.is_stopped:
                return text, "stop"
        if finish is None:
            return text, None
        if finish not in ("stop", "length"):
            raise lost()
        return text + self._texts.rest(), "stop" if finish == "stop" else "length"


async def _next_event(server: VllmServer, response: aiohttp.ClientResponse) -> dict[str, Any]:
    """Return the next event of a stream. Raises EngineLost if the stream ends too early or reports an error."""
    while True:
        try:
            line = await response.content.readline()
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise lost() from error
        if not line or server.is_gone:
            raise lost()
        if not line.startswith(b"data: {"):
            continue
        server.heard_at = time.monotonic()
        event: dict[str, Any] = json.loads(line.removeprefix(b"data: "))
        if "error" in event:
            raise lost()
        return event


def _drawing(sampling: Sampling) -> dict[str, Any]:
    """Convert sampling parameters to those of vLLM's API."""
    reported = {} if sampling.logprobs is None else {"logprobs": sampling.logprobs, "return_tokens_as_token_ids": True}
    if sampling.temperature < COLDEST or sampling.top_p <= 0:
        return {"temperature": 0, **reported}
    drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0, **reported}
    return drawn if sampling.seed is None else {**drawn, "seed": sampling.seed}
