"""The red team: every arm answers the institution's prompts, and the judges classify the answers.

What belongs here: asking, and combining the judges' verdicts. What does not: the judges' rules (`refusals.py`,
`behaviour.py`, `personal_data.py`), and how good they are (`judges.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sovereign_pipeline.dataset.formats import user_message
from sovereign_pipeline.evaluation.arms.arms import Arm
from sovereign_pipeline.evaluation.arms.chat import prompt_text
from sovereign_pipeline.evaluation.arms.models import Answer, Models
from sovereign_pipeline.evaluation.red_team.behaviour import loops, obeys
from sovereign_pipeline.evaluation.red_team.judge_model import Verdicts, shipped_verdicts
from sovereign_pipeline.evaluation.red_team.judges import LabelledAnswer, judge_labels, judge_qualities
from sovereign_pipeline.evaluation.red_team.personal_data import Output, OutputScanner
from sovereign_pipeline.evaluation.red_team.records import AnswerRow, FoundKinds, JudgedLabel, RedTeamResult, RedTeamSample
from sovereign_pipeline.evaluation.statistics.paired import Shares, share_differences
from sovereign_pipeline.suites.red_team_prompts import Expectation, RedTeamPrompt
from sovereign_pipeline.wording import counted

GENERATION_BATCH = 40
"""Prompts answered at once: larger batches were measured no faster on 2 CPU cores."""


@dataclass(frozen=True)
class RedTeamOutcome:
    """What `red_team_report` stores of the prompts."""

    samples: list[RedTeamSample]
    answers: list[AnswerRow]
    labels: list[JudgedLabel]


def run_red_team(
    models: Models,
    prompts: Sequence[RedTeamPrompt],
    labels: Sequence[LabelledAnswer],
    scanner: OutputScanner,
    instruction: str,
    max_new_tokens: int,
    refusals: Verdicts = shipped_verdicts,
) -> RedTeamOutcome:
    """Let every arm answer every prompt (greedy, after the line's instruction, as served) and judge the answers.

    Raises PrivacyError when the scanner does: answers that cannot be searched for personal data are not judged.
    """
    texts = [prompt_text(models.tokenizer, user_message(instruction, prompt.prompt)) for prompt in prompts]
    models.progress(f"answers to {counted(len(texts), 'prompt')}, {', '.join(models.arms)}")
    answers = {arm: models.answer(texts, arm, max_new_tokens, GENERATION_BATCH) for arm in models.arms}
    models.progress("searching the answers for personal data")
    found = {arm: scanner.scan(_outputs(prompts, given)) for arm, given in answers.items()}
    refused = {
        arm: refusals([(prompt.prompt, answer.text) for prompt, answer in zip(prompts, given, strict=True)])
        for arm, given in answers.items()
    }
    samples = [
        _sample(
            prompt,
            {arm: given[row] for arm, given in answers.items()},
            {arm: verdicts[row] for arm, verdicts in refused.items()},
            {arm: kinds[row] for arm, kinds in found.items()},
        )
        for row, prompt in enumerate(prompts)
    ]
    judged = judge_labels(labels, scanner, refusals)
    return RedTeamOutcome(
        samples=samples,
        answers=[
            AnswerRow(id=prompt.id, answers={arm: given[row].text.strip() for arm, given in answers.items()})
            for row, prompt in enumerate(prompts)
        ],
        labels=judged,
    )


def red_team_result(samples: Sequence[RedTeamSample], labels: Sequence[JudgedLabel]) -> RedTeamResult:
    """The figures of the red team, from its samples and the judges' labels alone."""

    def among(expects: Expectation | None, by_arm: Callable[[RedTeamSample], Mapping[Arm, bool]]) -> Shares:
        return _shares([each for each in samples if expects in (None, each.expects)], by_arm)

    disclosures = [each for each in samples if each.kind == "disclosure"]
    return RedTeamResult(
        refusals=among("refusal", lambda each: each.refused),
        over_refusals=among("answer", lambda each: each.refused),
        obeyed=among("unmoved", lambda each: each.obeyed),
        disclosed=_shares(disclosures, _holds_personal_data),
        looped=among("end", lambda each: each.looped),
        personal_data=among(None, _holds_personal_data),
        stopped=among(None, lambda each: each.stopped),
        by_kind={
            kind: _shares([each for each in samples if each.kind == kind], lambda each: each.refused)
            for kind in sorted({sample.kind for sample in samples})
        },
        judges=judge_qualities(labels),
    )


def _sample(
    prompt: RedTeamPrompt, answers: Mapping[Arm, Answer], refused: Mapping[Arm, bool], found: Mapping[Arm, FoundKinds]
) -> RedTeamSample:
    return RedTeamSample(
        id=prompt.id,
        kind=prompt.kind,
        language=prompt.language,
        expects=prompt.expects,
        refused=dict(refused),
        obeyed={
            arm: prompt.mark is not None and obeys(answer.text, prompt.prompt, prompt.mark)
            for arm, answer in answers.items()
        },
        looped={arm: loops(answer.text) for arm, answer in answers.items()},
        personal_data=dict(found),
        tokens={arm: answer.tokens for arm, answer in answers.items()},
        stopped={arm: answer.stopped for arm, answer in answers.items()},
    )


def _holds_personal_data(sample: RedTeamSample) -> dict[Arm, bool]:
    return {arm: bool(kinds) for arm, kinds in sample.personal_data.items()}


def _outputs(prompts: Sequence[RedTeamPrompt], answers: Sequence[Answer]) -> list[Output]:
    return [
        Output(prompt.id, prompt.language, prompt.prompt, answer.text)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _shares(samples: Sequence[RedTeamSample], by_arm: Callable[[RedTeamSample], Mapping[Arm, bool]]) -> Shares:
    """Shares of independent answers; empty without samples, since a line need not have prompts of every kind."""
    return share_differences([by_arm(each) for each in samples], [each.id for each in samples])
