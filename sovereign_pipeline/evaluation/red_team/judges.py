"""How good the judges of the red team are: each is measured on answers that people labelled.

What belongs here: reading the labelled answers, judging them as the red team's answers are judged, precision and recall
with their intervals. What does not: the judges' rules (`refusals.py`, `behaviour.py`, `personal_data.py`).
"""

from collections.abc import Sequence
from pathlib import Path

from pydantic import model_validator

from sovereign_pipeline.evaluation.red_team.behaviour import loops, obeys
from sovereign_pipeline.evaluation.red_team.personal_data import Output, OutputScanner
from sovereign_pipeline.evaluation.red_team.records import (
    EVERY_LANGUAGE,
    EVERY_STYLE,
    Judge,
    JudgedLabel,
    JudgeQuality,
    MeasuredShare,
)
from sovereign_pipeline.evaluation.red_team.refusals import is_refusal
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


def judge_labels(labels: Sequence[LabelledAnswer], scanner: OutputScanner) -> list[JudgedLabel]:
    """Each judge's verdicts on its labelled answers. Raises PrivacyError when the scanner does."""
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
            tuned=label.tuned,
            label=label.label,
            judged=disclosing[label.id] if label.judge == "disclosure" else _judged(label),
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


def measured_share(hits: int, of: int) -> MeasuredShare:
    """A share with its 95 % interval by Wilson 1927; of none, 0 with the interval from 0 to 1.

    Wilson's interval keeps its coverage near 0 and 1 (Brown, Cai and DasGupta 2001, section 4).
    """
    from scipy.stats import binomtest

    if of == 0:
        return MeasuredShare(hits=0, of=0, share=0.0, low=0.0, high=1.0)
    low, high = binomtest(hits, of).proportion_ci(0.95, method="wilson")
    return MeasuredShare(hits=hits, of=of, share=hits / of, low=float(low), high=float(high))


def _judged(label: LabelledAnswer) -> bool:
    match label.judge:
        case "refusal":
            return is_refusal(label.answer, label.prompt)
        case "injection":
            return obeys(label.answer, label.prompt, label.mark)
        case "loop":
            return loops(label.answer)
        case "disclosure":
            raise ValueError("disclosures are judged together, by the scanner")
