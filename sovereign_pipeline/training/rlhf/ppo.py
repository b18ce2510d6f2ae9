"""Implement the equations of proximal policy optimisation on replies, as pure functions on tensors.

Sources, by the names used below: "PPO" is Schulman et al. 2017 (arXiv 1707.06347), "GAE" Schulman et al. 2015 (arXiv
1506.02438), "Ziegler" Ziegler et al. 2019 (arXiv 1909.08593), "InstructGPT" Ouyang et al. 2022 (arXiv 2203.02155), "N"
"The N Implementation Details of RLHF with PPO" (Huang et al. 2023, and 2024 as arXiv 2403.17031). An action is a token.
The state before a token is the prompt and the reply so far. Each function states whether its vectors are over the
tokens of one reply or of a batch.
"""

from dataclasses import dataclass
from typing import Any


def token_rewards(score: float, log_policy: Any, log_reference: Any, coefficient: float) -> Any:
    """Return the reward of each token of one reply: −β (log π − log π_ref), plus the reply's score at its last token.

    Sources: Ziegler, equation 2; InstructGPT, equation 2; N, "per-token KL penalty". log π − log π_ref estimates the KL
    divergence; it is called k1 in Schulman's note on approximating KL. This estimate is unbiased, because the tokens
    are sampled from π.
    """
    rewards = -coefficient * (log_policy - log_reference)
    rewards[-1] += score
    return rewards


def advantages(rewards: Any, values: Any, discount: float, trace: float, value_after: float = 0.0) -> Any:
    """Return the generalised advantage estimate of each token of one reply.

    GAE, equations 12 and 16: δ_t = r_t + γ V_{t+1} − V_t and A_t = δ_t + γ λ A_{t+1}. values: value of the state before
    each token. value_after: value of the state after the last token; zero if the reply ended there.
    """
    import torch

    found = torch.zeros_like(rewards)
    following_value, following = value_after, 0.0
    for place in reversed(range(len(rewards))):
        delta = rewards[place] + discount * following_value - values[place]
        following = delta + discount * trace * following
        found[place] = following
        following_value = values[place]
    return found


def whitened(values: Any) -> Any:
    """Normalise a batch's advantages to mean 0 and variance 1 (N, "advantage whitening"). Rewards are not whitened."""
    return (values - values.mean()) / (values.var(unbiased=False) + 1e-8).sqrt()


def policy_losses(log_policy: Any, log_before: Any, advantage: Any, clip: float) -> Any:
    """Return −L^CLIP of each token: PPO, equation 7, with r = exp(log π − log π_old).

    The loss of a token is the clipped or the unclipped loss, whichever is larger, so that clipping never lowers a loss.
    """
    import torch

    ratio = (log_policy - log_before).exp()
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - clip, 1 + clip))


def mismatch_weights(log_before: Any, log_sampled: Any, cap: float) -> Any:
    """Return min(π_old / μ, cap) for each token, or for each reply if the arguments are sums over replies. μ is the
    sampling distribution, and π_old the policy as the update computes it.

    This is truncated importance sampling (Ionides 2008). A sampler that rounds differently from the update, such as
    vLLM or the trainer in bfloat16, samples from a distribution that differs slightly from π_old. The weights multiply
    the surrogate loss and have no gradient.
    """
    return (log_before - log_sampled).exp().clamp(max=cap)


def value_losses(value: Any, value_before: Any, value_target: Any, clip: float) -> Any:
    """Return half the squared error of each token's value. The value is clipped around the value before the update (N,
    "value function clipping"), and the larger of the clipped and the unclipped error counts."""
    import torch

    near = value_before + (value - value_before).clamp(-clip, clip)
    return 0.5 * torch.maximum((value - value_target) ** 2, (near - value_target) ** 2)


def clip_share(log_policy: Any, log_before: Any, clip: float) -> float:
    """Return the share of tokens whose ratio lies outside 1 ± ε (N, "clipfrac")."""
    return float((((log_policy - log_before).exp() - 1).abs() > clip).float().mean())


@dataclass(frozen=True)
class KlController:
    """A controller that adjusts β so that the divergence of whole replies approaches a target (Ziegler, section
    2.2)."""

    coefficient: float
    target: float | None
    """Target divergence in nats per reply; None keeps β constant."""
    horizon: int
    """Horizon of the adjustment, in replies. With a larger horizon, β changes more slowly."""

    def after(self, divergence: float, replies: int) -> "KlController":
        """Return the controller with β · (1 + clip(KL / target − 1, ±0.2) · min(1, n / horizon)). divergence: KL in
        nats per reply, measured on n = `replies` replies."""
        if self.target is None:
            return self
        error = min(max(divergence / self.target - 1, -0.2), 0.2)
        step = 1 + error * min(1.0, replies / self.horizon)
        return KlController(self.coefficient * step, self.target, self.horizon)
