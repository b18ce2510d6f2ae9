"""Replies in one pass of the model, without padding; a prompt of several replies goes through it once.

Replies of one prompt that stand beside each other share its tokens: each sees the prompt and itself, and its positions
go on from the prompt's. With prompts twice as long as the replies, four replies of each take half of the tokens of four
rows. Where the model's attention cannot let a row go on from another, as on CUDA, each reply has its prompt. What
does not belong here: how rows are kept apart (`loop/attention.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.training.loop.rows import Completion


@dataclass(frozen=True)
class Pass:
    """What the model is given."""

    ids: Any
    """[1, tokens]; so are the positions."""
    positions: Any
    places: Any
    """Of the states that the replies' tokens follow from, [replies' tokens]; the last of a prompt once for each of its
    replies."""
    targets: Any
    """The replies' tokens, one reply after the other, [replies' tokens]."""
    attention: dict[str, Any]
    """Further arguments of the model's forward."""


def can_share_prompts(model: Any, most_tokens: int) -> bool:
    """Whether the model's attention takes rows that go on from others, at this length."""
    from sovereign_pipeline.training.loop.attention import row_lengths

    return bool(row_lengths(model, [most_tokens]))


def tokens_in_passes(completions: Sequence[Completion], most: int, shares_prompts: bool) -> list[list[Completion]]:
    """The completions in their order, in parts of at most so many tokens; a longer one is a part of its own."""
    found: list[list[Completion]] = []
    tokens = 0
    for each in completions:
        before = found[-1][-1] if found else None
        shared = shares_prompts and before is not None and before.prompt_ids == each.prompt_ids
        added = len(each.reply_ids) if shared else len(each)
        if not found or tokens + added > most:
            found.append([])
            tokens, added = 0, len(each)
        found[-1].append(each)
        tokens += added
    return found


def one_pass(completions: Sequence[Completion], model: Any, *, shares_prompts: bool) -> Pass:
    """The completions side by side. A reply must not be empty."""
    import torch

    from sovereign_pipeline.training.loop.attention import row_lengths

    ids: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    lengths: list[int] = []
    goes_on_from: list[int | None] = []
    prompt: Sequence[int] = ()
    prompt_row = prompt_end = 0
    for each in completions:
        if not shares_prompts or each.prompt_ids != prompt:
            prompt, prompt_row = each.prompt_ids, len(lengths)
            ids += prompt
            positions += range(len(prompt))
            prompt_end = len(ids)
            lengths.append(len(prompt))
            goes_on_from.append(None)
        # The first token follows from the prompt's last state, each other from the state of the one before it.
        places += [prompt_end - 1, *range(len(ids), len(ids) + len(each.reply_ids) - 1)]
        ids += each.reply_ids
        positions += range(len(each.prompt_ids), len(each))
        lengths.append(len(each.reply_ids))
        goes_on_from.append(prompt_row)
    if shares_prompts:
        attention: dict[str, Any] = {**row_lengths(model, lengths), "goes_on_from": goes_on_from}
    else:
        attention = row_lengths(model, [len(each) for each in completions])
    return Pass(
        ids=torch.tensor([ids]),
        positions=torch.tensor([positions]),
        places=torch.tensor(places),
        targets=torch.tensor([token for each in completions for token in each.reply_ids]),
        attention=attention,
    )
