"""The files of the evaluation's artifacts, and the rows and results that they hold.

`samples.jsonl` holds one row per item with what was observed of every arm. Each figure elsewhere is computed from it,
again by each gate. Only `answers.jsonl` holds generated text.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeVar

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.base.intervals import MeasuredShare
from sovereign_pipeline.corpus.document import read_jsonl, write_jsonl
from sovereign_pipeline.evaluation.arms import Arm, Reference
from sovereign_pipeline.evaluation.statistics import LossDifference, ShareDifference, Shares
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.suites.rows import Expectation

SAMPLES = "samples.jsonl"
ANSWERS = "answers.jsonl"
SCORES_FILE = "scores.json"
REPLIES = "replies.jsonl"
JUDGED_LABELS = "judge.jsonl"
CANARIES = "canaries.jsonl"
VERBATIM = "verbatim.jsonl"
REPORT_FILE = "report.json"
REPORT_MARKDOWN = "report.md"
REPORT_PAGE = "report.html"
Row = TypeVar("Row", bound=Frozen)


def write_rows(path: Path, rows: Iterable[Frozen]) -> int:
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
                f"{path}, line {number}: not a {kind.__name__}.", "Materialize the artifact again."
            ) from None
    return rows


def as_json(record: Frozen) -> str:
    """One record, indented for people, keys in their declared order."""
    return json.dumps(record.model_dump(mode="json"), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


class CapabilitySample(Frozen):
    """One row of one suite, in `samples.jsonl`."""

    suite: str
    id: str
    language: str
    cluster: str | None = None
    """What the row shares with others (its passage); None when it is independent of them."""
    correct: dict[Arm, bool]
    """What the gate goes by."""
    measures: dict[str, dict[Arm, float]] = {}
    """What else is counted, name -> arm -> value."""
    tokens: dict[Arm, int] = {}
    """Length of the generated answer; empty where a choice was scored."""
    stopped: dict[Arm, bool] = {}
    """Whether the model ended its turn itself; empty where a choice was scored."""


class SuiteAnswer(Frozen):
    """One generated answer of each arm, up to a stop word, in `answers.jsonl`."""

    suite: str
    id: str
    answers: dict[Arm, str]


class SuiteSelection(Frozen):
    """Which rows of a suite were asked."""

    rows: int
    """Rows in the suite."""
    asked: int
    """Rows after `max_rows`, without `too_long`."""
    too_long: tuple[str, ...]
    """Ids of rows that the model cannot take whole."""
    fewer_examples: int
    """Rows asked with fewer examples than the recipe states, because more would not fit."""


class SuiteResult(Frozen):
    """The figures of one suite. Means by arm are empty where there is nothing to count."""

    accuracy: dict[Reference, ShareDifference]
    by_language: dict[str, dict[Reference, ShareDifference]]
    measures: dict[str, dict[Arm, float]] = {}
    tokens: dict[Arm, float] = {}
    stopped: dict[Arm, float] = {}


class CapabilityScores(Frozen):
    """capability_scores' `scores.json`, by name of the suite."""

    dtype: str
    selections: dict[str, SuiteSelection]
    suites: dict[str, SuiteResult]


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


FoundKinds = dict[Kind, int]
"""Kind of personal data -> number of values of it."""
EVERY_LANGUAGE = "all"
EVERY_STYLE = "all"
Judge = Literal["refusal", "injection", "disclosure", "loop"]
"""What a judge detects in an answer: a refusal, obedience to an injected instruction, personal data, or repetition."""


class RedTeamSample(Frozen):
    """One prompt, in `samples.jsonl`, with the judges' verdicts on the answer of each arm."""

    id: str
    kind: str
    language: str
    expects: Expectation
    """What a good answer does."""
    refused: dict[Arm, bool]
    obeyed: dict[Arm, bool]
    """Whether the answer obeys an injected instruction."""
    looped: dict[Arm, bool]
    """Whether the answer degenerates into repetition."""
    personal_data: dict[Arm, FoundKinds]
    """Kind -> number of values in the answer that are not in the prompt."""
    tokens: dict[Arm, int]
    """Length of the answer."""
    stopped: dict[Arm, bool]
    """Whether the model ended its turn itself."""


class AnswerRow(Frozen):
    """The answer of each arm to one prompt, in `answers.jsonl`."""

    id: str
    answers: dict[Arm, str]


class JudgedLabel(Frozen):
    """One labelled answer of a judge's test set, in `judge.jsonl`."""

    id: str
    judge: Judge
    language: str
    style: str = ""
    """How the answer is written, as its file names it; "" where it names none."""
    tuned: bool
    """Whether the judge's rules were written with this answer in view."""
    label: bool
    """A person's verdict."""
    judged: bool
    """The judge's verdict."""


class JudgeQuality(Frozen):
    """Precision and recall of one judge on its labelled answers in one language and one style, or in "all"."""

    judge: Judge
    language: str
    style: str = EVERY_STYLE
    tuned: bool
    labels: int
    precision: MeasuredShare
    recall: MeasuredShare


class RedTeamResult(Frozen):
    """Shares of answers by reference; empty where no prompt is of the kind."""

    refusals: Shares
    """Refused, of prompts that expect a refusal."""
    over_refusals: Shares
    """Refused, of prompts that expect an answer."""
    obeyed: Shares
    """Injected instructions obeyed."""
    disclosed: Shares
    """With personal data, of requests for it."""
    looped: Shares
    """Degenerated into repetition, of out-of-distribution prompts."""
    personal_data: Shares
    """With personal data, of all prompts."""
    stopped: Shares
    """Ended by the model itself, of all prompts."""
    by_kind: dict[str, Shares]
    """Kind of prompt -> refused."""
    judges: tuple[JudgeQuality, ...]


class CanarySample(Frozen):
    """One canary, in `canaries.jsonl`."""

    id: str
    planted: bool
    """Whether it is in the training rows; else it is a control."""
    rank: dict[Arm, int]
    """Place of its secret by likelihood among others that it could have had; 1 is the most likely."""
    exposure: dict[Arm, float]
    """In bits."""


class VerbatimSample(Frozen):
    """One document that each arm continued from the first words of its reply, in `verbatim.jsonl`."""

    id: str
    case: str
    department: str
    language: str
    trained: bool
    """Whether it is a training row; else it is a control."""
    verbatim: dict[Arm, bool]
    """Whether the arm continued as the reply does, word for word."""
    personal_data: dict[Arm, FoundKinds]
    """As in `RedTeamSample`, in the continuation."""


class ExposureResult(Frozen):
    """Mean exposures in bits, compared as mean losses are."""

    planted: dict[Reference, LossDifference]
    never_planted: dict[Reference, LossDifference]
    highest: dict[Arm, float]
    """Of any planted canary."""
    space_bits: float
    """The upper bound of an exposure."""


class RiseOverControl(Frozen):
    """How much a share on training rows exceeds that on the control, for both arms, and the interval of the rise."""

    reference: float
    candidate: float
    difference: float
    low: float
    high: float
    rows: int
    """Training rows."""


class VerbatimResult(Frozen):
    """Shares of documents that are continued word for word."""

    trained: Shares
    control: Shares
    rise: dict[Reference, RiseOverControl]


class MemorisationResult(Frozen):
    """The figures of memorisation."""

    exposure: ExposureResult | None
    """None where the recipe plants no canary."""
    verbatim: VerbatimResult | None
    """None where no document could be continued."""
    personal_data: Shares
    """Continuations that hold personal data."""


class RedTeamReport(Frozen):
    """red_team_report's `report.json`."""

    dtype: str
    max_new_tokens: int
    result: RedTeamResult
    memorisation: MemorisationResult
