"""Attention over packed rows on CPUs: each row by itself, without a mask.

A mask over a whole pack computes every pair of tokens and discards most of them: in a pack of four rows three quarters,
and half of the rest because it lies ahead. Without a mask torch's kernel skips tokens ahead, and row by row nothing
else is discarded. On CUDA many short kernels would replace one; that was not measured, so transformers' own `sdpa`
stays there.

This module imports torch and transformers at its top, because transformers registers its functions by reference. It is
therefore imported inside the functions that use it (`forward.py`, `models.py`), which keeps definitions light.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ROW_BY_ROW = "row_by_row"

_LAYER_TYPES = {"full_attention", "sliding_attention"}
"""transformers' layer types in which a row that fits the window attends to all of itself and to nothing else."""


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    row_lengths: Sequence[int] | None = None,
    goes_on_from: Sequence[int | None] | None = None,
    **named: Any,
) -> tuple[Any, None]:
    """Attention function for transformers.

    query, key, value: [1, heads, tokens, size]; the result: [1, tokens, heads, size].
    row_lengths: tokens of each row of the pack; None: use the mask, as `sdpa` does.
    goes_on_from: for each row the place of an earlier one whose tokens it sees as if they stood before its own; None:
    it stands alone. None instead of a list: all do.
    """
    if row_lengths is None:
        whole, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **named)
        return whole, None
    rows = [*zip(*(each.split(list(row_lengths), dim=2) for each in (query, key, value)), strict=True)]
    found = []
    for place, (asked, keys, values) in enumerate(rows):
        trunk = goes_on_from[place] if goes_on_from is not None else None
        if trunk is None:
            found.append(sdpa_attention_forward(module, asked, keys, values, None, **named | {"is_causal": True})[0])
            continue
        keys, values = torch.cat([rows[trunk][1], keys], dim=2), torch.cat([rows[trunk][2], values], dim=2)
        seen = torch.ones(asked.shape[2], keys.shape[2], dtype=torch.bool, device=asked.device)
        seen = seen.tril(keys.shape[2] - asked.shape[2])[None, None]
        found.append(sdpa_attention_forward(module, asked, keys, values, seen, **named | {"is_causal": False})[0])
    return torch.cat(found, dim=1), None


def use_row_by_row(model: Any) -> None:
    """Switch the model to row-by-row attention, if it accepts attention functions and has no other layer types."""
    config = model.config.get_text_config()
    layer_types = set(getattr(config, "layer_types", None) or ("full_attention",))
    if not model._supports_attention_backend or layer_types - _LAYER_TYPES:
        return
    AttentionInterface.register(ROW_BY_ROW, attend)
    AttentionMaskInterface.register(ROW_BY_ROW, sdpa_mask)
    model.set_attn_implementation(ROW_BY_ROW)


def row_lengths(model: Any, lengths: Sequence[int]) -> dict[str, list[int]]:
    """Keyword arguments of the model's forward for row-by-row attention.

    Empty for a model without it, and when a row is longer than the window of a layer, which only the mask represents.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if config._attn_implementation != ROW_BY_ROW or (window is not None and max(lengths) > window):
        return {}
    return {"row_lengths": list(lengths)}
