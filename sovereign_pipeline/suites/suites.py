"""Open a recipe's suites, and render their prompts.

Prompts of published suites are worded as in lm-eval, with two differences from its `--apply_chat_template`: instruction
and examples are in the user's turn, as in training, because some templates reject a system turn; and examples are never
truncated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.base.errors import RecipeError, SovereignError
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.evaluation import CapabilitySuite
from sovereign_pipeline.suites.cards import (
    AnyTask,
    ChoiceTask,
    CodeTask,
    SuiteCard,
    card_path,
    load_suite_card,
    suite_digest,
    suite_folder,
    suite_names,
)
from sovereign_pipeline.suites.rows import (
    LETTERS,
    AnyRow,
    Function,
    Passage,
    Problem,
    Question,
    digest_of_items,
    rank,
    read_asked,
    read_examples,
    read_items,
)

OWN_TASK = ChoiceTask(kind="choice", continuation="text", metric="acc_norm", prompt="{question}")
"""Task of an institution's own suite: the prompt is the question alone, and the model's answer is the choice with the
highest likelihood per character."""


@dataclass(frozen=True)
class Suite:
    """A suite with its task, selected test rows and examples."""

    name: str
    task: AnyTask
    rows: tuple[AnyRow, ...]
    """Selected test rows."""
    total_rows: int
    examples: Mapping[str, Sequence[AnyRow]]
    """Subject -> example rows before the question, at most `few_shot`."""


def open_suite(settings: Settings, entry: CapabilitySuite, seed: int) -> Suite:
    """Open a suite of a recipe. Raises SourceError, RecipeError, NotFoundError or IntegrityError."""
    every = rows_of_suite(settings, entry)
    task: AnyTask = OWN_TASK
    examples: dict[str, list[AnyRow]] = {}
    if entry.suite is not None:
        card = load_suite_card(settings, entry.suite)
        task, shown = card.task, card.task.few_shot_rows if entry.few_shot is None else entry.few_shot
        examples = {subject: rows[:shown] for subject, rows in read_examples(settings, card).items()}
        if shown and not examples:
            raise RecipeError(
                f"The suite '{card.suite}' has no examples, and few_shot is {shown}.",
                f"Remove few_shot from the recipe, or name a file of examples in {card_path(settings, card.suite)}.",
            )
    rows = chosen_rows(every, entry.max_rows, seed)
    return Suite(entry.name, task, tuple(rows), len(every), examples)


def rows_of_suite(settings: Settings, entry: CapabilitySuite) -> list[AnyRow]:
    """Return all test rows, regardless of `max_rows`."""
    if entry.suite is not None:
        return read_asked(settings, load_suite_card(settings, entry.suite))
    return [*read_items(settings.data / entry.own_path, Question)]


def identity_of_suite(settings: Settings, entry: CapabilitySuite) -> str:
    """Return the SHA-256 of a suite's files and task. The recipe, not this digest, identifies the selected rows."""
    if entry.suite is None:
        return digest_of_items(settings.data / entry.own_path)
    card = load_suite_card(settings, entry.suite)
    asked = card.model_dump(mode="json", include={"language", "files", "task"})
    return digest_of({"files": suite_digest(settings, card), "asked": asked})


def chosen_rows(rows: Sequence[AnyRow], at_most: int | None, seed: int) -> list[AnyRow]:
    """Return at most `at_most` rows, in the suite's order. The choice depends only on seed and ids, so that a larger
    number includes the rows of a smaller one."""
    ranked = sorted(rows, key=lambda row: rank(seed, row.id))
    chosen = {row.id for row in ranked[:at_most]}
    return [row for row in rows if row.id in chosen]


@dataclass(frozen=True)
class SuiteState:
    """The state of a published suite in the mirror. Rows, examples and digest are None if it is missing or damaged."""

    card: SuiteCard
    folder: str
    rows: int | None
    examples: int | None
    digest: str | None
    problem: str | None
    """Error message if the suite is missing or damaged."""
    lines: tuple[str, ...]
    """Lines whose recipes use the suite."""

    def to_dict(self) -> dict[str, Any]:
        card = self.card
        return {
            "suite": card.suite,
            "rows": self.rows,
            "examples": self.examples,
            "language": card.language,
            "sector": card.sector,
            "kind": card.task.kind,
            "digest": self.digest,
            "pinned": card.sha256 is not None,
            "lines": list(self.lines),
            "folder": self.folder,
            "problem": self.problem,
        }


def examine_suites(settings: Settings, used_by: Mapping[str, Sequence[str]]) -> list[SuiteState]:
    """Return the state of every suite that has a card. `used_by`: suite -> lines whose recipes use it. Raises
    RecipeError for an invalid card, and NotFoundError if a recipe uses a suite without a card."""
    cards = [load_suite_card(settings, name) for name in sorted({*suite_names(settings), *used_by})]
    return [_state(settings, card, used_by.get(card.suite, ())) for card in cards]


def _state(settings: Settings, card: SuiteCard, lines: Sequence[str]) -> SuiteState:
    folder = str(suite_folder(settings, card))
    try:
        digest = suite_digest(settings, card)
        rows, examples = len(read_asked(settings, card)), sum(map(len, read_examples(settings, card).values()))
    except SovereignError as error:  # the error is reported for this suite, and the others are still read
        return SuiteState(card, folder, None, None, None, str(error), tuple(lines))
    return SuiteState(card, folder, rows, examples, digest, None, tuple(lines))


BETWEEN_EXAMPLES = "\n\n"
"""Text between examples, lm-eval's default (TaskConfig.fewshot_delimiter)."""
BEFORE_AN_ANSWER = " "
"""Text before an answer, lm-eval's default (TaskConfig.target_delimiter)."""


def user_turn(task: AnyTask, row: AnyRow, examples: Sequence[AnyRow]) -> str:
    """Return the user's turn: the instruction, the examples with their answers, and the row without its answer."""
    shown = [question_of(task, each) + BEFORE_AN_ANSWER + expected_answer(task, each) for each in examples]
    instruction = task.instruction.format(subject=row.subject.replace("_", " "))
    return BETWEEN_EXAMPLES.join([*filter(None, [instruction]), *shown, question_of(task, row)])


def question_of(task: AnyTask, row: AnyRow) -> str:
    """Return the task's prompt, filled with the fields of a row."""
    match row:
        case Question():
            listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, row.choices, strict=False))
            subject = row.subject.replace("_", " ")
            return task.prompt.format(question=row.question, choices=listed, subject=subject)
        case Problem():
            return task.prompt.format(question=row.question)
        case Passage():
            return task.prompt.format(passage=row.passage, question=row.question)
        case Function():
            return task.prompt.format(prompt=row.prompt)


def expected_answer(task: AnyTask, row: AnyRow) -> str:
    match row:
        case Question():
            return continuations_of(task, row)[row.answer]
        case Problem():
            return row.solution
        case Passage():
            return row.answers[0]
        case Function():
            return row.test


def continuations_of(task: AnyTask, question: Question) -> tuple[str, ...]:
    """Return the text that is scored for each choice."""
    by_letter = isinstance(task, ChoiceTask) and task.continuation == "letter"
    return tuple(LETTERS[: len(question.choices)]) if by_letter else question.choices


def prefix_of(task: AnyTask, row: AnyRow) -> str:
    """Return the given beginning of the assistant's turn, or ""."""
    if isinstance(task, CodeTask) and isinstance(row, Function):
        return task.prefix.format(prompt=row.prompt)
    return ""


def text_of(row: AnyRow) -> tuple[str, str]:
    """Return the question, and all text of the row that must not occur in a training row."""
    match row:
        case Question():
            return row.question, "\n".join((row.question, *row.choices))
        case Problem():
            return row.question, "\n".join((row.question, row.solution))
        case Passage():
            return row.question, "\n".join((row.passage, row.question, *row.answers))
        case Function():
            return row.prompt, "\n".join((row.prompt, row.test))
