"""Greedy answers to token ids: prompts are computed as trees, then one token of each prompt at a step.

A tree computes what prompts share once, and no padding (`token_tree.py`). The keys and values of its nodes are then the
cache from which transformers generates. A model that mixes the branches of a tree, or whose cache is no plain one,
computes its prompts in a padded batch instead.

What does not belong here: text, and which prompts are answered together (`models.py`).
"""

from collections.abc import Sequence
from itertools import islice
from typing import Any

from sovereign_pipeline.evaluation.arms.token_tree import plant


def generate(
    model: Any,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
    end_of_turn: Sequence[int],
    padding: int,
    longest_branch: int,
) -> list[list[int]]:
    """The new tokens of each prompt; after its end of turn a row goes on with padding while others have not ended.

    `longest_branch`: most tokens of prompt and answer with which prompts may share a tree (see the function of that
    name).
    """
    import torch
    from transformers import GenerationConfig

    longest = max(map(len, prompts))
    missing = [longest - len(prompt) for prompt in prompts]
    rows = [[padding] * pad + list(prompt) for pad, prompt in zip(missing, prompts, strict=True)]
    config = GenerationConfig(
        do_sample=False, max_new_tokens=max_new_tokens, eos_token_id=list(end_of_turn), pad_token_id=padding
    )
    with torch.inference_mode():
        together = 1 < longest <= longest_branch - max_new_tokens
        output = model.generate(
            input_ids=torch.tensor(rows, device=model.device),
            attention_mask=torch.tensor([[0] * pad + [1] * (longest - pad) for pad in missing], device=model.device),
            cache=_read_prompts(model, prompts, longest_branch) if together else None,
            generation_config=config,
        )
    new: list[list[int]] = output[:, longest:].tolist()
    return new


def _read_prompts(model: Any, prompts: Sequence[list[int]], longest_branch: int) -> Any:
    """A cache with the keys and values of each prompt but its last token, padded on the left.

    None for a model that keeps anything else, such as a window or a state.
    """
    import torch
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    def empty() -> Any:
        return DynamicCache(config=model.config)

    cache = empty()
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    order = sorted(range(len(prompts)), key=lambda index: prompts[index])
    width, left = max(map(len, prompts)) - 1, iter(order)
    for tree in plant([prompts[index][:-1] for index in order], longest_branch):
        inputs = tree.inputs(model.device, model.dtype)
        of_tree = empty()
        model(**inputs, cache=of_tree, use_cache=True, logits_to_keep=1)
        rows = list(islice(left, len(tree.paths)))
        paths = [torch.tensor(path, dtype=torch.long, device=model.device) for path in tree.paths]
        for layer, nodes in zip(cache.layers, of_tree.layers, strict=True):
            if not nodes.is_initialized:
                return None
            if not layer.is_initialized:
                layer.lazy_initialization(nodes.keys, nodes.values)
                layer.keys, layer.values = (_zeros(each, len(prompts), width) for each in (nodes.keys, nodes.values))
            for row, path in zip(rows, paths, strict=True):
                layer.keys[row, :, width - len(path) :] = nodes.keys[0][:, path]
                layer.values[row, :, width - len(path) :] = nodes.values[0][:, path]
    return cache


def _zeros(states: Any, rows: int, width: int) -> Any:
    """For keys or values of so many rows: [rows, heads, width, features]."""
    return states.new_zeros(rows, states.shape[1], width, states.shape[3])
