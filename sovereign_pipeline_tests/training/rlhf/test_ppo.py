"""The equations: against autograd of the formula as it is written, numbers by hand, and problems whose optimum is
known."""

import pytest
import torch

from sovereign_pipeline.training.rlhf.ppo import (
    KlController,
    advantages,
    clip_share,
    mismatch_weights,
    policy_losses,
    token_rewards,
    value_losses,
    whitened,
)


def test_the_gradient_of_the_surrogate_is_that_of_the_formula() -> None:
    """Equation 7 of Schulman et al. 2017 written with min, on logits of five tokens; some ratios lie outside the
    clip."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    chosen = torch.randint(5, (40,), generator=generator)
    before = (logits + 0.5 * torch.randn(40, 5, generator=generator, dtype=torch.float64)).log_softmax(-1)
    advantage = torch.randn(40, generator=generator, dtype=torch.float64)
    log_before = before[torch.arange(40), chosen]

    ours = logits.clone().requires_grad_()
    log = ours.log_softmax(-1)[torch.arange(40), chosen]
    policy_losses(log, log_before, advantage, 0.2).sum().backward()

    written = logits.clone().requires_grad_()
    ratio = written.softmax(-1)[torch.arange(40), chosen] / log_before.exp()
    objective = torch.minimum(ratio * advantage, torch.clip(ratio, 0.8, 1.2) * advantage)
    (-objective.sum()).backward()

    assert torch.allclose(ours.grad, written.grad, atol=1e-12)
    clipped = (ratio.detach() - 1).abs() > 0.2
    assert 0 < clipped.sum() < 40
    assert clip_share(log.detach(), log_before, 0.2) == pytest.approx(float(clipped.double().mean()))
    pushed_out = clipped & ((ratio.detach() > 1) == (advantage > 0))
    assert torch.equal(ours.grad[pushed_out], torch.zeros_like(ours.grad[pushed_out]))


def test_weights_make_a_mean_over_another_distribution_the_policys_own_up_to_their_cap() -> None:
    generator = torch.Generator().manual_seed(5)
    policy, sampler = (torch.randn(6, generator=generator, dtype=torch.float64).log_softmax(-1) for _ in range(2))
    values = torch.arange(6, dtype=torch.float64)
    weights = mismatch_weights(policy, sampler, cap=100.0)
    assert torch.allclose((sampler.exp() * weights * values).sum(), (policy.exp() * values).sum())
    assert float(weights.max()) > 1.2 and mismatch_weights(policy, sampler, cap=1.2).max() == pytest.approx(1.2)
    assert torch.equal(mismatch_weights(policy, policy, cap=2.0), torch.ones(6, dtype=torch.float64))


def test_advantages_are_those_computed_by_hand() -> None:
    """γ 0.5, λ 0.5. δ = 1 + .5·2 − 1, 0 + .5·3 − 2, 2 − 3 = 1, −.5, −1; A₂ = −1, A₁ = −.5 − .25, A₀ = 1 − .1875. A
    reply that would go on has the value after it to come: δ = −1 + .5·4 = 1 at its last token."""
    rewards, values = torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 2.0, 3.0])
    assert advantages(rewards, values, 0.5, 0.5).tolist() == pytest.approx([0.8125, -0.75, -1.0])
    cut = advantages(rewards, values, 0.5, 0.5, value_after=4.0)
    assert cut.tolist() == pytest.approx([0.9375, -0.25, 1.0])


def test_the_reward_of_a_token_is_its_divergence_and_at_the_end_the_score() -> None:
    log, reference = torch.tensor([-1.0, -2.0, -0.5]), torch.tensor([-1.5, -1.0, -0.5])
    assert token_rewards(0.7, log, reference, 0.1).tolist() == pytest.approx([-0.05, 0.1, 0.7])


def test_values_are_clipped_around_what_they_were() -> None:
    """A value that ran 1 away counts as having run 0.2, where that is the larger error."""
    losses = value_losses(torch.tensor([1.0, 0.1]), torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.5]), 0.2)
    assert losses.tolist() == pytest.approx([0.5 * 0.8**2, 0.5 * 0.4**2])


def test_whitening_leaves_neither_mean_nor_scale() -> None:
    white = whitened(torch.tensor([1.0, 2.0, 3.0, 10.0]))
    assert float(white.mean()) == pytest.approx(0, abs=1e-6)
    assert float(white.var(unbiased=False)) == pytest.approx(1, rel=1e-5)


def test_the_coefficient_moves_by_a_fifth_at_most_towards_the_target() -> None:
    kl = KlController(0.1, target=6.0, horizon=10)
    assert kl.after(600.0, 10).coefficient == pytest.approx(0.12)
    assert kl.after(0.0, 5).coefficient == pytest.approx(0.09)
    assert kl.after(6.6, 10).coefficient == pytest.approx(0.11)
    assert kl.after(600.0, 1_000).coefficient == pytest.approx(0.12)
    assert KlController(0.1, None, 10).after(600.0, 10).coefficient == 0.1
