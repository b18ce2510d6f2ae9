"""What is minimised, as formulas on log-probabilities. Nothing here knows of models, rows or devices.

All preference losses take, for each reply, the policy's log-probability and the reference's, summed over the reply's
tokens (nats). TRL has the same losses; ours stand here because they are read off one packed forward, which TRL's
trainers cannot do, and a test holds them equal to TRL's.
"""

from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.policy.training import Preference


@dataclass(frozen=True)
class PreferenceLoss:
    """losses: one for each pair (dpo, ipo) or each reply (kto). rewards: β·log ratio of each reply, without gradient.
    margins: chosen minus rejected reward of each pair; none for kto."""

    losses: Any
    rewards: Any
    margins: Any | None


def pair_loss(preference: Preference, log_ratios: Any, lengths: Any) -> PreferenceLoss:
    """DPO (Rafailov et al. 2023, equation 7) or IPO (Azar et al. 2023, equation 17).

    log_ratios: policy minus reference, [2n], chosen and rejected in turns. lengths: tokens of the replies, [2n]. IPO's
    log ratios are means over a reply's tokens, so that its target 1/(2τ) is the same for short and long replies, as its
    authors have it in TRL and in their own experiments.
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

    divergence: the estimate of KL(policy, reference) that gains and losses are measured from, at least 0 and without
    gradient: the mean log ratio of replies to prompts that they do not answer.
    """
    import torch

    beta = preference.beta
    gains = torch.sigmoid(beta * (log_ratios - divergence))
    pains = torch.sigmoid(beta * (divergence - log_ratios))
    losses = torch.where(
        desirable, preference.desirable_weight * (1 - gains), preference.undesirable_weight * (1 - pains)
    )
    return PreferenceLoss(losses, beta * log_ratios.detach(), None)
