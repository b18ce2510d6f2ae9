"""The prompt of a suite's row: one user turn with its examples, in the wording of the card.

The wording of published suites is lm-eval's, with two differences from its `--apply_chat_template`: instruction and
examples are in the user's turn, where this project's training puts an instruction, and not in a system turn, which some
templates refuse; and examples are never truncated.
"""

from collections.abc import Sequence

from sovereign_pipeline.suites.cards import AnyTask, ChoiceTask, CodeTask
from sovereign_pipeline.suites.rows import LETTERS, AnyRow, Function, Passage, Problem, Question

BETWEEN_EXAMPLES = "\n\n"
"""lm-eval's default, TaskConfig.fewshot_delimiter."""
BEFORE_AN_ANSWER = " "
"""lm-eval's default, TaskConfig.target_delimiter."""


def user_turn(task: AnyTask, row: AnyRow, examples: Sequence[AnyRow]) -> str:
    """The instruction, the examples with their answers, and the row without its own."""
    shown = [question_of(task, each) + BEFORE_AN_ANSWER + expected_answer(task, each) for each in examples]
    instruction = task.instruction.format(subject=row.subject.replace("_", " "))
    return BETWEEN_EXAMPLES.join([*filter(None, [instruction]), *shown, question_of(task, row)])


def question_of(task: AnyTask, row: AnyRow) -> str:
    """The prompt, filled in."""
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
    """The answer that is shown with an example."""
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
    """The text that is scored for each choice."""
    by_letter = isinstance(task, ChoiceTask) and task.continuation == "letter"
    return tuple(LETTERS[: len(question.choices)]) if by_letter else question.choices


def prefix_of(task: AnyTask, row: AnyRow) -> str:
    """The given beginning of the assistant's turn; "" where there is none."""
    if isinstance(task, CodeTask) and isinstance(row, Function):
        return task.prefix.format(prompt=row.prompt)
    return ""


def text_of(row: AnyRow) -> tuple[str, str]:
    """The question, and all of the row's text that a training row must not contain."""
    match row:
        case Question():
            return row.question, "\n".join((row.question, *row.choices))
        case Problem():
            return row.question, "\n".join((row.question, row.solution))
        case Passage():
            return row.question, "\n".join((row.passage, row.question, *row.answers))
        case Function():
            return row.prompt, "\n".join((row.prompt, row.test))
