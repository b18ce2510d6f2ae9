"""The rows and results of the held-out documents, as `private_scores` stores them."""

from sovereign_pipeline.evaluation.arms.arms import Arm, Reference
from sovereign_pipeline.evaluation.statistics.paired import LossDifference, ShareDifference
from sovereign_pipeline.frozen import Frozen


class PrivateSample(Frozen):
    """One held-out document, in `samples.jsonl`."""

    id: str
    case: str
    department: str
    language: str
    tokens: int
    """Tokens of the true reply, end of turn included."""
    losses: dict[Arm, float]
    """Nats per token of the true reply."""
    choices: int
    """Replies offered, the true one among them; 0 where no choice was scored."""
    correct: dict[Arm, bool]
    """Whether the true reply has the lowest loss; empty where no choice was scored."""


class PrivateSelection(Frozen):
    """Which documents were scored."""

    held_out: int
    """Documents with a reply in the held-out part of the split."""
    chosen: int
    too_long: tuple[str, ...]
    """Ids of documents that the model cannot take whole."""
    distractors: int
    choice_rows: int
    choice_tokens: int
    """Tokens of wrong replies that were scored, of at most `choice_token_budget` for each arm."""
    choice_token_budget: int


class PrivateResult(Frozen):
    """The figures of the held-out documents."""

    loss: dict[Reference, LossDifference]
    choice: dict[Reference, ShareDifference]
    """Empty when no document had another reply to choose from."""
    by_language: dict[str, dict[Reference, LossDifference]]
    by_department: dict[str, dict[Reference, LossDifference]]


class ReplySample(Frozen):
    """One held-out document with a generated reply of each arm, in `replies.jsonl`."""

    id: str
    case: str
    department: str
    language: str
    chrf: dict[Arm, float]
    """Similarity to the true reply, 0 to 1."""
    rouge_l: dict[Arm, float]
    """Similarity to the true reply, 0 to 1."""
    tokens: dict[Arm, int]
    """Tokens generated."""
    stopped: dict[Arm, bool]
    """Whether the model ended its turn itself."""


class WrittenReply(Frozen):
    """The generated reply of each arm to one held-out document, in `answers.jsonl`."""

    id: str
    answers: dict[Arm, str]


class ReplyResult(Frozen):
    """Mean similarity to the true replies, and the interval of the difference. Higher is more similar."""

    chrf: dict[Reference, LossDifference]
    rouge_l: dict[Reference, LossDifference]


class PrivateScores(Frozen):
    """private_scores' `scores.json`."""

    dtype: str
    selection: PrivateSelection
    result: PrivateResult
    replies: ReplyResult | None = None
    """None when the recipe asks for none."""
