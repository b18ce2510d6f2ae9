"""Whether the candidate still knows what base and incumbent know: multiple-choice suites, the same items for all.

What belongs here: reading a suite and asking it. The margins are the recipe's; what they mean for a release is
`report.py`'s.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sovereign_pipeline.evaluation.chat import prompt_text
from sovereign_pipeline.evaluation.items import read_items
from sovereign_pipeline.evaluation.models import Item, Models, Reference, Score, references_in
from sovereign_pipeline.evaluation.records import CapabilitySample, CapabilityScores, SuiteResult
from sovereign_pipeline.evaluation.statistics import ShareDifference, compare_shares
from sovereign_pipeline.evaluation.suite_rows import Question


def read_suite(path: Path) -> list[Question]:
    """Read one suite. Raises SourceError (see `read_items`)."""
    return read_items(path, Question)


def score_suites(
    models: Models, suites: Mapping[str, Sequence[Question]]
) -> tuple[list[CapabilitySample], CapabilityScores]:
    """Ask every question of every suite (name -> questions) of every side.

    The choice with the highest log-likelihood per character counts as the answer, which is lm-eval's `acc_norm`.
    """
    samples: list[CapabilitySample] = []
    for name, questions in suites.items():
        items = [question_item(models, question) for question in questions]
        scores = {side: models.score(name, items, side) for side in models.sides}
        samples += [
            CapabilitySample(
                suite=name,
                id=question.id,
                language=question.language,
                correct={side: _chosen(scores[side][row], question) == question.answer for side in models.sides},
            )
            for row, question in enumerate(questions)
        ]
    return samples, CapabilityScores(dtype=models.dtype, suites=capability_results(samples))


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
        )
        for name, rows in suites.items()
    }


def question_item(models: Models, question: Question) -> Item:
    return Item(
        id=question.id, context=prompt_text(models.tokenizer, question.question), continuations=question.choices
    )


def _chosen(score: Score, question: Question) -> int:
    per_character = [total / len(choice) for total, choice in zip(score.log_likelihoods, question.choices, strict=True)]
    return per_character.index(max(per_character))


def accuracy_of(rows: Sequence[CapabilitySample]) -> dict[Reference, ShareDifference]:
    """Accuracy of the candidate over some questions against each reference. Not empty."""
    candidate, ids = [row.correct["candidate"] for row in rows], [row.id for row in rows]
    return {
        reference: compare_shares([row.correct[reference] for row in rows], candidate, ids)
        for reference in references_in(rows[0].correct)
    }


def _in_order(samples: Sequence[CapabilitySample]) -> list[str]:
    return list(dict.fromkeys(sample.suite for sample in samples))
