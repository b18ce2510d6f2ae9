"""One forward pass over packed rows, and the log-probability of each reply.

No token is padding, and positions of prompts never reach the output layer; this makes it fast. Rows are kept apart by
their position ids, which restart at each row: transformers builds the attention mask from them when neither a mask nor
a cache is given. Guards check before each training that the model does so (`guards.py`).
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from sovereign_pipeline.training.rows import IGNORED, Completion

Batch = dict[str, Any]


def packed(completions: Sequence[Completion]) -> Batch:
    """Pack completions into tensors: input_ids, position_ids and labels, [1, tokens]; lengths, [completions]."""
    import torch

    return {
        "input_ids": torch.tensor([[token for each in completions for token in each.ids]]),
        "position_ids": torch.tensor([[place for each in completions for place in range(len(each))]]),
        "labels": torch.tensor([[label for each in completions for label in each.labels]]),
        "lengths": torch.tensor([len(each) for each in completions]),
    }


def passes_in(precision: str, device: str) -> AbstractContextManager[Any]:
    """The context in which accelerate runs each forward of a training with this precision.

    Numbers to be compared with the training's must be computed within it, or they differ by rounding. device: `cpu` or
    `cuda`.
    """
    import torch

    return torch.autocast(device, torch.bfloat16) if precision == "bfloat16" else nullcontext()


def token_log_probabilities(model: Any, batch: Batch, together: bool = True) -> Any:
    """Log-probability (nats) of each supervised token, float32, [supervised tokens], in the batch's order.

    together: in one pass; else each completion in its own, for models that do not keep packed rows apart.
    """
    import torch

    if not together:
        return torch.cat([token_log_probabilities(model, each) for each in _one_by_one(batch)])
    targets = batch["labels"][0, 1:]
    supervised = (targets != IGNORED).nonzero().squeeze(1)
    inputs = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"], "use_cache": False}
    if "lengths" in batch:
        from sovereign_pipeline.training.attention import row_lengths

        inputs |= row_lengths(model, batch["lengths"].tolist())
    if batch["input_ids"].is_cuda:
        # TRL's kernel computes the vocabulary in tiles, so the logits are never whole in memory.
        return model(**inputs, labels=batch["labels"], fused_lm_head=True).log_probs[0, supervised]
    logits = model(**inputs, logits_to_keep=supervised).logits[0].float()
    return -torch.nn.functional.cross_entropy(logits, targets[supervised], reduction="none")


def reply_log_probabilities(model: Any, batch: Batch, together: bool = True) -> tuple[Any, Any]:
    """For each completion: the log-probability (nats) of its whole reply, and its number of tokens; [completions]."""
    import torch

    tokens = token_log_probabilities(model, batch, together)
    lengths = batch["lengths"]
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)[1:]
    owner = owner[batch["labels"][0, 1:] != IGNORED]
    sums = torch.zeros(len(lengths), device=tokens.device, dtype=tokens.dtype).index_add(0, owner, tokens)
    return sums, torch.bincount(owner, minlength=len(lengths))


def _one_by_one(batch: Batch) -> list[Batch]:
    lengths = batch["lengths"].tolist()
    ends = [sum(lengths[: place + 1]) for place in range(len(lengths))]
    return [
        {name: batch[name][:, end - length : end] for name in ("input_ids", "position_ids", "labels")}
        for end, length in zip(ends, lengths, strict=True)
    ]
