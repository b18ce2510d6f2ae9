"""Define a recipe's section `training`: base model, method, hyperparameters and checkpoints."""

import unicodedata
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator

from sovereign_pipeline.policy.recipe_model import NotAllowed, RecipeModel, optional_in_schema
from sovereign_pipeline.policy.rlhf import (
    TRAINERS,
    RewardModel,
    Rlhf,
    TrlArgument,
    Tuning,
    changed_fields,
    check_arguments,
)

FULL_LEARNING_RATE = 2e-5
ADAPTER_LEARNING_RATE = 2e-4
FULL_PREFERENCE_LEARNING_RATE = 1e-6
ADAPTER_PREFERENCE_LEARNING_RATE = 2e-5
LARGE_BATCH_FOR_AN_ADAPTER = 32


SHAPING = ("rank", "alpha", "dropout", "target_modules", "rslora", "dora")
"""Keys of `training.sft` that apply only to an adapter."""


class Sft(Tuning):
    """Supervised fine-tuning on prompt and completion, with the loss on the completion only. Some keys also apply to
    the preference stage."""

    model_config = ConfigDict(json_schema_extra=optional_in_schema("learning_rate"))

    method: Literal["sft"] = "sft"
    """Supervised fine-tuning."""

    adapter: Literal["lora", "qlora", "none"] = "lora"
    """`lora`: a LoRA adapter. `qlora`: a LoRA adapter on a base model in NF4 with double quantisation (Dettmers et al.
    2023). `none`: full tuning."""

    rank: int = Field(default=16, ge=1)
    """Rank of the adapter's matrices."""

    alpha: int = Field(default=32, ge=1)
    """Scale of the adapter. The default is 2 × the default rank (Biderman et al. 2024, appendix)."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input, in this stage only. With `start_from`, this value replaces the dropout of the
    parent adapter."""

    target_modules: str | tuple[str, ...] = "all-linear"
    """Layers that get an adapter. The default is all linear layers (Dettmers et al. 2023, section 4; Biderman et al.
    2024, section 5)."""

    rslora: bool = False
    """Scale the adapter by alpha/√rank instead of alpha/rank (Kalajdzievski 2023)."""

    dora: bool = False
    """Train magnitude and direction of the weights separately (DoRA, Liu et al. 2024). vLLM cannot serve DoRA."""

    learning_rate: float = Field(gt=0)
    """Maximum learning rate. The default is 2e-4 for an adapter and 2e-5 for full tuning, a ratio of about ten
    (Thinking Machines 2025)."""

    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the model's weights in training. `auto` is bfloat16 if this machine has fast bfloat16
    instructions (a GPU, AMD's AVX512-BF16, Intel's AMX or ARM's BF16), and float32 otherwise. The adapter's identity
    records the format. Set the format explicitly if the trainers run on machines other than the pipeline's."""

    optimizer: Literal["auto", "adamw", "paged_adamw_8bit"] = "auto"
    """Optimizer. `auto` is paged 8-bit AdamW on a CUDA device for `qlora` and full tuning (Dettmers et al. 2023,
    section 3), otherwise AdamW. The training report states the optimizer that was used."""

    gradient_checkpointing: bool = False
    """Recompute activations instead of storing them. This takes a third more time and far less memory."""

    supervise: Literal["all", "last"] = Field(default="all", exclude_if=lambda value: value == "all")
    """Assistant messages of a conversation that the loss includes: all of them, or only the last. A message with the
    weight 0 is never included."""

    max_cut_share: float = Field(default=0.02, ge=0, le=1)
    """Largest accepted share of rows longer than `max_length`. These rows are left out of the training."""

    @model_validator(mode="before")
    @classmethod
    def _learning_rate_depends_on_adapter(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "learning_rate" in values:
            return values
        full = values.get("adapter") == "none"
        return {**values, "learning_rate": FULL_LEARNING_RATE if full else ADAPTER_LEARNING_RATE}

    not_allowed: ClassVar[NotAllowed] = (
        (
            lambda sft: sft.adapter == "none" and ", ".join(changed_fields(sft, *SHAPING)),
            "adapter: none does not use {1}; remove that key, or choose lora or qlora",
        ),
    )


class Preference(Tuning):
    """Preference training after SFT. The reference is the SFT model; `trainer: orpo` and `cpo` have none. Dropout is
    off, as in TRL's preference trainers, because with dropout the policy would differ from the reference before the
    first step."""

    method: Literal["dpo", "ipo", "kto", "trl"] = "dpo"
    """`dpo` (Rafailov et al. 2023) and `ipo` (Azar et al. 2023) learn from pairs, `kto` (Ethayarajh et al. 2024) from
    single replies with binary feedback. `trl` learns from pairs with the trainer of the TRL library that `trainer`
    names. With `trl`, the TRL library computes loss and forward pass, and the record states this."""

    beta: float = Field(default=0.1, gt=0)
    """Strength with which the loss keeps the policy near the reference. 0.1 as in Rafailov et al. 2023, appendix B, and
    Ethayarajh et al. 2024, section 5. With `ipo`, this key is the paper's τ."""

    learning_rate: float | None = Field(default=None, gt=0)
    """Maximum learning rate; null: 2e-5 for an adapter, 1e-6 for full tuning (Rafailov et al. 2023, appendix B)."""

    desirable_weight: float = Field(default=1.0, gt=0)
    """`kto` only: weight λ_D of positive feedback. According to the paper (section 4.1), λ_D·n_D should be 1 to 4/3
    times λ_U·n_U: raise the weight of the rarer feedback."""

    undesirable_weight: float = Field(default=1.0, gt=0)
    """`kto` only: weight λ_U of negative feedback; see `desirable_weight`."""

    trainer: str | None = Field(default=None, examples=["orpo"])
    """`trl` only: the trainer. `orpo` (Hong et al. 2024), `cpo` (Xu et al. 2024; with `loss_type: simpo` Meng et al.
    2024), or `dpo` for TRL's DPO losses that this package does not implement. `orpo` and `cpo` are experimental in TRL
    and have no reference. The reference of `dpo` is a frozen copy of the SFT adapter in memory."""

    arguments: dict[str, TrlArgument] = Field(default={}, examples=[{"beta": 0.1}])
    """`trl` only: the trainer's arguments, with TRL's names and defaults. All trainers: `adam_beta1`, `adam_beta2`,
    `adam_epsilon`, `max_grad_norm`, `weight_decay`. `orpo`: `beta`. `cpo`: `alpha`, `beta`, `cpo_alpha`,
    `label_smoothing`, `loss_type`, `simpo_gamma`. `dpo`: `beta`, `discopop_tau`, `f_alpha_divergence_coef`,
    `f_divergence_type`, `label_smoothing`, `ld_alpha`, `loss_type`, `loss_weights`, `use_weighting`. Any other argument
    is rejected, because another key of the recipe sets it, or because it concerns a path, the hub, a reporting service,
    the network or a device."""

    @model_validator(mode="before")
    @classmethod
    def _kto_has_a_batch(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("method") == "kto":
            return {"batch_size": 4, **values}
        return values

    not_allowed: ClassVar[NotAllowed] = (
        (
            lambda it: it.method != "kto" and ", ".join(changed_fields(it, "desirable_weight", "undesirable_weight")),
            "{1} belongs to method kto",
        ),
        (
            lambda it: it.method == "kto" and it.batch_size < 2,
            "kto compares replies across a batch, so batch_size must be at least 2",
        ),
        (
            lambda it: it.method != "trl" and ", ".join(changed_fields(it, "trainer", "arguments")),
            "{1} belongs to method trl",
        ),
        (
            lambda it: it.method == "trl" and ", ".join(changed_fields(it, "beta", "packing")),
            "method trl has no {1}: set beta in arguments, and remove packing, because TRL pads rows",
        ),
    )

    @model_validator(mode="after")
    def _arguments_are_of_the_trainer(self) -> "Preference":
        if self.method == "trl":
            check_arguments(self.trainer, self.arguments)
        return self

    @property
    def name(self) -> str:
        """Name of the method in records. With method trl, the name includes the trainer, such as `trl-orpo`."""
        return self.method if self.trainer is None else f"{self.method}-{self.trainer}"

    @property
    def has_copied_reference(self) -> bool:
        """True if the trainer needs memory for a frozen copy of the SFT adapter, in addition to the trained weights."""
        return self.trainer is not None and TRAINERS[self.trainer].has_reference


class Checkpoints(RecipeModel):
    """The checkpoints from which an interrupted training run resumes. These settings do not change the adapter."""

    every_steps: int = Field(default=25, ge=1)
    """Steps between two checkpoints."""

    keep: int = Field(default=2, ge=1)
    """Number of checkpoints to keep. Older checkpoints are removed."""


class Devices(RecipeModel):
    """The number of devices for SFT, preference training (`dpo`, `ipo`, `kto`) and the reward model."""

    launcher: Literal["process", "accelerate"] = "process"
    """`process` is one process on one device; `accelerate` starts `count` processes, one per device."""

    count: int = Field(default=1, ge=1)
    """Number of devices."""

    sharding: Literal["fsdp2", "zero3"] = "fsdp2"
    """How parameters, gradients and optimizer state are distributed over the devices: PyTorch's FSDP2 or, for SFT only,
    DeepSpeed's ZeRO-3."""

    not_allowed: ClassVar[NotAllowed] = (
        (lambda it: it.launcher == "process" and it.count > 1, "several devices need launcher: accelerate"),
    )


class Canaries(RecipeModel):
    """Rows of random words that are planted among the training rows to measure memorisation (Carlini et al. 2019, "The
    Secret Sharer", section 4). A canary takes as long to train on as any other short row."""

    count: int = Field(default=8, ge=6, le=100)
    """Number of different canaries. There must be at least 6, because with fewer canaries the confidence interval of
    their mean exposure is too narrow, as for `gates.held_out_loss.minimum_cases`."""

    repeats: int = Field(default=1, ge=1, le=100)
    """Number of rows for each canary. Choose how often a sentence may occur in the corpus and must still not be
    memorised."""

    seed: int = 7
    """Seed of the random words."""


COMBINATIONS: NotAllowed = (
    (
        lambda it: it.start_from is not None and it.sft.adapter == "none",
        "start_from needs an adapter to train further: choose adapter: lora or qlora, or remove start_from",
    ),
    (
        lambda it: it.devices.sharding == "fsdp2" and it.devices.count > 1 and it.sft.adapter == "qlora",
        "an NF4 base model cannot be sharded by fsdp2; use adapter: lora, or one device",
    ),
    (
        lambda it: it.sft.adapter == "none" and it.preference is not None and it.preference.has_copied_reference,
        "trainer {0.preference.trainer} of TRL would need memory for two models with adapter: none; use lora",
    ),
    (
        lambda it: it.sft.adapter == "qlora" and it.preference is not None and it.preference.has_copied_reference,
        "trainer {0.preference.trainer} of TRL would train the adapter in bfloat16 with adapter: qlora; use lora",
    ),
    (
        lambda it: it.reward_model is not None and it.sft.adapter != "lora",
        "training.reward_model needs sft.adapter: lora, because the reward model is such an adapter",
    ),
    (
        lambda it: it.devices.count > 1 and it.reads_preferences and it.devices.sharding == "zero3",
        "sharding: zero3 supports only SFT; use fsdp2 for preferences and reward models",
    ),
    (
        lambda it: it.devices.count > 1 and it.preference is not None and it.preference.method == "trl",
        "method trl needs devices.count: 1; only dpo, ipo and kto can use several devices",
    ),
    (
        lambda it: it.rlhf is not None and it.preference is not None,
        "after SFT, a line can learn from preferences or from a reward, not both: remove preference or rlhf",
    ),
    (
        lambda it: it.rlhf is not None and (it.sft.adapter == "none" or it.devices.count > 1),
        "rlhf needs an adapter (lora or qlora) and one device: policy and reference share the base model",
    ),
    (
        lambda it: it.rewards_by_model and it.reward_model is None,
        "a part of rlhf has reward_model: true, but training.reward_model is missing: add it",
    ),
    (
        lambda it: it.rlhf is not None and it.rlhf.algorithm != "ppo" and it.sft.adapter != "lora",
        "with qlora, TRL would train the adapter in bfloat16 for {0.rlhf.algorithm}; use lora",
    ),
    (
        lambda it: it.rlhf is not None and it.rlhf.max_new_tokens >= it.sft.max_length,
        "rlhf.max_new_tokens leaves no room for a prompt within sft.max_length",
    ),
)
"""Invalid combinations of sections of `training`."""


class Training(RecipeModel):
    """The base model, the training stages and their settings, and the devices."""

    base_model: str = Field(examples=["smollm2-135m-instruct"])
    """Base model, by the name of its card in `data/models/`."""

    instruction: str = Field(examples=["Write the Ministry's reply to this letter."])
    """Text that precedes every document, in training, evaluation and serving; may be empty."""

    format: Literal["instruction", "messages"] = "instruction"
    """Format of the training dataset. `instruction`: `train.jsonl` with instruction, input and output. `messages`: also
    a copy of these rows as chat messages (`messages.jsonl`), for other programs."""

    seed: int = 7
    """Seed of every random choice of the training."""

    start_from: str | None = Field(
        default=None, pattern=r"^[a-z0-9_-]+-[0-9]+\.[0-9]+\.[0-9]+$", examples=["permits-desk-1.0.0"]
    )
    """Parent adapter that SFT starts from: a registered adapter of the same base model; null: none."""

    canaries: Canaries | None = None
    """Canaries to plant among the training rows; null: none."""

    sft: Sft = Field(default_factory=lambda: Sft.model_validate({}))
    """Supervised fine-tuning."""

    preference: Preference | None = None
    """Preference training after SFT; null: SFT alone, or `rlhf`."""

    rlhf: Rlhf | None = None
    """Reinforcement learning after SFT, for goals that pairs of replies cannot express; null: none."""

    reward_model: RewardModel | None = None
    """Model that learns to score replies from preference pairs; null: none. A part of `rlhf.reward` may use it."""

    checkpoints: Checkpoints = Checkpoints()
    """Checkpoints from which an interrupted training run resumes."""

    devices: Devices = Devices()
    """Number of devices on which the training runs."""

    @field_validator("instruction")
    @classmethod
    def _is_normalised(cls, instruction: str) -> str:
        return unicodedata.normalize("NFC", instruction)

    not_allowed: ClassVar[NotAllowed] = COMBINATIONS

    @property
    def reads_preferences(self) -> bool:
        """True if a stage is trained on the line's preference dataset."""
        return self.preference is not None or self.reward_model is not None

    @property
    def rewards_by_model(self) -> bool:
        """True if the line's reward model computes a part of the reward in `rlhf`, optimised or only measured."""
        return self.rlhf is not None and self.rlhf.uses_reward_model

    @property
    def learns_from_preferences(self) -> bool:
        """True if the adapter learns from the line's preference dataset, directly or through a reward model."""
        return self.preference is not None or self.rewards_by_model

    @property
    def preference_learning_rate(self) -> float:
        """Learning rate of the preference stage: the recipe's, or the default for an adapter or full tuning. Raises
        ValueError if the line has no preference stage."""
        if self.preference is None:
            raise ValueError("the line has no preference stage")
        if self.preference.learning_rate is not None:
            return self.preference.learning_rate
        return FULL_PREFERENCE_LEARNING_RATE if self.sft.adapter == "none" else ADAPTER_PREFERENCE_LEARNING_RATE


def warnings(training: Training, elsewhere: bool) -> list[str]:
    """Return a warning for each setting that is allowed but usually a mistake.

    The sources of the limits are in the docstrings of `Tuning`, `Sft` and `Preference`.

    Args:
        elsewhere: True if trainers run on machines other than the pipeline's.
    """
    full = training.sft.adapter == "none"
    stages: list[tuple[str, Tuning, float, float]] = [
        ("sft", training.sft, training.sft.learning_rate, FULL_LEARNING_RATE if full else ADAPTER_LEARNING_RATE)
    ]
    if training.preference is not None:
        usual = FULL_PREFERENCE_LEARNING_RATE if full else ADAPTER_PREFERENCE_LEARNING_RATE
        stages.append(("preference", training.preference, training.preference_learning_rate, usual))
    found = []
    if training.sft.dora:
        found.append("training.sft.dora: vLLM cannot serve a DoRA adapter. Remove dora if you want to serve with vLLM.")
    if elsewhere and training.sft.precision == "auto":
        found.append(
            "training.sft.precision: the pipeline's machine decides what auto means, but according to "
            "institution.yaml the trainer runs on other machines. Set float32 or bfloat16."
        )
    for name, tuning, rate, usual in stages:
        batch = tuning.batch_size * tuning.gradient_accumulation * training.devices.count
        if not full and batch >= LARGE_BATCH_FOR_AN_ADAPTER:
            found.append(
                f"training.{name}: the effective batch (batch_size × gradient_accumulation × devices.count) is "
                f"{batch}. From {LARGE_BATCH_FOR_AN_ADAPTER}, an adapter learns worse than full tuning. Lower one of "
                "the three keys."
            )
        if not usual / 10 <= rate <= usual * 10:
            side = "above" if rate > usual else "below"
            found.append(
                f"training.{name}.learning_rate: {rate:g} is more than ten times {side} "
                f"the {usual:g} that {'full tuning' if full else 'an adapter'} is usually trained with."
            )
    return found
