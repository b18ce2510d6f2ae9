"""The rows and results of the capability suites, as `capability_scores` stores them."""

from sovereign_pipeline.evaluation.arms.arms import Arm, Reference
from sovereign_pipeline.evaluation.statistics.paired import ShareDifference
from sovereign_pipeline.frozen import Frozen


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
