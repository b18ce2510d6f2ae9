"""What the trainer records of a reward model: `report.json`. What does not belong here: filling it (`trainer.py`)."""

from typing import Any

from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.training.report import REPORT_FILE, BaseModelIdentity, Libraries
from sovereign_pipeline.training.reward_model.accuracy import HeldOutAccuracy

HELD_OUT_SCORES = "held_out_scores.jsonl"
"""In the artifact: a `PairScore` for each held-out pair."""


class RewardReport(Frozen):
    """`report.json`, and the summary in the artifact's manifest."""

    trainer: str
    """The class of TRL, whose loss and forward pass ran."""
    rows: int
    """Pairs trained on."""
    rows_cut: int
    """Pairs left out because they are longer than `max_length`."""
    rows_left_out: int = 0
    """Pairs at the end of the order that were fewer than a batch for each of several devices."""
    held_out: int
    """Pairs measured."""
    held_out_cut: int
    """Held-out pairs not measured because they are longer than `max_length`."""
    steps: int
    first_loss: float
    """Of the first step, for each pair: −log σ(margin), and the centring."""
    last_loss: float
    accuracy: HeldOutAccuracy
    trainable_parameters: int
    optimizer: str
    learning_rate: float
    centring: float
    precision: str
    device: str
    devices: int = 1
    threads: int
    seed: int
    data_order_sha256: str
    libraries: Libraries
    base_model: BaseModelIdentity

    @property
    def summary(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


def read_reward_report(artifact: Artifact) -> RewardReport:
    """The report of a reward_model. Raises IntegrityError when it is none."""
    try:
        return RewardReport.model_validate_json(artifact.file(REPORT_FILE).read_bytes())
    except ValueError:
        raise IntegrityError(
            f"{artifact.path}: {REPORT_FILE} is no report of a reward model.", "Materialize reward_model again."
        ) from None
