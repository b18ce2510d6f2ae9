"""Preference losses as formulas on log-probabilities, independent of models, rows and devices.

They take the log ratio of each reply: the policy's log-probability minus the reference's, summed over the reply's
tokens (nats). TRL has the same losses, but its trainers cannot compute them on a packed forward; a test holds these
equal to TRL's.
"""

from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.policy.training.training import Preference


@dataclass(frozen=True)
class PreferenceLoss:
    """The loss of a batch, and what is logged of it."""

    losses: Any
    """One for each pair (dpo, ipo) or each reply (kto)."""
    rewards: Any
    """β · log ratio of each reply, without gradient."""
    margins: Any | None
    """Chosen minus rejected reward of each pair; None for kto."""


def pair_loss(preference: Preference, log_ratios: Any, lengths: Any) -> PreferenceLoss:
    """DPO (Rafailov et al. 2023, equation 7) or IPO (Azar et al. 2023, equation 17).

    log_ratios: [2n], chosen and rejected alternating. lengths: tokens of the replies, [2n]. IPO takes means over a
    reply's tokens, so that its target 1/(2τ) is the same for short and long replies, as its authors do in TRL and in
    their own experiments.
    """
    from torch.nn.functional import logsigmoid

    beta = preference.beta
    rewards = beta * log_ratios.detach()
    if preference.method == "ipo":
        means = log_ratios / lengths
        losses = (means[0::2] - means[1::2] - 1 / (2 * beta)) ** 2
    else:
        losses = -logsigmoid(beta * (log_ratios[0::2] - log_ratios[1::2]))
    return PreferenceLoss(losses, rewards, rewards[0::2] - rewards[1::2])


def kto_loss(preference: Preference, log_ratios: Any, desirable: Any, divergence: Any) -> PreferenceLoss:
    """KTO (Ethayarajh et al. 2024, equation 7). log_ratios, desirable (bool): [n].

    divergence: estimate of KL(policy, reference), at least 0 and without gradient: the mean log ratio of mismatched
    replies (`rows.exchanged`).
    """
    import torch

    beta = preference.beta
    desirable_value = torch.sigmoid(beta * (log_ratios - divergence))
    undesirable_value = torch.sigmoid(beta * (divergence - log_ratios))
    losses = torch.where(
        desirable,
        preference.desirable_weight * (1 - desirable_value),
        preference.undesirable_weight * (1 - undesirable_value),
    )
    return PreferenceLoss(losses, beta * log_ratios.detach(), None)
