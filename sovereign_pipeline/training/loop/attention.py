"""Attention over packed rows on CPUs: each row by itself, with no mask.

A mask over a whole pack makes every token be compared with every other and most of the result thrown away: in a pack of
four rows three quarters, and half of the rest because it lies ahead. Without a mask torch's kernel skips what lies
ahead, and row by row there is nothing else to throw away. On CUDA many short kernels would take the place of one; it
was not measured there, so transformers' own `sdpa` stays.

The one module of the room that imports torch at its top: import it inside the functions that need it.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

ROW_BY_ROW = "row_by_row"

# Of transformers' kinds of layers, those for which a row that fits the window is seen whole and nothing else is.
_KINDS = {"full_attention", "sliding_attention"}


def attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,
    *,
    row_lengths: Sequence[int] | None = None,
    **named: Any,
) -> tuple[Any, None]:
    """transformers' attention function. query, key, value: [1, heads, tokens, size]; gives [1, tokens, heads, size].

    row_lengths: tokens of each row of the pack; None: by the mask, as `sdpa` does it.
    """
    if row_lengths is None:
        whole, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **named)
        return whole, None
    rows = zip(*(each.split(list(row_lengths), dim=2) for each in (query, key, value)), strict=True)
    alone = [sdpa_attention_forward(module, *row, None, **named | {"is_causal": True})[0] for row in rows]
    return torch.cat(alone, dim=1), None


def use_row_by_row(model: Any) -> None:
    """Have the model attend row by row, where it takes attention functions at all and has no layers of other kinds."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ("full_attention",))
    if not model._supports_attention_backend or kinds - _KINDS:
        return
    AttentionInterface.register(ROW_BY_ROW, attend)
    AttentionMaskInterface.register(ROW_BY_ROW, sdpa_mask)
    model.set_attn_implementation(ROW_BY_ROW)


def row_lengths(model: Any, lengths: Sequence[int]) -> dict[str, list[int]]:
    """What the model's forward is given beside its inputs so that it attends row by row; nothing where it does not, or
    where a row is longer than the window of a layer, which only the mask knows."""
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if config._attn_implementation != ROW_BY_ROW or (window is not None and max(lengths) > window):
        return {}
    return {"row_lengths": list(lengths)}
