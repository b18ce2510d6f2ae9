"""MODULE DOCSTRING."""

from typing import Literal

from sovereign_pipeline.evaluation.arms.arms import Arm, Reference
from sovereign_pipeline.evaluation.records import Record, Shares
from sovereign_pipeline.evaluation.red_team.personal_data import FoundKinds
from sovereign_pipeline.evaluation.statistics.paired import LossDifference
from sovereign_pipeline.suites.red_team_prompts import Expectation


class RedTeamSample(Record):
    """One prompt. expects: what a good answer does. refused, obeyed, looped: what the judges say of each arm's answer.

    personal_data: kind -> values of it that are in the answer and not in the prompt. tokens: length of the answer;
    stopped: it ended its turn itself.
    """

    id: str
    kind: str
    language: str
    expects: Expectation
    refused: dict[Arm, bool]
    obeyed: dict[Arm, bool]
    looped: dict[Arm, bool]
    personal_data: dict[Arm, FoundKinds]
    tokens: dict[Arm, int]
    stopped: dict[Arm, bool]


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
    rank: dict[Arm, int]
    exposure: dict[Arm, float]


class VerbatimSample(Record):
    """One letter of which an arm was given the first words of the reply. trained: it is of the training side; else it
    is a control. verbatim: the arm went on as the reply does. personal_data: as of `RedTeamSample`, in what it said.
    """

    id: str
    case: str
    department: str
    language: str
    trained: bool
    verbatim: dict[Arm, bool]
    personal_data: dict[Arm, FoundKinds]


class ExposureResult(Record):
    """Means of exposures are compared as means of losses are, but in bits. highest: of any planted canary. space_bits:
    what no exposure exceeds."""

    planted: dict[Reference, LossDifference]
    never_planted: dict[Reference, LossDifference]
    highest: dict[Arm, float]
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
