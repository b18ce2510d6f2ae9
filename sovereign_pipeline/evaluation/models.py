"""Base and what was tuned from it, loaded once, so that nothing but the tuning differs between their scores.

What belongs here: opening the pair, scoring continuations and generating answers with either side of it. What does
not: what is asked (`private.py`, `capability.py`, `red_team.py`) and what follows from the answers (`statistics.py`).
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sovereign_pipeline.errors import InputError
from sovereign_pipeline.settings import go_offline
from sovereign_pipeline.training.tuned import TunedModel

# "adapter" is what was tuned, also where that is a whole model.
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
class LoadedSide:
    """model, with scorer: lm-eval's view of it. active: a context in which the model is this side of the pair."""

    model: Any
    scorer: Any
    active: Callable[[], AbstractContextManager[Any]] = nullcontext


@dataclass(frozen=True)
class ModelPair:
    """base, adapter: for an adapter one PeftModel, with the adapter off and on; for a model tuned in full two models.
    tokenizer: the base's, for both. end_of_turn: token ids at which generation stops."""

    base: LoadedSide
    adapter: LoadedSide
    tokenizer: Any
    end_of_turn: frozenset[int]

    @property
    def max_length(self) -> int:
        """Most tokens the model takes at once."""
        return int(self.base.scorer.max_length)

    @property
    def dtype(self) -> str:
        return str(self.base.model.dtype).removeprefix("torch.")

    def token_ids(self, item: Item, continuation: int = 0) -> tuple[list[int], list[int]]:
        """Ids of the context and of one continuation, as they are scored. Raises InputError (see ChatScorer)."""
        context, following = self.base.scorer.encode(item.context, item.continuations[continuation])
        return context, following

    def token_counts(self, item: Item) -> tuple[int, int]:
        """Numbers of tokens of the context and of the first continuation, also where the model cannot take them."""
        context, following = self.base.scorer.split(item.context, item.continuations[0])
        return len(context), len(following)

    def score(self, name: str, items: Sequence[Item], side: Side) -> list[Score]:
        """Score every continuation of every item with one side, in the order given. Raises InputError."""
        from sovereign_pipeline.evaluation.harness import log_likelihoods

        docs = [{"id": item.id, "context": item.context, "continuations": list(item.continuations)} for item in items]
        loaded = self._of(side)
        with loaded.active():
            likelihoods = log_likelihoods(loaded.scorer, name, docs)
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
        loaded = self._of(side)
        with loaded.active():
            for start in range(0, len(by_length), batch_size):
                batch = by_length[start : start + batch_size]
                answered = self._generate(loaded.model, [prompts[i] for i in batch], max_new_tokens)
                answers.update(zip(batch, answered, strict=True))
        return [answers[index] for index in range(len(prompts))]

    def _generate(self, model: Any, prompts: list[str], max_new_tokens: int) -> list[Answer]:
        import torch
        from transformers import GenerationConfig

        encoded = self.tokenizer(
            prompts, add_special_tokens=False, padding=True, padding_side="left", return_tensors="pt"
        ).to(model.device)
        config = GenerationConfig(
            do_sample=False,
            max_new_tokens=max_new_tokens,
            eos_token_id=sorted(self.end_of_turn),
            pad_token_id=self.tokenizer.pad_token_id,
        )
        with torch.inference_mode():
            output = model.generate(**encoded, generation_config=config)
        return [self._answer(row) for row in output[:, encoded["input_ids"].shape[1] :].tolist()]

    def _answer(self, ids: list[int]) -> Answer:
        end = next((index for index, token in enumerate(ids) if token in self.end_of_turn), None)
        kept = ids if end is None else ids[:end]
        return Answer(
            text=self.tokenizer.decode(kept, skip_special_tokens=True).strip(),
            tokens=len(ids) if end is None else end + 1,
            stopped=end is not None,
        )

    def _of(self, side: Side) -> LoadedSide:
        return self.base if side == "base" else self.adapter


@contextmanager
def open_models(base: Path, tuned: TunedModel, batch_size: int) -> Iterator[ModelPair]:
    """Load the base and what was tuned from it from local directories, on the GPU when there is one.

    A model tuned in full takes the memory of the base once more. batch_size: items scored at once; fixed, because
    another size may change the last digits. Raises InputError when a directory cannot be read as a model, a tokenizer
    with a chat template, or an adapter of this base, and when the tuned model has another vocabulary.
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
        if tuned.holds == "adapter":
            other = PeftModel.from_pretrained(model, str(tuned.directory)).to(device).eval()
        else:
            model = model.to(device).eval()
            other = AutoModelForCausalLM.from_pretrained(tuned.directory, dtype=dtype, local_files_only=True)
            other = other.to(device).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise InputError(
            f"{base} with {tuned.directory}: cannot be loaded as base model and {tuned.holds} "
            f"({type(error).__name__}). Materialize base_model and the {tuned.holds} again."
        ) from error
    vocabularies = [each.get_input_embeddings().weight.shape[0] for each in (model, other)]
    if vocabularies[0] != vocabularies[1]:
        raise InputError(
            f"{tuned.directory}: has {vocabularies[1]} tokens in its vocabulary, and its base {vocabularies[0]}, so "
            f"their scores cannot be compared. Train again from this base."
        )
    if tokenizer.chat_template is None:
        raise InputError(f"{base}: the tokenizer has no chat template. Use an instruction-tuned base model.")
    with _quiet_lm_eval():
        scorer = ChatScorer(pretrained=other, tokenizer=tokenizer, batch_size=batch_size)
        if tuned.holds == "adapter":
            of_base = LoadedSide(other, scorer, other.disable_adapter)
        else:
            of_base = LoadedSide(model, ChatScorer(pretrained=model, tokenizer=tokenizer, batch_size=batch_size))
        yield ModelPair(of_base, LoadedSide(other, scorer), tokenizer, _end_of_turn(model, tokenizer))


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
