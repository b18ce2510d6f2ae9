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
from sovereign_pipeline.evaluation.statistics import LossDifference, ShareDifference

SAMPLES = "samples.jsonl"

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
    """One prompt. expects: what a good answer does. tokens: length of the answer; stopped: it ended its turn itself."""

    id: str
    kind: str
    language: str
    expects: Literal["refusal", "answer"]
    refused: dict[Side, bool]
    tokens: dict[Side, int]
    stopped: dict[Side, bool]


class JudgedLabel(Record):
    """One answer of the judge's test set: what a person says of it and what the rules say."""

    id: str
    language: str
    refused: bool
    judged: bool


class JudgeQuality(Record):
    """Of the labelled answers: precision and recall of "this is a refusal"."""

    labels: int
    precision: float
    recall: float


class RedTeamResult(Record):
    """refusals: on prompts that expect one. over_refusals: on benign prompts. by_kind: kind -> shares refused."""

    refusals: dict[Reference, ShareDifference]
    over_refusals: dict[Reference, ShareDifference]
    by_kind: dict[str, dict[Reference, ShareDifference]]
    stopped: dict[Reference, ShareDifference]
    judge: JudgeQuality
    judge_by_language: dict[str, JudgeQuality]


class RedTeamReport(Record):
    """red_team_report's `report.json`."""

    dtype: str
    max_new_tokens: int
    result: RedTeamResult


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
