"""The prompts that a review may use: held-out documents that neither arm was trained on, or the institution's own file.

What belongs here: reading them, and leaving out what an arm was trained on. What does not: choosing among them
(`plan.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base.errors import CeilingExceeded, InputError, SourceError
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.corpus.document import Document, read_documents
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.dataset.jsonl import sft_row
from sovereign_pipeline.policy.review import Review
from sovereign_pipeline.review.plan import Prompt
from sovereign_pipeline.split import HELD_OUT, TRAIN
from sovereign_pipeline.split.similarity import normal_text
from sovereign_pipeline.suites.rows import EvaluationItem, read_items


class PromptRow(EvaluationItem):
    """One row of a prompt file."""

    classification: str
    prompt: str
    """What a user would write, without the line's instruction."""


@dataclass(frozen=True)
class UsablePrompts:
    """The prompts that may be shown."""

    prompts: tuple[Prompt, ...]
    classification: str | None
    """The highest of all prompts; None where the split's own holds."""
    trained_by_opponent: int
    """How many were left out because the opponent was trained on them or on their case."""


def held_out_prompts(split: Artifact, trained_by_opponent: Sequence[Artifact]) -> UsablePrompts:
    """The documents of the candidate's own held-out slice.

    Args:
        trained_by_opponent: the splits that the opponent and its parent adapters were trained on. Their documents and
            cases are left out: they would favour it.
    """
    ids, cases = set(), set()
    for each in trained_by_opponent:
        for document in read_documents(each.file(TRAIN)):
            ids.add(document.id)
            cases.add(folded(document.case))
    documents = [each for each in read_documents(split.file(HELD_OUT)) if not each.is_preference]
    fresh = [each for each in documents if each.id not in ids and folded(each.case) not in cases]
    prompts = tuple(Prompt(id=each.id, language=each.language, text=_shown(each)) for each in fresh)
    return UsablePrompts(prompts, None, len(documents) - len(fresh))


def file_prompts(workplace: Workplace, path: Path, trained: Sequence[Artifact]) -> UsablePrompts:
    """The rows of a prompt file.

    Args:
        trained: every split that an arm was trained on.

    Raises SourceError for a file or row that cannot be read, for an unknown classification level, and for a row that is
    a training document, with or without its subject, whatever its punctuation and spacing; CeilingExceeded for a row
    above the line's ceiling.
    """
    rows = read_items(path, PromptRow)
    ladder, ceiling = workplace.institution.ladder, workplace.line.ceiling
    for row in rows:
        if row.classification not in ladder:
            raise SourceError(
                f"{path}: row {row.id} is classified as '{row.classification}', which is no level of the institution.",
                f"Use one of {', '.join(ladder.levels)}.",
            )
        if ladder.exceeds(row.classification, ceiling):
            raise CeilingExceeded(
                f"{path}: row {row.id} is {row.classification}. The ceiling of line {workplace.line.line} is "
                f"{ceiling}.",
                "Remove the row, or have the ceiling of the line raised.",
            )
    texts = {
        normal_text(text)
        for split in trained
        for each in read_documents(split.file(TRAIN))
        for text in (_shown(each), each.request)
    }
    known = [row.id for row in rows if normal_text(row.prompt) in texts]
    if known:
        raise SourceError(
            f"{path}: an arm was trained on {counted(len(known), 'row')} ({and_more(known)}).",
            "Remove them: a memorised answer shows nothing.",
        )
    return UsablePrompts(
        tuple(Prompt(id=row.id, language=row.language, text=row.prompt) for row in rows),
        ladder.highest(row.classification for row in rows),
        0,
    )


def assert_enough(line: str, count: int, review: Review, where: str) -> None:
    """Raise InputError when there are fewer prompts than a review needs, of which it uses none twice."""
    if count >= review.prompts:
        return
    fits = (count - review.shared_prompts) // review.operator_count // 2 * 2
    advice = f"Set gates.review.prompts_each to {fits} in the line's recipe, or use" if fits >= 2 else "Use"
    raise InputError(
        f"Line {line}: {review.operator_count} operators with {review.prompts_each} prompts each and "
        f"{review.shared_prompts} for all need {review.prompts} different prompts. {where} has {count}.",
        f"{advice} a prompt file of at least {review.prompts} rows.",
        act="open_review_with_prompts",
        line=line,
    )


def _shown(document: Document) -> str:
    return sft_row(document, "")["input"]
