"""The prompts that a review may use: held-out letters that neither side was trained on, or the institution's own file.

What belongs here: reading them, and leaving out what a side has seen. What does not: choosing among them (`plan.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import Document, read_documents
from sovereign_pipeline.dataset.formats import sft_row
from sovereign_pipeline.errors import CeilingExceeded, InputError, SourceError
from sovereign_pipeline.policy.review import Review
from sovereign_pipeline.review.plan import Prompt
from sovereign_pipeline.split.similarity import normal_text
from sovereign_pipeline.suites.items import EvaluationItem, read_items


class PromptRow(EvaluationItem):
    """One row of a prompt file. prompt: what a user would write, without the line's instruction."""

    classification: str
    prompt: str


@dataclass(frozen=True)
class Available:
    """prompts: that may be shown. level: of all of them, None where the split's own holds. seen: how many were left out
    because the opponent was trained on them or on their case."""

    prompts: tuple[Prompt, ...]
    level: str | None
    seen: int


def held_out_prompts(split: Artifact, trained_by_opponent: Sequence[Artifact]) -> Available:
    """The letters of the candidate's own held-out slice. trained_by_opponent: the splits that the opponent, and what it
    went on from, were trained on: a letter or a case of theirs would favour it."""
    ids, cases = set(), set()
    for each in trained_by_opponent:
        for document in read_documents(each.file("train.jsonl")):
            ids.add(document.id)
            cases.add(document.case)
    letters = [each for each in read_documents(split.file("held_out.jsonl")) if not each.is_preference]
    fresh = [each for each in letters if each.id not in ids and each.case not in cases]
    prompts = tuple(Prompt(id=each.id, language=each.language, text=_shown(each)) for each in fresh)
    return Available(prompts, None, len(letters) - len(fresh))


def file_prompts(workplace: Workplace, path: Path, trained: Sequence[Artifact]) -> Available:
    """The rows of a prompt file. trained: every split that a side was trained on.

    Raises SourceError for a file or row that cannot be read, for a level that is not on the ladder, and for a row that
    is a training letter, with or without its subject, whatever its signs and spaces; CeilingExceeded for one above the
    line's ceiling.
    """
    rows = read_items(path, PromptRow)
    ladder, ceiling = workplace.institution.ladder, workplace.line.ceiling
    for row in rows:
        if row.classification not in ladder:
            raise SourceError(
                f"{path}: row {row.id} is '{row.classification}', which is not on the ladder "
                f"{', '.join(ladder.levels)}. Use one of these."
            )
        if ladder.exceeds(row.classification, ceiling):
            raise CeilingExceeded(
                f"{path}: row {row.id} is {row.classification}, and line {workplace.line.line} may hold {ceiling} at "
                f"most. Take the row out, or have the ceiling of the line raised."
            )
    texts = {
        normal_text(text)
        for split in trained
        for each in read_documents(split.file("train.jsonl"))
        for text in (_shown(each), each.request)
    }
    known = [row.id for row in rows if normal_text(row.prompt) in texts]
    if known:
        raise SourceError(
            f"{path}: {len(known)} rows are letters that a side was trained on ({', '.join(known[:10])}). Take them "
            f"out: an answer that was learned by heart says nothing."
        )
    return Available(
        tuple(Prompt(id=row.id, language=row.language, text=row.prompt) for row in rows),
        ladder.highest(row.classification for row in rows),
        0,
    )


def assert_enough(line: str, count: int, review: Review, where: str) -> None:
    """Raise InputError with the numbers when there are fewer prompts than a review needs: none is used twice."""
    if count >= review.prompts:
        return
    fits = (count - review.shared_prompts) // review.operator_count // 2 * 2
    advice = f"gates.review.prompts_each: {fits} in the line's recipe would do, or" if fits >= 2 else "Use"
    raise InputError(
        f"Line {line}: {review.operator_count} operators with {review.prompts_each} prompts each and "
        f"{review.shared_prompts} for all need {review.prompts} different prompts, and {where} has {count}. {advice} "
        f"`sovereign review open {line} --prompts FILE` with a file of at least {review.prompts} rows."
    )


def _shown(document: Document) -> str:
    return sft_row(document, "")["input"]
