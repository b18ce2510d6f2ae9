"""Compute an adapter's fingerprint: its outputs for fixed prompts. An engine must reproduce these outputs."""

import importlib.metadata
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import inf, isnan
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.base.processes import WorkerPool, silence
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.base_models.chat_text import chat_text, encode_text
from sovereign_pipeline.base_models.tool_form import tool_form_of
from sovereign_pipeline.dataset.jsonl import as_served

PROMPTS = (
    "Please renew my permit for the stall at the harbour gate. The fee was paid on 3 March 2024.",
    "أرجو إفادتي عن سبب تأخر الرد على طلبي السابق، وعن المستندات التي ما زالت ناقصة.",
    "Why? 🙂",
    "The inspection of 12 May found nothing. May I open again, and by when must the form be returned?",
)
"""Invented prompts in English and Arabic. One contains an emoji, which is encoded as several tokens."""
NEW_TOKENS = 16
"""Maximum number of tokens of a greedy continuation. It ends earlier at the end of the turn, or where two tokens are
about equally likely."""
TOP = 5
"""Number of likeliest tokens that are compared at each position."""

Precision = Literal["float32", "bfloat16"]
TOLERANCE: dict[Precision, float] = {"float32": 0.002, "bfloat16": 0.12}
"""Maximum difference of log-probabilities, in nats. In float32, the limit applies to each value. In bfloat16, where
rounding changes single values by 0.5, it applies to the mean. PEFT and vLLM differed by less than 0.0005 in float32 and
by 0.07 in bfloat16. A wrong adapter of the same line differed by 0.6, and an adapter at 0.9 times its scale by 0.34."""
LEAST_EFFECT: dict[Precision, float] = {"float32": 0.02, "bfloat16": 0.5}
"""Smallest difference between an adapter's and its base model's log-probabilities, in nats, at which the two can be
distinguished."""

LogProbabilities = tuple[tuple[float, ...], ...]
"""Log-probabilities in nats: one tuple per position."""


class Conversation(Frozen):
    """A prompt, in the message format of dataset rows."""

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()


class Mark(Frozen):
    """The expected or measured values for one prompt."""

    prompt: tuple[int, ...]
    """Token ids of the conversation in the chat template."""
    tokens: tuple[int, ...]
    """Greedy continuation of the prompt: at each position, the likeliest token after all earlier ones."""
    top: tuple[tuple[int, ...], ...]
    """Ids of the likeliest tokens at each position of `tokens` and at the position after the last."""
    adapter: LogProbabilities
    """Log-probabilities of `top`, with the adapter."""
    base: LogProbabilities
    """Log-probabilities of `top`, computed by the base model without the adapter."""


class Fingerprint(Frozen):
    """An adapter's outputs for fixed prompts, computed with the training libraries."""

    adapter: str
    conversations: tuple[Conversation, ...]
    marks: tuple[Mark, ...]
    libraries: dict[str, str]
    """Maps the name of each library that was used to its version."""


def conversations(instruction: str) -> tuple[Conversation, ...]:
    """Return the fixed conversations of a line with this instruction: one for each of `PROMPTS`, one of three turns,
    and one with a tool call. `compute` omits the last one if the chat template does not support tool calls."""
    turns = [[_turn("user", prompt)] for prompt in PROMPTS]
    turns.append([_turn("user", PROMPTS[0]), _turn("assistant", "At the quay office."), _turn("user", PROMPTS[1])])
    function = {"name": "permit_status", "arguments": {"permit": "QW-2024/17"}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "id": "1", "function": function}]}
    turns.append([_turn("user", PROMPTS[3]), call, {**_turn("tool", '{"status": "open"}'), "tool_call_id": "1"}])
    asked = [Conversation(messages=tuple(map(dict, as_served(each, instruction).messages))) for each in turns]
    return *asked[:-1], asked[-1].model_copy(update={"tools": (_TOOL,)})


_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "permit_status",
        "description": "Status of a permit.",
        "parameters": {"type": "object", "properties": {"permit": {"type": "string"}}, "required": ["permit"]},
    },
}


def _turn(role: str, content: str) -> dict[str, Any]:
    return {"role": role, "content": content}


def problem_of(fingerprint: Fingerprint, precision: Precision = "float32") -> str | None:
    """Return the reason why a fingerprint cannot identify its adapter. Returns None if there is no such reason."""
    effect = _apart([(mark.adapter, mark.base) for mark in fingerprint.marks], precision)
    if effect < LEAST_EFFECT[precision]:
        return (
            f"the adapter's log-probabilities differ from its base model's by {effect:.1g}, but a check in {precision} "
            f"needs a difference of at least {LEAST_EFFECT[precision]}"
        )
    return None


def difference(expected: Fingerprint, measured: Sequence[Mark], precision: Precision = "float32") -> str | None:
    """Describe how an engine's values differ from the expected ones, or why the fingerprint cannot identify its adapter
    in this precision. Returns None if the engine reproduces the values.

    measured: the values that the engine computed for the expected tokens. `tokens` has the engine's own greedy tokens,
        which are compared only in float32.
    """
    tolerance = TOLERANCE[precision]
    pairs = list(zip(expected.marks, measured, strict=True))
    if any(mark.prompt != found.prompt for mark, found in pairs):
        return "the engine encodes the conversation as different tokens: its chat template or tokenizer differs"
    of_base = _apart([(mark.base, found.base) for mark, found in pairs], precision)
    if not of_base <= tolerance:
        return f"the engine's base model differs (log-probabilities differ by {of_base:.3g}; the limit is {tolerance})"
    of_adapter = _apart([(mark.adapter, found.adapter) for mark, found in pairs], precision)
    if not of_adapter <= tolerance:
        if _apart([(found.adapter, found.base) for _, found in pairs], precision) <= tolerance:
            return "the adapter has no effect: the engine's outputs are those of the base model"
        apart = f"log-probabilities differ by {of_adapter:.3g}; the limit is {tolerance}"
        return f"the engine's adapter, or the adapter's scale, differs ({apart})"
    if precision == "float32" and any(mark.tokens != found.tokens for mark, found in pairs):
        return "the engine's most likely tokens differ"
    return problem_of(expected, precision)


def _apart(pairs: Iterable[tuple[LogProbabilities, LogProbabilities]], precision: Precision) -> float:
    """Return the difference of log-probabilities: the largest difference in float32, or the mean difference in
    bfloat16. Returns infinity if there are no values, shapes differ or a value is NaN."""
    found: list[float] = []
    for one, other in pairs:
        if [len(each) for each in one] != [len(each) for each in other]:
            return inf
        found += [
            abs(a - b) for each, with_it in zip(one, other, strict=True) for a, b in zip(each, with_it, strict=True)
        ]
    if not found or any(map(isnan, found)):
        return inf
    return max(found) if precision == "float32" else fmean(found)


LIBRARIES = ("peft", "torch", "transformers")


@dataclass(frozen=True)
class Job:
    """A request to compute an adapter's fingerprint."""

    base: Path
    """Verified model directory of the base model."""
    adapter: str
    directory: Path
    conversations: tuple[Conversation, ...]


def compute_apart(job: Job) -> Fingerprint:
    """Compute a fingerprint in a separate process. Raises WorkerKilled if that process is killed."""
    with WorkerPool(1, _begin) as pool:
        return next(pool.over(iter([job]), compute))


def compute(job: Job) -> Fingerprint:
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.base, local_files_only=True)
    base = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.float32, local_files_only=True)
    model = PeftModel.from_pretrained(base, str(job.directory)).eval()
    writes_calls = tool_form_of(tokenizer) is not None
    asked = tuple(each for each in job.conversations if writes_calls or not each.tools)
    with torch.inference_mode():
        marks = tuple(_mark(model, tokenizer, each) for each in asked)
    return Fingerprint(
        adapter=job.adapter,
        conversations=asked,
        marks=marks,
        libraries={name: importlib.metadata.version(name) for name in LIBRARIES},
    )


def _mark(model: Any, tokenizer: Any, conversation: Conversation) -> Mark:
    import torch

    text = chat_text(tokenizer, conversation.messages, conversation.tools, add_generation_prompt=True)
    prompt = encode_text(tokenizer, text)
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
    """Return log-probabilities of the whole vocabulary: shape [len(tokens) + 1, vocabulary size]."""
    import torch

    logits = model(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 :]
    return torch.log_softmax(logits.float(), dim=-1)


def _certain(scores: Any) -> int:
    """Count the tokens before the first position at which rounding would decide between the two likeliest tokens."""
    two = scores[:-1].topk(2, dim=-1).values
    near = ((two[:, 0] - two[:, 1]) < TOLERANCE["float32"]).nonzero()
    return int(near[0]) if len(near) else len(two)


def _begin() -> None:
    go_offline()
    silence()
