"""Whether the candidate still knows what base and incumbent know: suites, the same items in the same words for all.

What belongs here: asking a suite and counting what is right. Which rows and words: `suites.py`, `suite_prompts.py`;
what is right: `suite_answers.py`. The margins are the recipe's; what they mean for a release is `report.py`'s.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sovereign_pipeline.errors import InputError
from sovereign_pipeline.evaluation.arms.arms import Arm, Reference
from sovereign_pipeline.evaluation.arms.chat import prompt_text
from sovereign_pipeline.evaluation.arms.models import Answer, Item, Models, Score
from sovereign_pipeline.evaluation.capability.records import (
    CapabilitySample,
    CapabilityScores,
    SuiteAnswer,
    SuiteResult,
    SuiteSelection,
)
from sovereign_pipeline.evaluation.capability.sandbox import require_sandbox
from sovereign_pipeline.evaluation.capability.suite_answers import (
    chosen,
    holds_an_answer,
    is_right_number,
    run_reply,
    span_f1,
    until,
)
from sovereign_pipeline.evaluation.statistics.paired import ShareDifference, share_differences
from sovereign_pipeline.suites.cards import ChoiceTask, CodeTask
from sovereign_pipeline.suites.rows import AnyRow, Function, Passage, Problem, Question
from sovereign_pipeline.suites.suites import Suite
from sovereign_pipeline.suites.wording import continuations_of, prefix_of, user_turn

MEASURE_DIGITS = 6

CORRECT = "correct"

Measures = dict[str, float]
"""What is counted of one answer, name -> value; CORRECT is what the gates go by, 0 or 1."""


@dataclass(frozen=True)
class CapabilityOutcome:
    """answers: of the suites for which the models write something."""

    samples: list[CapabilitySample]
    answers: list[SuiteAnswer]
    scores: CapabilityScores


@dataclass(frozen=True)
class AskedRow:
    """context: the conversation up to where the answer begins, in the chat template's marks. shown: how many examples
    are in it."""

    row: AnyRow
    context: str
    shown: int


def score_suites(models: Models, suites: Sequence[Suite], batch_size: int) -> CapabilityOutcome:
    """Ask every row of every suite of every arm.

    batch_size: replies written at once. Raises InputError when no row of a suite fits the model, and
    SandboxUnavailable before anything is asked when a suite runs code and this machine does not allow the limits.
    """
    if any(isinstance(suite.task, CodeTask) for suite in suites):
        require_sandbox()
    samples: list[CapabilitySample] = []
    answers: list[SuiteAnswer] = []
    selections: dict[str, SuiteSelection] = {}
    for suite in suites:
        asked = [each for row in suite.rows if (each := asked_row(models, suite, row)) is not None]
        if not asked:
            raise InputError(
                f"No row of the suite '{suite.name}' can be asked: the model takes {models.max_length} tokens. Take "
                f"the suite out of the recipe, or use a base model that takes more."
            )
        if isinstance(suite.task, ChoiceTask):
            samples += _choose(models, suite, asked)
        else:
            written = _write(models, suite, asked, suite.task.max_new_tokens, batch_size)
            samples += [sample for sample, _ in written]
            answers += [answer for _, answer in written]
        fitting = {each.row.id for each in asked}
        selections[suite.name] = SuiteSelection(
            rows=suite.rows_there,
            asked=len(asked),
            too_long=tuple(row.id for row in suite.rows if row.id not in fitting),
            fewer_examples=sum(each.shown < len(suite.examples.get(each.row.subject, ())) for each in asked),
        )
    results = capability_results(samples)
    scores = CapabilityScores(dtype=models.dtype, selections=selections, suites=results)
    return CapabilityOutcome(samples, answers, scores)


def asked_row(models: Models, suite: Suite, row: AnyRow) -> AskedRow | None:
    """The row with as many of its examples as the model takes, the last ones left out first, as MMLU's own script does
    (Hendrycks et al. 2021, `evaluate.py`); None when it is too long without any."""
    room = models.max_length - _room_for_the_answer(models, suite, row)
    examples = suite.examples.get(row.subject, ())
    for shown in range(len(examples), -1, -1):
        turn = user_turn(suite.task, row, examples[:shown])
        context = prompt_text(models.tokenizer, turn) + prefix_of(suite.task, row)
        if _tokens(models, context) <= room:
            return AskedRow(row, context, shown)
    return None


def _room_for_the_answer(models: Models, suite: Suite, row: AnyRow) -> int:
    if isinstance(suite.task, ChoiceTask):
        assert isinstance(row, Question)
        return max(_tokens(models, each) for each in continuations_of(suite.task, row))
    return suite.task.max_new_tokens


def _tokens(models: Models, text: str) -> int:
    return len(models.tokenizer(text, add_special_tokens=False)["input_ids"])


def _choose(models: Models, suite: Suite, asked: Sequence[AskedRow]) -> list[CapabilitySample]:
    """Which choice each arm finds the most likely, by both of lm-eval's counts."""
    assert isinstance(suite.task, ChoiceTask)
    items = [choice_item(suite, each) for each in asked]
    scores = {arm: models.score(suite.name, items, arm) for arm in models.arms}
    samples = []
    for place, each in enumerate(asked):
        counted = {arm: _counted_choice(suite.task, each.row, scores[arm][place]) for arm in models.arms}
        samples.append(_sample(suite, each.row, counted))
    return samples


def choice_item(suite: Suite, asked: AskedRow) -> Item:
    """A question as it is scored: its context, and the letters or texts of its choices."""
    assert isinstance(asked.row, Question)
    return Item(id=asked.row.id, context=asked.context, continuations=continuations_of(suite.task, asked.row))


def _counted_choice(task: ChoiceTask, row: AnyRow, score: Score) -> Measures:
    assert isinstance(row, Question)
    scored = continuations_of(task, row)
    counts = {each: float(chosen(score.log_likelihoods, scored, each) == row.answer) for each in ("acc", "acc_norm")}
    return {CORRECT: counts[task.metric], **counts}


def _write(
    models: Models, suite: Suite, asked: Sequence[AskedRow], max_new_tokens: int, batch_size: int
) -> list[tuple[CapabilitySample, SuiteAnswer]]:
    """What each arm writes, greedily, and whether it is right."""
    assert not isinstance(suite.task, ChoiceTask)
    contexts = [each.context for each in asked]
    answers = {arm: models.answer(contexts, arm, max_new_tokens, batch_size) for arm in models.arms}
    written = []
    for place, each in enumerate(asked):
        said = {arm: answers[arm][place] for arm in models.arms}
        replies = {arm: _reply(suite, answer) for arm, answer in said.items()}
        counted = {arm: _counted_reply(each.row, reply) for arm, reply in replies.items()}
        sample = _sample(suite, each.row, counted, said)
        written.append((sample, SuiteAnswer(suite=suite.name, id=each.row.id, answers=replies)))
    return written


def _reply(suite: Suite, answer: Answer) -> str:
    """What is looked at of an answer. Code begins with its indentation; to other replies white space means nothing."""
    assert not isinstance(suite.task, ChoiceTask)
    text = answer.text if isinstance(suite.task, CodeTask) else answer.text.strip()
    return until(text, suite.task.stop)


def _counted_reply(row: AnyRow, reply: str) -> Measures:
    match row:
        case Problem():
            right = float(is_right_number(reply, row))
            return {CORRECT: right, "strict_match": float(is_right_number(reply, row, strict=True))}
        case Passage():
            return {CORRECT: float(holds_an_answer(reply, row)), "f1": round(span_f1(reply, row), MEASURE_DIGITS)}
        case Function():
            ending = run_reply(reply, row)
            return {CORRECT: float(ending == "passed"), "timeout": float(ending == "timeout")}
        case Question():
            raise AssertionError("a question is not answered by writing")


def _sample(
    suite: Suite, row: AnyRow, counted: Mapping[Arm, Measures], said: Mapping[Arm, Answer] | None = None
) -> CapabilitySample:
    said = said or {}
    names = [name for name in next(iter(counted.values())) if name != CORRECT]
    return CapabilitySample(
        suite=suite.name,
        id=row.id,
        cluster=_cluster(row),
        language=row.language,
        correct={arm: counts[CORRECT] == 1 for arm, counts in counted.items()},
        measures={name: {arm: counts[name] for arm, counts in counted.items()} for name in names},
        tokens={arm: answer.tokens for arm, answer in said.items()},
        stopped={arm: answer.stopped for arm, answer in said.items()},
    )


def _cluster(row: AnyRow) -> str | None:
    """What a row shares with others: questions about one passage are not independent of each other."""
    return hashlib.sha256(row.passage.encode()).hexdigest()[:16] if isinstance(row, Passage) else None


def capability_results(samples: Sequence[CapabilitySample]) -> dict[str, SuiteResult]:
    """Everything that is said about the suites, from their samples alone. Name of the suite -> result."""
    suites = {name: [sample for sample in samples if sample.suite == name] for name in _in_order(samples)}
    return {
        name: SuiteResult(
            accuracy=accuracy_of(rows),
            by_language={
                language: accuracy_of([row for row in rows if row.language == language])
                for language in sorted({row.language for row in rows})
            },
            measures={name: _means([row.measures[name] for row in rows]) for name in rows[0].measures},
            tokens=_means([row.tokens for row in rows]),
            stopped=_means([row.stopped for row in rows]),
        )
        for name, rows in suites.items()
    }


def accuracy_of(rows: Sequence[CapabilitySample]) -> dict[Reference, ShareDifference]:
    """Accuracy of the candidate over some rows against each reference. Not empty."""
    return share_differences([row.correct for row in rows], [row.cluster or row.id for row in rows])


def _means(rows: Sequence[Mapping[Arm, float]]) -> dict[Arm, float]:
    """Mean over the rows, by arm."""
    return {arm: round(sum(row[arm] for row in rows) / len(rows), MEASURE_DIGITS) for arm in rows[0]}


def _in_order(samples: Sequence[CapabilitySample]) -> list[str]:
    return list(dict.fromkeys(sample.suite for sample in samples))
