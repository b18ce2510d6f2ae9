"""Sampling replies from the policy: in batches, with a cache of keys and values, until every reply has ended.

The distribution is the model's own at a temperature and nothing else: no top-k, no top-p, no minimum probability, no
penalty for repetition. `generate` of transformers fills an unset top_k with 50, and the log-probabilities of the
samples would no longer be those that the loss is taken over. Prompts are padded on the left and positions count from
each prompt's first token, so that a reply does not depend on what else is in its batch, but for rounding.

What does not belong here: sampling on a server (`vllm_rollouts.py`), and what a reply is worth (`rewards.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.training.loop.rows import Completion


@dataclass(frozen=True)
class Rollout:
    """A prompt with the reply that was sampled for it."""

    completion: Completion
    log_probabilities: list[float]
    """Of the reply's tokens, as they were sampled; nats at the temperature."""
    ended: bool
    """Whether its last token ends the turn."""


def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    eos_ids: Sequence[int],
    *,
    most_tokens: int,
    temperature: float,
    seed: int | None,
) -> list[Rollout]:
    """One reply to each prompt. Call it with the adapter that is to be sampled from, as its passes run.

    seed: of the random choices, so that nothing but the seed and the model decides them; None: the most likely token.
    """
    import torch

    device = model.device
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    different = list(dict.fromkeys(map(tuple, prompts)))
    of_reply = torch.tensor([different.index(tuple(prompt)) for prompt in prompts], device=device)
    longest = max(map(len, different))
    missing = [longest - len(prompt) for prompt in different]
    ids = torch.tensor(
        [[eos_ids[0]] * pad + list(prompt) for pad, prompt in zip(missing, different, strict=True)], device=device
    )
    mask = torch.tensor([[0] * pad + [1] * (longest - pad) for pad in missing], device=device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    replies: list[list[int]] = [[] for _ in prompts]
    logs: list[list[float]] = [[] for _ in prompts]
    ended = [False] * len(prompts)
    past: Any = None
    was_training = model.training
    model.eval()
    with torch.no_grad():
        for place in range(most_tokens):
            out = model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=past,
                use_cache=True,
                logits_to_keep=1,
            )
            past, logits = out.past_key_values, out.logits[:, -1]
            if place == 0 and len(different) < len(prompts):  # a prompt of several replies went through the model once
                past.reorder_cache(of_reply)
                logits, mask, positions = logits[of_reply], mask[of_reply], positions[of_reply]
            # On the CPU, whose generator gives the same choices on every device.
            all_logs = (logits.float() / temperature).log_softmax(-1).cpu()
            if generator is None:
                chosen = all_logs.argmax(-1)
            else:
                chosen = torch.multinomial(all_logs.exp(), 1, generator=generator).squeeze(1)
            taken = all_logs.gather(1, chosen.unsqueeze(1)).squeeze(1)
            for row, (token, log) in enumerate(zip(chosen.tolist(), taken.tolist(), strict=True)):
                if not ended[row]:
                    replies[row].append(token)
                    logs[row].append(log)
                    ended[row] = token in eos_ids
            if all(ended):
                break
            ids = chosen.unsqueeze(1).to(device)
            mask = torch.cat([mask, mask.new_ones(len(prompts), 1)], dim=1)
            positions = positions[:, -1:] + 1
    model.train(was_training)
    rollouts = zip(prompts, replies, logs, ended, strict=True)
    return [Rollout(Completion(list(prompt), reply), log, end) for prompt, reply, log, end in rollouts]
