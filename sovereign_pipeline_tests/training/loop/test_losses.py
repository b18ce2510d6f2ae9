"""The losses have the papers' values where those are plain. That they are TRL's: `test_trainer.py`."""

import math
from typing import Any

import pytest

from sovereign_pipeline.policy.training import Preference
from sovereign_pipeline.training.methods.preference import kto_loss, pair_loss


def preference(**values: Any) -> Preference:
    return Preference.model_validate(values)


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
