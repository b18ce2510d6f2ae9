"""Rows of published suites, read from the publisher's format into four kinds.

What belongs here: reading and checking. A row that is not of the suite's kind is an error that names file and row: a
published suite has no broken rows, so the file is a different one or damaged.
"""

import csv
import io
import json
import string
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, model_validator

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus.file_formats import BYTE_ORDER_MARK, read_rows
from sovereign_pipeline.suites.cards import ChoiceTask, SuiteCard, SuiteFile, matching_files, suite_digest, suite_folder
from sovereign_pipeline.suites.items import EvaluationItem

LETTERS = string.ascii_uppercase
"""The letters that a prompt gives the choices: so many can a question have where the letter is scored."""

_LONGEST_ROW = 1_000_000
_MMLU_CELLS = 3  # at least a question, a choice and an answer


class SuiteRow(EvaluationItem):
    """A row of any suite, own or published."""

    subject: str = ""
    """The part of the suite that the row belongs to; "" when it has none."""


class Question(SuiteRow):
    """A question with choices."""

    question: str
    choices: tuple[str, ...] = Field(min_length=2)
    answer: int = Field(ge=0)
    """Index of the right choice."""

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> "Question":
        if self.answer >= len(self.choices):
            raise ValueError("answer is not the index of a choice")
        return self


class Problem(SuiteRow):
    """A problem whose answer is a number."""

    question: str
    solution: str = Field(pattern=r"#### *-?[$0-9.,]*[0-9]")
    """Worked, ending in `#### ` and the number."""


class Passage(SuiteRow):
    """A question on a passage."""

    passage: str
    question: str
    answers: tuple[str, ...] = Field(min_length=1)
    """Each of them is right."""


class Function(SuiteRow):
    """A Python function to complete."""

    prompt: str
    """Its beginning, up to the body."""
    entry_point: str = Field(pattern=r"^[A-Za-z_]\w*$")
    """Its name."""
    test: str
    """Defines `check`, which takes the function."""


AnyRow = Question | Problem | Passage | Function
_KINDS: Mapping[str, type[AnyRow]] = {"choice": Question, "number": Problem, "span": Passage, "code": Function}

_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "choice": {"question": "question", "choices": "choices", "answer": "answer"},
    "number": {"question": "question", "solution": "answer"},
    "span": {"passage": "passage", "question": "question", "answers": "answers"},
    "code": {"prompt": "prompt", "entry_point": "entry_point", "test": "test"},
}
"""Field -> column, where the card does not name another."""


def read_asked(settings: Settings, card: SuiteCard) -> list[AnyRow]:
    """The rows that may be asked. Raises SourceError, and IntegrityError (see `suite_digest`)."""
    suite_digest(settings, card)
    return _read(settings, card, card.files.test)


def read_examples(settings: Settings, card: SuiteCard) -> dict[str, list[AnyRow]]:
    """Subject -> the rows that may be shown as examples, in the order of their file; nothing for a suite without."""
    if card.files.few_shot is None:
        return {}
    suite_digest(settings, card)
    by_subject: dict[str, list[AnyRow]] = {}
    for row in _read(settings, card, card.files.few_shot):
        by_subject.setdefault(row.subject, []).append(row)
    return by_subject


def _read(settings: Settings, card: SuiteCard, pattern: str) -> list[AnyRow]:
    layout = {"rows": _table, "mmlu": _mmlu, "squad": _squad}[card.files.layout]
    rows: list[AnyRow] = []
    files = matching_files(suite_folder(settings, card), pattern)
    for file in files:
        part = file.subject or (file.path.stem if len(files) > 1 else "")
        before = len(rows)
        rows += [_row(card, file, part, number, fields) for number, fields in layout(card, file.path)]
        if len(rows) == before:
            raise SourceError(f"{file.path} has no rows.", "Get a whole copy of the file.")
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise SourceError(
            f"The suite '{card.suite}' has the id {twice[0]} more than once.",
            "Remove `id` from the card's columns; rows are then named by file and number.",
        )
    return rows


def _row(card: SuiteCard, file: SuiteFile, part: str, number: int, fields: dict[str, Any]) -> AnyRow:
    """A row with its own id or its number, prefixed with the subject or, of several files, the file name."""
    name = str(fields.pop("id", number))
    try:
        return _KINDS[card.task.kind](
            id=f"{part}/{name}" if part else name,
            language=card.language,
            subject=file.subject,
            **fields,
        )
    except ValidationError as error:
        wrong = ", ".join(sorted({".".join(map(str, detail["loc"])) or "row" for detail in error.errors()}))
        raise _not_a_row(card, file.path, number, wrong) from None


def _not_a_row(card: SuiteCard, path: Path, number: int, wrong: str) -> SourceError:
    return SourceError(
        f"{path}, row {number}: not a row of the kind '{card.task.kind}' ({wrong}).",
        f"Get a whole copy of the file, or correct `files` in the card of the suite '{card.suite}'.",
    )


def _table(card: SuiteCard, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    columns = {**_COLUMNS[card.task.kind], **card.files.columns}
    for row in read_rows(path, _LONGEST_ROW):
        if row.values is None:
            raise _not_a_row(card, path, row.number, row.problem or "broken")
        absent = [
            column
            for field, named in columns.items()
            for column in ([named] if isinstance(named, str) else named)
            if column not in row.values and not (field == "choices" and card.files.choices)
        ]
        if absent:
            raise _not_a_row(card, path, row.number, f"no column {', '.join(absent)}")
        fields = {
            field: row.values.get(named) if isinstance(named, str) else [row.values[column] for column in named]
            for field, named in columns.items()
        }
        yield row.number, _with_choice(card, path, row.number, fields) if card.task.kind == "choice" else fields


def _with_choice(card: SuiteCard, path: Path, number: int, fields: dict[str, Any]) -> dict[str, Any]:
    """Choices as texts and the answer as an index, from the forms in which suites are published."""
    choices, answer = card.files.choices or fields["choices"], str(fields["answer"]).strip()
    labels = list(LETTERS)
    if card.files.choices:
        labels = list(choices)
    elif isinstance(choices, dict):  # ARC: {"text": […], "label": […]}
        choices, labels = choices.get("text", ()), [str(label) for label in choices.get("label", ())]
    texts = [str(choice).strip() for choice in choices or () if choice is not None and str(choice).strip()]
    if isinstance(card.task, ChoiceTask) and card.task.continuation == "letter" and len(texts) > len(LETTERS):
        raise _not_a_row(
            card, path, number, f"{len(texts)} choices, and a prompt has letters for {len(LETTERS)} at most"
        )
    if answer in labels[: len(texts)]:
        return {**fields, "choices": texts, "answer": labels.index(answer)}
    if not card.files.choices and answer.isdecimal() and int(answer) < len(texts):
        return {**fields, "choices": texts, "answer": int(answer)}
    raise _not_a_row(card, path, number, "answer")


def _mmlu(card: SuiteCard, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_bytes().removeprefix(BYTE_ORDER_MARK).decode("utf-8")
        # Not splitlines: the published files hold U+0085, which ends no line of CSV.
        records = [cells for cells in csv.reader(io.StringIO(text, newline=""), strict=True) if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(f"{path} is not CSV in UTF-8 ({type(error).__name__}).", "Get a whole copy of it.") from None
    if records and records[0][-1].strip().lower() == "answer":
        del records[0]
    for number, cells in enumerate(records, start=1):
        if len(cells) < _MMLU_CELLS:
            raise _not_a_row(card, path, number, f"{len(cells)} cells")
        question, *choices, answer = cells
        fields = {"question": question.strip(), "choices": choices, "answer": answer}
        yield number, _with_choice(card, path, number, fields)


def _squad(card: SuiteCard, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    try:
        for title in json.loads(path.read_bytes())["data"]:
            for paragraph in title["paragraphs"]:
                for asked in paragraph["qas"]:
                    number += 1
                    yield (
                        number,
                        {
                            "id": asked["id"],
                            "passage": paragraph["context"].strip(),
                            "question": asked["question"].strip(),
                            "answers": [answer["text"].strip() for answer in asked["answers"]],
                        },
                    )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(
            f"{path}, after question {number}: not the JSON of SQuAD ({type(error).__name__}).",
            "Get a whole copy of the file.",
        ) from None
