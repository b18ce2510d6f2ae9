"""The losses equal the library's on the same log-probabilities, and the papers' values where those are plain."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sovereign_pipeline.policy.training import Preference
from sovereign_pipeline.training.losses import kto_loss, pair_loss


def preference(**values: Any) -> Preference:
    return Preference.model_validate(values)


@pytest.mark.parametrize("method", ["dpo", "ipo"])
@pytest.mark.parametrize("beta", [0.1, 0.7])
def test_pair_losses_are_trl_s(tmp_path: Path, method: str, beta: float) -> None:
    """TRL's own loss, given log-probabilities by a model of its interface in place of a real one."""
    import torch

    torch.manual_seed(3)
    policy, reference = torch.randn(6, 9) * 2, torch.randn(6) * 5  # three chosen, then three rejected
    mask = torch.tensor([[0] * (9 - count) + [1] * count for count in (3, 5, 8, 4, 2, 7)])
    theirs = _trl_pair_loss(method, beta, policy * mask, reference, mask)
    in_turns = [0, 3, 1, 4, 2, 5]
    ratios = ((policy * mask).sum(1) - reference)[in_turns]
    ours = pair_loss(preference(method=method, beta=beta), ratios, mask.sum(1)[in_turns])
    assert float(ours.losses.mean()) == pytest.approx(theirs, rel=1e-6)


def _trl_pair_loss(method: str, beta: float, log_probabilities: Any, reference: Any, mask: Any) -> float:
    import torch
    from trl import DPOTrainer

    padded = torch.nn.functional.pad(mask, (1, 0))
    inputs = {
        "input_ids": torch.zeros_like(padded),
        "attention_mask": torch.ones_like(padded),
        "completion_mask": padded,
        "ref_chosen_logps": reference[:3],
        "ref_rejected_logps": reference[3:],
    }

    class Accelerator(SimpleNamespace):
        def gather_for_metrics(self, values: Any) -> Any:
            return values

    class Nothing(dict):  # type: ignore[type-arg]
        def __missing__(self, key: str) -> Any:
            return [] if isinstance(key, str) and key not in ("train", "eval") else Nothing()

    trainer: Any = object.__new__(DPOTrainer)
    trainer.__dict__.update(
        model=torch.nn.Linear(1, 1),
        accelerator=Accelerator(device=torch.device("cpu")),
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=["sigmoid" if method == "dpo" else "ipo"],
        loss_weights=[1.0],
        label_smoothing=0.0,
        use_weighting=False,
        beta=beta,
        _metrics=Nothing(),
        _total_train_tokens=0,
        _tp_size=1,
    )
    outputs = SimpleNamespace(
        log_probs=log_probabilities, entropy=log_probabilities, mean_logits=log_probabilities, is_top1=mask
    )
    return float(trainer._compute_loss(lambda **inputs: outputs, inputs, return_outputs=False))


def test_a_policy_that_is_the_reference_starts_at_the_papers_values() -> None:
    import torch

    zero, lengths = torch.zeros(4), torch.tensor([3, 4, 5, 6])
    assert pair_loss(preference(), zero, lengths).losses.tolist() == pytest.approx([math.log(2)] * 2)
    assert pair_loss(preference(method="ipo", beta=0.1), zero, lengths).losses.tolist() == pytest.approx([25.0] * 2)
    desirable = torch.tensor([True, False, True, False])
    kto = kto_loss(preference(method="kto", undesirable_weight=2.0), zero, desirable, torch.zeros(()))
    assert kto.losses.tolist() == pytest.approx([0.5, 1.0, 0.5, 1.0])


def test_kto_gains_from_good_replies_and_loses_from_bad_ones() -> None:
    """By hand, from equation 7 with beta 1 and a divergence of 0.5."""
    import torch

    ratios, desirable = torch.tensor([1.5, 1.5]), torch.tensor([True, False])
    kto = kto_loss(preference(method="kto", beta=1.0), ratios, desirable, torch.tensor(0.5))
    one = 1 / (1 + math.exp(-1.0))
    assert kto.losses.tolist() == pytest.approx([1 - one, one])
    assert kto.rewards.tolist() == pytest.approx([1.5, 1.5])
