"""Run the local engine's model: adapters in memory, and one padded batch over rows of different adapters.

Rows join and leave the batch between steps, and are padded on the left. Imports torch, transformers and PEFT.
"""

import json
import tempfile
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora.layer import Linear, LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, DynamicCache
from transformers.utils.logging import disable_progress_bar

from sovereign_pipeline.base.errors import EngineRefused
from sovereign_pipeline.serving.engines.engine import read_adapter
from sovereign_pipeline.serving.engines.text import Prompts, reading_base_model
from sovereign_pipeline.training.tuned_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS, refused_by_engines

BASE = "__base__"
"""Name of the base model without an adapter."""


class Rows:
    """A forward pass in which each row of the batch has its own adapter, or none."""

    def __init__(self, model: Any) -> None:
        """Wrap `model`, a PeftModel in evaluation mode."""
        self._model = model
        self._runs: list[tuple[str, slice]] = []
        """Adapters with their adjacent rows."""

    def take_layers(self) -> None:
        """Patch every adapter layer to compute by rows. Call it again after each load.

        Raises ValueError for an unknown type of layer.
        """
        for layer in self._model.modules():
            if not isinstance(layer, LoraLayer):
                continue
            if type(layer) is Linear:
                layer.forward = partial(self._forward, layer)
            elif layer.lora_A or layer.lora_embedding_A:  # layers of an evicted adapter stay, without effect
                raise ValueError(
                    f"batches with different adapters are not supported on {type(layer.get_base_layer()).__name__}."
                )

    def compute(self, adapters: Sequence[str], **inputs: Any) -> Any:
        """Run the model; row i uses adapter i. Raises ValueError for an adapter that is not loaded."""
        unknown = {*adapters} - {*self._model.peft_config, BASE}
        if unknown:  # a layer would skip the unknown adapter, and compute as the base model
            raise ValueError(f"no adapter {', '.join(sorted(unknown))} in memory")
        self._runs, start = [], 0
        for adapter, rows in groupby(adapters):
            end = start + len(list(rows))
            if adapter != BASE:
                self._runs.append((adapter, slice(start, end)))
            start = end
        return self._model.get_base_model()(**inputs)

    def _forward(self, layer: Any, x: Any) -> Any:
        result = layer.base_layer(x)
        for adapter, rows in self._runs:
            down = layer.lora_A._modules.get(adapter)
            if down is None:
                continue
            up = layer.lora_B._modules[adapter]
            narrow = x[rows].reshape(-1, x.shape[-1]) @ down.weight.T
            wide = result[rows].view(-1, result.shape[-1])
            wide.addmm_(narrow, up.weight.T, alpha=layer.scaling[adapter])
        return result


Compute = Callable[..., Any]
"""The model's forward pass: takes the adapter of each row, and the inputs by name (`Rows.compute`)."""


class Row(Protocol):
    """An answer under computation."""

    adapter: str
    """Name of the adapter in the model, or `BASE`."""
    prompt: list[int]
    limit: int
    """Maximum number of new tokens."""
    shared: int
    """Number of leading prompt tokens whose keys and values may be cached for other rows of the adapter and group."""
    group: str
    """Group of the row. Rows of other groups do not use its cached keys and values."""

    def choose(self, logits: "torch.Tensor") -> int:
        """Draw the next token."""

    def take(self, token: int) -> bool:
        """Accept the drawn token. Returns whether another token is needed."""

    def fail(self, reason: str) -> None:
        """Report that no token can be computed."""


@dataclass
class _Prefill:
    """Rows whose prompts are being computed, padded on the left."""

    rows: list[Row]
    ids: Any
    """Tokens that are not in the cache yet."""
    mask: Any
    """Attention mask over the cached beginning and `ids`."""
    cache: Any
    done: int = 0
    """Number of computed columns of `ids`."""

    def keep(self, places: list[int]) -> None:
        self.rows = [self.rows[place] for place in places]
        self.ids, self.mask = self.ids[places], self.mask[places]
        for layer in _filled(self.cache):
            layer.keys, layer.values = layer.keys[places], layer.values[places]


Keys = tuple[str, str, tuple[int, ...]]


SHORTEST_PREFIX = 16
"""Minimum number of tokens of a prompt's beginning that is cached."""


class Prefixes:
    """Keys and values of prompts' beginnings, so that each is computed once for an adapter and group."""

    def __init__(self, tokens: int) -> None:
        """tokens: maximum number of tokens in memory. The least recently used beginnings are evicted."""
        self._most = tokens
        self._kept: dict[Keys, list[tuple[Any, Any] | None]] = {}
        """Cached beginnings, the newest last. A layer without its own keys is None."""

    def find(self, row: Row) -> list[tuple[Any, Any] | None] | None:
        """Return the keys and values of a row's shared beginning."""
        key = self._key(row)
        found = self._kept.pop(key, None)
        if found is not None:
            self._kept[key] = found
        return found

    def keep(self, row: Row, cache: Any, place: int) -> None:
        """Keep a row's shared beginning. The prompt must end where the cache ends."""
        key, tokens = self._key(row), row.shared
        if not SHORTEST_PREFIX <= tokens <= self._most or key in self._kept:
            return
        layers: list[tuple[Any, Any] | None] = []
        for layer in cache.layers:
            if not layer.is_initialized:
                layers.append(None)
                continue
            begin = layer.keys.shape[2] - len(row.prompt)
            columns = slice(begin, begin + tokens)
            layers.append((layer.keys[place, :, columns].clone(), layer.values[place, :, columns].clone()))
        self._kept[key] = layers
        while sum(len(each[2]) for each in self._kept) > self._most:
            del self._kept[next(iter(self._kept))]

    def forget(self, adapter: str) -> None:
        """Drop all cached beginnings of an adapter that is unloaded, or whose bytes may have changed."""
        for key in [key for key in self._kept if key[0] == adapter]:
            del self._kept[key]

    def _key(self, row: Row) -> Keys:
        return row.adapter, row.group, tuple(row.prompt[: row.shared])


SECONDS_OF_A_CHUNK = 0.5
"""Time after which a chunk of a prompt took too long, because other rows wait for their next token."""
SMALLEST_CHUNK = 32


class Batch:
    """The batch of one model's rows. A step is one token of each row, and one chunk of a prompt."""

    def __init__(self, compute: Compute, places: int, cache_tokens: int, chunk_tokens: int) -> None:
        """Create an empty batch.

        Args:
            chunk_tokens: maximum number of prompt tokens computed between two tokens of the other rows, padding
                included. Fewer tokens are computed if a chunk takes too long.
            places: number of rows computed at once.
            cache_tokens: maximum number of tokens of all rows in memory, padding included; one row always fits.
        """
        self._compute, self._places, self._cache_tokens = compute, places, cache_tokens
        self._chunk_tokens = self._chunk = chunk_tokens
        """Number of prompt tokens of the next chunk, if other rows wait for their next token."""
        self.prefixes = Prefixes(cache_tokens // 4)
        self._waiting: deque[Row] = deque()
        self._prefills: deque[_Prefill] = deque()
        """Prompts in turn: a short one does not wait for the end of a long one."""
        self._rows: list[Row] = []
        self._cache: Any = None
        self._mask = torch.zeros((0, 0), dtype=torch.long)
        self._next: list[int] = []

    @property
    def is_busy(self) -> bool:
        return bool(self._rows or self._prefills or self._waiting)

    @property
    def _computed(self) -> list[Row]:
        return [*self._rows, *(row for prefill in self._prefills for row in prefill.rows)]

    @property
    def needed(self) -> set[str]:
        """Adapters of running and waiting rows."""
        return {row.adapter for row in (*self._computed, *self._waiting)}

    def holds(self, row: Row) -> bool:
        return row in self._computed or row in self._waiting

    def submit(self, row: Row) -> None:
        self._waiting.append(row)

    def drop(self, row: Row) -> None:
        """Drop a row and free its place at once."""
        if row in self._waiting:
            self._waiting.remove(row)
        elif row in self._rows:
            self._keep([place for place, each in enumerate(self._rows) if each is not row])
        for prefill in list(self._prefills):
            if row in prefill.rows:
                prefill.keep([place for place, each in enumerate(prefill.rows) if each is not row])
                if not prefill.rows:
                    self._prefills.remove(prefill)

    def step(self) -> None:
        """Compute one more token of each row, admit waiting rows, and compute a chunk of one prompt."""
        with torch.inference_mode():
            if self._rows:
                self._decode()
            self._admit()
            if self._prefills:
                self._prefill(self._prefills.popleft())

    def _admit(self) -> None:
        """Admit waiting rows while there are places and memory. Short prompts are computed together."""
        joining: list[Row] = []
        computed = self._computed
        while self._waiting and len(computed) + len(joining) < self._places:
            together = [*computed, *joining, self._waiting[0]]
            longest = max(len(row.prompt) + row.limit for row in together)
            if len(together) > 1 and longest * len(together) > self._cache_tokens:
                break
            joining.append(self._waiting.popleft())
        short = [row for row in joining if len(row.prompt) <= self._chunk_tokens]
        long = [[row] for row in joining if len(row.prompt) > self._chunk_tokens]
        self._prefills.extend(self._begin(rows) for rows in ([short, *long] if short else long))

    def _begin(self, rows: list[Row]) -> _Prefill:
        """Lay out prompts for computing, after their cached beginnings. All rows compute the same number of columns. A
        row that needs fewer columns uses less of its cache, so that padding is on the left only.
        """
        rows = sorted(rows, key=lambda row: row.adapter)
        kept = [self.prefixes.find(row) for row in rows]
        width = max(len(row.prompt) - (row.shared if each else 0) for row, each in zip(rows, kept, strict=True))
        used = [max(0, len(row.prompt) - width) for row in rows]
        before = max(used)
        ids = torch.tensor([[0] * (width - len(row.prompt)) + row.prompt[-width:] for row in rows])
        mask = torch.tensor(
            [[0] * (before + width - len(row.prompt)) + [1] * len(row.prompt) for row in rows], dtype=torch.long
        )
        cache = DynamicCache()
        if before:
            example = next(each for each in kept if each is not None)
            for number, one in enumerate(example):
                if one is None:
                    continue
                pairs = []
                for side in range(2):
                    of_rows = [
                        _padded(each[number][side][:, :count], before, 1)  # type: ignore[index]
                        if each is not None
                        else one[side].new_zeros((one[side].shape[0], before, one[side].shape[2]))
                        for each, count in zip(kept, used, strict=True)
                    ]
                    pairs.append(torch.stack(of_rows))
                cache.update(pairs[0], pairs[1], number)
        return _Prefill(rows, ids, mask, cache)

    def _prefill(self, prefill: _Prefill) -> None:
        """Compute a chunk of prompts. After the last chunk the rows join the others."""
        width, before = prefill.ids.shape[1], prefill.mask.shape[1] - prefill.ids.shape[1]
        chunk, began = self._chunk if self._rows else self._chunk_tokens, time.monotonic()
        end = min(width, prefill.done + max(1, chunk // len(prefill.rows)))
        ids, mask = prefill.ids[:, prefill.done : end], prefill.mask[:, : before + end]
        logits = self._forward(ids, mask, prefill.cache, prefill.rows)
        prefill.done, took = end, time.monotonic() - began
        if took > SECONDS_OF_A_CHUNK:
            self._chunk = max(SMALLEST_CHUNK, self._chunk // 2)
        elif took < SECONDS_OF_A_CHUNK / 4:
            self._chunk = min(self._chunk_tokens, self._chunk * 2)
        if end < width:
            self._prefills.append(prefill)
            return
        for place, row in enumerate(prefill.rows):
            self.prefixes.keep(row, prefill.cache, place)
        self._join(prefill, logits)

    def _join(self, prefill: _Prefill, logits: Any) -> None:
        rows, cache, mask = prefill.rows, prefill.cache, prefill.mask
        if not self._rows:
            self._cache, self._mask = cache, mask
        else:
            width = max(self._mask.shape[1], mask.shape[1])
            self._mask = torch.cat([_padded(self._mask, width, 1), _padded(mask, width, 1)])
            for layer, other in zip(_filled(self._cache), _filled(cache), strict=True):
                layer.keys = torch.cat([_padded(layer.keys, width, 2), _padded(other.keys, width, 2)])
                layer.values = torch.cat([_padded(layer.values, width, 2), _padded(other.values, width, 2)])
        self._rows = [*self._rows, *rows]
        self._next += [0] * len(rows)
        self._draw(logits, range(len(self._rows) - len(rows), len(self._rows)))
        self._keep(sorted(range(len(self._rows)), key=lambda place: self._rows[place].adapter))

    def _decode(self) -> None:
        self._mask = torch.cat([self._mask, torch.ones((len(self._rows), 1), dtype=torch.long)], dim=1)
        ids = torch.tensor(self._next)[:, None]
        logits = self._forward(ids, self._mask, self._cache, self._rows)
        self._draw(logits, range(len(self._rows)))

    def _forward(self, ids: Any, mask: Any, cache: Any, rows: Sequence[Row]) -> Any:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self._compute(
            [row.adapter for row in rows],
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def _draw(self, logits: Any, places: range) -> None:
        """Draw the next token of these rows, and remove finished rows."""
        going = set(range(len(self._rows)))
        for place, scores in zip(places, logits, strict=True):
            row = self._rows[place]
            if not bool(torch.isfinite(scores).all()):
                row.fail("the model computes what is no number")
                going.discard(place)
                continue
            token = row.choose(scores)
            self._next[place] = token
            if not row.take(token):
                going.discard(place)
        if len(going) < len(self._rows):
            self._keep(sorted(going))

    def _keep(self, places: list[int]) -> None:
        """Keep these rows in this order, and drop columns that are padding in all of them."""
        self._rows = [self._rows[place] for place in places]
        self._next = [self._next[place] for place in places]
        if not places:
            self._cache, self._mask = None, torch.zeros((0, 0), dtype=torch.long)
            return
        first = int(self._mask[places].argmax(dim=1).min())
        if places == list(range(self._mask.shape[0])) and first == 0:
            return
        self._mask = self._mask[places]
        self._mask = self._mask[:, first:].clone()
        for layer in _filled(self._cache):
            layer.keys = layer.keys[places][:, :, first:].clone()
            layer.values = layer.values[places][:, :, first:].clone()


def log_probabilities(compute: Compute, adapter: str, prompt: Sequence[int], tokens: Sequence[int]) -> Any:
    """Compute log-probabilities of the vocabulary at each position of `tokens` and the next one, with the adapter and
    without.

    Both are rows of one batch, as answers of different adapters are.
    """
    with torch.inference_mode():
        ids = torch.tensor([[*prompt, *tokens]] * 2)
        output = compute(
            [adapter, BASE],
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            logits_to_keep=len(tokens) + 1,
        )
        return torch.log_softmax(output.logits.float(), dim=-1)


def _filled(cache: Any) -> list[Any]:
    """Return the layers of a cache that have keys. Other layers read the keys of another layer, or are not computed
    yet."""
    return [layer for layer in cache.layers if layer.is_initialized]


def _padded(tensor: Any, width: int, dimension: int) -> Any:
    """Pad with zeros on the left up to a width."""
    missing = width - tensor.shape[dimension]
    if missing == 0:
        return tensor
    shape = list(tensor.shape)
    shape[dimension] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dimension)


class Matcher:
    """The state of one answer in its grammar, which determines the allowed next tokens."""

    def __init__(self, vocabulary: Any, grammar: str) -> None:
        from llguidance import LLMatcher

        self._matcher = LLMatcher(vocabulary, LLMatcher.grammar_from_lark(grammar), log_level=0)
        self._mask = torch.zeros((vocabulary.vocab_size + 31) // 32, dtype=torch.int32)
        self._matcher.unsafe_compute_mask_ptr(self._mask.data_ptr(), self._mask.nbytes)
        self.assert_whole()

    def masked(self, logits: Any) -> Any:
        """Return the logits with minus infinity for every token that may not come next."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.data_ptr(), self._mask.nbytes)
        bits = (self._mask[:, None] >> torch.arange(32, dtype=torch.int32)) & 1
        return logits.masked_fill(bits.flatten()[: len(logits)] == 0, float("-inf"))

    def is_over_after(self, token: int) -> bool:
        """Take a token. Returns whether nothing can follow it. Raises EngineRefused."""
        self._matcher.consume_token(token)
        self.assert_whole()
        return bool(self._matcher.is_stopped())

    def assert_whole(self) -> None:
        """Raise EngineRefused if the grammar is, or has become, too complex."""
        if self._matcher.is_error():
            raise EngineRefused("The form of the answer cannot be computed.", "Use a simpler schema.")


NO_ONES = "no-ones"
LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Layer types whose keys and values can be split by rows. A recurrent state cannot be split."""


class Model:
    """One base model with its prompts, and adapters by digest."""

    def __init__(self, base: Path) -> None:
        """Load the base model. Raises EngineRefused if this engine does not support it."""
        disable_progress_bar()
        self.prompts = Prompts.read(base)
        with reading_base_model(base):
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, local_files_only=True)
        for weights in (*model.parameters(), *model.buffers()):
            weights.data = weights.data.clone()  # copied: loaded weights are pages of a file that may change
        config = model.config.get_text_config(decoder=True)
        others = {*(getattr(config, "layer_types", None) or ())} - LAYERS
        if others or getattr(model, "_is_stateful", False):
            raise EngineRefused(
                f"{base}: the local engine does not do layers of the kind {', '.join(sorted(others)) or 'recurrent'}.",
                "Serve this base model with another engine.",
            )
        self.context = int(config.max_position_embeddings)
        self._vocabulary_size = int(config.vocab_size)
        self.end_of_turn = self.prompts.end_of_turn(model.generation_config.eos_token_id)
        self._model = _with_room_for_adapters(model)
        self._rows = Rows(self._model)
        self._rows.take_layers()
        self.compute = self._rows.compute
        self._loaded: set[str] = set()
        self._leaving: set[str] = set()
        """Adapters that are unloaded once no answer needs them."""

    def matcher(self, grammar: str) -> "Matcher":
        return Matcher(self._vocabulary, grammar)

    @cached_property
    def _vocabulary(self) -> Any:
        from llguidance import hf

        try:
            return hf.from_tokenizer(self.prompts.tokenizer, self._vocabulary_size, [*self.end_of_turn])
        except (ValueError, TypeError) as error:
            raise EngineRefused(
                f"The tokenizer of this base model does not let answers be kept to a form: {_first_line(error)}",
                "Send the request without tools and response_format.",
            ) from None

    def knows(self, digest: str) -> bool:
        return digest in self._loaded - self._leaving

    def load(self, digest: str, directory: Path, files: Mapping[str, str]) -> None:
        content = read_adapter(directory, files)
        if digest not in self._loaded:
            self._load(digest, content)
            self._loaded.add(digest)
        self._leaving.discard(digest)

    def forget(self, digest: str) -> None:
        """Let an adapter begin no more answers. `remove_left` frees its memory."""
        self._leaving |= {digest} & self._loaded

    def remove_left(self, needed: Callable[[], Collection[str]]) -> None:
        """Free the memory of forgotten adapters that no answer needs."""
        if self._leaving:
            for digest in self._leaving - set(needed()):
                self._leaving.discard(digest)
                self._loaded.discard(digest)
                self._model.delete_adapter(digest)

    def _load(self, digest: str, content: Mapping[str, bytes]) -> None:
        _assert_done_here(digest, content[ADAPTER_CONFIG])
        with tempfile.TemporaryDirectory(prefix="adapter-") as name:
            for file, data in content.items():
                (Path(name) / file).write_bytes(data)
            try:
                self._model.load_adapter(name, adapter_name=digest, torch_device="cpu")
                _assert_all_tensors(self._model, digest, Path(name))
                self._rows.take_layers()
            except (ValueError, RuntimeError, KeyError, TypeError, OSError, SafetensorError) as error:
                self._take_back(digest)
                raise EngineRefused(
                    f"Adapter {digest[:12]} does not fit this base model: {_first_line(error)}",
                    "It belongs to another base model, or was changed after its training.",
                ) from None
            except EngineRefused:
                self._take_back(digest)
                raise

    def _take_back(self, digest: str) -> None:
        """Remove the remains of a failed load."""
        if digest in self._model.peft_config:
            self._model.delete_adapter(digest)
            return
        for module in self._model.modules():
            if isinstance(module, BaseTunerLayer):
                module.delete_adapter(digest)


def _with_room_for_adapters(model: Any) -> Any:
    """Wrap the base model with one unused adapter. PEFT needs one before the first is loaded and after the last is
    evicted."""
    linear = next(name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    config = LoraConfig(r=1, target_modules=[linear], task_type="CAUSAL_LM")
    return get_peft_model(model, config, adapter_name=NO_ONES).eval()


def _assert_done_here(digest: str, content: bytes) -> None:
    """Raise EngineRefused for an adapter that this engine would compute differently from PEFT."""
    try:
        config = json.loads(content)
        reasons = refused_by_engines({**config, "fan_in_fan_out": None})
    except (ValueError, TypeError, AttributeError):
        raise EngineRefused(f"{ADAPTER_CONFIG} is not the configuration of an adapter.", "Train again.") from None
    if reasons:
        raise EngineRefused(
            f"The local engine does not serve adapter {digest[:12]}: {'; '.join(reasons)}.",
            "Train it without these features.",
        )


def _assert_all_tensors(model: Any, digest: str, directory: Path) -> None:
    """Raise EngineRefused for unmatched tensors, which PEFT would skip."""
    placed = get_peft_model_state_dict(model, adapter_name=digest, save_embedding_layers=False)
    with safe_open(directory / ADAPTER_WEIGHTS, framework="pt") as file:
        there = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    expected = {name: tuple(tensor.shape) for name, tensor in placed.items()}
    if not there or there != expected:
        wrong = sorted({*there.items()} ^ {*expected.items()})
        example = f", such as {wrong[0][0]}" if wrong else ""
        raise EngineRefused(
            f"Adapter {digest[:12]} does not fit this base model: {len(wrong)} tensors match no module or are "
            f"missing{example}.",
            "It belongs to another base model, or was changed after its training.",
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200] or type(error).__name__
