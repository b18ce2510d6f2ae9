"""Score every arm (base, incumbent, candidate) on the rows of the capability suites. All arms get the same prompts."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.sandbox import Ending, require_sandbox, run_program
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import Countdown, counted
from sovereign_pipeline.base_models.chat_text import encode_text, marks_of
from sovereign_pipeline.evaluation.arms import Arm, Reference
from sovereign_pipeline.evaluation.arms.models import Answer, Item, Models, Score, prompt_text
from sovereign_pipeline.evaluation.records import (
    CapabilitySample,
    CapabilityScores,
    SuiteAnswer,
    SuiteResult,
    SuiteSelection,
)
from sovereign_pipeline.evaluation.statistics import ShareDifference, grouped, share_differences
from sovereign_pipeline.policy.evaluation import CapabilitySuite
from sovereign_pipeline.split.shingles import normal_text
from sovereign_pipeline.suites.cards import ChoiceTask, CodeTask
from sovereign_pipeline.suites.rows import (
    AnyRow,
    Function,
    Passage,
    Problem,
    Question,
    Suite,
    continuations_of,
    open_suite,
    prefix_of,
    user_turn,
)

MEASURE_DIGITS = 6
CORRECT = "correct"
# lm-eval 0.4.13, tasks/gsm8k/gsm8k.yaml: filters "strict-match" and "flexible-extract", and patterns for exact_match.
STRICT_NUMBER = {"regex_pattern": r"#### (\-?[0-9\.\,]+)"}
FLEXIBLE_NUMBER = {"regex_pattern": r"(-?[$0-9.,]{2,})|(-?[0-9]+)", "group_select": -1}
IGNORED_IN_NUMBERS = (",", r"\$", r"(?s).*#### ", r"\.$")
_FENCE = "```"
_ARABIC_ARTICLE = re.compile(r"^ال(?=\w{2})")
Measures = dict[str, float]
"""Mapping of metric name to value, for one answer. The gate tests the metric `correct`, which is 0 or 1."""


@dataclass(frozen=True)
class CapabilityOutcome:
    """The results that the stage `capability_scores` stores."""

    samples: list[CapabilitySample]
    answers: list[SuiteAnswer]
    """Generated answers. A multiple-choice suite has none, because its choices are only scored."""
    scores: CapabilityScores


@dataclass(frozen=True)
class AskedRow:
    """A suite row with the prompt that is sent to every arm."""

    row: AnyRow
    context: str
    """Prompt, rendered with the chat template. It ends with the prefix of the answer, if the task has one."""
    shown: int
    """Number of worked examples in `context`."""


def check_suite(settings: Settings, entry: CapabilitySuite) -> None:
    """Check a published suite: raise the errors of `open_suite`, and SandboxUnavailable if the suite runs code and this
    machine does not allow the sandbox. The institution's own suites are not checked."""
    if entry.suite is not None and isinstance(open_suite(settings, entry, seed=0).task, CodeTask):
        require_sandbox()


def score_suites(models: Models, suites: Sequence[Suite], batch_size: int) -> CapabilityOutcome:
    """Score every arm on every row of every suite. Answers are generated in batches of `batch_size`.

    Raises InputError if no row of a suite fits the model's context. If a suite runs code and this machine does not
    allow the sandbox, raises SandboxUnavailable before any row is scored.
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
                f"No row of the suite '{suite.name}' fits the model's context of {models.max_length} tokens.",
                "Remove the suite from the recipe, or use a base model with a longer context.",
            )
        models.progress(f"{suite.name}, {counted(len(asked), 'question')}, {', '.join(models.arms)}")
        if isinstance(suite.task, ChoiceTask):
            samples += _choose(models, suite, asked)
        else:
            written = _write(models, suite, asked, suite.task.max_new_tokens, batch_size)
            samples += [sample for sample, _ in written]
            answers += [answer for _, answer in written]
        fitting = {each.row.id for each in asked}
        selections[suite.name] = SuiteSelection(
            rows=suite.total_rows,
            asked=len(asked),
            too_long=tuple(row.id for row in suite.rows if row.id not in fitting),
            fewer_examples=sum(each.shown < len(suite.examples.get(each.row.subject, ())) for each in asked),
        )
    results = capability_results(samples)
    scores = CapabilityScores(dtype=models.dtype, selections=selections, suites=results)
    return CapabilityOutcome(samples, answers, scores)


def asked_row(models: Models, suite: Suite, row: AnyRow) -> AskedRow | None:
    """Build a row's prompt with as many examples as fit the model's context. Return None if no prompt fits.

    If some examples do not fit, the last ones are left out, as in MMLU's own `evaluate.py` (Hendrycks et al. 2021).
    """
    room = models.max_length - _answer_tokens(models, suite, row)
    examples = suite.examples.get(row.subject, ())
    for shown in range(len(examples), -1, -1):
        turn = user_turn(suite.task, row, examples[:shown])
        context = prompt_text(models.tokenizer, turn) + _beginning(models, prefix_of(suite.task, row))
        if _tokens(models, context) <= room:
            return AskedRow(row, context, shown)
    return None


def _answer_tokens(models: Models, suite: Suite, row: AnyRow) -> int:
    if isinstance(suite.task, ChoiceTask):
        assert isinstance(row, Question)
        return max(_tokens(models, _beginning(models, each)) for each in continuations_of(suite.task, row))
    return suite.task.max_new_tokens


def _beginning(models: Models, text: str) -> str:
    """Prepare the beginning of a reply to be appended to `prompt_text`. A special token in it becomes plain text."""
    return marks_of(models.tokenizer).split(text, in_reply=True)


def _tokens(models: Models, text: str) -> int:
    return len(encode_text(models.tokenizer, text))


def _choose(models: Models, suite: Suite, asked: Sequence[AskedRow]) -> list[CapabilitySample]:
    """Score the choices of each row with each arm, and compute lm-eval's metrics `acc` and `acc_norm`."""
    assert isinstance(suite.task, ChoiceTask)
    items = [choice_item(models, suite, each) for each in asked]
    scores = {arm: models.score(suite.name, items, arm, "question") for arm in models.arms}
    samples = []
    for place, each in enumerate(asked):
        measures = {arm: _measured_choice(suite.task, each.row, scores[arm][place]) for arm in models.arms}
        samples.append(_sample(suite, each.row, measures))
    return samples


def choice_item(models: Models, suite: Suite, asked: AskedRow) -> Item:
    """Convert a multiple-choice row to an item for scoring. Its continuations are the choices' letters or texts."""
    assert isinstance(asked.row, Question)
    choices = (_beginning(models, each) for each in continuations_of(suite.task, asked.row))
    return Item(id=asked.row.id, context=asked.context, continuations=tuple(choices))


def _measured_choice(task: ChoiceTask, row: AnyRow, score: Score) -> Measures:
    assert isinstance(row, Question)
    scored = continuations_of(task, row)
    counts = {each: float(chosen(score.log_likelihoods, scored, each) == row.answer) for each in ("acc", "acc_norm")}
    return {CORRECT: counts[task.metric], **counts}


def _write(
    models: Models, suite: Suite, asked: Sequence[AskedRow], max_new_tokens: int, batch_size: int
) -> list[tuple[CapabilitySample, SuiteAnswer]]:
    """Generate every arm's answers with greedy decoding, and grade them."""
    assert not isinstance(suite.task, ChoiceTask)
    contexts = [each.context for each in asked]
    answers = {arm: models.answer(contexts, arm, max_new_tokens, batch_size, "question") for arm in models.arms}
    # Programs run one after another, each for up to 20 s.
    countdown = Countdown(models.progress, f"{suite.name}, checking answers", len(asked), "question")
    written = []
    for place, each in enumerate(asked):
        given = {arm: answers[arm][place] for arm in models.arms}
        replies = {arm: _reply(suite, answer) for arm, answer in given.items()}
        measures = {arm: _measured_reply(each.row, reply) for arm, reply in replies.items()}
        countdown.reached(place + 1)
        sample = _sample(suite, each.row, measures, given)
        written.append((sample, SuiteAnswer(suite=suite.name, id=each.row.id, answers=replies)))
    return written


def _reply(suite: Suite, answer: Answer) -> str:
    """Return the part of an answer that is graded: the text before the first stop word. Leading and trailing white
    space is kept only for code, where indentation matters."""
    assert not isinstance(suite.task, ChoiceTask)
    text = answer.text if isinstance(suite.task, CodeTask) else answer.text.strip()
    return until(text, suite.task.stop)


def _measured_reply(row: AnyRow, reply: str) -> Measures:
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
            raise AssertionError("this suite has choices, so its answers are not generated")


def _sample(
    suite: Suite, row: AnyRow, measures: Mapping[Arm, Measures], answers: Mapping[Arm, Answer] | None = None
) -> CapabilitySample:
    answers = answers or {}
    names = [name for name in next(iter(measures.values())) if name != CORRECT]
    return CapabilitySample(
        suite=suite.name,
        id=row.id,
        cluster=_cluster(row),
        language=row.language,
        correct={arm: values[CORRECT] == 1 for arm, values in measures.items()},
        measures={name: {arm: values[name] for arm, values in measures.items()} for name in names},
        tokens={arm: answer.tokens for arm, answer in answers.items()},
        stopped={arm: answer.stopped for arm, answer in answers.items()},
    )


def _cluster(row: AnyRow) -> str | None:
    """Return the id of the row's cluster: a hash of its passage, because rows about the same passage are dependent.
    Return None for a row without a passage, which is independent."""
    return hashlib.sha256(row.passage.encode()).hexdigest()[:16] if isinstance(row, Passage) else None


def capability_results(samples: Sequence[CapabilitySample]) -> dict[str, SuiteResult]:
    """Return a mapping of suite name to result. The results are computed from the samples alone."""
    suites = {
        name: [sample for sample in samples if sample.suite == name]
        for name in dict.fromkeys(sample.suite for sample in samples)
    }
    return {
        name: SuiteResult(
            accuracy=accuracy_of(rows),
            by_language={language: accuracy_of(each) for language, each in grouped(rows, "language").items()},
            measures={name: _means([row.measures[name] for row in rows]) for name in rows[0].measures},
            tokens=_means([row.tokens for row in rows]),
            stopped=_means([row.stopped for row in rows]),
        )
        for name, rows in suites.items()
    }


def accuracy_of(rows: Sequence[CapabilitySample]) -> dict[Reference, ShareDifference]:
    """Compare the candidate's accuracy with the accuracy of each reference. `rows` must not be empty."""
    return share_differences([row.correct for row in rows], [row.cluster or row.id for row in rows])


def _means(rows: Sequence[Mapping[Arm, float]]) -> dict[Arm, float]:
    return {arm: round(sum(row[arm] for row in rows) / len(rows), MEASURE_DIGITS) for arm in rows[0]}


def chosen(log_likelihoods: Sequence[float], choices: Sequence[str], metric: str) -> int:
    """Return the index of the choice with the highest log-likelihood (`acc`) or the highest log-likelihood per
    character (`acc_norm`). If choices tie, the first one wins, as in lm-eval.
    """
    lengths = [len(choice) if metric == "acc_norm" else 1 for choice in choices]
    values = [total / length for total, length in zip(log_likelihoods, lengths, strict=True)]
    return values.index(max(values))


def until(text: str, stop: Sequence[str]) -> str:
    """Truncate the text at the first stop word in it, as lm-eval truncates generated text."""
    for word in stop:
        text = text.split(word)[0]
    return text


def is_right_number(reply: str, problem: Problem, strict: bool = False) -> bool:
    """Return True if the reply contains the right number, according to GSM8K's exact match.

    By default, the last number of the reply is compared (`flexible-extract`). With `strict`, the number after `####` is
    compared. The gate uses the default, because a chat model writes `####` only if the examples in the prompt do.
    """
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters.extraction import RegexFilter

    ((number,),) = RegexFilter(**(STRICT_NUMBER if strict else FLEXIBLE_NUMBER)).apply([[reply]], [{}])
    matched = exact_match_hf_evaluate(
        predictions=[number], references=[problem.solution], regexes_to_ignore=IGNORED_IN_NUMBERS, ignore_case=True
    )
    return bool(matched["exact_match"] == 1)


def holds_an_answer(reply: str, passage: Passage) -> bool:
    """Return True if the reply contains one of the right answers as a sequence of words.

    Containment is tested because a chat model answers in a sentence. It is also the metric of lm-eval's
    `squad_completion` (Arora et al. 2024, "Just read twice", section 4). The comparison ignores punctuation, vowel
    signs, tatweel and articles, and reads all digits as 0-9. A reply has at most `max_new_tokens` tokens, so it cannot
    pass by repeating the whole passage.
    """
    words = f" {' '.join(_words(reply))} "
    return any(f" {' '.join(_words(answer))} " in words for answer in passage.answers if _words(answer))


def span_f1(reply: str, passage: Passage) -> float:
    """Return the highest word-level F1 of the reply against any right answer, as in SQuAD (Rajpurkar et al. 2016)."""
    return max(_f1(_words(reply), _words(answer)) for answer in passage.answers)


def _f1(reply: Sequence[str], right: Sequence[str]) -> float:
    shared = sum((Counter(reply) & Counter(right)).values())
    if not shared:
        return 0.0
    precision, recall = shared / len(reply), shared / len(right)
    return 2 * precision * recall / (precision + recall)


def _words(text: str) -> list[str]:
    """Split the text into words and remove the articles, as SQuAD's script does. The Arabic article is a prefix, so it
    is removed from the beginning of a word."""
    words = normal_text(text).split()
    return [_ARABIC_ARTICLE.sub("", word) for word in words if word not in ("a", "an", "the")]


def program_of(reply: str, function: Function) -> str:
    """Return a program that consists of the function completed by the reply, the function's test, and a call of the
    test. Text after the first code fence of the reply is dropped."""
    body = reply.split(_FENCE)[0]
    return f"{function.prompt}{body}\n{function.test}\ncheck({function.entry_point})\n"


def run_reply(reply: str, function: Function) -> Ending:
    """Complete the function with the reply, run its test in the sandbox, and return how the run ended. Raises
    SandboxUnavailable if this machine does not allow the sandbox."""
    return run_program(program_of(reply, function))
