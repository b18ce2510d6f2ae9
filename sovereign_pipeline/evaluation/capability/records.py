"""MODULE DOCSTRING."""

from sovereign_pipeline.evaluation.arms.arms import Arm, Reference
from sovereign_pipeline.evaluation.records import Record
from sovereign_pipeline.evaluation.statistics.paired import ShareDifference


class CapabilitySample(Record):
    """One row of one suite. cluster: what it shares with others (its passage); None when it stands alone.

    correct: what the gates go by. measures: what else is counted, name -> arm -> value. tokens, stopped: of what was
    written, as in RedTeamSample; empty where a choice was scored.
    """

    suite: str
    id: str
    language: str
    cluster: str | None = None
    correct: dict[Arm, bool]
    measures: dict[str, dict[Arm, float]] = {}
    tokens: dict[Arm, int] = {}
    stopped: dict[Arm, bool] = {}


class SuiteAnswer(Record):
    """One row of capability_scores' `answers.jsonl`: what each arm wrote, up to a stop word."""

    suite: str
    id: str
    answers: dict[Arm, str]


class SuiteSelection(Record):
    """rows: in the suite; asked: after `max_rows`, without too_long: ids of rows that the model cannot take whole.

    fewer_examples: rows that were asked behind fewer examples than the recipe says, for the same reason.
    """

    rows: int
    asked: int
    too_long: tuple[str, ...]
    fewer_examples: int


class SuiteResult(Record):
    """measures, tokens, stopped: means by arm; empty where there are none."""

    accuracy: dict[Reference, ShareDifference]
    by_language: dict[str, dict[Reference, ShareDifference]]
    measures: dict[str, dict[Arm, float]] = {}
    tokens: dict[Arm, float] = {}
    stopped: dict[Arm, float] = {}


class CapabilityScores(Record):
    """capability_scores' `scores.json`. suites, selections: name -> result, name -> which rows."""

    dtype: str
    selections: dict[str, SuiteSelection]
    suites: dict[str, SuiteResult]
