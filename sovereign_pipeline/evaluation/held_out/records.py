"""MODULE DOCSTRING."""

from sovereign_pipeline.evaluation.arms.arms import Arm, Reference
from sovereign_pipeline.evaluation.records import Record
from sovereign_pipeline.evaluation.statistics.paired import LossDifference, ShareDifference


class PrivateSample(Record):
    """One held-out letter. losses: nats per token of the true reply, end of turn included; tokens: their number.

    choices: how many replies were offered, the true one among them (0: the choice was not asked for this row, and
    `correct` is empty).
    """

    id: str
    case: str
    department: str
    language: str
    tokens: int
    losses: dict[Arm, float]
    choices: int
    correct: dict[Arm, bool]


class PrivateSelection(Record):
    """Which rows were looked at. held_out: letters in the slice; too_long: ids of rows the model cannot take whole.

    choice_tokens: tokens of wrong replies that were scored, of at most choice_token_budget for each arm.
    """

    held_out: int
    chosen: int
    too_long: tuple[str, ...]
    distractors: int
    choice_rows: int
    choice_tokens: int
    choice_token_budget: int


class PrivateResult(Record):
    """choice: empty when no row had another reply to choose from."""

    loss: dict[Reference, LossDifference]
    choice: dict[Reference, ShareDifference]
    by_language: dict[str, dict[Reference, LossDifference]]
    by_department: dict[str, dict[Reference, LossDifference]]


class ReplySample(Record):
    """One held-out letter that was answered. chrf, rouge_l: likeness to the true reply, 0 to 1. tokens: of the reply
    written; stopped: it ended its turn itself."""

    id: str
    case: str
    department: str
    language: str
    chrf: dict[Arm, float]
    rouge_l: dict[Arm, float]
    tokens: dict[Arm, int]
    stopped: dict[Arm, bool]


class WrittenReply(Record):
    """One row of private_scores' `answers.jsonl`: what each arm wrote to a held-out letter."""

    id: str
    answers: dict[Arm, str]


class ReplyResult(Record):
    """Mean likeness to the true replies, and the interval of the difference. Higher is nearer."""

    chrf: dict[Reference, LossDifference]
    rouge_l: dict[Reference, LossDifference]


class PrivateScores(Record):
    """private_scores' `scores.json`. replies: None when the recipe does not ask for them."""

    dtype: str
    selection: PrivateSelection
    result: PrivateResult
    replies: ReplyResult | None = None
