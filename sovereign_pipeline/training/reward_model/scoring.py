"""A reward model's score of a reply: the head on the last hidden state of the reply's last token.

The model is an adapter and a vector: any base of the same weights that is in memory anyway can score with it. What does
not belong here: training it (`trainer.py`), and what the scores are worth (`accuracy.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.policy.training.training import Sft
from sovereign_pipeline.training.loop.forward import passes_in
from sovereign_pipeline.training.loop.models import read_base
from sovereign_pipeline.training.loop.rows import Completion, EncodedRow
from sovereign_pipeline.training.reward_model.accuracy import PairScore
from sovereign_pipeline.training.tuned_model import ADAPTER_WEIGHTS

REWARD_DIRECTORY = "reward"
"""In the artifact: a PEFT directory for AutoModelForSequenceClassification with num_labels=1.

Load that with a pad_token_id that ends no turn, or transformers takes the end of turn for padding.
"""
HEAD = "base_model.model.score.weight"
"""Name of the head's vector among the directory's tensors."""


@dataclass(frozen=True)
class Scorer:
    """What scores: the layers with the adapter, and the head."""

    trunk: Any
    """From token ids to hidden states."""
    head: Any
    """[hidden], float32."""
    precision: str

    def scores(self, completions: Sequence[Completion]) -> list[float]:
        """One each, in logits. Row by row: alone, a row's score cannot depend on another's."""
        import torch

        device = next(self.trunk.parameters()).device
        found = []
        with torch.no_grad(), passes_in(self.precision, device.type):
            for each in completions:
                hidden = self.trunk(input_ids=torch.tensor([each.ids], device=device), use_cache=False)
                found.append(float(hidden.last_hidden_state[0, -1].float() @ self.head.float()))
        return found

    def pair_scores(self, rows: Sequence[EncodedRow]) -> list[PairScore]:
        """Of chosen and rejected reply of each row."""
        scores = self.scores([each for row in rows for each in row.completions])
        return [
            PairScore(id=row.id, chosen=chosen, rejected=rejected)
            for row, chosen, rejected in zip(rows, scores[0::2], scores[1::2], strict=True)
        ]


def read_scorer(base: Path, directory: Path, sft: Sft) -> Scorer:
    """The base with the reward model of a directory on it, on the CPU or the GPU. Dropout is off."""
    import torch
    from peft import PeftModel

    on_gpu = {"": 0} if torch.cuda.is_available() else None
    model = read_base(base, sft, getattr(torch, sft.precision), on_gpu)
    adapted: Any = PeftModel.from_pretrained(model, directory, config=scoring_config(directory)).eval()
    return Scorer(adapted.get_base_model().get_decoder(), read_head(directory, model.device), sft.precision)


def scoring_config(directory: Path) -> Any:
    """The adapter's configuration for a base that has no head for scores."""
    from peft import LoraConfig

    config = LoraConfig.from_pretrained(directory)
    config.task_type = "CAUSAL_LM"
    config.modules_to_save = None
    return config


def read_head(directory: Path, device: Any) -> Any:
    """The head's vector, [hidden], float32. Raises IntegrityError when there is none."""
    from safetensors.torch import load_file

    tensors = load_file(directory / ADAPTER_WEIGHTS)
    if HEAD not in tensors or tensors[HEAD].ndim != 2 or tensors[HEAD].shape[0] != 1:
        raise IntegrityError(
            f"{directory}: this is no reward model; it has no head.", "Materialize reward_model again."
        )
    return tensors[HEAD][0].float().to(device)
