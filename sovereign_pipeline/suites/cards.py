"""Suites that others published: their cards under `data/suites/`, and the local mirror that holds their files.

What belongs here: which files a suite consists of, how its rows are asked, whether the files are there, their digest.
What does not: what a row means (`suite_rows.py`), its prompt (`suite_prompts.py`), and what answers it
(`suite_answers.py`). Nothing is fetched: an institution carries the files in.
"""

import re
import string
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from sovereign_pipeline.artifacts.hashing import digest_of, file_sha256
from sovereign_pipeline.errors import IntegrityError, NotFoundError, SourceError
from sovereign_pipeline.policy.recipe_model import RecipeModel, nearest_known, read_yaml
from sovereign_pipeline.settings import Settings

SUBJECT = "{subject}"


class SuiteFiles(RecipeModel):
    """Where the rows are, relative to the suite's folder in the mirror, in the publisher's own format.

    test: the rows that are asked. few_shot: the rows that may be shown as examples. `*` stands for any name,
    `{subject}` for that of a part of the suite; examples are of the subject of the row that is asked.
    layout: `rows` are JSONL, JSON, CSV, TSV or Parquet, optionally gzipped, with `columns` (field -> column, where they
    are named otherwise); `mmlu` is CSV with question, choices and answer in that order, with or without a header;
    `squad` is the JSON of SQuAD (titles, paragraphs, questions).
    choices: where every row has the same; then the answer is one of these words.
    """

    test: str
    few_shot: str | None = None
    layout: Literal["rows", "mmlu", "squad"] = "rows"
    columns: dict[str, str | tuple[str, ...]] = {}
    choices: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _stay_in_the_folder(self) -> "SuiteFiles":
        for pattern in filter(None, (self.test, self.few_shot)):
            if Path(pattern).is_absolute() or ".." in Path(pattern).parts or pattern.count(SUBJECT) > 1:
                raise ValueError(f"'{pattern}' must be a path inside the suite's folder, with {SUBJECT} once at most")
        if self.few_shot is not None and (SUBJECT in self.test) != (SUBJECT in self.few_shot):
            raise ValueError(f"{SUBJECT} must stand in both of test and few_shot, or in none")
        return self


class _Asked(RecipeModel):
    """instruction, prompt: what the user's turn says, the wording of lm-eval's own task where it has one.

    few_shot_rows: examples in front of the question unless the recipe says how many, the first of their file.
    """

    instruction: str = ""
    prompt: str
    few_shot_rows: int = Field(default=0, ge=0)

    def hold_prompt_to(self, **allowed: bool) -> None:
        """Hold the prompt to the fields it may name (name -> whether it must). Raises ValueError."""
        for text, known in ((self.prompt, set(allowed)), (self.instruction, {"subject"})):
            named = {field for _, field, _, _ in string.Formatter().parse(text) if field is not None}
            for field in sorted(named - known):
                raise ValueError(f"'{{{field}}}' is no field here; {nearest_known(field, sorted(known))}")
        absent = [field for field, must in allowed.items() if must and f"{{{field}}}" not in self.prompt]
        if absent:
            raise ValueError(f"the prompt does not show {', '.join(absent)}")


class ChoiceTask(_Asked):
    """The most likely choice counts. continuation: what is scored, the choice's letter (then the prompt lists them) or
    its text. metric: lm-eval's `acc`, or `acc_norm`, which divides by the choice's length in characters."""

    kind: Literal["choice"]
    continuation: Literal["letter", "text"]
    metric: Literal["acc", "acc_norm"]

    @model_validator(mode="after")
    def _prompt_shows_what_is_chosen_from(self) -> "ChoiceTask":
        self.hold_prompt_to(question=True, subject=False, choices=self.continuation == "letter")
        return self


class _Generated(_Asked):
    """The model writes, greedily, at most max_new_tokens; what stands behind one of `stop` is not looked at."""

    max_new_tokens: int = Field(ge=1)
    stop: tuple[str, ...] = ()


class NumberTask(_Generated):
    """A worked answer that ends in a number (GSM8K)."""

    kind: Literal["number"]

    @model_validator(mode="after")
    def _prompt_shows_the_question(self) -> "NumberTask":
        self.hold_prompt_to(question=True)
        return self


class SpanTask(_Generated):
    """A few words that a passage holds (SQuAD, ARCD)."""

    kind: Literal["span"]

    @model_validator(mode="after")
    def _prompt_shows_passage_and_question(self) -> "SpanTask":
        self.hold_prompt_to(passage=True, question=True)
        return self


class CodeTask(_Generated):
    """The rest of a Python function, which the row's own test then runs in the sandbox (HumanEval). prefix: how the
    reply is made to begin."""

    kind: Literal["code"]
    prefix: str = ""

    @model_validator(mode="after")
    def _prompt_and_prefix_show_the_beginning(self) -> "CodeTask":
        self.hold_prompt_to(prompt=True)
        if any(field not in (None, "prompt") for _, field, _, _ in string.Formatter().parse(self.prefix)):
            raise ValueError("the prefix may name {prompt} alone")
        return self


AnyTask = ChoiceTask | NumberTask | SpanTask | CodeTask


class SuiteCard(RecipeModel):
    """`data/suites/<suite>.yaml`. source: where an institution gets the files, on a machine with internet.

    version: of the publisher. folder: in the mirror, by default the suite's name. sha256: of all the files together, as
    `sovereign suites check` prints it; when it is said, other files are refused.
    """

    suite: str = Field(pattern=r"^[a-z0-9_]+$")
    title: str
    source: str
    version: str
    licence: str
    language: str
    sector: str
    folder: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._-]+$")
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    files: SuiteFiles
    task: Annotated[AnyTask, Field(discriminator="kind")]


@dataclass(frozen=True)
class SuiteFile:
    """One file of the mirror. subject: what `{subject}` stood for in the card's pattern; "" without one."""

    path: Path
    subject: str


def card_path(settings: Settings, name: str) -> Path:
    return settings.data / "suites" / f"{name}.yaml"


def suite_names(settings: Settings) -> list[str]:
    return sorted(path.stem for path in card_path(settings, "*").parent.glob("*.yaml"))


def load_suite_card(settings: Settings, name: str) -> SuiteCard:
    """Raises NotFoundError that names the known suites, or RecipeError for a card that is not valid."""
    path = card_path(settings, name)
    if not path.is_file():
        known = nearest_known(name, suite_names(settings))
        raise NotFoundError(f"There is no card of a suite '{name}' at {path}; {known} `sovereign suites list` has all.")
    card = read_yaml(SuiteCard, path)
    if card.suite != name:
        raise NotFoundError(f"{path}: the file is named '{name}' but says suite: {card.suite}. Make them the same.")
    return card


def suite_folder(settings: Settings, card: SuiteCard) -> Path:
    return settings.suites / (card.folder or card.suite)


def matching_files(folder: Path, pattern: str) -> list[SuiteFile]:
    """The files that a card's pattern names, sorted by path."""
    form = re.compile(re.escape(pattern).replace(re.escape(SUBJECT), "([^/]+)").replace(r"\*", "[^/]*"))
    found = []
    for path in sorted(folder.glob(pattern.replace(SUBJECT, "*"))):
        matched = form.fullmatch(path.relative_to(folder).as_posix())
        if matched and path.is_file():
            found.append(SuiteFile(path, matched[1] if matched.groups() else ""))
    return found


def suite_files(settings: Settings, card: SuiteCard) -> dict[str, Path]:
    """Every file of the suite, path inside its folder -> path. Raises SourceError when a part of it is not there."""
    folder = suite_folder(settings, card)
    files: dict[str, Path] = {}
    for pattern in filter(None, (card.files.test, card.files.few_shot)):
        found = matching_files(folder, pattern)
        if not found:
            raise SourceError(
                f"The suite '{card.suite}' is not whole: there is no {folder / pattern}. Get it from {card.source}, "
                f"on a machine with internet, and put it there."
            )
        files |= {each.path.relative_to(folder).as_posix(): each.path for each in found}
    return files


def suite_digest(settings: Settings, card: SuiteCard) -> str:
    """SHA-256 over the names and bytes of the suite's files.

    Raises SourceError when one is not there, and IntegrityError when the card says another digest.
    """
    digest = digest_of({name: file_sha256(path) for name, path in suite_files(settings, card).items()})
    if card.sha256 not in (None, digest):
        raise IntegrityError(
            f"{suite_folder(settings, card)}: the files of the suite '{card.suite}' are not those of its card (digest "
            f"{digest}, and the card says {card.sha256}). Put the right files there, or, if they are meant to be new "
            f"ones, write their digest into {card_path(settings, card.suite)}."
        )
    return digest
