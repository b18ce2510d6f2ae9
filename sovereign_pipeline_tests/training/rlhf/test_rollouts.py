"""Sampling from a tiny model: by its own distribution, independently of the batch, and as the update computes it."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from sovereign_pipeline.training.rlhf.sampling import Rollout, sample
from sovereign_pipeline.training.rows import Completion
from sovereign_pipeline_tests.tiny_model import EOS_ID


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> Iterator[Any]:
    from transformers import AutoModelForCausalLM

    from sovereign_pipeline.training.forward import use_row_by_row

    loaded = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32, attn_implementation="sdpa")
    use_row_by_row(loaded)
    yield loaded


PROMPTS = [[5, 9, 40], [7] * 11, [300, 20, 11, 12, 13, 90, 91]]


def drawn(model: Any, prompts: list[list[int]], **changes: Any) -> list[Rollout]:
    settings: dict[str, Any] = {"most_tokens": 12, "temperature": 0.7, "seed": 3, **changes}
    return sample(model, prompts, [EOS_ID], **settings)


def test_a_reply_does_not_depend_on_what_else_is_in_its_batch(model: Any) -> None:
    together = drawn(model, PROMPTS, seed=None)
    for prompt, found in zip(PROMPTS, together, strict=True):
        (alone,) = drawn(model, [prompt], seed=None)
        assert alone.completion == found.completion and alone.ended == found.ended
        assert alone.log_probabilities == pytest.approx(found.log_probabilities, abs=1e-5)


def test_the_log_probabilities_are_the_models_own_at_the_temperature(model: Any) -> None:
    """Computed again without cache, padding or batch, from the formula."""
    for found in drawn(model, PROMPTS):
        ids = torch.tensor([found.completion.ids])
        with torch.no_grad():
            logits = model(input_ids=ids, use_cache=False).logits[0].float()
        logs = (logits / 0.7).log_softmax(-1)
        start = len(found.completion.prompt_ids) - 1
        own = [float(logs[start + place, token]) for place, token in enumerate(found.completion.reply_ids)]
        assert found.log_probabilities == pytest.approx(own, abs=1e-4)


def test_a_seed_decides_the_draw_and_another_seed_another_one(model: Any) -> None:
    assert drawn(model, PROMPTS) == drawn(model, PROMPTS)
    assert drawn(model, PROMPTS) != drawn(model, PROMPTS, seed=4)


def test_tokens_come_as_often_as_the_distribution_has_them_however_rare(model: Any) -> None:
    """Nothing is cut off: with top-k 50, what generation fills in unasked, the rarer half would never come."""
    prompt = [5, 9, 40]
    with torch.no_grad():
        wanted = (model(input_ids=torch.tensor([prompt])).logits[0, -1].float() / 2.0).softmax(-1)
    draws = drawn(model, [prompt] * 4_000, most_tokens=1, temperature=2.0)
    counts = Counter(each.completion.reply_ids[0] for each in draws)
    rare = wanted.argsort(descending=True)[50:].tolist()
    assert sum(counts[token] for token in rare) / 4_000 == pytest.approx(float(wanted[rare].sum()), abs=0.03)
    likeliest = int(wanted.argmax())
    assert counts[likeliest] / 4_000 == pytest.approx(float(wanted[likeliest]), abs=0.03)


def test_a_reply_ends_with_its_turn_and_the_others_go_on(model: Any) -> None:
    found = drawn(model, [[5, 9, 40]] * 64, most_tokens=20, temperature=2.0)
    for each in found:
        assert each.ended == (each.completion.reply_ids[-1] == EOS_ID)
        assert EOS_ID not in each.completion.reply_ids[:-1]
        assert len(each.log_probabilities) == len(each.completion.reply_ids) <= 20
        assert isinstance(each.completion, Completion)
    assert {each.ended for each in found} == {True, False}
