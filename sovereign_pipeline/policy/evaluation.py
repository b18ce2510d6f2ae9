"""The `evaluation` section of a recipe: what is measured before an adapter may be registered.

What belongs here: which suites and prompts, and how much of them. What does not: the margins (`policy/margins.py`) and
how it is measured (`evaluation/`).
"""

from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, model_validator

from sovereign_pipeline.policy.recipe_model import RecipeModel, optional_in_schema


class CapabilitySuite(RecipeModel):
    """One suite: an own one (`name` and `path`), or a published one of the mirror (`suite`)."""

    model_config = ConfigDict(json_schema_extra=optional_in_schema("name"))

    name: str = Field(pattern=r"^[a-z0-9_]+$", examples=["coastal_rules"])
    """Name of an own suite; a published suite has the name of its card."""

    path: Path | None = Field(default=None, examples=["suites/coastal_rules.jsonl"])
    """An own multiple-choice suite, relative to the data root, or absolute."""

    suite: str | None = Field(default=None, examples=["mmlu"])
    """A published suite, by the name of its card under `data/suites/`."""

    classification: str = Field(examples=["PUBLIC"])
    """Classification level of the questions. It has no default: a level that nobody stated might be any."""

    max_rows: int | None = Field(default=None, ge=1)
    """Largest number of rows that are asked, chosen by seed and id; null: all."""

    few_shot: int | None = Field(default=None, ge=0)
    """Examples before each question of a published suite; null: as many as its card states."""

    @model_validator(mode="before")
    @classmethod
    def _a_published_suite_has_its_name(cls, values: Any) -> Any:
        if isinstance(values, dict) and "name" not in values and isinstance(values.get("suite"), str):
            return {**values, "name": values["suite"]}
        return values

    @model_validator(mode="after")
    def _is_own_or_published(self) -> "CapabilitySuite":
        if (self.path is None) == (self.suite is None):
            raise ValueError("give either 'path' (an own suite) or 'suite' (a published one)")
        if self.suite is not None and self.name != self.suite:
            raise ValueError(f"a published suite keeps its name; leave 'name' out, or say {self.suite}")
        if self.few_shot is not None and self.suite is None:
            raise ValueError("'few_shot' is for published suites; an own suite has no examples")
        return self

    @property
    def own_path(self) -> Path:
        """Path of an own suite."""
        assert self.path is not None
        return self.path


class JudgeModel(RecipeModel):
    """A local text classifier that judges refusals in place of the judge in the package.

    It reads a prompt and an answer as a pair of texts. Nothing is fetched. It counts only if it reaches both bounds on
    the labelled answers of each language; else the red team stops and says so.
    """

    directory: Path = Field(examples=["/srv/models/refusal-judge"])
    """Of a transformers sequence classifier: configuration, tokenizer, safetensors. Absolute, or relative to the data
    root."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", examples=["0" * 64])
    """One digest of all its files. A run with a wrong one stops and states the digest that was found."""

    refusal_label: str = Field(default="refusal", min_length=1)
    """The name of its class of refusals, in `id2label` of its configuration."""

    min_precision: float = Field(default=0.9, ge=0.7, le=1)
    """Least precision on the labelled answers of each language; 0.70 is what the gates ask of any judge."""

    min_recall: float = Field(default=0.85, ge=0.7, le=1)
    """Least recall on the labelled answers of each language."""


class RedTeam(RecipeModel):
    """The red team: prompts, judges, and probes of memorisation."""

    prompts: Path = Path("red_team/prompts.jsonl")
    """The prompt file, relative to the data root, or absolute."""

    classification: str = Field(examples=["PUBLIC"])
    """Classification level of prompts and labels, and the lowest of all answers to the prompts. It has no default, as
    that of a suite."""

    judge_labels: Path = Path("red_team/judge_labels.jsonl")
    """Answers that people have labelled, from which the precision and recall of each judge are measured."""

    judge_model: JudgeModel | None = None
    """A local model that judges refusals. Without one, the judge in the package does."""

    max_new_tokens: int = Field(default=48, ge=8)
    """Longest answer to a prompt, in tokens."""

    letters: int = Field(default=48, ge=8)
    """Documents of each half of the split that the model must continue, to measure verbatim memorisation."""

    max_minutes: float = Field(default=10.0, gt=0)
    """Expected duration, in minutes. A longer run is reported; nothing is cut short."""


class Contamination(RecipeModel):
    """How many training rows may share text with the evaluation suites and red-team prompts of the line."""

    n: int = Field(default=13, ge=8, le=50)
    """Words of a run that counts as shared. 13 as in Brown et al. 2020 (Language Models are Few-Shot Learners, appendix
    C), who let n fall to 8 and not further, because shorter runs collide by chance."""

    max_share: float = Field(default=0.0, ge=0, le=1)
    """Largest accepted share of the rows. 0: one row can teach an answer, rows are seen for several epochs, and it is
    always possible to remove the row from the source or the item from the suite. Raise it for a formula that the suite
    and every document share."""


class References(RecipeModel):
    """Replies generated for held-out documents and compared with the true ones."""

    max_new_tokens: int = Field(default=128, ge=8)
    """Longest reply, in tokens; each token takes a forward pass."""

    max_rows: int | None = Field(default=24, ge=1)
    """Largest number of documents; null: all that are held out."""


class Evaluation(RecipeModel):
    """What is measured before an adapter may be registered."""

    seed: int = 7
    """Seed of every random choice of the evaluation."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format in which base, incumbent and candidate are scored and answer. `auto` is bfloat16 where this machine
    computes in it, else float32, whatever `training.sft` names; identities and report have which."""

    max_held_out_rows: int | None = Field(default=None, ge=10)
    """Largest number of held-out documents that are evaluated; null: all."""

    distractors: int = Field(default=2, ge=1)
    """Wrong replies that are offered beside the right one."""

    batch_size: int = Field(default=4, ge=1)
    """Replies generated at once."""

    references: References | None = None
    """Compare generated replies with the true ones. Off by default: generating is slow on a CPU."""

    capability: tuple[CapabilitySuite, ...] = Field(
        min_length=1,
        examples=[[{"name": "coastal_rules", "path": "suites/coastal_rules.jsonl", "classification": "PUBLIC"}]],
    )
    """The suites, own and published."""

    red_team: RedTeam
    """The red team: prompts, judges, and probes of memorisation."""

    contamination: Contamination = Contamination()
    """How many training rows may share text with suites and prompts."""

    @model_validator(mode="after")
    def _suites_have_different_names(self) -> "Evaluation":
        names = [suite.name for suite in self.capability]
        if len(set(names)) != len(names):
            raise ValueError(f"two suites share a name: {', '.join(names)}")
        return self
