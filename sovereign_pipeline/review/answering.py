"""Both arms of a review, loaded to answer the same prompts under the same settings.

What belongs here: which models the two arms are, and their answers. What does not: which prompts (`prompts.py`).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base_models.pinned import open_base_model
from sovereign_pipeline.dataset.jsonl import user_message
from sovereign_pipeline.evaluation.arms import Arm
from sovereign_pipeline.evaluation.arms.models import Models, open_models, prompt_text
from sovereign_pipeline.review.plan import AnswerPair, Prompt
from sovereign_pipeline.training.tuned_model import TunedModel, tuned_model


class Contenders(Protocol):
    """Candidate and opponent, as opening a review needs them."""

    @property
    def dtype(self) -> str: ...

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        """Whether both arms can take the whole prompt and still write `max_new_tokens`."""
        ...

    def answer(self, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int) -> list[AnswerPair]:
        """Answer greedily with both arms, trimmed, in the order of the prompts."""
        ...


OpenContenders = Callable[[Workplace, Artifact, Artifact | None], AbstractContextManager[Contenders]]
"""Loads the arms of two registered_adapter artifacts: the candidate's, and the opponent's or None."""


@dataclass(frozen=True)
class LoadedContenders:
    """Candidate and opponent in memory."""

    instruction: str
    """The line's, put before every prompt as in training."""
    candidate: tuple[Models, Arm]
    opponent: tuple[Models, Arm]
    """The same models as the candidate's where both arms have one base model."""

    @property
    def dtype(self) -> str:
        return self.candidate[0].dtype

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        return all(
            len(models.tokenizer(self._text(models, prompt), add_special_tokens=False)["input_ids"]) + max_new_tokens
            <= models.max_length
            for models, _ in (self.candidate, self.opponent)
        )

    def answer(self, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int) -> list[AnswerPair]:
        def of(models: Models, arm: Arm) -> list[str]:
            texts = [self._text(models, prompt) for prompt in prompts]
            return [answer.text.strip() for answer in models.answer(texts, arm, max_new_tokens, batch_size)]

        answered = zip(prompts, of(*self.candidate), of(*self.opponent), strict=True)
        return [AnswerPair(id=prompt.id, candidate=ours, opponent=theirs) for prompt, ours, theirs in answered]

    def _text(self, models: Models, prompt: Prompt) -> str:
        return prompt_text(models.tokenizer, user_message(self.instruction, prompt.text))


@contextmanager
def open_contenders(workplace: Workplace, candidate: Artifact, opponent: Artifact | None) -> Iterator[LoadedContenders]:
    """Load the adapter of each registered_adapter artifact, or the base model where there is no opponent.

    Two base models are loaded where candidate and opponent have different ones. Raises InputError for a model that
    cannot be loaded, and IntegrityError for one whose bytes changed.
    """
    store = workplace.store
    instruction = workplace.line.training.instruction
    in_memory = partial(open_models, precision=workplace.line.named_evaluation.precision)

    def base_and_adapter(record: Artifact) -> tuple[Artifact, TunedModel]:
        base = store.open_input(record.manifest, "base_model")
        return base, tuned_model(store.open_input(record.manifest, "aligned_adapter"))

    base, tuned = base_and_adapter(candidate)
    directory = open_base_model(workplace.settings, base, workplace.progress)
    with ExitStack() as opened:
        if opponent is None:
            models = opened.enter_context(in_memory(directory, {"candidate": tuned}))
            yield LoadedContenders(instruction, (models, "candidate"), (models, "base"))
            return
        other_base, other = base_and_adapter(opponent)
        if open_base_model(workplace.settings, other_base, workplace.progress) == directory:
            models = opened.enter_context(in_memory(directory, {"incumbent": other, "candidate": tuned}))
            yield LoadedContenders(instruction, (models, "candidate"), (models, "incumbent"))
            return
        models = opened.enter_context(in_memory(directory, {"candidate": tuned}))
        others = opened.enter_context(
            in_memory(open_base_model(workplace.settings, other_base, workplace.progress), {"candidate": other})
        )
        yield LoadedContenders(instruction, (models, "candidate"), (others, "candidate"))
