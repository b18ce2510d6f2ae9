"""What an adapter computes on the training side: its fingerprint, by PEFT and transformers alone.

The adapter is put on its base model as training puts a parent adapter there, in float32, and answers by transformers'
own `generate`: no line of an engine is used. It is computed in a process of its own, which gives the memory back.

What belongs here: computing. What does not: what counts as reproduced (`fingerprints.py`), and keeping it
(`deployment.py`).
"""

import importlib.metadata
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.processes import silence
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.base.workers import WorkerPool
from sovereign_pipeline.serving.fingerprints import NEW_TOKENS, TOLERANCE, TOP, Fingerprint, Mark

LIBRARIES = ("peft", "torch", "transformers")


@dataclass(frozen=True)
class Job:
    """An adapter whose fingerprint is computed."""

    base: Path
    """A verified model directory."""
    adapter: str
    """The digest of its artifact."""
    directory: Path
    conversations: tuple[str, ...]


def compute_apart(job: Job) -> Fingerprint:
    """The fingerprint, computed in another process. Raises WorkerKilled."""
    with WorkerPool(1, _begin) as pool:
        return next(pool.over(iter([job]), compute))


def compute(job: Job) -> Fingerprint:
    """The fingerprint, computed in this process."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.base, local_files_only=True)
    base = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float32, local_files_only=True)
    model = PeftModel.from_pretrained(base, str(job.directory)).eval()
    with torch.inference_mode():
        marks = tuple(_mark(model, tokenizer, each) for each in job.conversations)
    return Fingerprint(
        adapter=job.adapter,
        conversations=job.conversations,
        marks=marks,
        libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
    )


def _mark(model: Any, tokenizer: Any, conversation: str) -> Mark:
    import torch

    turns = [{"role": "user", "content": conversation}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    prompt: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = torch.tensor([prompt])
    answer = model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        pad_token_id=tokenizer.pad_token_id,
    )[0, len(prompt) :].tolist()
    scores = _scores(model, prompt, answer)
    tokens = answer[: _certain(scores)]
    with model.disable_adapter():
        of_base = _scores(model, prompt, tokens)
    of_adapter = scores[: len(tokens) + 1]
    top = of_adapter.topk(TOP, dim=-1).indices
    return Mark(
        prompt=tuple(prompt),
        tokens=tuple(tokens),
        top=top.tolist(),
        adapter=of_adapter.gather(-1, top).tolist(),
        base=of_base.gather(-1, top).tolist(),
    )


def _scores(model: Any, prompt: Sequence[int], tokens: Sequence[int]) -> Any:
    """Log-probabilities of the whole vocabulary at each position of `tokens` and at the one after them."""
    import torch

    logits = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 :]
    return torch.log_softmax(logits.float(), dim=-1)


def _certain(scores: Any) -> int:
    """How many tokens come before the first one that another is about as likely as: rounding would decide there."""
    two = scores[:-1].topk(2, dim=-1).values
    near = ((two[:, 0] - two[:, 1]) < TOLERANCE["float32"]).nonzero()
    return int(near[0]) if len(near) else len(two)


def _begin() -> None:
    go_offline()
    silence()
