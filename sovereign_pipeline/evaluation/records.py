"""The rows and summaries that the evaluation's files hold. No field holds text of a document, prompt or answer, but
those of an `answers.jsonl`.

`samples.jsonl` is what was observed of every side; every figure elsewhere is computed from it, again by each gate, and
every difference is candidate minus reference.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

from sovereign_pipeline.corpus.document import read_jsonl, write_jsonl
from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.evaluation.models import Reference, Side
from sovereign_pipeline.evaluation.personal_data import FoundKinds
from sovereign_pipeline.evaluation.prompts import Expectation
from sovereign_pipeline.evaluation.statistics import LossDifference, ShareDifference

SAMPLES = "samples.jsonl"
CANARIES = "canaries.jsonl"
VERBATIM = "verbatim.jsonl"
REPLIES = "replies.jsonl"

Shares = dict[Reference, ShareDifference]

# Digits of a loss that are kept: beyond them, float32 sums differ between machines.
LOSS_DIGITS = 6


class Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IncumbentFacts(Record):
    """The adapter that the candidate would take the place of. id: in the registry; digest: of its artifact.

    compared: whether it was scored; it was not when it stands on another base model than the candidate.
    """

    id: str
    digest: str
    compared: bool


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
    losses: dict[Side, float]
    choices: int
    correct: dict[Side, bool]


class PrivateSelection(Record):
    """Which rows were looked at. held_out: letters in the slice; too_long: ids of rows the model cannot take whole.

    choice_tokens: tokens of wrong replies that were scored, of at most choice_token_budget for each side.
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
    chrf: dict[Side, float]
    rouge_l: dict[Side, float]
    tokens: dict[Side, int]
    stopped: dict[Side, bool]


class WrittenReply(Record):
    """One row of private_scores' `answers.jsonl`: what each side wrote to a held-out letter."""

    id: str
    answers: dict[Side, str]


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


class CapabilitySample(Record):
    """One row of one suite. cluster: what it shares with others (its passage); None when it stands alone.

    correct: what the gates go by. measures: what else is counted, name -> side -> value. tokens, stopped: of what was
    written, as in RedTeamSample; empty where a choice was scored.
    """

    suite: str
    id: str
    language: str
    cluster: str | None = None
    correct: dict[Side, bool]
    measures: dict[str, dict[Side, float]] = {}
    tokens: dict[Side, int] = {}
    stopped: dict[Side, bool] = {}


class SuiteAnswer(Record):
    """One row of capability_scores' `answers.jsonl`: what each side wrote, up to a stop word."""

    suite: str
    id: str
    answers: dict[Side, str]


class SuiteSelection(Record):
    """rows: in the suite; asked: after `max_rows`, without too_long: ids of rows that the model cannot take whole.

    fewer_examples: rows that were asked behind fewer examples than the recipe says, for the same reason.
    """

    rows: int
    asked: int
    too_long: tuple[str, ...]
    fewer_examples: int


class SuiteResult(Record):
    """measures, tokens, stopped: means by side; empty where there are none."""

    accuracy: dict[Reference, ShareDifference]
    by_language: dict[str, dict[Reference, ShareDifference]]
    measures: dict[str, dict[Side, float]] = {}
    tokens: dict[Side, float] = {}
    stopped: dict[Side, float] = {}


class CapabilityScores(Record):
    """capability_scores' `scores.json`. suites, selections: name -> result, name -> which rows."""

    dtype: str
    selections: dict[str, SuiteSelection]
    suites: dict[str, SuiteResult]


class RedTeamSample(Record):
    """One prompt. expects: what a good answer does. refused, obeyed, looped: what the judges say of each side's answer.

    personal_data: kind -> values of it that are in the answer and not in the prompt. tokens: length of the answer;
    stopped: it ended its turn itself.
    """

    id: str
    kind: str
    language: str
    expects: Expectation
    refused: dict[Side, bool]
    obeyed: dict[Side, bool]
    looped: dict[Side, bool]
    personal_data: dict[Side, FoundKinds]
    tokens: dict[Side, int]
    stopped: dict[Side, bool]


EVERY_LANGUAGE = "all"
Judge = Literal["refusal", "injection", "disclosure", "loop"]
"""What a judge tells of an answer: it refuses, obeys an injected instruction, discloses personal data, or loops."""


class JudgedLabel(Record):
    """One answer of a judge's test set: what a person says of it (label) and what the judge says.

    tuned: the judge's rules were written with this answer in view.
    """

    id: str
    judge: Judge
    language: str
    tuned: bool
    label: bool
    judged: bool


class MeasuredShare(Record):
    """hits of so many, and the 95 % interval of the share."""

    hits: int
    of: int
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.share:.2f} ({self.low:.2f} to {self.high:.2f})"


class JudgeQuality(Record):
    """Of one judge's labelled answers in one language, or in "all": how many of those it names are such (precision),
    and how many of those that are such it names (recall)."""

    judge: Judge
    language: str
    tuned: bool
    labels: int
    precision: MeasuredShare
    recall: MeasuredShare


class RedTeamResult(Record):
    """Shares of answers. refusals: on prompts that expect one. over_refusals: on prompts that expect an answer. obeyed:
    on injections. disclosed: with personal data, on requests for it. looped: on input out of distribution.
    personal_data, stopped: on all prompts. by_kind: kind -> shares refused. Empty where no prompt is of the kind.
    """

    refusals: Shares
    over_refusals: Shares
    obeyed: Shares
    disclosed: Shares
    looped: Shares
    personal_data: Shares
    stopped: Shares
    by_kind: dict[str, Shares]
    judges: tuple[JudgeQuality, ...]


class CanarySample(Record):
    """One canary. planted: in the training rows; else it is a control. rank: of its secret among others that it could
    have had, by likelihood; 1 is the likeliest. exposure: in bits."""

    id: str
    planted: bool
    rank: dict[Side, int]
    exposure: dict[Side, float]


class VerbatimSample(Record):
    """One letter of which a side was given the first words of the reply. trained: it is of the training side; else it
    is a control. verbatim: the side went on as the reply does. personal_data: as of `RedTeamSample`, in what it said.
    """

    id: str
    case: str
    department: str
    language: str
    trained: bool
    verbatim: dict[Side, bool]
    personal_data: dict[Side, FoundKinds]


class ExposureResult(Record):
    """Means of exposures are compared as means of losses are, but in bits. highest: of any planted canary. space_bits:
    what no exposure exceeds."""

    planted: dict[Reference, LossDifference]
    never_planted: dict[Reference, LossDifference]
    highest: dict[Side, float]
    space_bits: float


class RiseOverControl(Record):
    """reference, candidate: by how much the share on trained rows exceeds that on the control. rows: trained ones."""

    reference: float
    candidate: float
    difference: float
    low: float
    high: float
    rows: int


class VerbatimResult(Record):
    """Shares of letters that are continued word for word."""

    trained: Shares
    control: Shares
    rise: dict[Reference, RiseOverControl]


class MemorisationResult(Record):
    """exposure: None where the recipe plants no canary. verbatim: None where no letter could be asked for.
    personal_data: shares of continuations that hold some."""

    exposure: ExposureResult | None
    verbatim: VerbatimResult | None
    personal_data: Shares


class RedTeamReport(Record):
    """red_team_report's `report.json`."""

    dtype: str
    max_new_tokens: int
    result: RedTeamResult
    memorisation: MemorisationResult


Row = TypeVar("Row", bound=Record)


def write_rows(path: Path, rows: Iterable[Record]) -> int:
    """Write one JSON object a line; the number of rows."""
    return write_jsonl(path, (row.model_dump(mode="json") for row in rows))


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Raises IntegrityError naming file and line for a row that is not of this kind."""
    rows = []
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            rows.append(kind.model_validate(row))
        except ValueError:
            raise IntegrityError(
                f"{path}, line {number}: not a {kind.__name__}. Materialize the artifact again."
            ) from None
    return rows


def as_json(record: Record) -> str:
    """One record, indented for people, keys in their declared order."""
    return json.dumps(record.model_dump(mode="json"), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
