"""The line's reward model as one more adapter on the policy's base, and what a reply is worth by it.

A raw score is in logits and has no bounds, and only differences between replies to one prompt mean anything (Bradley
and Terry 1952). So a reply is compared with the one that the institution sent to the same prompt: the sigmoid of the
difference is the probability that the model prefers the reply. It is bounded, and flat where a reply is far better than
the institution's already, where a reward model is least to be trusted (Fu et al. 2025, "Reward Shaping to Mitigate
Reward Hacking in RLHF", arXiv 2502.18770).

What belongs here: putting the adapter on the base, what is scored, and the cache. What does not: the score itself
(`reward_model/scoring.py`), and putting several parts together (`rewards.py`).
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from sovereign_pipeline.base.errors import IntegrityError, TrainingFailed
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.dataset.jsonl import LabelRow
from sovereign_pipeline.training.job import RewardModelGiven, TrainingJob
from sovereign_pipeline.training.loop.rows import Completion, encode_label
from sovereign_pipeline.training.reward_model.scoring import HEAD, Scorer, read_head, scoring_config
from sovereign_pipeline.training.rlhf.reward.tools import Reply, ScoreCache

REWARD = "reward"
"""Name of the adapter in PEFT."""


@dataclass(frozen=True)
class Preferred:
    """What the reward model says of a reply."""

    probability: float
    """That it prefers the reply to the institution's own, from 0 to 1."""
    raw: float
    """Score of the reply, logits."""


class RewardAdapter:
    """A reward model, ready to judge."""

    def __init__(self, model: Any, tokenizer: Any, job: TrainingJob) -> None:
        """model: with the policy's adapter in PEFT, on the base that the reward model was trained on.

        Raises IntegrityError when its tensors do not fit.
        """
        assert job.reward is not None and job.reward.reward_model is not None
        given = job.reward.reward_model
        self.identity = given.digest
        """Digest of what decides its scores, but the replies."""
        self._model, self._tokenizer, self._eos_ids = model, tokenizer, job.eos_ids
        self._most_tokens = job.reward.rlhf.max_new_tokens
        with _as_it_was(model):
            _load(model, given)
        self._scorer = Scorer(
            model.get_base_model().get_decoder(), read_head(given.directory, model.device), job.sft.precision
        )
        self._cache = ScoreCache(job.reward.cache / f"{self.identity}.jsonl")
        self._own: dict[tuple[str, str], Completion] = {}

    def judge(self, replies: Sequence[Reply]) -> list[Preferred]:
        """What each reply is worth. Raises TrainingFailed for a score that is not finite."""
        given = [self._given(reply) for reply in replies]
        own = [self._institutions(reply) for reply in replies]
        scores = self._scores([*given, *own])
        pairs = zip(scores[: len(given)], scores[len(given) :], strict=True)
        return [Preferred(_sigmoid(raw - of_own), raw) for raw, of_own in pairs]

    def _scores(self, completions: Sequence[Completion]) -> list[float]:
        """Raw scores, cached by token ids."""
        keys = [digest_of([self.identity, each.ids]) for each in completions]
        unknown = {key: each for key, each in zip(keys, completions, strict=True) if key not in self._cache}
        if unknown:
            with _as_it_was(self._model):
                self._model.set_adapter(REWARD)
                self._model.eval()
                found = self._scorer.scores([*unknown.values()])
            if not all(map(math.isfinite, found)):
                raise TrainingFailed(
                    f"The reward model gives {sum(not math.isfinite(each) for each in found)} of {len(found)} replies "
                    f"a score that is not finite.",
                    "Train it again, with a lower training.reward_model.learning_rate or precision: float32.",
                )
            self._cache.add(dict(zip(unknown, found, strict=True)))
        return [cast(float, self._cache[key]) for key in keys]

    def _given(self, reply: Reply) -> Completion:
        """With its end of turn where it has one: what was sampled is scored as it is, any other text as a whole reply.

        No text is longer than the policy may write.
        """
        prompt = self._institutions(reply).prompt_ids
        if reply.ids is not None:
            return Completion(prompt, list(reply.ids))
        return self._cut(self._encoded(reply.prompt, reply.text))

    def _institutions(self, reply: Reply) -> Completion:
        """The reply that the institution sent to the same prompt."""
        key = reply.prompt, reply.columns["response"]
        if key not in self._own:
            self._own[key] = self._cut(self._encoded(*key))
        return self._own[key]

    def _encoded(self, prompt: str, text: str) -> Completion:
        """As the trainer of reward models encodes the replies of a pair."""
        row = LabelRow(id="of a reward", prompt=prompt, completion=text, label=True)
        return encode_label(self._tokenizer, row, self._eos_ids).completions[0]

    def _cut(self, completion: Completion) -> Completion:
        return Completion(completion.prompt_ids, completion.reply_ids[: self._most_tokens])


def _load(model: Any, given: RewardModelGiven) -> None:
    """Put the adapter beside the others. PEFT would warn of a tensor that fits nowhere, and continue."""
    model.add_adapter(REWARD, scoring_config(given.directory))
    result = model.load_adapter(str(given.directory), adapter_name=REWARD, is_trainable=False)
    strange = [name for name in result.unexpected_keys if not name.endswith(HEAD.removeprefix("base_model.model."))]
    if result.missing_keys or strange:
        raise IntegrityError(
            f"{given.directory}: {len(result.missing_keys)} tensors of the reward model are missing and {len(strange)} "
            f"belong to no layer of the base model.",
            "Materialize reward_model again.",
        )


@contextmanager
def _as_it_was(model: Any) -> Iterator[None]:
    """Behind it the same adapter is active, the same parameters are trained, and the model is in the same mode."""
    active, was_training = model.active_adapter, model.training
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    try:
        yield
    finally:
        model.set_adapter(active)
        model.train(was_training)
        for name, each in model.named_parameters():
            each.requires_grad_(name in trained)


def _sigmoid(logit: float) -> float:
    """Without overflow, whatever the logit."""
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))
