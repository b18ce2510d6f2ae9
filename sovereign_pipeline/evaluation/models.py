"""Base and adapter loaded once, as one object, so that nothing but the adapter differs between their scores.

What belongs here: opening the pair, scoring continuations and generating answers with either side of it. What does
not: what is asked (`private.py`, `capability.py`, `red_team.py`) and what follows from the answers (`statistics.py`).
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sovereign_pipeline.errors import InputError
from sovereign_pipeline.settings import go_offline

Side = Literal["base", "adapter"]
SIDES: tuple[Side, Side] = ("base", "adapter")

# float32 was measured faster than bfloat16 on CPUs without bf16 matrix units, and it is exact for bf16 weights.
CPU_DTYPE = "float32"
CUDA_DTYPE = "bfloat16"


@dataclass(frozen=True)
class Item:
    """A context and what may follow it, both as text with the chat template's marks."""

    id: str
    context: str
    continuations: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """Of one item: for each continuation its log-likelihood (nats, summed over its tokens) and its tokens."""

    id: str
    log_likelihoods: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def losses(self) -> tuple[float, ...]:
        """Mean negative log-likelihood per token (nats) of each continuation."""
        return tuple(-total / count for total, count in zip(self.log_likelihoods, self.tokens, strict=True))


@dataclass(frozen=True)
class Answer:
    """tokens: generated, the end-of-turn token included. stopped: the model ended its turn itself."""

    text: str
    tokens: int
    stopped: bool


@dataclass(frozen=True)
class ModelPair:
    """model: a PeftModel over the base. end_of_turn: token ids at which generation stops."""

    model: Any
    tokenizer: Any
    scorer: Any
    end_of_turn: frozenset[int]

    @property
    def max_length(self) -> int:
        """Most tokens the model takes at once."""
        return int(self.scorer.max_length)

    @property
    def dtype(self) -> str:
        return str(self.model.dtype).removeprefix("torch.")

    def token_ids(self, item: Item, continuation: int = 0) -> tuple[list[int], list[int]]:
        """Ids of the context and of one continuation, as they are scored. Raises InputError (see ChatScorer)."""
        context, following = self.scorer.encode(item.context, item.continuations[continuation])
        return context, following

    def token_counts(self, item: Item) -> tuple[int, int]:
        """Numbers of tokens of the context and of the first continuation, also where the model cannot take them."""
        context, following = self.scorer.split(item.context, item.continuations[0])
        return len(context), len(following)

    def score(self, name: str, items: Sequence[Item], side: Side) -> list[Score]:
        """Score every continuation of every item with one side, in the order given. Raises InputError."""
        from sovereign_pipeline.evaluation.harness import log_likelihoods

        docs = [{"id": item.id, "context": item.context, "continuations": list(item.continuations)} for item in items]
        with self._as(side):
            likelihoods = log_likelihoods(self.scorer, name, docs)
        return [
            Score(
                id=item.id,
                log_likelihoods=likelihoods[item.id],
                tokens=tuple(len(self.token_ids(item, index)[1]) for index in range(len(item.continuations))),
            )
            for item in items
        ]

    def answer(self, prompts: Sequence[str], side: Side, max_new_tokens: int, batch_size: int) -> list[Answer]:
        """Greedy answers to prompts that the chat template wrote, in the order given; at most `max_new_tokens` each."""
        by_length = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
        answers: dict[int, Answer] = {}
        with self._as(side):
            for start in range(0, len(by_length), batch_size):
                batch = by_length[start : start + batch_size]
                answers.update(zip(batch, self._generate([prompts[i] for i in batch], max_new_tokens), strict=True))
        return [answers[index] for index in range(len(prompts))]

    def _generate(self, prompts: list[str], max_new_tokens: int) -> list[Answer]:
        import torch
        from transformers import GenerationConfig

        encoded = self.tokenizer(
            prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
        ).to(self.model.device)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(self.end_of_turn),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with torch.inference_mode():
            output = self.model.generate(**encoded, generation_config=config)
        return [self._answer(row) for row in output[:, encoded["input_ids"].shape[1] :].tolist()]

    def _answer(self, ids: list[int]) -> Answer:
        end = next((index for index, token in enumerate(ids) if token in self.end_of_turn), None)
        kept = ids if end is None else ids[:end]
        return Answer(
            text=self.tokenizer.decode(kept, skip_special_tokens=True).strip(),
            tokens=len(ids) if end is None else end + 1,
            stopped=end is not None,
        )

    def _as(self, side: Side) -> Any:
        return self.model.disable_adapter() if side == "base" else nullcontext()


@contextmanager
def open_models(base: Path, adapter: Path, batch_size: int) -> Iterator[ModelPair]:
    """Load the base and its adapter from two local directories, on the GPU when there is one.

    batch_size: items scored at once; fixed, because another size may change the last digits. Raises InputError when
    a directory cannot be read as a model, a tokenizer with a chat template, or an adapter of this base.
    """
    go_offline()
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sovereign_pipeline.evaluation.harness import ChatScorer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, CUDA_DTYPE if device == "cuda" else CPU_DTYPE)
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype, local_files_only=True)
        pair = PeftModel.from_pretrained(model, str(adapter)).to(device).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{base} with {adapter}: cannot be loaded as base model and adapter ({type(error).__name__}). Materialize "
            f"base_model and the adapter again."
        ) from error
    if tokenizer.chat_template is None:
        raise InputError(f"{base}: the tokenizer has no chat template. Use an instruction-tuned base model.")
    with _quiet_lm_eval():
        scorer = ChatScorer(pretrained=pair, tokenizer=tokenizer, batch_size=batch_size)
        yield ModelPair(pair, tokenizer, scorer, _end_of_turn(model, tokenizer))


def _end_of_turn(model: Any, tokenizer: Any) -> frozenset[int]:
    """The ids at which generation stops: the model's own list, and the tokenizer's end of sequence."""
    configured = model.generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*listed, tokenizer.eos_token_id] if token is not None)


@contextmanager
def _quiet_lm_eval() -> Iterator[None]:
    """lm-eval's log may quote an item; what it has to say at INFO and WARNING is not for this project's logs."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
