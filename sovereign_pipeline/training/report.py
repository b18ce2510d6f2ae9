"""The records of a training run: `report.json`, `rlhf.json` and the lines of `training_log.jsonl`."""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import ConfigDict, Field

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.policy.rlhf import TrlArgument
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.training.compute import TrainingCompute
from sovereign_pipeline.training.job import Method

REPORT_FILE = "report.json"
TRAINING_LOG_FILE = "training_log.jsonl"
SELECTION_FILE = "selection_losses.jsonl"
"""File in a trial's artifact. It contains the id, the number of reply tokens and the mean loss of each document of the
selection side."""


class Libraries(Frozen):
    """Installed versions of the Python packages that affect the result of a training run."""

    accelerate: str
    bitsandbytes: str
    peft: str
    safetensors: str
    torch: str
    transformers: str
    trl: str


TRAINING_LIBRARIES = tuple(Libraries.model_fields)


class BaseModelIdentity(Frozen):
    """The base model of a training run, as stated in the job."""

    name: str
    digest: str
    chat_template_sha256: str


class TrlNumerics(Frozen):
    """The TRL trainer that ran, with its arguments. TRL's code computes the loss, the forward pass and the padding."""

    trainer: str
    """Class name with its module."""
    stability: Literal["stable", "experimental"]
    arguments: dict[str, TrlArgument | None]
    """Effective arguments, including TRL's defaults."""


class TrainingSummary(Frozen):
    """The fields of the report that are also the summary in the artifact's manifest."""

    method: Method
    trl: TrlNumerics | None = Field(default=None, exclude_if=lambda value: value is None)
    """TRL trainer, for the methods `trl`, `rloo` and `grpo`. The reports of other methods lack this key."""
    adapter: str
    """Kind of adapter: `lora`, `qlora`, or `none` for full tuning."""
    steps: int
    rows: int
    """Number of rows trained on."""
    tokens: int
    """Number of tokens in the rows trained on, prompts included."""
    tokens_trained: int
    """Number of tokens that training passed through the model in all epochs, prompts included, padding excluded."""
    compute: TrainingCompute
    supervised_share: float
    """Share of the tokens over which the loss is computed, 0 to 1."""
    rows_cut: int
    """Number of rows omitted because they are longer than `max_length`."""
    units_left_out: int
    """Number of packs, pairs or replies omitted because their batch would be too small for the method."""
    first_loss: float
    """Loss of the first step: nats per token (SFT), or the method's loss per pair or reply."""
    last_loss: float
    trainable_parameters: int
    optimizer: str
    """Class of the optimizer that ran, with its module."""
    optimizer_paged: bool
    learning_rate: float
    scheduler: str
    precision: str
    base_held_as: str
    """Precision of the frozen weights, or their quantisation."""
    trained_in: str
    """Precision of the trained weights."""
    attention: str
    device: str
    devices: int
    threads: int
    seed: int
    data_order_sha256: str
    """Digest of the row ids in the order of the training."""
    libraries: Libraries
    base_model: BaseModelIdentity


class TrainingReport(TrainingSummary):
    """The report of a training run, in `report.json`."""

    rows_cut_ids: tuple[str, ...]
    rows_by_turn_ids: tuple[str, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Ids of conversations in which each supervised turn is a separate row. In such a conversation, the chat template
    formats a turn differently if a later turn follows, for example without the turn's reasoning."""
    rows_shortened_ids: tuple[str, ...] = Field(default=(), exclude_if=lambda value: not value)
    """Ids of conversations whose first turns were removed to fit `max_length`."""
    weight_decay: float
    betas: tuple[float, float]
    gradient_checkpointing: bool
    packing: bool
    sharding: str | None
    """Kind of sharding: `fsdp2` or `zero3`; None on one device."""
    probe_loss_before: float
    """Loss on a few training rows before the first step, nats per token."""
    probe_loss_after: float

    @property
    def summary(self) -> dict[str, Any]:
        """Return the summary for the artifact's manifest."""
        counts = {"rows_by_turn": len(self.rows_by_turn_ids), "rows_shortened": len(self.rows_shortened_ids)}
        written = self.model_dump(mode="json", include=set(TrainingSummary.model_fields))
        return {**written, **{name: count for name, count in counts.items() if count}}


class LoggedStep(Frozen):
    """One line of `training_log.jsonl`. The names in the file are the names that transformers and TRL use."""

    model_config = ConfigDict(validate_by_name=True, serialize_by_alias=True)

    step: int
    loss: float
    learning_rate: float | None = None
    grad_norm: float | None = None
    reward_accuracy: float | None = Field(default=None, alias="rewards/accuracies")
    """Share of pairs whose chosen reply has the higher reward (DPO, IPO)."""
    reward_margin: float | None = Field(default=None, alias="rewards/margins")
    """Mean difference between the reward of the chosen and of the rejected reply (DPO, IPO)."""
    reward_chosen: float | None = Field(default=None, alias="rewards/chosen")
    """Mean reward of desirable replies (KTO)."""
    reward_rejected: float | None = Field(default=None, alias="rewards/rejected")
    """Mean reward of undesirable replies (KTO)."""
    divergence: float | None = Field(default=None, alias="kl")
    """Estimate of KL(policy, reference), nats (KTO)."""

    @classmethod
    def from_history(cls, entry: Mapping[str, float]) -> "LoggedStep":
        """Build the line from an entry of transformers' log. All other fields of the entry are dropped."""
        stored = {field.alias or name for name, field in cls.model_fields.items()}
        return cls.model_validate({name: value for name, value in entry.items() if name in stored})

    @property
    def row(self) -> dict[str, object]:
        """The line's fields as stored, without the fields that the training method does not have."""
        return self.model_dump(mode="json", exclude_none=True)


Report = TypeVar("Report", bound=Frozen)


def read_report(artifact: Artifact, kind: type[Report]) -> Report:
    """Read `report.json` of an artifact as a report of type `kind`. Raises IntegrityError if the file is invalid."""
    try:
        return kind.model_validate_json(artifact.file(REPORT_FILE).read_bytes())
    except ValueError:
        raise IntegrityError(
            f"{artifact.path}: {REPORT_FILE} is not a valid {kind.__name__}.", f"Materialize {artifact.ref.kind} again."
        ) from None


RLHF_FILE = "rlhf.json"
SAMPLES_FILE = "samples.jsonl"
"""File of replies to a few training prompts, sampled at the start, in the middle and at the end of the training. No
page or log shows the file's text."""


class RewardFacts(Frozen):
    """The weight and the identity of one part of a reward."""

    weight: float
    identity: str
    """For a tool: the digest of everything that affects the tool's scores, except the replies. For a reward model: the
    digest of its artifact."""


class HeldOutComparison(Frozen):
    """Compares the held-out rewards of the adapter with those of its parent, on the same prompts. None of these prompts
    was used to choose the adapter."""

    prompts: int
    cases: int
    """Number of cases that the interval is based on."""
    parent: float
    adapter: float
    difference: float
    low: float
    """Lower end of the 95 % interval of the difference."""
    high: float


class RlhfReport(Frozen):
    """The report of an RLHF run, in `rlhf.json`. All fields but the last two are also in the artifact's summary."""

    algorithm: str
    reward: dict[str, RewardFacts]
    gold: dict[str, RewardFacts]
    """Parts of the gold reward, which measures the policy on held-out prompts."""
    iterations: int
    """Number of finished iterations."""
    stopped: str | None
    """Reason why the training ended early; None if all planned iterations ran."""
    best_iteration: int
    """Number of the iteration whose adapter was saved."""
    gold_of_parent: float
    """The parent adapter's mean reward on the held-out prompts that are used to choose the best iteration."""
    gold_of_best: float
    divergence_of_best: float
    """KL divergence of the saved adapter from its parent, in nats per reply. It is measured after the training, on
    replies of the saved adapter."""
    cut_replies: str
    """The recipe's `cut_replies`: how the policy learns from replies that were cut at `max_new_tokens`."""
    cut_share: float
    """Share of cut replies among the replies sampled for learning, 0 to 1."""
    kl_coefficient: float
    """KL coefficient at the end of the training."""
    rollouts: int
    sampler: str = "trainer"
    """Name of the sampler: `trainer`, or vLLM with its version."""
    prompts_cut: int
    """Number of prompts that left no room for a reply."""
    comparison: HeldOutComparison
    held_out_parent: dict[str, float]
    """Mapping of prompt id to the reward of the parent adapter's reply, for each compared prompt."""
    held_out_adapter: dict[str, float]

    @property
    def summary(self) -> dict[str, Any]:
        """Return the summary for the artifact's manifest."""
        return self.model_dump(mode="json", exclude={"held_out_parent", "held_out_adapter"})
