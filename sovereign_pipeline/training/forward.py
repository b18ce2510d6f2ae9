"""Run the forward pass over packed rows: compute log-probabilities of replies, and compute attention row by row on
CPUs.

Rows are not padded, and prompt positions never reach the output layer. Position ids restart at each row. Without a mask
and a cache, transformers builds an attention mask from the position ids. This mask separates the rows. Before the first
step, `guards.py` checks that the rows are separated.

With a mask over a whole pack, attention computes every pair of tokens and discards most pairs: three quarters in a pack
of four rows, and half of the remaining pairs because of causality. On CPUs attention therefore runs row by row, without
a mask: queries in bfloat16 by `cpu_kernels.causal_attention`, queries in float32 by PyTorch's kernel. On CUDA,
row-by-row attention would replace one kernel by many short ones. The effect on speed was not measured, so CUDA uses
transformers' own `sdpa`.

If one process trains on a CPU, most models never store their logits: the output layer computes log-probabilities
(`use_token_scores`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.base_models.shapes import returns_output_layer
from sovereign_pipeline.training.rows import IGNORED, Completion

Batch = dict[str, Any]
ROW_BY_ROW = "row_by_row"

_ONLY_IN_PYTORCH = ("softcap", "position_bias", "s_aux")
"""Arguments of transformers' attention functions that `cpu_kernels.causal_attention` does not support."""
_LAYER_TYPES = {"full_attention", "sliding_attention"}
"""transformers' layer types that row-by-row attention supports. In these layers a token attends only to itself and to
earlier tokens of its row: to all of them if the row fits the attention window."""


def packed(completions: Sequence[Completion]) -> Batch:
    """Pack completions into tensors. input_ids, position_ids and labels have the shape [1, tokens]; lengths has the
    shape [completions]."""
    import torch

    return {
        "input_ids": torch.tensor([[token for each in completions for token in each.ids]]),
        "position_ids": torch.tensor([[place for each in completions for place in range(len(each))]]),
        "labels": torch.tensor([[label for each in completions for label in each.labels]]),
        "lengths": torch.tensor([len(each) for each in completions]),
    }


def passes_in(precision: str, device: str) -> AbstractContextManager[Any]:
    """Return the context manager in which accelerate runs each forward pass of a training run with this precision. Use
    it to compute values that are compared with values of the run; otherwise the values are rounded differently. device:
    `cpu` or `cuda`."""
    import torch

    return torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext()


@contextmanager
def in_evaluation_mode(model: Any) -> Iterator[None]:
    """Run a block with the model in evaluation mode and without gradients. Dropout is off, so nothing is random."""
    import torch

    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


def token_log_probabilities(model: Any, batch: Batch, together: bool = True) -> Any:
    """Compute the log-probability (nats) of each supervised token: float32, [supervised tokens], in the batch's order.
    together: True computes the batch in one pass. False computes one pass for each completion, for models that do not
    keep packed rows apart."""
    import torch

    if not together:
        return torch.cat([token_log_probabilities(model, each) for each in _one_by_one(batch)])
    targets = batch["labels"][0, 1:]
    supervised = (targets != IGNORED).nonzero().squeeze(1)
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "use_cache": False}
    if "lengths" in batch:
        inputs |= row_lengths(model, batch["lengths"].tolist())
    if batch["input_ids"].is_cuda:
        # TRL's kernel computes the logits in tiles of the vocabulary, so that memory never contains all of them.
        return model(**inputs, labels=batch["labels"], fused_lm_head=True).log_probs[0, supervised]
    return score_tokens(model, inputs | {"logits_to_keep": supervised}, targets[supervised]).log_probabilities


def reply_log_probabilities(model: Any, batch: Batch, together: bool = True) -> tuple[Any, Any]:
    """Return two tensors of the shape [completions]: the log-probability (nats) of each completion's supervised tokens,
    and their number. together: as in `token_log_probabilities`."""
    import torch

    tokens = token_log_probabilities(model, batch, together)
    lengths = batch["lengths"]
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)[1:]
    owner = owner[batch["labels"][0, 1:] != IGNORED]
    sums = torch.zeros(len(lengths), device=tokens.device, dtype=tokens.dtype).index_add(0, owner, tokens)
    return sums, torch.bincount(owner, minlength=len(lengths))


@dataclass(frozen=True)
class TokenScores:
    """Scores of the tokens whose logits a pass computes; float32, [tokens]."""

    log_probabilities: Any
    """Log-probabilities in nats."""
    entropies: Any | None
    """Entropy of each token's whole distribution over the vocabulary, nats, without gradient; None unless wanted."""
    states: Any
    """Input of the output layer, [tokens, hidden size], without gradient."""


ENTROPIES_AT_ONCE = 128
"""Number of tokens whose entropies are computed at once from stored logits. While entropies are computed, a token needs
three times the memory of its logits."""


def score_tokens(
    model: Any, inputs: dict[str, Any], targets: Any, temperature: float = 1.0, entropies: bool = False
) -> TokenScores:
    """Score target tokens in one pass. inputs: arguments of the model's forward, with `logits_to_keep` for the states
    before the target tokens. targets: token ids, [tokens]. The logits are divided by the temperature."""
    import torch

    head = model.get_output_embeddings()
    seen: list[Any] = []
    in_head = getattr(head, _IN_HEAD, False) and not head.weight.requires_grad
    if in_head:
        from sovereign_pipeline.training.cpu_kernels import token_scores

        replaced: Any = _replaced(
            head, lambda states: token_scores(states, head.weight, targets, temperature, entropies)
        )
    else:
        replaced = nullcontext()
    hook = head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        with replaced:
            found = model(**inputs | {"use_cache": False}).logits[0]
    finally:
        hook.remove()
    states = seen[0].reshape(-1, seen[0].shape[-1]).detach()
    if in_head:
        return TokenScores(found[:, 0], found[:, 1].detach() if entropies else None, states)
    logits = found.float().div_(temperature)
    log_probabilities = -torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    if not entropies:
        return TokenScores(log_probabilities, None, states)
    with torch.no_grad():
        parts = [torch.special.entr(part.softmax(-1)).sum(-1) for part in logits.split(ENTROPIES_AT_ONCE)]
    return TokenScores(log_probabilities, torch.cat(parts), states)


_IN_HEAD = "computes_token_scores"
"""Attribute of output layers that may compute scores instead of logits."""


def use_token_scores(model: Any) -> None:
    """Let `score_tokens` compute scores in the output layer, if the model returns this layer's result unchanged. While
    the layer's weight is trained, its logits are computed as usual."""
    if returns_output_layer(model):
        setattr(model.get_output_embeddings(), _IN_HEAD, True)


@contextmanager
def _replaced(module: Any, forward: Callable[[Any], Any]) -> Iterator[None]:
    """Run a block in which the module computes something else."""
    own = vars(module).get("forward")
    module.forward = forward
    try:
        yield
    finally:
        if own is None:
            del module.forward
        else:
            module.forward = own


def _one_by_one(batch: Batch) -> list[Batch]:
    lengths = batch["lengths"].tolist()
    ends = [sum(lengths[: place + 1]) for place in range(len(lengths))]
    return [
        {name: batch[name][:, end - length : end] for name in ("input_ids", "position_ids", "labels")}
        for end, length in zip(ends, lengths, strict=True)
    ]


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
    """Compute attention for transformers, row by row. Returns the result, and None for attention weights.

    query, key and value have the shape [1, heads, tokens, size]. The result has the shape [1, tokens, heads, size] and
    the precision of `query`. row_lengths: number of tokens of each row of the pack; if None, the mask is used, as in
    `sdpa`. goes_on_from: for each row, the index of an earlier row that is its prefix, or None if it has no prefix.
    None instead of a list means that no row has a prefix.
    """
    import torch
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if row_lengths is None:
        whole, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **named)
        return whole, None
    is_plain = not named.get("dropout") and all(named.get(each) is None for each in _ONLY_IN_PYTORCH)
    in_blocks = is_plain and query.dtype == torch.bfloat16
    if in_blocks:
        from sovereign_pipeline.training.cpu_kernels import causal_attention
    precision = query.dtype if in_blocks else torch.float32  # PyTorch's kernel is faster in float32 than in bfloat16
    rows = [*zip(*(each.to(precision).split(list(row_lengths), dim=2) for each in (query, key, value)), strict=True)]
    found = []
    with torch.autocast(query.device.type, enabled=False):
        for place, (asked, keys, values) in enumerate(rows):
            trunk = goes_on_from[place] if goes_on_from is not None else None
            if trunk is not None:
                keys, values = (torch.cat([rows[trunk][side], rows[place][side]], dim=2) for side in (1, 2))
            if in_blocks:
                scale = named.get("scaling") or query.shape[-1] ** -0.5
                found.append(causal_attention(asked, keys, values, scale).transpose(1, 2))
                continue
            seen = None
            if trunk is not None:
                seen = torch.ones(asked.shape[2], keys.shape[2], dtype=torch.bool, device=asked.device)
                seen = seen.tril(keys.shape[2] - asked.shape[2])[None, None]
            causal = {"is_causal": trunk is None}
            found.append(sdpa_attention_forward(module, asked, keys, values, seen, **named | causal)[0])
    return torch.cat(found, dim=1).to(query.dtype), None


def use_row_by_row(model: Any) -> None:
    """Switch the model to row-by-row attention if it accepts attention functions and has only supported layer types."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    config = model.config.get_text_config()
    layer_types = set(getattr(config, "layer_types", None) or ("full_attention",))
    if not model._supports_attention_backend or layer_types - _LAYER_TYPES:
        return
    AttentionInterface.register(ROW_BY_ROW, attend)
    AttentionMaskInterface.register(ROW_BY_ROW, sdpa_mask)
    model.set_attn_implementation(ROW_BY_ROW)


def row_lengths(model: Any, lengths: Sequence[int]) -> dict[str, list[int]]:
    """Return the keyword arguments of the model's forward for row-by-row attention.

    Empty if the model does not use row-by-row attention. Also empty if a row is longer than the attention window: the
    mask is then needed to limit attention to the window.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    if config._attn_implementation != ROW_BY_ROW or (window is not None and max(lengths) > window):
        return {}
    return {"row_lengths": list(lengths)}
