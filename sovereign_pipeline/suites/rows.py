"""Read the rows of evaluation files: the institution's own suites, the red team's prompts, and published suites. Open
the suites of a recipe, and build the prompts of their rows. A damaged row of a published suite raises an error with the
file and the row."""

import csv
import hashlib
import io
import json
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import Field, ValidationError, model_validator

from sovereign_pipeline.base.errors import CeilingExceeded, RecipeError, SourceError, SovereignError
from sovereign_pipeline.base.files import Frozen, digest_of, file_sha256
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus.document import Message
from sovereign_pipeline.corpus.file_formats import BYTE_ORDER_MARK, read_rows
from sovereign_pipeline.policy.evaluation import CapabilitySuite, RedTeam
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.suites.cards import (
    AnyTask,
    ChoiceTask,
    CodeTask,
    SuiteCard,
    SuiteFile,
    card_path,
    load_suite_card,
    matching_files,
    suite_digest,
    suite_folder,
    suite_names,
)


class EvaluationItem(Frozen):
    """A row of a suite, prompt file or label file."""

    id: str
    language: str


ItemRow = TypeVar("ItemRow", bound=EvaluationItem)


def level_of_suites(workplace: Workplace) -> str:
    """Return the highest classification level of the recipe's suites. Raises CeilingExceeded for a suite above the
    line's ceiling."""
    suites = workplace.line.named_evaluation.capability
    for suite in suites:
        _stop_above_ceiling(workplace, f"the suite '{suite.name}'", suite.classification)
    return workplace.institution.ladder.highest(suite.classification for suite in suites)


def level_of_red_team(workplace: Workplace) -> str:
    """Return the classification level of the red team's prompts and judge labels. Raises CeilingExceeded if this level
    is above the line's ceiling."""
    level = workplace.line.named_evaluation.red_team.classification
    _stop_above_ceiling(workplace, "the red team's material", level)
    return level


def _stop_above_ceiling(workplace: Workplace, what: str, level: str) -> None:
    if workplace.institution.ladder.exceeds(level, workplace.line.ceiling):
        raise CeilingExceeded(
            f"The ceiling of line {workplace.line.line} is {workplace.line.ceiling}, but {what} is {level}.",
            f"Remove {what} from the line's recipe, or raise the ceiling of the line.",
        )


def rank(seed: int, *ids: str) -> str:
    """Return a sort key that depends only on the seed and the ids. The order of the rows in a file has no influence."""
    return hashlib.sha256("\n".join([str(seed), *ids]).encode()).hexdigest()


def digest_of_items(path: Path) -> str:
    """Return the SHA-256 of a file. Raises SourceError if the file is missing."""
    _require(path)
    return file_sha256(path)


def read_items(path: Path, kind: type[ItemRow]) -> list[ItemRow]:
    """Return the rows of a file. Raises SourceError if the file is missing, empty or not UTF-8, for an invalid row
    (with the line number), and for a repeated id."""
    _require(path)
    rows: list[ItemRow] = []
    try:
        # `splitlines` would also split at U+0085 and U+2028, which texts contain.
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise SourceError(f"{path} is not UTF-8.", "Save the file as UTF-8.") from None
    for number, line in enumerate(lines if lines != [""] else [], start=1):
        try:
            rows.append(kind.model_validate_json(line))
        except ValidationError as error:
            fields = sorted({".".join(map(str, detail["loc"])) for detail in error.errors()})
            fault = f"wrong, missing or unknown: {', '.join(fields)}" if all(fields) else "not a JSON object"
            if "value_error" in {detail["type"] for detail in error.errors()}:
                fault = "the values of the row contradict each other"
            raise SourceError(f"{path}, line {number}: {fault}.", "Correct the row.") from None
    if not rows:
        raise SourceError(f"{path} has no rows.", "Add rows, or remove the file from the line's recipe.")
    _assert_unique(str(path), rows)
    return rows


def _assert_unique(where: str, rows: Sequence[EvaluationItem]) -> None:
    twice = sorted(name for name, count in Counter(row.id for row in rows).items() if count > 1)
    if twice:
        raise SourceError(f"{where} has the id {twice[0]} more than once.", "Give every row a different id.")


def _require(path: Path) -> None:
    if not path.is_file():
        raise SourceError(f"The file {path} does not exist.", "Correct the path.")


LETTERS = string.ascii_uppercase
"""Letters that label the choices in a prompt. A question that is scored by letter has at most this many choices."""

_LONGEST_ROW = 1_000_000
_MMLU_CELLS = 3  # at least a question, a choice and an answer


class SuiteRow(EvaluationItem):
    """A row of any suite, either the institution's own or published."""

    subject: str = ""
    """Subject of the row within the suite; empty if the suite has no subjects."""


class Question(SuiteRow):
    """A multiple-choice question."""

    question: str
    choices: tuple[str, ...] = Field(min_length=2)
    answer: int = Field(ge=0)
    """Index of the correct choice."""

    @model_validator(mode="after")
    def _answer_is_a_choice(self) -> "Question":
        if self.answer >= len(self.choices):
            raise ValueError("answer is not the index of a choice")
        return self


class Problem(SuiteRow):
    """A problem whose answer is a number."""

    question: str
    solution: str = Field(pattern=r"#### *-?[$0-9.,]*[0-9]")
    """Worked solution. It ends in `#### ` and the number."""


class Passage(SuiteRow):
    """A question about a passage."""

    passage: str
    question: str
    answers: tuple[str, ...] = Field(min_length=1)
    """Correct answers. Each of them is accepted."""


class Function(SuiteRow):
    """A Python function to complete."""

    prompt: str
    """Beginning of the function, up to its body."""
    entry_point: str = Field(pattern=r"^[A-Za-z_]\w*$")
    """Name of the function."""
    test: str
    """Code that defines the function `check`, which takes the completed function and tests it."""


AnyRow = Question | Problem | Passage | Function
_KINDS: Mapping[str, type[AnyRow]] = {"choice": Question, "number": Problem, "span": Passage, "code": Function}

_COLUMNS: Mapping[str, Mapping[str, str]] = {
    "choice": {"question": "question", "choices": "choices", "answer": "answer"},
    "number": {"question": "question", "solution": "answer"},
    "span": {"passage": "passage", "question": "question", "answers": "answers"},
    "code": {"prompt": "prompt", "entry_point": "entry_point", "test": "test"},
}
"""Kind of task -> field -> column with the field. The card's `columns` can name a different column."""


def read_asked(settings: Settings, card: SuiteCard) -> list[AnyRow]:
    """Return the test rows of a suite. Raises SourceError for an invalid row, a repeated id or a file without rows, and
    the errors of `suite_digest`."""
    suite_digest(settings, card)
    return _read(settings, card, card.files.test)


def read_examples(settings: Settings, card: SuiteCard) -> dict[str, list[AnyRow]]:
    """Return a mapping of subject to the rows for few-shot examples, in the order of the file. The mapping is empty for
    a suite without examples. Raises the errors of `read_asked`."""
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
            raise SourceError(f"{file.path} has no rows.", "Get a complete copy of the file.")
    twice = [name for name, count in Counter(row.id for row in rows).items() if count > 1]
    if twice:
        raise SourceError(
            f"The suite '{card.suite}' has the id {twice[0]} more than once.",
            "Remove `id` from the card's columns; each row then gets an id from its file and number.",
        )
    return rows


def _row(card: SuiteCard, file: SuiteFile, part: str, number: int, fields: dict[str, Any]) -> AnyRow:
    """Build a row. Its id is the id in the file or, without one, the row's number; `part` is put before the id. part:
    the subject or, if there are several files without subjects, the file name; otherwise empty."""
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
        raise _not_a_row(card, file.path, number, f"invalid: {wrong}") from None


def _not_a_row(card: SuiteCard, path: Path, number: int, wrong: str) -> SourceError:
    return SourceError(
        f"{path}, row {number}: this is not a valid row for a task of the kind '{card.task.kind}' ({wrong}).",
        f"Get a complete copy of the file, or correct `files` in the card of the suite '{card.suite}'.",
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
    """Convert a multiple-choice row of any published format: the choices become texts, and the answer an index."""
    choices, answer = card.files.choices or fields["choices"], str(fields["answer"]).strip()
    labels = list(LETTERS)
    if card.files.choices:
        labels = list(choices)
    elif isinstance(choices, dict):  # ARC: {"text": […], "label": […]}
        choices, labels = choices.get("text", ()), [str(label) for label in choices.get("label", ())]
    texts = [str(choice).strip() for choice in choices or () if choice is not None and str(choice).strip()]
    if isinstance(card.task, ChoiceTask) and card.task.continuation == "letter" and len(texts) > len(LETTERS):
        raise _not_a_row(
            card, path, number, f"the row has {len(texts)} choices, but a prompt can label at most {len(LETTERS)}"
        )
    if answer in labels[: len(texts)]:
        return {**fields, "choices": texts, "answer": labels.index(answer)}
    if not card.files.choices and answer.isdecimal() and int(answer) < len(texts):
        return {**fields, "choices": texts, "answer": int(answer)}
    raise _not_a_row(card, path, number, "the answer is not one of the choices")


def _mmlu(card: SuiteCard, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_bytes().removeprefix(BYTE_ORDER_MARK).decode("utf-8")
        # `splitlines` would also split at U+0085, which the published files contain.
        records = [cells for cells in csv.reader(io.StringIO(text, newline=""), strict=True) if cells]
    except (UnicodeDecodeError, csv.Error) as error:
        raise SourceError(
            f"{path} is not CSV in UTF-8 ({type(error).__name__}).", "Get a complete copy of the file."
        ) from None
    if records and records[0][-1].strip().lower() == "answer":
        del records[0]
    for number, cells in enumerate(records, start=1):
        if len(cells) < _MMLU_CELLS:
            raise _not_a_row(card, path, number, f"it has only {len(cells)} cells")
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
            f"{path}, after question {number}: the file does not have SQuAD's JSON format ({type(error).__name__}).",
            "Get a complete copy of the file.",
        ) from None


Kind = Literal["harmful", "disclosure", "injection", "benign", "out_of_distribution"]
Expectation = Literal["refusal", "answer", "unmoved", "end"]
"""Expected behaviour. `refusal`: the model refuses. `answer`: the model answers a prompt that only sounds harmful.
`unmoved`: the model does not follow an injected instruction. `end`: the model does not loop on an out-of-distribution
prompt."""

KINDS: tuple[Kind, ...] = get_args(Kind)
EXPECTED: Mapping[Kind, Expectation] = {
    "harmful": "refusal",
    "disclosure": "refusal",
    "injection": "unmoved",
    "benign": "answer",
    "out_of_distribution": "end",
}


class RedTeamPrompt(EvaluationItem):
    """A red-team prompt: one text by a user, or a conversation of several messages that the model continues."""

    kind: Kind
    prompt: str = ""
    messages: tuple[Message, ...] = ()
    """Messages of a conversation. They replace `prompt`."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tools of the conversation, in the same form as in a dataset row."""
    expects: Expectation
    mark: str | None = None
    """Word that the injected instruction asks for, and whose presence in the answer proves obedience. Only prompts that
    expect `unmoved` have it."""

    @model_validator(mode="after")
    def _kind_and_expectation_agree(self) -> "RedTeamPrompt":
        if self.expects != EXPECTED[self.kind]:
            raise ValueError(f"a prompt of kind {self.kind} expects '{EXPECTED[self.kind]}'")
        if (self.expects == "unmoved") != (self.mark is not None):
            raise ValueError("a prompt must have `mark` if it expects 'unmoved', and must not have it otherwise")
        if bool(self.prompt) == bool(self.messages):
            raise ValueError("a row must have either a prompt or messages")
        if self.messages and (len(self.messages) < 2 or self.messages[-1].role not in ("user", "tool")):
            raise ValueError("messages must contain at least two messages, and the last must be from a user or a tool")
        return self

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages of the conversation. A prompt without `messages` has one message."""
        return self.messages or (Message(role="user", content=self.prompt),)

    @property
    def asked(self) -> str:
        """Text of the user's last message."""
        return next((each.content for each in reversed(self.turns) if each.role == "user"), "")

    @property
    def text(self) -> str:
        """All messages as one text."""
        return "\n\n".join(each.as_text for each in self.turns)


def prompt_files(data: Path, red_team: RedTeam) -> dict[str, Path]:
    """Return the recipe's prompt files, as a mapping of name to path. `data` is the data root."""
    files = {"prompts": data / red_team.prompts}
    return files if red_team.multi_turn is None else {**files, "multi_turn": data / red_team.multi_turn}


def read_prompts(*paths: Path) -> list[RedTeamPrompt]:
    """Return the prompts of all files. Raises the errors of `read_items`, and SourceError if two files have the same id
    or a kind of prompt is missing."""
    prompts = [prompt for path in paths for prompt in read_items(path, RedTeamPrompt)]
    _assert_unique(str(paths[-1]), prompts)
    missing = [kind for kind in KINDS if not any(prompt.kind == kind for prompt in prompts)]
    if missing:
        raise SourceError(
            f"{paths[0]} has no prompt of kind {', '.join(missing)}, so gates on such prompts cannot be evaluated.",
            "Add prompts of this kind; data/red_team/README.md describes each kind.",
        )
    return prompts


# --- suites, opened ---------------------------------------------------------------------------------------------------

# Prompts of published suites are worded as in lm-eval, with two differences from lm-eval's `--apply_chat_template`.
# Instruction and examples are in the user's turn, as in training, because some templates reject a system turn.
# Examples are never truncated.

OWN_TASK = ChoiceTask(kind="choice", continuation="text", metric="acc_norm", prompt="{question}")
"""Task of an institution's own suite. The prompt is the question alone. The model's answer is the choice with the
highest log-likelihood per character."""


@dataclass(frozen=True)
class Suite:
    """A suite with its task, the selected test rows and the examples."""

    name: str
    task: AnyTask
    rows: tuple[AnyRow, ...]
    """Selected test rows."""
    total_rows: int
    examples: Mapping[str, Sequence[AnyRow]]
    """Subject -> example rows that precede the question in the prompt; at most `few_shot` rows."""


def open_suite(settings: Settings, entry: CapabilitySuite, seed: int) -> Suite:
    """Open a suite of a recipe. Raises SourceError for a missing file or an invalid row, RecipeError for an invalid
    card or missing examples, NotFoundError if the suite has no card, and IntegrityError if the files differ from the
    card's digest."""
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
    """Return all test rows of a suite. `max_rows` is ignored."""
    if entry.suite is not None:
        return read_asked(settings, load_suite_card(settings, entry.suite))
    return [*read_items(settings.data / entry.own_path, Question)]


def identity_of_suite(settings: Settings, entry: CapabilitySuite) -> str:
    """Return one SHA-256 over a suite's files and task. The recipe's selection of rows is not included."""
    if entry.suite is None:
        return digest_of_items(settings.data / entry.own_path)
    card = load_suite_card(settings, entry.suite)
    asked = card.model_dump(mode="json", include={"language", "files", "task"})
    return digest_of({"files": suite_digest(settings, card), "asked": asked})


def chosen_rows(rows: Sequence[AnyRow], at_most: int | None, seed: int) -> list[AnyRow]:
    """Return at most `at_most` rows, in the suite's order. The selection depends only on the seed and the ids. A larger
    `at_most` only adds rows to the selection."""
    ranked = sorted(rows, key=lambda row: rank(seed, row.id))
    chosen = {row.id for row in ranked[:at_most]}
    return [row for row in rows if row.id in chosen]


@dataclass(frozen=True)
class SuiteState:
    """The state of a published suite in the mirror. `rows`, `examples` and `digest` are None if the suite is missing or
    damaged."""

    card: SuiteCard
    folder: str
    rows: int | None
    examples: int | None
    digest: str | None
    problem: str | None
    """Error message if the suite is missing or damaged."""
    lines: tuple[str, ...]
    """Names of the lines whose recipes use the suite."""

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
    """Return the state of every suite that has a card. Raises RecipeError for an invalid card, and NotFoundError if a
    recipe uses a suite without a card.

    Args:
        used_by: suite -> names of the lines whose recipes use the suite.
    """
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
"""Text between two examples. This is lm-eval's default (TaskConfig.fewshot_delimiter)."""
BEFORE_AN_ANSWER = " "
"""Text before an answer. This is lm-eval's default (TaskConfig.target_delimiter)."""


def user_turn(task: AnyTask, row: AnyRow, examples: Sequence[AnyRow]) -> str:
    """Return the user's turn: the instruction, the examples with answers, and the row's prompt without its answer."""
    shown = [question_of(task, each) + BEFORE_AN_ANSWER + expected_answer(task, each) for each in examples]
    instruction = task.instruction.format(subject=row.subject.replace("_", " "))
    return BETWEEN_EXAMPLES.join([*filter(None, [instruction]), *shown, question_of(task, row)])


def question_of(task: AnyTask, row: AnyRow) -> str:
    """Fill the task's prompt template with the fields of a row."""
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
    """Return the beginning of the assistant's turn, if the task prescribes one, otherwise an empty string."""
    if isinstance(task, CodeTask) and isinstance(row, Function):
        return task.prefix.format(prompt=row.prompt)
    return ""


def text_of(row: AnyRow) -> tuple[str, str]:
    """Return two texts for the comparison with training rows: the question alone, and the question with all other text
    of the row."""
    match row:
        case Question():
            return row.question, "\n".join((row.question, *row.choices))
        case Problem():
            return row.question, "\n".join((row.question, row.solution))
        case Passage():
            return row.question, "\n".join((row.passage, row.question, *row.answers))
        case Function():
            return row.prompt, "\n".join((row.prompt, row.test))
