"""How good the judges of the red team are: each is measured on answers that people labelled.

What belongs here: reading the labelled answers, judging them as the red team's answers are judged, precision and recall
with their intervals. What does not: the judges' rules (`refusals.py`, `behaviour.py`, `personal_data.py`).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pydantic import model_validator

from sovereign_pipeline.evaluation.red_team.behaviour import loops, obeys
from sovereign_pipeline.evaluation.red_team.judge_model import (
    Verdicts,
    open_judge_model,
    refuse_unproven,
    shipped_verdicts,
)
from sovereign_pipeline.evaluation.red_team.personal_data import Output, OutputScanner
from sovereign_pipeline.evaluation.red_team.records import (
    EVERY_LANGUAGE,
    EVERY_STYLE,
    Judge,
    JudgedLabel,
    JudgeQuality,
)
from sovereign_pipeline.policy.evaluation import JudgeModel
from sovereign_pipeline.shares import measured_share
from sovereign_pipeline.suites.items import EvaluationItem, read_items


class LabelledAnswer(EvaluationItem):
    """An answer with a person's verdict: whether it refuses, obeys an injected instruction, discloses, or loops."""

    judge: Judge
    answer: str
    label: bool
    tuned: bool = False
    """Whether the judge's rules were written with this answer in view; it then shows little about other answers."""
    prompt: str = ""
    """The prompt, which the judges of injections and disclosures need, and that of refusals uses."""
    mark: str = ""
    """The word that shows obedience to an injected instruction."""
    style: str = ""
    """How the answer is written, such as `list` or `as_an_ai`: each style is measured by itself."""

    @model_validator(mode="after")
    def _has_what_its_judge_needs(self) -> "LabelledAnswer":
        if self.judge == "injection" and not self.mark:
            raise ValueError("an answer to an injection needs the mark that shows obedience")
        return self


def read_labels(path: Path) -> list[LabelledAnswer]:
    """Read a file of labelled answers. Raises SourceError (see `read_items`)."""
    return read_items(path, LabelledAnswer)


def judge_labels(
    labels: Sequence[LabelledAnswer], scanner: OutputScanner, refusals: Verdicts = shipped_verdicts
) -> list[JudgedLabel]:
    """Each judge's verdicts on its labelled answers. Raises PrivacyError when the scanner does.

    No answer is `tuned` for another judge of refusals than the one in the package.
    """
    about_refusals = [label for label in labels if label.judge == "refusal"]
    refusing = dict(
        zip(
            (label.id for label in about_refusals),
            refusals([(label.prompt, label.answer) for label in about_refusals]),
            strict=True,
        )
    )
    about_persons = [label for label in labels if label.judge == "disclosure"]
    outputs = [Output(label.id, label.language, label.prompt, label.answer) for label in about_persons]
    disclosing = {
        label.id: bool(kinds)
        for label, kinds in zip(about_persons, scanner.scan(outputs) if outputs else [], strict=True)
    }
    return [
        JudgedLabel(
            id=label.id,
            judge=label.judge,
            language=label.language,
            style=label.style,
            tuned=label.tuned and (label.judge != "refusal" or refusals is shipped_verdicts),
            label=label.label,
            judged=_judged(label, refusing, disclosing),
        )
        for label in labels
    ]


def judge_qualities(labels: Sequence[JudgedLabel]) -> tuple[JudgeQuality, ...]:
    """Precision and recall of each judge, in all languages and in each, and of each style in each language; separately
    on fresh and on tuned labels."""
    qualities: list[JudgeQuality] = []
    for judge in sorted({label.judge for label in labels}):
        for tuned in (False, True):
            rows = [label for label in labels if label.judge == judge and label.tuned == tuned]
            for language in (EVERY_LANGUAGE, *sorted({row.language for row in rows})):
                chosen = [row for row in rows if language in (EVERY_LANGUAGE, row.language)]
                if chosen:
                    qualities.append(_quality(judge, language, EVERY_STYLE, tuned, chosen))
            styled = [row for row in rows if row.style]
            for style, language in sorted({(row.style, row.language) for row in styled}):
                chosen = [row for row in styled if (row.style, row.language) == (style, language)]
                qualities.append(_quality(judge, language, style, tuned, chosen))
    return tuple(qualities)


def proven_judge_model(
    entry: JudgeModel,
    directory: Path,
    labels: Sequence[LabelledAnswer],
    scanner: OutputScanner,
    progress: Callable[[str], None],
) -> Verdicts:
    """The recipe's judge of refusals, once it has reached the recipe's bounds on the labelled answers.

    Raises IntegrityError, SourceError or GateRefused: see `open_judge_model` and `refuse_unproven`.
    """
    verdicts = open_judge_model(entry, directory, progress)
    about_refusals = [label for label in labels if label.judge == "refusal"]
    qualities = judge_qualities(judge_labels(about_refusals, scanner, verdicts))
    refuse_unproven(
        entry, [each for each in qualities if each.style == EVERY_STYLE and each.language != EVERY_LANGUAGE]
    )
    return verdicts


def _quality(judge: Judge, language: str, style: str, tuned: bool, labels: Sequence[JudgedLabel]) -> JudgeQuality:
    hits = sum(label.label and label.judged for label in labels)
    return JudgeQuality(
        judge=judge,
        language=language,
        style=style,
        tuned=tuned,
        labels=len(labels),
        precision=measured_share(hits, sum(label.judged for label in labels)),
        recall=measured_share(hits, sum(label.label for label in labels)),
    )


def _judged(label: LabelledAnswer, refusing: Mapping[str, bool], disclosing: Mapping[str, bool]) -> bool:
    match label.judge:
        case "refusal":
            return refusing[label.id]
        case "injection":
            return obeys(label.answer, label.prompt, label.mark)
        case "loop":
            return loops(label.answer)
        case "disclosure":
            return disclosing[label.id]
