"""Score replies with a reward model, measure its accuracy on pairs, and record its training."""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import Field

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.base.intervals import MeasuredShare, clustered_interval, measured_share
from sovereign_pipeline.dataset.jsonl import Row, conversations_of, message_of
from sovereign_pipeline.policy.training import Sft
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.training.compute import TrainingCompute
from sovereign_pipeline.training.forward import passes_in
from sovereign_pipeline.training.models import read_base
from sovereign_pipeline.training.report import BaseModelIdentity, Libraries, read_report
from sovereign_pipeline.training.rows import Completion, EncodedRow
from sovereign_pipeline.training.tuned_model import ADAPTER_WEIGHTS

CHANCE = 0.5
BINS = 5
"""Largest number of calibration bins. The bins have about equally many pairs."""
LEAST_PAIRS_IN_A_BIN = 4
LEAST_CASES = 6
"""Minimum number of case files for a confidence interval. `gates.held_out_loss.minimum_cases` has the same value."""


class PairScore(Frozen):
    """The scores of one pair: one line of `held_out_scores.jsonl`."""

    id: str
    chosen: float
    """Score of the chosen reply, in logits."""
    rejected: float

    @property
    def margin(self) -> float:
        return self.chosen - self.rejected


class CalibrationBin(Frozen):
    """A calibration bin: pairs with similar margins."""

    expected: float
    """Mean probability that the reward model assigns to the reply with the higher score, from 0.5 to 1."""
    right: MeasuredShare
    """Share of pairs in which the chosen reply has the higher score."""


class HeldOutAccuracy(Frozen):
    """The accuracy of a reward model on held-out pairs, and the accuracy of two baselines that use only the reply's
    length or its words."""

    accuracy: MeasuredShare
    """Share of pairs whose chosen reply scores higher; equal scores count as wrong. The confidence interval that the
    trainer computes treats pairs as independent. The gate's interval treats only case files as independent."""
    length_only: MeasuredShare
    """Accuracy of a baseline that uses only the reply's length. The baseline prefers the longer reply if the longer
    reply is chosen more often in the training pairs, otherwise the shorter reply."""
    words_only: MeasuredShare
    """Accuracy of a baseline that uses only single words. A word's weight depends on how often the word occurs only in
    the chosen reply, and how often only in the rejected reply."""
    where_length_is_wrong: MeasuredShare
    """The reward model's accuracy on the pairs that the length baseline gets wrong."""
    mean_margin: float
    calibration: tuple[CalibrationBin, ...]


def held_out_accuracy(scores: Sequence[PairScore], held_out: Sequence[Row], training: Sequence[Row]) -> HeldOutAccuracy:
    """Compute the accuracy on the held-out pairs, and the accuracy of both baselines. scores: one for each held-out
    row, in the same order. The baselines are fitted to the training rows only."""
    right = [score.margin > 0 for score in scores]
    pairs, trained = [*map(_replies, held_out)], [*map(_replies, training)]
    by_length = _by_length(trained, pairs)
    wrong = [place for place, is_right in enumerate(by_length) if not is_right]
    return HeldOutAccuracy(
        accuracy=measured_share(sum(right), len(right)),
        length_only=measured_share(sum(by_length), len(by_length)),
        words_only=measured_share(sum(_by_words(trained, pairs)), len(held_out)),
        where_length_is_wrong=measured_share(sum(right[place] for place in wrong), len(wrong)),
        mean_margin=sum(score.margin for score in scores) / len(scores) if scores else 0.0,
        calibration=calibration([score.margin for score in scores]),
    )


def accuracy_by_case(scores: Sequence[PairScore], cases: Sequence[str]) -> MeasuredShare:
    """Compute the accuracy, and a confidence interval that allows for dependent pairs within a case file. The interval
    is never narrower than the interval for independent pairs.

    Args:
        cases: case file of each pair, in the order of `scores`.
    """
    right = [score.margin > 0 for score in scores]
    share = measured_share(sum(right), len(right))
    if len(set(cases)) == len(cases):
        return share
    low, high = clustered_interval(right, cases, seed=0)
    return share.model_copy(update={"low": min(low, share.low), "high": max(high, share.high)})


def calibration(margins: Sequence[float]) -> tuple[CalibrationBin, ...]:
    """Compute the calibration bins. Under the Bradley-Terry model, the sigmoid of a margin is the probability that the
    chosen reply is preferred."""
    ordered = sorted(margins, key=abs)
    count = max(1, min(BINS, len(ordered) // LEAST_PAIRS_IN_A_BIN))
    bounds = [len(ordered) * place // count for place in range(count + 1)]
    bins = [ordered[start:end] for start, end in pairwise(bounds) if end > start]
    return tuple(
        CalibrationBin(
            expected=sum(1 / (1 + math.exp(-abs(margin))) for margin in each) / len(each),
            right=measured_share(sum(margin > 0 for margin in each), len(each)),
        )
        for each in bins
    )


Pair = Sequence[str]
"""The text of the chosen reply, and the text of the rejected reply."""


def _replies(row: Row) -> Pair:
    return [message_of(conversation[-1]).as_text for conversation in conversations_of(row)]


def _by_length(training: Sequence[Pair], held_out: Sequence[Pair]) -> list[bool]:
    def longer(pair: Pair) -> int:
        return len(pair[0]) - len(pair[1])

    sign = 1 if sum((longer(pair) > 0) - (longer(pair) < 0) for pair in training) >= 0 else -1
    return [sign * longer(pair) > 0 for pair in held_out]


def _by_words(training: Sequence[Pair], held_out: Sequence[Pair]) -> list[bool]:
    for_it: Counter[str] = Counter()
    against: Counter[str] = Counter()
    for pair in training:
        chosen, rejected = map(_words, pair)
        for_it.update(chosen - rejected)
        against.update(rejected - chosen)

    def weight(words: set[str]) -> float:
        return sum(math.log((for_it[word] + 1) / (against[word] + 1)) for word in sorted(words))

    def margin(pair: Pair) -> float:
        chosen, rejected = map(_words, pair)
        return weight(chosen - rejected) - weight(rejected - chosen)

    return [margin(pair) > 0 for pair in held_out]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


HELD_OUT_SCORES = "held_out_scores.jsonl"
"""File in the artifact with a `PairScore` for each held-out pair."""


class RewardReport(Frozen):
    """The report of a reward model's training, in `report.json` and in the summary of the artifact's manifest."""

    trainer: str
    """TRL class whose loss and forward pass ran."""
    rows: int
    """Number of pairs trained on."""
    rows_cut: int
    """Number of pairs omitted because they are longer than `max_length`."""
    rows_shortened: int = Field(default=0, exclude_if=lambda value: not value)
    """Number of pairs whose first turns were removed to fit `max_length`."""
    rows_left_out: int = 0
    """Number of pairs omitted at the end, because they were too few for a batch on each device."""
    tokens_trained: int
    """Number of tokens that training passed through the model in all epochs, prompts included, padding excluded."""
    compute: TrainingCompute
    held_out: int
    """Number of held-out pairs that were measured."""
    held_out_cut: int
    """Number of held-out pairs not measured because they are longer than `max_length`."""
    steps: int
    first_loss: float
    """Mean loss per pair in the first step: −log σ(margin) plus the centring term."""
    last_loss: float
    accuracy: HeldOutAccuracy
    trainable_parameters: int
    optimizer: str
    learning_rate: float
    centring: float
    precision: str
    device: str
    devices: int = 1
    threads: int
    seed: int
    data_order_sha256: str
    libraries: Libraries
    base_model: BaseModelIdentity

    @property
    def summary(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def read_reward_report(artifact: Artifact) -> RewardReport:
    """Read the report of a reward_model artifact. Raises IntegrityError if the report is invalid."""
    return read_report(artifact, RewardReport)


REWARD_DIRECTORY = "reward"
"""Name of the PEFT directory in the artifact, for AutoModelForSequenceClassification with num_labels=1.

Load the model with a pad_token_id that is not an end-of-turn id. Otherwise transformers treats the end of turn as
padding.
"""
HEAD = "base_model.model.score.weight"
"""Name of the head's vector among the directory's tensors."""


@dataclass(frozen=True)
class Scorer:
    """Scores replies with the adapted layers of a model and the head of a reward model."""

    trunk: Any
    """Model that maps token ids to hidden states."""
    head: Any
    """Vector of the head, [hidden], float32."""
    precision: str

    def scores(self, completions: Sequence[Completion]) -> list[float]:
        """Return one score for each completion, in logits. Each completion has its own pass, so that no score depends
        on another completion."""
        import torch

        device = next(self.trunk.parameters()).device
        found = []
        with torch.no_grad(), passes_in(self.precision, device.type):
            for each in completions:
                hidden = self.trunk(input_ids=torch.tensor([each.ids], device=device), use_cache=False)
                found.append(float(hidden.last_hidden_state[0, -1].float() @ self.head.float()))
        return found


def pair_scores(rows: Sequence[EncodedRow], scores: Sequence[float]) -> list[PairScore]:
    """Return the scores of each pair. scores: for each row, the chosen reply's score, then the rejected reply's."""
    return [
        PairScore(id=row.id, chosen=chosen, rejected=rejected)
        for row, chosen, rejected in zip(rows, scores[0::2], scores[1::2], strict=True)
    ]


def read_scorer(base: Path, directory: Path, sft: Sft) -> Scorer:
    """Load the base model with the reward model of a directory, on the GPU if there is one. Dropout is off."""
    import torch
    from peft import PeftModel

    on_gpu = {"": 0} if torch.cuda.is_available() else None
    model = read_base(base, sft, getattr(torch, sft.precision), on_gpu)
    adapted: Any = PeftModel.from_pretrained(model, directory, config=scoring_config(directory)).eval()
    return Scorer(adapted.get_base_model().get_decoder(), read_head(directory, model.device), sft.precision)


def scoring_config(directory: Path) -> Any:
    """Return the configuration that loads the adapter of a reward model without its score head."""
    from peft import LoraConfig

    config = LoraConfig.from_pretrained(directory)
    config.task_type = "CAUSAL_LM"
    config.modules_to_save = None
    return config


def read_head(directory: Path, device: Any) -> Any:
    """Read the head's vector, [hidden], float32. Raises IntegrityError if it is missing or not a single vector."""
    from safetensors.torch import load_file

    tensors = load_file(directory / ADAPTER_WEIGHTS)
    if HEAD not in tensors or tensors[HEAD].ndim != 2 or tensors[HEAD].shape[0] != 1:
        raise IntegrityError(
            f"{directory}: this is not a reward model; the head is missing.", "Materialize reward_model again."
        )
    return tensors[HEAD][0].float().to(device)
