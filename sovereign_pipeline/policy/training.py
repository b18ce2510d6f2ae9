"""The training section of a recipe: what is trained from what, how, and on how many devices.

What belongs here: the choices and their defaults, each with its source, and what cannot go together. What does not:
what is done with them (`training/`). Changing a value that decides an adapter's bytes makes a new adapter.
"""

import unicodedata
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from sovereign_pipeline.policy.recipe_model import RecipeModel

FULL_LEARNING_RATE = 2e-5
ADAPTER_LEARNING_RATE = 2e-4
FULL_PREFERENCE_LEARNING_RATE = 1e-6
ADAPTER_PREFERENCE_LEARNING_RATE = 2e-5
LARGEST_BATCH = 64
LARGE_BATCH_FOR_AN_ADAPTER = 32


class Tuning(RecipeModel):
    """What both stages of training are told.

    batch_size: units (packs, or single rows) that a device takes at once; times gradient_accumulation and devices it
    is the effective batch. LoRA loses to full tuning when that is large (Thinking Machines 2025, "LoRA Without
    Regret", section on batch size), so stay below 32 rows; above 64 units the recipe is refused.
    packing: rows together in packs of at most `max_length` tokens, kept apart by their positions; of preferences, which
    are not packed, all replies of a batch in one pass.
    max_length: tokens of a pack, and of a row; of a pair, of each reply with its prompt.
    scheduler: of the learning rate, after `warmup_steps`.
    """

    warmup_steps: int = Field(default=2, ge=0)
    scheduler: Literal["linear", "cosine", "constant"] = "cosine"
    epochs: float = Field(default=1.0, gt=0)
    max_steps: int | None = Field(default=None, ge=1)
    max_length: int = Field(default=1024, ge=32)
    batch_size: int = Field(default=1, ge=1)
    gradient_accumulation: int = Field(default=4, ge=1)
    packing: bool = True

    @model_validator(mode="after")
    def _batch_is_not_huge(self) -> "Tuning":
        if self.batch_size * self.gradient_accumulation > LARGEST_BATCH:
            raise ValueError(
                f"batch_size × gradient_accumulation is {self.batch_size * self.gradient_accumulation}, more than "
                f"{LARGEST_BATCH}; adapters learn worse from large batches, so lower gradient_accumulation"
            )
        return self


class Sft(Tuning):
    """Supervised fine-tuning on prompt and completion, loss on the completion only; and what holds for the whole chain.

    adapter: `lora`; `qlora`, on a base in NF4 with double quantisation (Dettmers et al. 2023); `none`, full tuning.
    target_modules: all linear layers (Dettmers et al. 2023, section 4; Biderman et al. 2024, section 5).
    alpha: 2 × rank (Biderman et al. 2024, appendix). learning_rate: 2e-4 for an adapter, about ten times the 2e-5 of
    full tuning (Thinking Machines 2025).
    dropout: of what goes into an adapter, in this stage alone. With start_from it is this value too, not the earlier
    adapter's.
    rslora: scale by alpha/√rank instead of alpha/rank (Kalajdzievski 2023). dora: magnitude and direction apart (Liu et
    al. 2024); vLLM does not serve such an adapter.
    optimizer: `auto` is AdamW in 8 bits, paged, where there is a CUDA device and the base is in NF4 or tuned in full
    (Dettmers et al. 2023, section 3), and AdamW elsewhere. The report names the one in effect.
    gradient_checkpointing: activations are computed twice instead of kept: a third more time, far less memory.
    max_cut_share: of the rows, how many may be longer than max_length; they are left out.
    """

    method: Literal["sft"] = "sft"
    adapter: Literal["lora", "qlora", "none"] = "lora"
    rank: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | tuple[str, ...] = "all-linear"
    rslora: bool = False
    dora: bool = False
    learning_rate: float = Field(gt=0)
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    optimizer: Literal["auto", "adamw", "paged_adamw_8bit"] = "auto"
    gradient_checkpointing: bool = False
    max_cut_share: float = Field(default=0.02, ge=0, le=1)

    @model_validator(mode="before")
    @classmethod
    def _learning_rate_goes_by_what_is_trained(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "learning_rate" in values:
            return values
        full = values.get("adapter") == "none"
        return {**values, "learning_rate": FULL_LEARNING_RATE if full else ADAPTER_LEARNING_RATE}

    @model_validator(mode="after")
    def _an_adapter_is_needed_for_what_shapes_it(self) -> "Sft":
        shaping = ("rank", "alpha", "dropout", "target_modules", "rslora", "dora")
        named = _changed(self, *shaping)
        if self.adapter == "none" and named:
            raise ValueError(f"adapter: none has no {', '.join(named)}; leave that out, or choose lora or qlora")
        return self


class Preference(Tuning):
    """Learning from what people preferred, on top of the SFT stage. The reference is the model as SFT left it.

    Dropout is off, as in TRL's trainers: policy and reference would differ by it before anything is learned.
    method: `dpo` (Rafailov et al. 2023) and `ipo` (Azar et al. 2023) learn from pairs, `kto` (Ethayarajh et al. 2024)
    from single replies that were found good or bad.
    beta: 0.1 (Rafailov et al. 2023, appendix B; Ethayarajh et al. 2024, section 5). For ipo it is the paper's τ.
    learning_rate: 2e-5 for an adapter, 1e-6 for full tuning (Rafailov et al. 2023, appendix B).
    desirable_weight, undesirable_weight: kto's λ_D and λ_U; the paper (section 4.1) wants λ_D·n_D within 1 to 4/3 of
    λ_U·n_U, so raise the one whose replies are few.
    """

    method: Literal["dpo", "ipo", "kto"] = "dpo"
    beta: float = Field(default=0.1, gt=0)
    learning_rate: float | None = Field(default=None, gt=0)
    desirable_weight: float = Field(default=1.0, gt=0)
    undesirable_weight: float = Field(default=1.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _kto_takes_two_rows_at_least(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("method") == "kto":
            return {"batch_size": 4, **values}
        return values

    @model_validator(mode="after")
    def _goes_with_the_method(self) -> "Preference":
        weights = _changed(self, "desirable_weight", "undesirable_weight")
        if self.method != "kto" and weights:
            raise ValueError(f"{', '.join(weights)} belongs to method kto")
        if self.method == "kto" and self.batch_size < 2:
            raise ValueError(
                "kto measures how far the model moved on replies that are exchanged within a batch; batch_size must be "
                "2 at least"
            )
        return self


class Checkpoints(RecipeModel):
    """What an interrupted training goes on from; no value here changes the adapter. keep: the newest so many stay."""

    every_steps: int = Field(default=25, ge=1)
    keep: int = Field(default=2, ge=1)


class Devices(RecipeModel):
    """How the training is spread.

    launcher: `process` is one process on one device; `accelerate` starts `count` processes, one a device.
    sharding: of parameters, gradients and optimizer over the devices: PyTorch's FSDP2 or DeepSpeed's ZeRO-3.
    """

    launcher: Literal["process", "accelerate"] = "process"
    count: int = Field(default=1, ge=1)
    sharding: Literal["fsdp2", "zero3"] = "fsdp2"

    @model_validator(mode="after")
    def _several_need_accelerate(self) -> "Devices":
        if self.launcher == "process" and self.count > 1:
            raise ValueError("several devices need launcher: accelerate")
        return self


class Canaries(RecipeModel):
    """Rows of random words planted among the training rows, so that the red team can measure how much is memorised
    (Carlini et al. 2019, "The Secret Sharer", section 4). They cost the training of as many short rows.

    count: different canaries; 8 because the mean of their exposures is judged with an interval, and 6 at least, as of
    case files (`HeldOutLoss.minimum_cases`): over fewer such an interval is too narrow. repeats: rows that each
    stands in, as often as a sentence that must not be learnt by heart may occur in the corpus.
    """

    count: int = Field(default=8, ge=6, le=100)
    repeats: int = Field(default=1, ge=1, le=100)
    seed: int = 7


class Training(RecipeModel):
    """instruction: the words in front of every letter, the same in training, evaluation and serving; may be empty.

    format: training_dataset always holds `train.jsonl` (instruction, input, output), which the trainer reads;
    `messages` adds the same rows as chat messages (`messages.jsonl`) for other programs.
    start_from: a registered adapter of this base model, such as `permits-desk-1.0.0`, that SFT goes on from.
    canaries: none are planted unless asked for.
    """

    base_model: str
    instruction: str
    format: Literal["instruction", "messages"] = "instruction"
    seed: int = 7
    start_from: str | None = Field(default=None, pattern=r"^[a-z0-9_-]+-[0-9]+\.[0-9]+\.[0-9]+$")
    canaries: Canaries | None = None
    sft: Sft = Field(default_factory=lambda: Sft.model_validate({}))
    preference: Preference | None = None
    checkpoints: Checkpoints = Checkpoints()
    devices: Devices = Devices()

    @field_validator("instruction")
    @classmethod
    def _as_it_is_written_into_rows(cls, instruction: str) -> str:
        return unicodedata.normalize("NFC", instruction)

    @model_validator(mode="after")
    def _parts_go_together(self) -> "Training":
        if self.start_from is not None and self.sft.adapter == "none":
            raise ValueError("start_from goes on training an adapter, and adapter: none has none")
        if self.devices.sharding == "fsdp2" and self.devices.count > 1 and self.sft.adapter == "qlora":
            raise ValueError("a base in NF4 is not sharded by fsdp2 here; use adapter: lora, or one device")
        if self.devices.count > 1 and self.preference is not None:
            raise ValueError("preferences are learned on one device; several are for lines with SFT alone")
        return self

    @property
    def preference_learning_rate(self) -> float:
        """Of the preference stage: as the recipe says, or the default for what is trained. Raises ValueError."""
        if self.preference is None:
            raise ValueError("the line has no preference stage")
        if self.preference.learning_rate is not None:
            return self.preference.learning_rate
        return FULL_PREFERENCE_LEARNING_RATE if self.sft.adapter == "none" else ADAPTER_PREFERENCE_LEARNING_RATE


def warnings(training: Training) -> list[str]:
    """What is allowed and mostly a mistake, one line each, for whoever checks a recipe. The sources are those of the
    defaults: `Tuning`, `Sft`, `Preference`."""
    full = training.sft.adapter == "none"
    stages: list[tuple[str, Tuning, float, float]] = [
        ("sft", training.sft, training.sft.learning_rate, FULL_LEARNING_RATE if full else ADAPTER_LEARNING_RATE)
    ]
    if training.preference is not None:
        usual = FULL_PREFERENCE_LEARNING_RATE if full else ADAPTER_PREFERENCE_LEARNING_RATE
        stages.append(("preference", training.preference, training.preference_learning_rate, usual))
    found = []
    if training.sft.dora:
        found.append("training.sft.dora: vLLM refuses to serve a DoRA adapter; leave dora out if vLLM is to serve it.")
    for name, tuning, rate, usual in stages:
        batch = tuning.batch_size * tuning.gradient_accumulation * training.devices.count
        if not full and batch >= LARGE_BATCH_FOR_AN_ADAPTER:
            found.append(
                f"training.{name}: the effective batch (batch_size × gradient_accumulation × devices.count) is "
                f"{batch}; from {LARGE_BATCH_FOR_AN_ADAPTER} on an adapter learns worse than full tuning does."
            )
        if not usual / 10 <= rate <= usual * 10:
            side = "above" if rate > usual else "below"
            found.append(
                f"training.{name}.learning_rate: {rate:g} is more than ten times {side} "
                f"the {usual:g} that {'full tuning' if full else 'an adapter'} is usually trained with."
            )
    return found


def _changed(section: RecipeModel, *names: str) -> list[str]:
    """Those of the fields that do not have their default."""
    return [name for name in names if getattr(section, name) != type(section).model_fields[name].default]
