"""What every side answers to prompts that should be refused, and to harmless ones that only sound like it.

What belongs here: asking, and counting refusals. What a refusal is: `refusals.py`. The prompts are the institution's.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sovereign_pipeline.dataset.formats import user_message
from sovereign_pipeline.errors import SourceError
from sovereign_pipeline.evaluation.chat import prompt_text
from sovereign_pipeline.evaluation.items import EvaluationItem, read_items
from sovereign_pipeline.evaluation.models import Answer, Models, Reference, Side, references_in
from sovereign_pipeline.evaluation.records import JudgedLabel, Record, RedTeamReport, RedTeamResult, RedTeamSample
from sovereign_pipeline.evaluation.refusals import is_refusal, judge_quality
from sovereign_pipeline.evaluation.statistics import ShareDifference, compare_shares

# Prompts answered at once: the largest that was measured to pay on 2 CPU cores.
GENERATION_BATCH = 20


class RedTeamPrompt(EvaluationItem):
    kind: Literal["harmful", "disclosure", "injection", "benign"]
    prompt: str
    expects: Literal["refusal", "answer"]


class LabelledAnswer(EvaluationItem):
    """An answer of which a person said whether it refuses."""

    answer: str
    refused: bool


class AnswerRow(Record):
    """One row of `answers.jsonl`: what each side said. No other file of red_team_report holds generated text."""

    id: str
    answers: dict[Side, str]


@dataclass(frozen=True)
class RedTeamOutcome:
    samples: list[RedTeamSample]
    answers: list[AnswerRow]
    labels: list[JudgedLabel]
    report: RedTeamReport


def read_prompts(path: Path) -> list[RedTeamPrompt]:
    """Raises SourceError (see `read_items`), also when one of the two expectations has no prompt."""
    prompts = read_items(path, RedTeamPrompt)
    for expected in ("refusal", "answer"):
        if not any(prompt.expects == expected for prompt in prompts):
            raise SourceError(f"{path}: no prompt expects '{expected}'. Add some, or over-caution would go unseen.")
    return prompts


def read_labels(path: Path) -> list[LabelledAnswer]:
    return read_items(path, LabelledAnswer)


def run_red_team(
    models: Models,
    prompts: Sequence[RedTeamPrompt],
    labels: Sequence[LabelledAnswer],
    instruction: str,
    max_new_tokens: int,
) -> RedTeamOutcome:
    """Let every side answer every prompt (greedy, behind the line's instruction as served) and judge the answers."""
    texts = [prompt_text(models.tokenizer, user_message(instruction, prompt.prompt)) for prompt in prompts]
    answers = {side: models.answer(texts, side, max_new_tokens, GENERATION_BATCH) for side in models.sides}
    rows = [(prompt, {side: answers[side][row] for side in models.sides}) for row, prompt in enumerate(prompts)]
    samples = [_sample(*row) for row in rows]
    judged = [
        JudgedLabel(id=label.id, language=label.language, refused=label.refused, judged=is_refusal(label.answer))
        for label in labels
    ]
    return RedTeamOutcome(
        samples=samples,
        answers=[
            AnswerRow(id=prompt.id, answers={side: answer.text.strip() for side, answer in said.items()})
            for prompt, said in rows
        ],
        labels=judged,
        report=RedTeamReport(
            dtype=models.dtype, max_new_tokens=max_new_tokens, result=red_team_result(samples, judged)
        ),
    )


def red_team_result(samples: Sequence[RedTeamSample], labels: Sequence[JudgedLabel]) -> RedTeamResult:
    """Everything that is said about the red team, from its samples and the judge's labels alone."""
    return RedTeamResult(
        refusals=_refused([sample for sample in samples if sample.expects == "refusal"]),
        over_refusals=_refused([sample for sample in samples if sample.expects == "answer"]),
        by_kind={
            kind: _refused([sample for sample in samples if sample.kind == kind])
            for kind in sorted({sample.kind for sample in samples})
        },
        stopped=_shares(samples, lambda each: each.stopped),
        judge=judge_quality(labels),
        judge_by_language={
            language: judge_quality([label for label in labels if label.language == language])
            for language in sorted({label.language for label in labels})
        },
    )


def _sample(prompt: RedTeamPrompt, said: Mapping[Side, Answer]) -> RedTeamSample:
    return RedTeamSample(
        id=prompt.id,
        kind=prompt.kind,
        language=prompt.language,
        expects=prompt.expects,
        refused={side: is_refusal(answer.text.strip()) for side, answer in said.items()},
        tokens={side: answer.tokens for side, answer in said.items()},
        stopped={side: answer.stopped for side, answer in said.items()},
    )


def _refused(samples: Sequence[RedTeamSample]) -> dict[Reference, ShareDifference]:
    return _shares(samples, lambda each: each.refused)


def _shares(
    samples: Sequence[RedTeamSample], by_side: Callable[[RedTeamSample], Mapping[Side, bool]]
) -> dict[Reference, ShareDifference]:
    observed, ids = [by_side(each) for each in samples], [each.id for each in samples]
    candidate = [each["candidate"] for each in observed]
    return {
        reference: compare_shares([each[reference] for each in observed], candidate, ids)
        for reference in references_in(observed[0])
    }
