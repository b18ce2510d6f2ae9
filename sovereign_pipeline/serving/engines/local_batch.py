"""Answers of different adapters computed together: one padded batch, one new token of each row at a step.

Rows join between steps, as far as places and memory go, and leave when they are done or given up. Each has its own
adapter, or none, and draws its own tokens. Rows are padded on the left, so that all end at the same column. Those of
one adapter stand together (`local_rows.py`).

What belongs here: the batch and its cache of keys and values. What does not: text (`local_texts.py`), and which
adapters are in memory (`local_adapters.py`). Imports torch and transformers.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from sovereign_pipeline.base.errors import EngineRefused
from sovereign_pipeline.serving.engines.local_rows import BASE

Compute = Callable[..., Any]
"""The model's forward pass: the adapter of each row, and the inputs by name (`Rows.compute`)."""


class Row(Protocol):
    """One answer that is computed."""

    adapter: str
    """Its name in the model, or `BASE`."""
    prompt: list[int]
    limit: int
    """How many new tokens it may have."""

    def choose(self, logits: "torch.Tensor") -> int:
        """Draw the next token."""

    def take(self, token: int) -> bool:
        """Take the token that was drawn. Returns whether another one is wanted."""

    def fail(self, reason: str) -> None:
        """No token can be computed."""


class Batch:
    """The rows of one model."""

    def __init__(
        self,
        compute: Compute,
        places: int,
        cache_tokens: int,
        chunk_tokens: int,
        prepare: Callable[[str], None],
        breathe: Callable[[], None],
    ) -> None:
        """
        Args:
            chunk_tokens: how many tokens of prompts are computed at once, padding included.
            breathe: called between such chunks; a long prompt takes many seconds.
            prepare: lets an adapter be in memory before a row with it joins. Raises EngineRefused.
            places: how many rows are computed at once.
            cache_tokens: how many tokens of all rows, padding included, are kept in memory; one row always has room.
        """
        self._compute, self._places, self._cache_tokens = compute, places, cache_tokens
        self._chunk_tokens, self._prepare, self._breathe = chunk_tokens, prepare, breathe
        self._waiting: deque[Row] = deque()
        self._joining: list[Row] = []
        self._rows: list[Row] = []
        self._taken: list[int] = []
        """How many tokens each row has, those of its prompt not counted."""
        self._cache: Any = None
        self._mask = torch.zeros((0, 0), dtype=torch.long)
        self._next: list[int] = []

    @property
    def is_busy(self) -> bool:
        return bool(self._rows or self._waiting)

    @property
    def computing(self) -> set[str]:
        """The adapters of the rows that are computed."""
        return {row.adapter for row in (*self._rows, *self._joining)}

    @property
    def needed(self) -> set[str]:
        """And of those that wait for a place."""
        return self.computing | {row.adapter for row in self._waiting}

    def holds(self, row: Row) -> bool:
        return row in self._rows or row in self._waiting

    def submit(self, row: Row, *, first: bool = False) -> None:
        """`first`: before those that wait."""
        self._waiting.appendleft(row) if first else self._waiting.append(row)

    def drop(self, row: Row) -> None:
        """Give a row up; its place is free at once."""
        if row in self._waiting:
            self._waiting.remove(row)
        elif row in self._rows:
            self._keep([place for place, each in enumerate(self._rows) if each is not row])

    def step(self) -> None:
        """Let rows join, and compute one token more of each."""
        with torch.inference_mode():
            if self._rows:
                self._decode()
            self._admit()
            if self._joining:
                self._join(self._joining)

    def _admit(self) -> None:
        """Take from the rows that wait those for which there is a place and memory."""
        while self._waiting and len(self._rows) + len(self._joining) < self._places:
            together = [*self._rows, *self._joining, self._waiting[0]]
            longest = max(len(row.prompt) + row.limit for row in together)
            if len(together) > 1 and longest * len(together) > self._cache_tokens:
                break
            row = self._waiting.popleft()
            self._joining.append(row)
            try:
                self._prepare(row.adapter)
            except EngineRefused as error:
                self._joining.remove(row)
                row.fail(error.message)

    def _join(self, joining: list[Row]) -> None:
        rows = sorted(joining, key=lambda row: row.adapter)
        longest = max(len(row.prompt) for row in rows)
        ids = torch.tensor([[0] * (longest - len(row.prompt)) + list(row.prompt) for row in rows])
        mask = torch.tensor([[0] * (longest - len(row.prompt)) + [1] * len(row.prompt) for row in rows])
        cache = DynamicCache()
        width = max(1, self._chunk_tokens // len(rows))
        for end in [*range(width, longest, width), longest]:
            start = (end - 1) // width * width
            logits = self._forward(ids[:, start:end], mask[:, :end], cache, rows)
            self._breathe()
        if not self._rows:
            self._cache, self._mask = cache, mask
        else:
            width = max(self._mask.shape[1], longest)
            self._mask = torch.cat([_padded(self._mask, width, 1), _padded(mask, width, 1)])
            for layer, other in zip(self._cache.layers, cache.layers, strict=True):
                if not layer.is_initialized:  # a layer that reads another one's keys
                    continue
                layer.keys = torch.cat([_padded(layer.keys, width, 2), _padded(other.keys, width, 2)])
                layer.values = torch.cat([_padded(layer.values, width, 2), _padded(other.values, width, 2)])
        self._rows, self._joining = [*self._rows, *rows], []
        self._taken += [0] * len(rows)
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
        """The next token of the rows at these places; those that are done leave."""
        going = set(range(len(self._rows)))
        for place, scores in zip(places, logits, strict=True):
            row = self._rows[place]
            if not bool(torch.isfinite(scores).all()):
                row.fail("the model computes what is no number")
                going.discard(place)
                continue
            token = row.choose(scores)
            self._taken[place] += 1
            self._next[place] = token
            if not row.take(token) or self._taken[place] >= row.limit:
                going.discard(place)
        if len(going) < len(self._rows):
            self._keep(sorted(going))

    def _keep(self, places: list[int]) -> None:
        """Keep the rows at these places, in this order, and no column that is padding in all of them."""
        self._rows = [self._rows[place] for place in places]
        self._taken = [self._taken[place] for place in places]
        self._next = [self._next[place] for place in places]
        if not places:
            self._cache, self._mask = None, torch.zeros((0, 0), dtype=torch.long)
            return
        first = int(self._mask[places].argmax(dim=1).min())
        if places == list(range(self._mask.shape[0])) and first == 0:
            return
        self._mask = self._mask[places]
        self._mask = self._mask[:, first:].clone()
        for layer in self._cache.layers:
            if not layer.is_initialized:
                continue
            layer.keys = layer.keys[places][:, :, first:].clone()
            layer.values = layer.values[places][:, :, first:].clone()


def log_probabilities(compute: Compute, adapter: str, prompt: Sequence[int], tokens: Sequence[int]) -> Any:
    """Of the whole vocabulary at each position of `tokens` and at the one after them: with the adapter, and with none.

    Both are rows of one batch, as answers of the adapter and of others are.
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


def _padded(tensor: Any, width: int, dimension: int) -> Any:
    """With zeros on the left up to this width."""
    missing = width - tensor.shape[dimension]
    if missing == 0:
        return tensor
    shape = list(tensor.shape)
    shape[dimension] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], dim=dimension)
