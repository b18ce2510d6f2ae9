"""Define the files of the evaluation's artifacts, and the records in these files.

Each JSONL file has one row per item. Gates recompute their figures from these rows. Generated text is only in
`answers.jsonl`.
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
    """Return a pydantic field of records about conversations. Its default value is not stored."""
    return Field(default=default, exclude_if=lambda value: value == default)


def write_rows(path: Path, rows: Iterable[Frozen]) -> int:
    """Write one JSON object per line and return the number of rows."""
    return write_jsonl(path, (row.model_dump(mode="json") for row in rows))


def read_rows(path: Path, kind: type[Row]) -> list[Row]:
    """Read a file of records of one type. Raises IntegrityError for an invalid row, with its line number."""
    rows = []
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            rows.append(kind.model_validate(row))
        except ValueError:
            raise IntegrityError(
                f"{path}, line {number}: the row is not a valid {kind.__name__}.", "Materialize the artifact again."
            ) from None
    return rows


def as_json(record: Frozen) -> str:
    """Return one record as indented JSON, with keys in their declared order."""
    return json.dumps(record.model_dump(mode="json"), ensure_ascii=False, indent=1, allow_nan=False) + "\n"


class CapabilitySample(Frozen):
    """The observations on one row of a capability suite, stored in `samples.jsonl`."""

    suite: str
    id: str
    language: str
    cluster: str | None = None
    """Id of the row's cluster. Rows of one cluster, such as rows about one passage, are dependent. None if the row is
    independent."""
    correct: dict[Arm, bool]
    """Arm -> True if the arm's answer is right. The gate tests these values."""
    measures: dict[str, dict[Arm, float]] = {}
    """Further metrics: name of the metric -> arm -> value."""
    tokens: dict[Arm, int] = {}
    """Arm -> length of the generated answer in tokens; empty if choices were scored."""
    stopped: dict[Arm, bool] = {}
    """Arm -> True if the model ended its answer with an end-of-turn token; empty if choices were scored."""


class SuiteAnswer(Frozen):
    """The arms' generated answers to one suite row, truncated at the first stop word, stored in `answers.jsonl`."""

    suite: str
    id: str
    answers: dict[Arm, str]


class SuiteSelection(Frozen):
    """Counts of the rows of a suite that were scored or skipped."""

    rows: int
    """Number of rows in the suite."""
    asked: int
    """Number of rows that were scored: at most the recipe's `max_rows`, without the rows in `too_long`."""
    too_long: tuple[str, ...]
    """Ids of rows that do not fit the model's context, even without examples."""
    fewer_examples: int
    """Number of rows scored with fewer examples than the recipe states, to fit the model's context."""


class SuiteResult(Frozen):
    """The results of one suite. `measures`, `tokens` and `stopped` contain each arm's mean over the rows. They are
    empty if the rows have no such values."""

    accuracy: dict[Reference, ShareDifference]
    by_language: dict[str, dict[Reference, ShareDifference]]
    measures: dict[str, dict[Arm, float]] = {}
    tokens: dict[Arm, float] = {}
    stopped: dict[Arm, float] = {}


class CapabilityScores(Frozen):
    """The results of the stage `capability_scores`, stored in `scores.json`. Both mappings are keyed by suite name."""

    dtype: str
    selections: dict[str, SuiteSelection]
    suites: dict[str, SuiteResult]


class DocumentSample(Frozen):
    """Base class for samples of a document. Contains the facts about the document that each sample stores."""

    id: str
    case: str
    department: str
    language: str


DOCUMENT_FACTS = set(DocumentSample.model_fields)


class TurnSample(Frozen):
    """The losses of one assistant turn in a held-out conversation."""

    turn: int
    """Number of the turn among the assistant's turns in the conversation, from 1."""
    tokens: int
    losses: dict[Arm, float]


class PrivateSample(DocumentSample):
    """The observations on one held-out document, stored in `samples.jsonl`."""

    tokens: int
    """Number of tokens of the true reply (or of all trained turns of a conversation), including end-of-turn tokens."""
    losses: dict[Arm, float]
    """Arm -> loss of the true reply (or of all trained turns of a conversation), in nats per token."""
    choices: int
    """Number of replies in the multiple choice, including the true reply; 0 if there was no multiple choice."""
    correct: dict[Arm, bool]
    """Arm -> True if the true reply has the lowest loss; empty if there was no multiple choice."""
    turns: tuple[TurnSample, ...] = _of_conversations(())


class PrivateSelection(Frozen):
    """Counts of the held-out documents that were scored or skipped."""

    held_out: int
    """Number of held-out documents that have a reply."""
    chosen: int
    too_long: tuple[str, ...]
    """Ids of documents that do not fit the model's context."""
    distractors: int
    choice_rows: int
    choice_tokens: int
    """Number of tokens of wrong replies that each arm scored, at most `choice_token_budget`."""
    choice_token_budget: int


class PrivateResult(Frozen):
    """The results on the held-out documents."""

    loss: dict[Reference, LossDifference]
    """Mean over the documents of their loss per token. Every document has the same weight."""
    loss_by_token: dict[Reference, LossDifference]
    """Mean loss over all tokens. A longer reply has more weight."""
    choice: dict[Reference, ShareDifference]
    """Difference in the share of correct choices; empty if no document had wrong replies to choose from."""
    by_language: dict[str, dict[Reference, LossDifference]]
    by_department: dict[str, dict[Reference, LossDifference]]
    by_turn: dict[int, dict[Reference, LossDifference]] = _of_conversations({})
    """Turn number -> mean loss of the assistant's scored turns with this number, over all conversations."""


class ReplySample(DocumentSample):
    """The scores of each arm's generated reply to one held-out document, stored in `replies.jsonl`."""

    chrf: dict[Arm, float]
    """Arm -> similarity to the true reply, 0 to 1."""
    rouge_l: dict[Arm, float]
    """Arm -> similarity to the true reply, 0 to 1."""
    tokens: dict[Arm, int]
    """Arm -> number of generated tokens."""
    stopped: dict[Arm, bool]
    """Arm -> True if the model ended its reply with an end-of-turn token."""


class AnswerRow(Frozen):
    """The answer of each arm to one held-out document or prompt, stored in `answers.jsonl`."""

    id: str
    answers: dict[Arm, str]


class ReplyResult(Frozen):
    """The mean similarity between generated and true replies (higher is more similar), and the difference from each
    reference with its confidence interval."""

    chrf: dict[Reference, LossDifference]
    rouge_l: dict[Reference, LossDifference]


class ToolCallSample(DocumentSample):
    """The observations on one assistant turn in a held-out conversation with tools, stored in `tool_calls.jsonl`."""

    turn: int
    """Number of the turn among the assistant's turns in the conversation, from 1."""
    expected: bool
    """True if the true turn contains a tool call."""
    called: dict[Arm, bool]
    valid: dict[Arm, bool]
    """Arm -> True if the arm calls a tool, and each call names a tool of the conversation and fits the tool's
    schema."""
    exact: dict[Arm, bool]
    """Arm -> True if the arm calls a tool, and its calls equal the true calls in names and arguments, in any order."""


class ToolCallResult(Frozen):
    """Shares of the assistant's turns in held-out conversations with tools."""

    exact: Shares
    """Share of turns with exact calls, among turns that should call a tool."""
    valid: Shares
    """Share of turns with valid calls, among turns that should call a tool."""
    false_calls: Shares
    """Share of turns in which the arm calls a tool, among turns that should call no tool."""


class ToolCallSelection(Frozen):
    """Counts of the conversations with tools, and of the turns that were skipped."""

    trained: int
    """Number of training documents with tools."""
    held_out: int
    """Number of held-out conversations with tools."""
    too_long: int
    """Number of turns in held-out conversations that leave no room for `max_new_tokens` in the model's context."""


class PrivateScores(Frozen):
    """The results of the stage `private_scores`, stored in `scores.json`."""

    dtype: str
    selection: PrivateSelection
    result: PrivateResult
    replies: ReplyResult | None = None
    """Results of generated replies; None if the recipe does not request them."""
    tool_calls: ToolCallResult | None = _of_conversations(None)
    """Results of tool calls; None if no turn was scored."""
    tool_call_selection: ToolCallSelection | None = _of_conversations(None)
    """Counts of conversations with tools; None if neither training nor held-out documents have tools."""


FoundKinds = dict[Kind, int]
"""Kind of personal data -> number of values found."""
EVERY_LANGUAGE = "all"
EVERY_STYLE = "all"
Judge = Literal["refusal", "injection", "disclosure", "loop"]
"""Behaviour of an answer: refusal, obedience to an injected instruction, disclosure of personal data, or repetition."""


class RedTeamSample(Frozen):
    """One red-team prompt with the judges' verdicts on each arm's answer, stored in `samples.jsonl`."""

    id: str
    kind: str
    language: str
    expects: Expectation
    """Behaviour that a good answer to the prompt shows, such as a refusal."""
    turns: int = _of_conversations(1)
    """Number of messages in the prompt."""
    refused: dict[Arm, bool]
    obeyed: dict[Arm, bool]
    """Arm -> True if the answer obeys an injected instruction."""
    looped: dict[Arm, bool]
    """Arm -> True if the answer degenerates into repetition."""
    personal_data: dict[Arm, FoundKinds]
    """Arm -> kind of personal data -> number of values in the answer that are not in the prompt."""
    tokens: dict[Arm, int]
    """Arm -> length of the answer in tokens."""
    stopped: dict[Arm, bool]
    """Arm -> True if the model ended its answer with an end-of-turn token."""


class JudgedLabel(Frozen):
    """One labelled answer of a judge's test set with the judge's verdict, stored in `judge.jsonl`."""

    id: str
    judge: Judge
    language: str
    style: str = ""
    """Style of the answer, as stated in the file of labelled answers; "" if no style is stated."""
    tuned: bool
    """True if this answer was used to write the judge's rules."""
    label: bool
    """The label that a person gave the answer: True if the answer shows the behaviour."""
    judged: bool
    """The judge's verdict: True if the judge detected the behaviour."""


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
    """Shares of answers, compared with each reference. A share is empty if the red team has no prompts for it."""

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
    """Share of answers that the model ended with an end-of-turn token, among all answers."""
    by_kind: dict[str, Shares]
    """Kind of prompt -> share of refusals."""
    judges: tuple[JudgeQuality, ...]


class CanarySample(Frozen):
    """The observations on one canary, stored in `canaries.jsonl`."""

    id: str
    planted: bool
    """True if the canary is in the training rows; False for a control."""
    rank: dict[Arm, int]
    """Arm -> rank of the canary's secret by likelihood among alternative secrets. Rank 1 is the most likely."""
    exposure: dict[Arm, float]
    """Arm -> exposure of the canary's secret, in bits."""


class VerbatimSample(DocumentSample):
    """The observations on one document whose reply each arm continued, stored in `verbatim.jsonl`."""

    trained: bool
    """True for a training document; False for a held-out document (the control)."""
    verbatim: dict[Arm, bool]
    """Arm -> True if the rest of the true reply begins with the arm's continuation, word for word."""
    personal_data: dict[Arm, FoundKinds]
    """Arm -> kind of personal data -> number of values in the continuation that are not in the prompt."""


class ExposureResult(Frozen):
    """Mean exposures in bits, compared with each reference. Intervals are computed as for mean losses."""

    planted: dict[Reference, LossDifference]
    never_planted: dict[Reference, LossDifference]
    highest: dict[Arm, float]
    """Arm -> highest exposure of any planted canary."""
    space_bits: float
    """Upper bound of an exposure, in bits."""


class RiseOverControl(Frozen):
    """A share's rise on training documents minus its rise on held-out documents (the control), with a confidence
    interval. A rise is the candidate's share minus the reference's share. `reference` and `candidate` are the share of
    that arm on training documents minus its share on held-out documents."""

    reference: float
    candidate: float
    difference: float
    low: float
    high: float
    rows: int
    """Number of training documents."""


class VerbatimResult(Frozen):
    """Shares of documents that the arms continue verbatim."""

    trained: Shares
    control: Shares
    rise: dict[Reference, RiseOverControl]


class MemorisationResult(Frozen):
    """The results of the memorisation tests."""

    exposure: ExposureResult | None
    """Exposure of canaries; None if the recipe plants no canaries."""
    verbatim: VerbatimResult | None
    """Verbatim continuation; None if no training document, or no held-out document, could be continued."""
    personal_data: Shares
    """Share of continuations that contain personal data."""


class RedTeamReport(Frozen):
    """The results of the stage `red_team_report`, stored in `report.json`."""

    dtype: str
    max_new_tokens: int
    result: RedTeamResult
    memorisation: MemorisationResult
