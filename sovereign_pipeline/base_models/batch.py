"""Generate answers of one model in one padded batch. Rows join and leave the batch between tokens, and are padded on
the left. Evaluation, reviews and the local engine use this module. The module imports torch and transformers.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers import Cache, GenerationConfig
from transformers.cache_utils import DynamicLayer

from sovereign_pipeline.base.errors import InputError

Compute = Callable[..., Any]
"""Function that runs the model's forward pass. It takes the adapter of each row, and the model's inputs by name."""


class Row(Protocol):
    """An answer that is being generated."""

    adapter: str
    """Name of the adapter, or another name for the base model without an adapter. `Compute` receives this name."""
    prompt: list[int]
    limit: int
    """Maximum number of new tokens."""
    shared: int
    """Number of leading prompt tokens whose keys and values may be cached for other rows with the same adapter and
    group."""
    group: str
    """Group of the row. Rows of other groups do not use this row's cached keys and values."""

    def choose(self, logits: "torch.Tensor") -> int:
        """Return the next token."""

    def take(self, token: int) -> bool:
        """Add the drawn token to the answer. Returns whether another token is needed."""

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
            layer.replace(layer.keys[places], layer.values[places])


LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})
"""Layer types that have separate keys and values for each row. A recurrent state cannot be split by rows."""
MOST_TOKENS_HELD = 65_536
"""Maximum number of tokens of prompts and answers, padding included, whose keys and values are in memory at once. A
single prompt may have more. With a model of 8 billion parameters in bfloat16, this maximum needs 8 GiB (128 KiB per
token in Llama 3.1). The limit does not split batches of many short prompts. Of long documents, fewer are continued at
once."""
NO_PENALTIES = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0}
"""Values that switch off the penalties in a model's generation_config.json, because the engines do not apply these
penalties."""
ROOM = 64
"""Number of tokens by which the key-value buffer of a layer grows."""


def unsupported_layers(model: Any) -> list[str]:
    """Return the types of the model's layers that prevent rows from joining and leaving a batch; empty if there are
    none."""
    config = model.config.get_text_config(decoder=True)
    others = {*(getattr(config, "layer_types", None) or ())} - LAYERS
    return sorted(others) or ["recurrent"] * bool(getattr(model, "_is_stateful", False))


class _Layer(DynamicLayer):  # type: ignore[misc]
    """A cache layer with room for further tokens. transformers' own layer copies all keys and values for each token."""

    keys: Any
    values: Any

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._buffers: dict[str, Any] = {}

    def update(self, key_states: Any, value_states: Any, *arguments: Any, **named: Any) -> tuple[Any, Any]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = self._appended("keys", self.keys, key_states)
        self.values = self._appended("values", self.values, value_states)
        return self.keys, self.values

    def replace(self, keys: Any, values: Any) -> None:
        """Replace the keys and values, and free the previous ones."""
        self.keys, self.values = keys, values
        self._buffers.clear()

    def _appended(self, side: str, held: Any, new: Any) -> Any:
        used = held.shape[-2] if held.numel() else 0
        end, buffer = used + new.shape[-2], self._buffers.get(side, new[:, :, :0])
        is_begin = held.data_ptr() == buffer.data_ptr() and len(held) == len(buffer)
        if not is_begin or end > buffer.shape[-2]:
            buffer = self._buffers[side] = new.new_empty((*new.shape[:-2], end + ROOM, new.shape[-1]))
            if used:
                buffer[..., :used, :] = held
        buffer[..., used:end, :] = new
        return buffer[..., :end, :]


def empty_cache() -> Any:
    """Return a cache for the keys and values of a batch."""
    return Cache(layer_class_to_replicate=_Layer)


Keys = tuple[str, str, tuple[int, ...]]


SHORTEST_PREFIX = 16
"""Minimum number of tokens of a prompt's beginning that is cached."""


class Prefixes:
    """A cache of the keys and values of prompts' beginnings. Each beginning is computed once for an adapter and
    group."""

    def __init__(self, tokens: int) -> None:
        """tokens: maximum number of tokens whose keys and values are in memory. The least recently used beginnings are
        evicted."""
        self._most = tokens
        self._kept: dict[Keys, list[tuple[Any, Any] | None]] = {}
        """Cached beginnings, the newest last. A layer without its own keys is None."""

    def find(self, row: Row) -> list[tuple[Any, Any] | None] | None:
        """Return the cached keys and values of a row's shared beginning; None if they are not cached."""
        key = self._key(row)
        found = self._kept.pop(key, None)
        if found is not None:
            self._kept[key] = found
        return found

    def keep(self, row: Row, cache: Any, place: int) -> None:
        """Cache the shared beginning of the prompt of `row`, which is row number `place` of `cache`. The prompt must
        end where `cache` ends."""
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
        """Drop all cached beginnings of an adapter. Call this method if the adapter is unloaded, or if its bytes may
        have changed."""
        for key in [key for key in self._kept if key[0] == adapter]:
            del self._kept[key]

    def _key(self, row: Row) -> Keys:
        return row.adapter, row.group, tuple(row.prompt[: row.shared])


SECONDS_OF_A_CHUNK = 0.5
"""Maximum duration of one chunk of a prompt, in seconds. During a chunk, users wait for the next tokens of other
rows."""
SMALLEST_CHUNK = 32


class Batch:
    """Generates the rows of one model together. A step computes one token of each row, and one chunk of a prompt."""

    def __init__(
        self,
        compute: Compute,
        places: int,
        cache_tokens: int,
        chunk_tokens: int,
        chunk_seconds: float = SECONDS_OF_A_CHUNK,
        device: Any = "cpu",
    ) -> None:
        """Create an empty batch.

        Args:
            chunk_tokens: maximum number of prompt tokens computed between two tokens of the other rows, padding
                included.
            chunk_seconds: duration of a chunk, in seconds, above which the next chunks get smaller. With infinity,
                results do not depend on the clock.
            places: number of rows computed at once.
            cache_tokens: maximum number of tokens of all rows in memory, padding included; one row always fits.
            device: the model's device.
        """
        self._device, self._chunk_seconds = device, chunk_seconds
        self._compute, self._places, self._cache_tokens = compute, places, cache_tokens
        self._chunk_tokens = self._chunk = chunk_tokens
        """Number of prompt tokens of the next chunk, if other rows wait for their next token."""
        self.prefixes = Prefixes(cache_tokens // 4)
        self._waiting: deque[Row] = deque()
        self._prefills: deque[_Prefill] = deque()
        """Prompts that are computed in turn, so that a short prompt does not wait for the end of a long one."""
        self._rows: list[Row] = []
        self._ended: set[int] = set()
        """Places of rows that have ended and are still computed, because removing rows copies all keys and values."""
        self._cache: Any = None
        self._mask = self._tensor([])
        self._next: list[int] = []

    @property
    def is_busy(self) -> bool:
        return bool(self._computed or self._waiting)

    @property
    def _computed(self) -> list[Row]:
        going = [row for place, row in enumerate(self._rows) if place not in self._ended]
        return [*going, *(row for prefill in self._prefills for row in prefill.rows)]

    @property
    def needed(self) -> set[str]:
        """Adapters that the next steps need."""
        return {row.adapter for row in (*self._rows, *self._computed, *self._waiting)}

    def holds(self, row: Row) -> bool:
        return row in self._computed or row in self._waiting

    def submit(self, row: Row) -> None:
        self._waiting.append(row)

    def room(self, tokens: int) -> int:
        """Return how many rows may join now, if each has at most `tokens` tokens of prompt and answer."""
        computed = self._computed
        longest = max([tokens, *(len(row.prompt) + row.limit for row in computed)])
        fitting = min(self._places, self._cache_tokens // longest) - len(computed)
        return max(fitting, 0 if computed else 1)

    def join(self, rows: Sequence[Row], cache: Any) -> None:
        """Add rows. `cache` contains the prompts of the rows without the last token, in the order of the rows, padded
        on the left."""
        width = cache.get_seq_length() + 1
        mask = self._tensor([[0] * (width - len(row.prompt)) + [1] * (len(row.prompt) - 1) for row in rows])
        self._merge(list(rows), cache, mask, [row.prompt[-1] for row in rows])

    def drop(self, row: Row) -> None:
        """Drop a row and free its place at once."""
        if row in self._waiting:
            self._waiting.remove(row)
        elif row in self._rows:
            self._ended.add(next(place for place, each in enumerate(self._rows) if each is row))
            self._keep(self._going)
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
        """Return the prefill that computes the rows' prompts from the end of their cached beginnings on. The same
        number of columns is computed for all rows. A row that needs fewer columns uses less of its cached beginning, so
        that padding is on the left only.
        """
        rows = sorted(rows, key=lambda row: row.adapter)
        kept = [self.prefixes.find(row) for row in rows]
        width = max(len(row.prompt) - (row.shared if each else 0) for row, each in zip(rows, kept, strict=True))
        used = [max(0, len(row.prompt) - width) for row in rows]
        before = max(used)
        ids = self._tensor([[0] * (width - len(row.prompt)) + row.prompt[-width:] for row in rows])
        mask = self._tensor([[0] * (before + width - len(row.prompt)) + [1] * len(row.prompt) for row in rows])
        cache = empty_cache()
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
        """Compute a chunk of a prefill's prompts. After the last chunk, the prefill's rows join the batch."""
        width, before = prefill.ids.shape[1], prefill.mask.shape[1] - prefill.ids.shape[1]
        chunk, began = self._chunk if self._rows else self._chunk_tokens, time.monotonic()
        end = min(width, prefill.done + max(1, chunk // len(prefill.rows)))
        ids, mask = prefill.ids[:, prefill.done : end], prefill.mask[:, : before + end]
        logits = self._forward(ids, mask, prefill.cache, prefill.rows)
        prefill.done, took = end, time.monotonic() - began
        if took > self._chunk_seconds:
            self._chunk = max(SMALLEST_CHUNK, self._chunk // 2)
        elif took < self._chunk_seconds / 4:
            self._chunk = min(self._chunk_tokens, self._chunk * 2)
        if end < width:
            self._prefills.append(prefill)
            return
        for place, row in enumerate(prefill.rows):
            self.prefixes.keep(row, prefill.cache, place)
        self._join(prefill, logits)

    def _join(self, prefill: _Prefill, logits: Any) -> None:
        self._merge(prefill.rows, prefill.cache, prefill.mask, [0] * len(prefill.rows))
        self._draw(logits, range(len(self._rows) - len(prefill.rows), len(self._rows)))
        if self._rows:
            self._keep(sorted(self._going, key=lambda place: self._rows[place].adapter))

    def _merge(self, rows: list[Row], cache: Any, mask: Any, tokens: list[int]) -> None:
        """Append rows to the batch. tokens: the next input token of each row."""
        if self._ended:
            self._keep(self._going)
        if not self._rows:
            self._cache, self._mask = cache, mask
        else:
            width = max(self._mask.shape[1], mask.shape[1])
            self._mask = torch.cat([_padded(self._mask, width, 1), _padded(mask, width, 1)])
            for layer, other in zip(_filled(self._cache), _filled(cache), strict=True):
                layer.replace(
                    torch.cat([_padded(layer.keys, width, 2), _padded(other.keys, width, 2)]),
                    torch.cat([_padded(layer.values, width, 2), _padded(other.values, width, 2)]),
                )
        self._rows, self._next = [*self._rows, *rows], [*self._next, *tokens]

    def _decode(self) -> None:
        # An ended row's position no longer advances, because it could exceed the model's maximum.
        going = [[int(place not in self._ended)] for place in range(len(self._rows))]
        self._mask = torch.cat([self._mask, self._tensor(going)], dim=1)
        logits = self._forward(self._tensor([[token] for token in self._next]), self._mask, self._cache, self._rows)
        self._draw(logits, range(len(self._rows)))

    def _forward(self, ids: Any, mask: Any, cache: Any, rows: Sequence[Row]) -> Any:
        positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        output = self._compute(
            [row.adapter for row in rows],
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            cache=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits[:, -1].float()

    def _draw(self, logits: Any, places: range) -> None:
        """Draw the next token of these rows. Remove the ended rows once they are an eighth of the batch, or if a row
        waits to join."""
        for place, scores, is_finite in zip(places, logits, torch.isfinite(logits).all(-1).tolist(), strict=True):
            if place in self._ended:
                continue
            row = self._rows[place]
            if not is_finite:
                row.fail("the model's output is not finite")
                self._ended.add(place)
                continue
            token = row.choose(scores)
            self._next[place] = token
            if not row.take(token):
                self._ended.add(place)
        if self._ended and (self._waiting or 8 * len(self._ended) >= len(self._rows)):
            self._keep(self._going)

    @property
    def _going(self) -> list[int]:
        """Places of rows that have not ended."""
        return [place for place in range(len(self._rows)) if place not in self._ended]

    def _keep(self, places: list[int]) -> None:
        """Keep only the rows at these places, in this order, and drop the columns that are padding in all of these
        rows."""
        rows = len(self._rows)
        self._rows = [self._rows[place] for place in places]
        self._next = [self._next[place] for place in places]
        self._ended = set()
        if not places:
            self._cache, self._mask = None, self._tensor([])
            return
        first = int(self._mask[places].argmax(dim=1).min())
        if places == list(range(rows)) and first == 0:
            return
        self._mask = self._mask[places, first:]
        for layer in _filled(self._cache):
            layer.replace(layer.keys[places, :, first:], layer.values[places, :, first:])

    def _tensor(self, numbers: Sequence[Sequence[int]]) -> Any:
        return torch.tensor(numbers, dtype=torch.long, device=self._device)


@dataclass(eq=False)
class Greedy:
    """A row whose next token is always the most likely one."""

    prompt: list[int]
    limit: int
    end_of_turn: frozenset[int]
    tokens: list[int] = field(default_factory=list)
    adapter: str = ""
    group: str = ""
    shared: int = 0

    @property
    def is_complete(self) -> bool:
        return len(self.tokens) == self.limit or not self.end_of_turn.isdisjoint(self.tokens[-1:])

    def choose(self, logits: Any) -> int:
        return int(logits.argmax())

    def take(self, token: int) -> bool:
        self.tokens.append(token)
        return not self.is_complete

    def fail(self, reason: str) -> None:
        raise InputError(f"An answer cannot be generated: {reason}.", "Train again, or check the base model.")


def generate(
    model: Any,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    end_of_turn: Collection[int],
    at_once: int,
    reached: Callable[[Sequence[Greedy]], None] = lambda rows: None,
    read_prompts: Callable[[Sequence[list[int]]], Any] = lambda prompts: None,
) -> list[list[int]]:
    """Return the tokens of the greedy answer to each prompt, up to the end of turn. Raises InputError if logits are not
    finite.

    Args:
        at_once: maximum number of prompts answered at once.
        reached: function that is called after each step with all answers so far.
        read_prompts: computes a cache for `Batch.join`, or returns None.
    """
    rows = [Greedy(prompt, max_new_tokens, frozenset(end_of_turn)) for prompt in prompts]
    # Sorted by tokens: texts of equal length can have four times as many tokens in one language as in another.
    waiting = deque(sorted(rows, key=lambda row: -len(row.prompt)))
    if unsupported_layers(model):
        while waiting:
            group = [waiting.popleft()]
            while waiting and len(group) < at_once and len(waiting[0].prompt) == len(group[0].prompt):
                group.append(waiting.popleft())
            _generate_by_transformers(model, group)
            reached(rows)
        return [row.tokens for row in rows]
    tokens = MOST_TOKENS_HELD
    batch = Batch(lambda _, **inputs: model(**inputs), at_once, tokens, tokens, math.inf, model.device)
    while waiting or batch.is_busy:
        room = batch.room(len(waiting[0].prompt) + max_new_tokens) if waiting else 0
        if room and (2 * room >= at_once or room >= len(waiting) or not batch.is_busy):
            group = [waiting.popleft() for _ in range(min(room, len(waiting)))]
            with torch.inference_mode():
                cache = read_prompts([row.prompt for row in group])
            if cache is not None:
                batch.join(group, cache)
            else:
                for row in group:
                    batch.submit(row)
        batch.step()
        reached(rows)
    return [row.tokens for row in rows]


def _generate_by_transformers(model: Any, rows: Sequence[Greedy]) -> None:
    """Generate answers of a model whose rows cannot join and leave a batch. Prompts have equal lengths, because some
    recurrent layers read padding in spite of the mask."""
    end = sorted(rows[0].end_of_turn)
    prompts = torch.tensor([row.prompt for row in rows], device=model.device)
    with torch.inference_mode():
        output = model.generate(
            input_ids=prompts,
            attention_mask=torch.ones_like(prompts),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=rows[0].limit, eos_token_id=end, pad_token_id=end[0], **NO_PENALTIES
            ),
        )
    for row, new in zip(rows, output[:, prompts.shape[1] :].tolist(), strict=True):
        any(not row.take(token) for token in new)


def _filled(cache: Any) -> list[Any]:
    """Return the layers of a cache that have keys of their own. The other layers use the keys of another layer, or are
    not computed yet."""
    return [layer for layer in cache.layers if layer.is_initialized]


def _padded(tensor: Any, width: int, dimension: int) -> Any:
    """Pad with zeros on the left up to a width."""
    missing = width - tensor.shape[dimension]
    if missing == 0:
        return tensor
    shape = list(tensor.shape)
    shape[dimension] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dimension)
