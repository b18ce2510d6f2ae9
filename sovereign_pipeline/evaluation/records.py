"""The files of the evaluation's artifacts, and the records in them.

`samples.jsonl` contains one row per item, with the observations of every arm. All other values are computed from
`samples.jsonl`, and each gate computes them again. Only `answers.jsonl` contains generated text.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import Frozen
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
TOOL_CALLS = "tool_calls.jsonl"
REPORT_FILE = "report.json"
REPORT_MARKDOWN = "report.md"
REPORT_PAGE = "report.html"
Row = TypeVar("Row", bound=Frozen)


def _of_conversations(default: Any) -> Any:
    """Return a pydantic field for records about conversations. Records about letters are stored without this field."""
    return Field(default=default, exclude_if=lambda value: value == default)


def write_rows(path: Path, rows: Iterable[Frozen]) -> int:
    """Write one JSON object per line and return the number of rows."""
    return write_jsonl(path, (row.model_dump(mode="json") for row in rows))


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Read a file of records of one type. Raises IntegrityError naming file and line for an invalid row."""
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
    """Return one record as indented JSON, with keys in their declared order."""
    return json.dumps(record.model_dump(mode="json"), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


class CapabilitySample(Frozen):
    """One row of one capability suite, in `samples.jsonl`."""

    suite: str
    id: str
    language: str
    cluster: str | None = None
    """Id of the cluster of dependent rows, such as rows about one passage; None if the row is independent."""
    correct: dict[Arm, bool]
    """Arm -> True if the arm's answer is right. The gate tests these values."""
    measures: dict[str, dict[Arm, float]] = {}
    """Other metrics, name -> arm -> value."""
    tokens: dict[Arm, int] = {}
    """Length of the generated answer in tokens; empty if a choice was scored."""
    stopped: dict[Arm, bool] = {}
    """Arm -> True if the model ended its turn itself; empty if a choice was scored."""


class SuiteAnswer(Frozen):
    """The generated answers of the arms to one suite row, each cut at a stop word, in `answers.jsonl`."""

    suite: str
    id: str
    answers: dict[Arm, str]


class SuiteSelection(Frozen):
    """Counts of the suite rows that were scored and skipped."""

    rows: int
    """Number of rows in the suite."""
    asked: int
    """Number of rows that were scored: at most `max_rows` of the recipe, without the rows in `too_long`."""
    too_long: tuple[str, ...]
    """Ids of rows that do not fit the model."""
    fewer_examples: int
    """Number of rows scored with fewer examples than the recipe states, because more examples would not fit the
    model."""


class SuiteResult(Frozen):
    """The results of one suite. A mapping of means by arm is empty if there are no values to average."""

    accuracy: dict[Reference, ShareDifference]
    by_language: dict[str, dict[Reference, ShareDifference]]
    measures: dict[str, dict[Arm, float]] = {}
    tokens: dict[Arm, float] = {}
    stopped: dict[Arm, float] = {}


class CapabilityScores(Frozen):
    """The results of `capability_scores` by suite name, in `scores.json`."""

    dtype: str
    selections: dict[str, SuiteSelection]
    suites: dict[str, SuiteResult]


class DocumentSample(Frozen):
    """The facts about a document that each sample of the document stores."""

    id: str
    case: str
    department: str
    language: str


DOCUMENT_FACTS = set(DocumentSample.model_fields)


class TurnSample(Frozen):
    """One turn of the assistant in a held-out conversation."""

    turn: int
    """Number among the assistant's turns of the conversation, from 1."""
    tokens: int
    losses: dict[Arm, float]


class PrivateSample(DocumentSample):
    """One held-out document, in `samples.jsonl`."""

    tokens: int
    """Number of tokens of the true reply, or of all trained turns of a conversation, end-of-turn tokens included."""
    losses: dict[Arm, float]
    """Loss of the true reply, in nats per token."""
    choices: int
    """Number of replies offered, including the true one; 0 if no choice was scored."""
    correct: dict[Arm, bool]
    """Arm -> True if the true reply has the lowest loss; empty if no choice was scored."""
    turns: tuple[TurnSample, ...] = _of_conversations(())


class PrivateSelection(Frozen):
    """Counts of the held-out documents that were scored and skipped."""

    held_out: int
    """Number of documents with a reply on the held-out side of the split."""
    chosen: int
    too_long: tuple[str, ...]
    """Ids of documents that do not fit the model."""
    distractors: int
    choice_rows: int
    choice_tokens: int
    """Number of tokens of wrong replies that were scored, at most `choice_token_budget` for each arm."""
    choice_token_budget: int


class PrivateResult(Frozen):
    """The results of the held-out documents."""

    loss: dict[Reference, LossDifference]
    """Mean of the documents' losses per token, in which each document counts once."""
    loss_by_token: dict[Reference, LossDifference]
    """Mean loss over all tokens, in which long replies count for more."""
    choice: dict[Reference, ShareDifference]
    """Difference in the share of correct choices; empty if no document had wrong replies to choose from."""
    by_language: dict[str, dict[Reference, LossDifference]]
    by_department: dict[str, dict[Reference, LossDifference]]
    by_turn: dict[int, dict[Reference, LossDifference]] = _of_conversations({})
    """Number of the assistant's turn -> mean loss of this turn, over the conversations that have such a turn."""


class ReplySample(DocumentSample):
    """One held-out document with the scores of each arm's generated reply, in `replies.jsonl`."""

    chrf: dict[Arm, float]
    """Similarity to the true reply, 0 to 1."""
    rouge_l: dict[Arm, float]
    """Similarity to the true reply, 0 to 1."""
    tokens: dict[Arm, int]
    """Number of generated tokens."""
    stopped: dict[Arm, bool]
    """Arm -> True if the model ended its turn itself."""


class AnswerRow(Frozen):
    """The answer of each arm to one held-out document or prompt, in `answers.jsonl`."""

    id: str
    answers: dict[Arm, str]


class ReplyResult(Frozen):
    """The mean similarity between generated and true replies (higher is more similar), and the difference from each
    reference with its confidence interval."""

    chrf: dict[Reference, LossDifference]
    rouge_l: dict[Reference, LossDifference]


class ToolCallSample(DocumentSample):
    """One turn of the assistant in a held-out conversation with tools, in `tool_calls.jsonl`."""

    turn: int
    """Number among the assistant's turns of the conversation, from 1."""
    expected: bool
    """True if the true turn calls a tool."""
    called: dict[Arm, bool]
    valid: dict[Arm, bool]
    """Arm -> True if the arm calls only tools of the conversation, each with arguments that fit the tool's schema."""
    exact: dict[Arm, bool]
    """Arm -> True if the arm's calls have the same names and arguments as the true calls."""


class ToolCallResult(Frozen):
    """Shares of turns of held-out conversations with tools."""

    exact: Shares
    """Share of turns with exact calls, among turns that call a tool."""
    valid: Shares
    """Share of turns with valid calls, among turns that call a tool."""
    false_calls: Shares
    """Share of turns in which the arm calls a tool, among turns that should call no tool."""


class ToolCallSelection(Frozen):
    """Counts of the conversations with tools, and of the turns that were skipped."""

    trained: int
    """Documents with tools in the training part of the split."""
    held_out: int
    """Held-out conversations with tools."""
    too_long: int
    """Turns of these that leave no room for `max_new_tokens`."""


class PrivateScores(Frozen):
    """The results of `private_scores`, in `scores.json`."""

    dtype: str
    selection: PrivateSelection
    result: PrivateResult
    replies: ReplyResult | None = None
    """Results of generated replies; None if the recipe does not request them."""
    tool_calls: ToolCallResult | None = _of_conversations(None)
    """Results of tool calls; None if no turn was scored."""
    tool_call_selection: ToolCallSelection | None = _of_conversations(None)
    """None if no conversation of either side of the split has tools."""


FoundKinds = dict[Kind, int]
"""Kind of personal data -> number of values found."""
EVERY_LANGUAGE = "all"
EVERY_STYLE = "all"
Judge = Literal["refusal", "injection", "disclosure", "loop"]
"""Behaviour that a judge detects in an answer: a refusal, obedience to an injected instruction, personal data, or
repetition."""


class RedTeamSample(Frozen):
    """One red-team prompt with the judges' verdicts on each arm's answer, in `samples.jsonl`."""

    id: str
    kind: str
    language: str
    expects: Expectation
    """Behaviour that a good answer to the prompt shows, such as a refusal."""
    turns: int = _of_conversations(1)
    """Number of turns of the prompt."""
    refused: dict[Arm, bool]
    obeyed: dict[Arm, bool]
    """Arm -> True if the answer obeys an injected instruction."""
    looped: dict[Arm, bool]
    """Arm -> True if the answer degenerates into repetition."""
    personal_data: dict[Arm, FoundKinds]
    """Kind of personal data -> number of values in the answer that are not in the prompt."""
    tokens: dict[Arm, int]
    """Length of the answer in tokens."""
    stopped: dict[Arm, bool]
    """Arm -> True if the model ended its turn itself."""


class JudgedLabel(Frozen):
    """One labelled answer of a judge's test set, in `judge.jsonl`."""

    id: str
    judge: Judge
    language: str
    style: str = ""
    """Style of the answer, as stated in the file of labelled answers; "" if no style is stated."""
    tuned: bool
    """True if the judge's rules were written with this answer in view."""
    label: bool
    """The verdict of a person: the label."""
    judged: bool
    """The judge's verdict."""


class JudgeQuality(Frozen):
    """Precision and recall of one judge on its labelled answers in one language and one style. "all" means all
    languages, or all styles."""

    judge: Judge
    language: str
    style: str = EVERY_STYLE
    tuned: bool
    labels: int
    precision: MeasuredShare
    recall: MeasuredShare


class RedTeamResult(Frozen):
    """Shares of answers, compared with each reference. A share is empty if there are no prompts of its kind."""

    refusals: Shares
    """Share of refusals among the answers to prompts that expect a refusal."""
    over_refusals: Shares
    """Share of refusals among the answers to prompts that expect an answer."""
    obeyed: Shares
    """Share of injected instructions that the arm obeyed."""
    disclosed: Shares
    """Share of answers with personal data, among the answers to prompts that request personal data."""
    looped: Shares
    """Share of repetitive answers, among the answers to out-of-distribution prompts."""
    personal_data: Shares
    """Share of answers with personal data, among all answers."""
    stopped: Shares
    """Share of answers that the model ended itself, among all answers."""
    by_kind: dict[str, Shares]
    """Kind of prompt -> share of refusals."""
    judges: tuple[JudgeQuality, ...]


class CanarySample(Frozen):
    """One canary, in `canaries.jsonl`."""

    id: str
    planted: bool
    """True if the canary is in the training rows; False for a control."""
    rank: dict[Arm, int]
    """Rank of the canary's secret by likelihood among alternative secrets; 1 is the most likely."""
    exposure: dict[Arm, float]
    """Exposure in bits."""


class VerbatimSample(DocumentSample):
    """One document that each arm continued from the first words of its reply, in `verbatim.jsonl`."""

    trained: bool
    """True for a training row; False for a control."""
    verbatim: dict[Arm, bool]
    """Arm -> True if the arm's continuation equals the reply word for word."""
    personal_data: dict[Arm, FoundKinds]
    """Kind of personal data -> number of values in the continuation, counted as in `RedTeamSample`."""


class ExposureResult(Frozen):
    """Mean exposures in bits, with the difference from each reference, computed as for mean losses."""

    planted: dict[Reference, LossDifference]
    never_planted: dict[Reference, LossDifference]
    highest: dict[Arm, float]
    """Highest exposure of any planted canary."""
    space_bits: float
    """Upper bound of an exposure, in bits."""


class RiseOverControl(Frozen):
    """A share's rise on training rows minus its rise on control rows, with the interval of this difference."""

    reference: float
    candidate: float
    difference: float
    low: float
    high: float
    rows: int
    """Number of training rows."""


class VerbatimResult(Frozen):
    """Shares of documents that the arms continue verbatim."""

    trained: Shares
    control: Shares
    rise: dict[Reference, RiseOverControl]


class MemorisationResult(Frozen):
    """The memorisation results."""

    exposure: ExposureResult | None
    """Exposure of canaries; None if the recipe plants no canaries."""
    verbatim: VerbatimResult | None
    """Verbatim continuation; None if no document could be continued."""
    personal_data: Shares
    """Share of continuations that contain personal data."""


class RedTeamReport(Frozen):
    """The results of `red_team_report`, in `report.json`."""

    dtype: str
    max_new_tokens: int
    result: RedTeamResult
    memorisation: MemorisationResult
