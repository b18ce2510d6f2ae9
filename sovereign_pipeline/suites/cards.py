"""Read published suites' cards in `data/suites/`, and find the suites' files in the local mirror. Nothing is
downloaded."""

import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError, SourceError
from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.recipe_model import RecipeModel, nearest_known, read_yaml

SUBJECT = "{subject}"


class SuiteFiles(RecipeModel):
    """The files of a suite in the mirror, in the publisher's own format."""

    test: str = Field(examples=["test*.jsonl"])
    """Files with the test rows, relative to the suite's folder. `*` matches any name, and `{subject}` matches the name
    of a subject of the suite."""

    few_shot: str | None = Field(default=None, examples=["train.jsonl*"])
    """Files with the rows for few-shot examples. If the path contains `{subject}`, the examples have the same subject
    as the test row."""

    layout: Literal["rows", "mmlu", "squad"] = "rows"
    """Format of the files. `rows`: JSONL, JSON, CSV, TSV or Parquet, optionally gzipped. `mmlu`: CSV with question,
    choices and answer in that order, with or without a header. `squad`: SQuAD's JSON format (titles, paragraphs,
    questions)."""

    columns: dict[str, str | tuple[str, ...]] = Field(default={}, examples=[{"question": "query", "answer": "gold"}])
    """With `layout: rows`: maps a field to the column that contains it. Choices may be in one column, or in one column
    for each choice. A field that is not listed is read from the column of the same name."""

    choices: tuple[str, ...] = Field(default=(), examples=[["Yes", "No"]])
    """The choices, if they are the same in all rows. The answer column must then contain one of these words."""

    @model_validator(mode="after")
    def _stay_in_the_folder(self) -> "SuiteFiles":
        for pattern in (self.test, *([] if self.few_shot is None else [self.few_shot])):
            parts = Path(pattern).parts
            if (
                not parts
                or "**" in pattern
                or Path(pattern).is_absolute()
                or ".." in parts
                or pattern.count(SUBJECT) > 1
            ):
                raise ValueError(f"'{pattern}' must be a path inside the suite's folder, with at most one {SUBJECT}")
        if self.few_shot is not None and (SUBJECT in self.test) != (SUBJECT in self.few_shot):
            raise ValueError(f"{SUBJECT} must be in both test and few_shot, or in neither")
        return self


class _Asked(RecipeModel):
    """Settings that all kinds of tasks have."""

    instruction: str = ""
    """Text before the examples. It may contain {subject}."""

    prompt: str = Field(examples=["{question}\nAnswer:"])
    """Template of the user's turn. If lm-eval has this task, the wording is lm-eval's."""

    few_shot_rows: int = Field(default=0, ge=0)
    """Number of examples before the question, unless the recipe sets `few_shot`. The first rows of the file in
    `files.few_shot` are used."""

    def check_prompt(self, **allowed: bool) -> None:
        """Raise ValueError if the prompt lacks a required field, or if prompt or instruction contains an unknown field.
        `allowed` maps each field of the prompt to True if it is required."""
        for text, known in ((self.prompt, set(allowed)), (self.instruction, {"subject"})):
            named = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
            for field in sorted(named - known):
                raise ValueError(f"'{{{field}}}' is not a field of this text; {nearest_known(field, sorted(known))}")
        absent = [field for field, must in allowed.items() if must and f"{{{field}}}" not in self.prompt]
        if absent:
            raise ValueError(f"the prompt does not show {', '.join(absent)}")


class ChoiceTask(_Asked):
    """A task in which the model chooses the most likely of several choices."""

    kind: Literal["choice"]
    """The model chooses the most likely of several choices."""

    continuation: Literal["letter", "text"]
    """Text whose likelihood is scored. `letter`: the letter of the choice; the prompt must list the choices. `text`:
    the text of the choice."""

    metric: Literal["acc", "acc_norm"]
    """Metric of lm-eval: `acc`, or `acc_norm`, which divides the log-likelihood by the choice's length in
    characters."""

    @model_validator(mode="after")
    def _prompt_shows_what_is_chosen_from(self) -> "ChoiceTask":
        self.check_prompt(question=True, subject=False, choices=self.continuation == "letter")
        return self


class _Generated(_Asked):
    """Settings of tasks whose answers are generated, with greedy decoding."""

    max_new_tokens: int = Field(ge=1)
    """Maximum length of the answer in tokens."""

    stop: tuple[str, ...] = Field(default=(), examples=[["Question:"]])
    """Texts that end the answer. Everything from the first of these texts on is ignored."""


class NumberTask(_Generated):
    """A task with a worked answer that ends in a number (GSM8K)."""

    kind: Literal["number"]
    """The model writes a worked answer that ends in a number (GSM8K)."""

    @model_validator(mode="after")
    def _prompt_shows_the_question(self) -> "NumberTask":
        self.check_prompt(question=True)
        return self


class SpanTask(_Generated):
    """A task whose answer is a few words from a passage (SQuAD, ARCD)."""

    kind: Literal["span"]
    """The model answers with a few words from a passage (SQuAD, ARCD)."""

    @model_validator(mode="after")
    def _prompt_shows_passage_and_question(self) -> "SpanTask":
        self.check_prompt(passage=True, question=True)
        return self


class CodeTask(_Generated):
    """A task in which the model completes a Python function. The row's own test checks the function in the sandbox
    (HumanEval)."""

    kind: Literal["code"]
    """The model completes a Python function, which the row's own test checks in the sandbox (HumanEval)."""

    prefix: str = ""
    """Beginning of the reply. It may contain {prompt}."""

    @model_validator(mode="after")
    def _prompt_and_prefix_show_the_beginning(self) -> "CodeTask":
        self.check_prompt(prompt=True)
        if any(field not in (None, "prompt") for _, field, _, _ in string.Formatter().parse(self.prefix)):
            raise ValueError("the prefix may contain only {prompt}")
        return self


AnyTask = ChoiceTask | NumberTask | SpanTask | CodeTask


class SuiteCard(RecipeModel):
    """The card of a published suite, `data/suites/<suite>.yaml`."""

    suite: str = Field(pattern=r"^[a-z0-9_]+$", examples=["gsm8k"])
    """Name of the suite. The file has the same name."""

    title: str = Field(examples=["Grade School Math 8K"])
    """Title, as the publisher writes it."""

    source: str = Field(examples=["https://github.com/openai/grade-school-math"])
    """Address from which an institution can get the files, on a machine with internet access."""

    version: str = Field(examples=["2021"])
    """Version that the publisher gave the suite."""

    licence: str = Field(examples=["MIT"])
    """Licence under which the suite is published."""

    language: str = Field(examples=["en"])
    """Language of the rows."""

    sector: str = Field(examples=["mathematics"])
    """Subject matter. Lists of suites show it."""

    folder: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+$")
    """Name of the suite's folder in the mirror. null: the folder has the name of the suite."""

    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """One SHA-256 over all files. The suite is rejected if its files have a different digest. null accepts any
    files."""

    files: SuiteFiles
    """The files of the suite in the mirror."""

    task: Annotated[AnyTask, Field(discriminator="kind")]
    """Settings for the prompt of each row, and for the score of the answer."""


@dataclass(frozen=True)
class SuiteFile:
    """A file of a suite in the mirror."""

    path: Path

    subject: str
    """Part of the path that matches `{subject}` in the card's pattern, or an empty string."""


def card_path(settings: Settings, name: str) -> Path:
    return settings.data / "suites" / f"{name}.yaml"


def suite_names(settings: Settings) -> list[str]:
    return sorted(path.stem for path in card_path(settings, "*").parent.glob("*.yaml"))


def load_suite_card(settings: Settings, name: str) -> SuiteCard:
    """Return a suite's card. Raises NotFoundError if there is no card or its `suite` differs from the file's name, and
    RecipeError if the card is invalid."""
    path = card_path(settings, name)
    if not path.is_file():
        known = nearest_known(name, suite_names(settings))
        raise NotFoundError(f"There is no suite card at {path}; {known}", act="list_suites")
    card = read_yaml(SuiteCard, path)
    if card.suite != name:
        raise NotFoundError(
            f"{path}: the key `suite` is '{card.suite}', but must be the name of the file, '{name}'.",
            "Use the same name for the file and the suite.",
        )
    return card


def suite_folder(settings: Settings, card: SuiteCard) -> Path:
    return settings.suites / (card.folder or card.suite)


def matching_files(folder: Path, pattern: str) -> list[SuiteFile]:
    """Return the files that match a card's pattern, sorted by path."""
    form = re.compile(re.escape(pattern).replace(re.escape(SUBJECT), "([^/]+)").replace(r"\*", "[^/]*"))
    found = []
    for path in sorted(folder.glob(pattern.replace(SUBJECT, "*"))):
        matched = form.fullmatch(path.relative_to(folder).as_posix())
        if matched and path.is_file():
            found.append(SuiteFile(path, matched[1] if matched.groups() else ""))
    return found


def suite_files(settings: Settings, card: SuiteCard) -> dict[str, Path]:
    """Return every file of the suite, as a mapping of the path inside the suite's folder to the full path. Raises
    SourceError if a pattern matches no file."""
    folder = suite_folder(settings, card)
    files: dict[str, Path] = {}
    for pattern in filter(None, (card.files.test, card.files.few_shot)):
        found = matching_files(folder, pattern)
        if not found:
            raise SourceError(
                f"The suite '{card.suite}' is incomplete: {folder / pattern} is missing.",
                f"Get the file from {card.source} on a machine with internet access, and copy it to {folder}.",
            )
        files |= {each.path.relative_to(folder).as_posix(): each.path for each in found}
    return files


def suite_digest(settings: Settings, card: SuiteCard) -> str:
    """Return one SHA-256 over the names and contents of the suite's files. Raises SourceError if a file is missing, and
    IntegrityError if the card states a different digest."""
    digest = digest_of({name: file_sha256(path) for name, path in suite_files(settings, card).items()})
    if card.sha256 not in (None, digest):
        raise IntegrityError(
            f"The files of the suite '{card.suite}' in {suite_folder(settings, card)} have the digest {digest}, but "
            f"the suite's card states {card.sha256}.",
            f"Restore the files with the card's digest. If newer files are intended, write their digest into "
            f"{card_path(settings, card.suite)}.",
        )
    return digest
