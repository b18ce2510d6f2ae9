"""What the model is shown of a suite's row: one user turn, examples included, as the wording of the card says.

The wording of the published suites is lm-eval's. Two things are done otherwise than its command line does with
`--apply_chat_template`: instruction and examples stand in the user's turn, where this project's training puts an
instruction, and not in a system turn that some templates refuse; and examples are never cut in the middle.
"""

from collections.abc import Sequence

from sovereign_pipeline.suites.cards import AnyTask, ChoiceTask, CodeTask
from sovereign_pipeline.suites.rows import LETTERS, AnyRow, Function, Passage, Problem, Question

# lm-eval's defaults (TaskConfig.fewshot_delimiter, target_delimiter): what stands between examples, and in front of the
# answer of one.
BETWEEN_EXAMPLES = "\n\n"
BEFORE_AN_ANSWER = " "


def user_turn(task: AnyTask, row: AnyRow, examples: Sequence[AnyRow]) -> str:
    """The instruction, the examples with their answers, and the row without its own."""
    shown = [question_of(task, each) + BEFORE_AN_ANSWER + recorded_verdict(task, each) for each in examples]
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


def recorded_verdict(task: AnyTask, row: AnyRow) -> str:
    """What stands behind an example."""
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
    """What is scored for each choice."""
    by_letter = isinstance(task, ChoiceTask) and task.continuation == "letter"
    return tuple(LETTERS[: len(question.choices)]) if by_letter else question.choices


def prefix_of(task: AnyTask, row: AnyRow) -> str:
    """How the assistant's turn is made to begin; "" where it begins by itself."""
    if isinstance(task, CodeTask) and isinstance(row, Function):
        return task.prefix.format(prompt=row.prompt)
    return ""


def text_of(row: AnyRow) -> tuple[str, str]:
    """The question, and all that a model is shown of the row or told to say: what a training row must not hold."""
    match row:
        case Question():
            return row.question, "\n".join((row.question, *row.choices))
        case Problem():
            return row.question, "\n".join((row.question, row.solution))
        case Passage():
            return row.question, "\n".join((row.passage, row.question, *row.answers))
        case Function():
            return row.prompt, "\n".join((row.prompt, row.test))
