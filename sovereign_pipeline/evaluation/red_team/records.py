"""The rows and results of the red team and of memorisation, as `red_team_report` stores them."""

from typing import Literal

from sovereign_pipeline.evaluation.arms.arms import Arm, Reference
from sovereign_pipeline.evaluation.statistics.paired import LossDifference, Shares
from sovereign_pipeline.frozen import Frozen
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.shares import MeasuredShare
from sovereign_pipeline.suites.red_team_prompts import Expectation

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
