"""The order in which a batch computes prompts and tokens, seen on a model that computes nothing."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sovereign_pipeline.base_models.batch import Batch, empty_cache, generate

CHUNK = 100


@dataclass
class Recorded:
    """A forward pass that notes what it computes; token `n` follows a row that has `n` tokens so far."""

    calls: list[tuple[list[str], int]] = field(default_factory=list)
    """Adapters, and number of columns."""
    furthest: int = 0
    """The highest position so far."""

    def __call__(self, adapters: Sequence[str], **inputs: Any) -> Any:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        self.calls.append((list(adapters), ids.shape[1]))
        keys = ids[:, None, :, None].float()
        cache, _ = inputs["cache"].update(keys, keys.clone(), 0)
        assert cache.shape[2] == mask.shape[1] and torch.equal(inputs["position_ids"], _positions(mask, ids))
        lengths = mask.sum(-1)
        self.furthest = max(self.furthest, int(inputs["position_ids"].max()))
        held = (cache[:, 0, :, 0] * mask).sum(-1)  # every token of the row, wherever its keys come from
        logits = torch.zeros((len(adapters), 1, 5000))
        logits[range(len(adapters)), 0, lengths] = 1
        self.sums = held.tolist()
        return SimpleNamespace(logits=logits)


def _positions(mask: Any, ids: Any) -> Any:
    return (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]


@dataclass(eq=False)
class Row:
    adapter: str
    prompt: list[int]
    limit: int = 1000
    shared: int = 0
    group: str = ""
    length: int = 1000
    """Number of tokens after which the row ends."""
    tokens: list[int] = field(default_factory=list)

    def choose(self, logits: Any) -> int:
        return int(logits.argmax())

    def take(self, token: int) -> bool:
        self.tokens.append(token)
        return len(self.tokens) < self.length

    def fail(self, reason: str) -> None:
        raise AssertionError(reason)


@pytest.fixture
def compute() -> Recorded:
    return Recorded()


@pytest.fixture
def batch(compute: Recorded) -> Batch:
    return Batch(compute, 16, 100_000, CHUNK)


def row(tokens: int, adapter: str = "a", **changes: Any) -> Row:
    return Row(adapter, [1] * tokens, **changes)


def test_a_long_prompt_takes_turns_with_the_tokens_of_others(batch: Batch, compute: Recorded) -> None:
    """It stopped every stream for 51 seconds."""
    others, long = [row(10), row(20, "b")], row(10 * CHUNK, "c")
    for each in others:
        batch.submit(each)
    batch.step()
    batch.submit(long)
    compute.calls.clear()
    for number in range(10):
        assert not long.tokens
        batch.step()
        assert [len(each.tokens) for each in others] == [number + 2] * 2
    assert long.tokens == [10 * CHUNK]
    assert compute.calls == [(["a", "b"], 1), (["c"], CHUNK)] * 10
    batch.step()
    assert others[1].tokens == list(range(20, 32)) and long.tokens == [10 * CHUNK, 10 * CHUNK + 1]


def test_a_short_prompt_does_not_wait_for_a_long_one(batch: Batch) -> None:
    long, short = row(10 * CHUNK), row(30)
    batch.submit(long)
    batch.step()
    batch.submit(short)
    for _ in range(3):
        batch.step()
    assert short.tokens and not long.tokens


def test_a_row_is_dropped_while_its_prompt_is_computed(batch: Batch, compute: Recorded) -> None:
    long, other = row(10 * CHUNK), row(10, "b")
    pair = [row(90), row(80)]
    for each in (long, other, *pair):
        batch.submit(each)
    batch.step()
    assert batch.holds(long) and not long.tokens
    batch.drop(long)
    batch.drop(pair[0])
    assert not batch.holds(long)
    compute.calls.clear()
    for _ in range(4):
        batch.step()
    assert not long.tokens and not pair[0].tokens and pair[1].tokens[0] == 80 and other.tokens[0] == 10
    assert max(columns for _, columns in compute.calls) <= CHUNK
    batch.drop(other)
    batch.drop(pair[1])
    assert not batch.is_busy


def columns(batch: Batch, compute: Recorded, *rows: Row) -> int:
    """Number of columns that the prompts of these rows took."""
    compute.calls.clear()
    for each in rows:
        batch.submit(each)
    while not all(each.tokens for each in rows):
        batch.step()
    assert [each.tokens[0] for each in rows] == [len(each.prompt) for each in rows]
    for each in rows:
        batch.drop(each)
    return sum(columns for _, columns in compute.calls)


def shared(tokens: int, own: int, adapter: str = "a", group: str = "") -> Row:
    return Row(adapter, [*range(2, 2 + tokens), *[7] * own], shared=tokens, group=group)


def test_a_common_beginning_is_computed_once_for_an_adapter_and_group(batch: Batch, compute: Recorded) -> None:
    assert columns(batch, compute, shared(250, 40)) == 290
    assert columns(batch, compute, shared(250, 60)) == 60
    assert columns(batch, compute, shared(250, 40, "b")) == 290, "another adapter"
    assert columns(batch, compute, shared(250, 40, group="SECRET")) == 290, "another clearance"
    batch.prefixes.forget("a")
    assert columns(batch, compute, shared(250, 40)) == 290
    assert columns(batch, compute, shared(10, 40)) == 50 and columns(batch, compute, shared(10, 40)) == 50, "too short"


def test_rows_with_and_without_a_kept_beginning_are_laid_out_together(batch: Batch, compute: Recorded) -> None:
    columns(batch, compute, shared(50, 10))
    columns(batch, compute, shared(30, 10, "b"))
    rows = [shared(50, 5), shared(50, 20), shared(30, 12, "b"), row(9, "c"), row(35, "c")]
    expected = [float(sum(each.prompt)) for each in sorted(rows, key=lambda each: each.adapter)]
    assert columns(batch, compute, *rows) == 35
    assert compute.sums == expected, "every row has exactly its own tokens"


def test_kept_beginnings_have_a_bound(compute: Recorded) -> None:
    batch = Batch(compute, 16, 400, CHUNK)  # a quarter of it
    for adapter in ("a", "b", "c"):
        columns(batch, compute, shared(40, 10, adapter))
    assert columns(batch, compute, shared(40, 10, "c")) == 10
    assert columns(batch, compute, shared(40, 10, "a")) == 50, "the longest unused one has gone"
    assert columns(batch, compute, shared(150, 10, "d")) == columns(batch, compute, shared(150, 10, "d")) == 160


def test_rows_leave_together_and_no_other_row_changes(batch: Batch, compute: Recorded) -> None:
    rows = [Row("a", [1] * (1 + number % 6), length=1 + number) for number in range(16)]
    for each in rows:
        batch.submit(each)
    batch.step()
    compute.calls.clear()
    while batch.is_busy:
        batch.step()
    for each in rows:
        assert each.tokens == list(range(len(each.prompt), len(each.prompt) + each.length))
    assert [len(adapters) for adapters, _ in compute.calls] == [15, 15, 13, 13, 11, 11, 9, 9, *range(7, 0, -1)]


def test_a_row_that_ended_goes_on_to_no_further_position(batch: Batch, compute: Recorded) -> None:
    """A model that has a table of positions would fail behind its last."""
    ended, *others = [
        Row("a", [1] * (60 if number == 0 else 6), length=2 if number == 0 else 9) for number in range(16)
    ]
    for each in (ended, *others):
        batch.submit(each)
    while batch.is_busy:
        batch.step()
    assert all(len(each.tokens) == each.length for each in (ended, *others))
    assert compute.furthest == 60


def test_without_a_limit_of_time_no_chunk_depends_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for seconds in (0.0, 100.0):
        ticks = itertools.count(0.0, seconds)
        monkeypatch.setattr("sovereign_pipeline.base_models.batch.time.monotonic", lambda ticks=ticks: next(ticks))
        compute = Recorded()
        batch = Batch(compute, 16, 100_000, CHUNK, chunk_seconds=math.inf)
        for each in (Row("a", [1] * 10, length=30), Row("a", [1] * 850, length=2)):
            batch.submit(each)
        while batch.is_busy:
            batch.step()
        calls.append(compute.calls)
    assert calls[0] == calls[1]


def test_a_row_that_ended_takes_no_place_of_a_waiting_one(compute: Recorded) -> None:
    batch = Batch(compute, 16, 100_000, CHUNK)
    first, *others = [Row("a", [1] * 6, length=1 if number == 0 else 9) for number in range(16)]
    for each in (first, *others):
        batch.submit(each)
    batch.step()
    assert batch.room(18) == 1 and first.tokens == [6]
    late = row(4)
    batch.submit(late)
    batch.step()
    assert late.tokens == [4] and all(len(each.tokens) == 2 for each in others)


def test_rows_join_with_the_keys_of_their_prompts(batch: Batch, compute: Recorded) -> None:
    going = row(30)
    batch.submit(going)
    batch.step()
    joining, cache = [row(12), row(7)], empty_cache()
    keys = torch.tensor([[1.0] * 11, [0.0] * 5 + [1.0] * 6])[:, None, :, None]
    cache.update(keys, keys.clone(), 0)
    batch.join(joining, cache)
    batch.step()
    assert [each.tokens for each in (going, *joining)] == [[30, 31], [12], [7]]
    assert compute.sums == [30.0 + 30, 12.0, 7.0], "of each row all tokens and no other"


def test_an_answer_of_a_recurrent_model_depends_on_no_other_prompt() -> None:
    """RecurrentGemma's layers read padding in spite of the mask."""
    from transformers import RecurrentGemmaConfig, RecurrentGemmaForCausalLM

    torch.manual_seed(0)
    shape = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "lru_width": 32}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "attention_window_size": 64}
    layers = ["recurrent", "recurrent", "attention"]
    model = RecurrentGemmaForCausalLM(RecurrentGemmaConfig(**shape, **heads, block_types=layers)).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.data.normal_(0, 0.3)
    prompts = [torch.randint(3, 64, (length,)).tolist() for length in (5, 6, 8, 8, 12, 16, 6)]
    together = generate(model, prompts, 8, [2], 6)
    assert together == [generate(model, [prompt], 8, [2], 1)[0] for prompt in prompts]
