"""The equations: against autograd of the formula as it is written, numbers by hand, and problems whose optimum is
known."""

import math

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
    """γ 0.5, λ 0.5. δ = 1 + .5·2 − 1, 0 + .5·3 − 2, 2 − 3 = 1, −.5, −1; A₂ = −1, A₁ = −.5 − .25, A₀ = 1 − .1875."""
    found = advantages(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 2.0, 3.0]), 0.5, 0.5)
    assert found.tolist() == pytest.approx([0.8125, -0.75, -1.0])


def test_a_reply_that_would_go_on_has_the_value_after_it_to_come() -> None:
    """As above, with δ = −1 + .5·4 = 1 at the last token: A₂ = 1, A₁ = −.5 + .25, A₀ = 1 − .0625."""
    found = advantages(torch.tensor([1.0, 0.0, 2.0]), torch.tensor([1.0, 2.0, 3.0]), 0.5, 0.5, value_after=4.0)
    assert found.tolist() == pytest.approx([0.9375, -0.25, 1.0])


def test_with_discount_and_trace_one_advantage_and_value_are_the_rewards_to_come() -> None:
    rewards, values = torch.tensor([0.5, -1.0, 2.0, 4.0]), torch.tensor([3.0, 1.0, -2.0, 0.3])
    returns = advantages(rewards, values, 1.0, 1.0) + values
    assert returns.tolist() == pytest.approx([5.5, 5.0, 6.0, 4.0])


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


class Table:
    """A policy and its values as tables over states, learned with the room's equations; a state is a row."""

    def __init__(self, states: int, actions: int, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.logits = torch.zeros(states, actions, requires_grad=True)
        self.values = torch.zeros(states, requires_grad=True)
        self.reference = torch.zeros(states, actions).log_softmax(-1)
        self.optimizer = torch.optim.Adam([self.logits, self.values], lr=0.05)

    def choose(self, state: int) -> int:
        return int(torch.multinomial(self.logits[state].detach().softmax(-1), 1, generator=self.generator))

    def log(self, states: list[int], actions: list[int]) -> torch.Tensor:
        return self.logits.log_softmax(-1)[states, actions]

    def learn(self, episodes: list[tuple[list[int], list[int], list[float]]], coefficient: float = 0.0) -> float:
        """An iteration on (states, actions, rewards) of each episode. Returns the divergence of an episode, mean."""
        found, divergence = [], 0.0
        for states, actions, rewards in episodes:
            log, value = self.log(states, actions).detach(), self.values.detach()[states]
            penalised = token_rewards(0.0, log, self.reference[states, actions], coefficient) + torch.tensor(rewards)
            divergence += float((log - self.reference[states, actions]).sum()) / len(episodes)
            advantage = advantages(penalised, value, 1.0, 0.95)
            found.append((log, value, advantage, advantage + value))
        log, value, advantage, target = (torch.cat(each) for each in zip(*found, strict=True))
        advantage = whitened(advantage)
        states = [state for each, _, _ in episodes for state in each]
        actions = [action for _, each, _ in episodes for action in each]
        for _ in range(4):
            losses = policy_losses(self.log(states, actions), log, advantage, 0.2).mean()
            losses = losses + value_losses(self.values[states], value, target, 0.2).mean()
            self.optimizer.zero_grad()
            losses.backward()
            self.optimizer.step()
        return divergence


def test_a_bandits_best_arm_is_found() -> None:
    bandit, pays = Table(1, 4, seed=1), [0.1, 0.5, 0.2, 0.4]
    for _ in range(60):
        actions = [bandit.choose(0) for _ in range(32)]
        bandit.learn([([0], [action], [pays[action]]) for action in actions])
    assert bandit.logits.detach().softmax(-1)[0, 1] > 0.9


def test_a_chain_is_walked_for_the_sake_of_its_end() -> None:
    """Going on costs 0.1 at first and pays 1 in the second state; leaving at once pays 0.3. Values: 0.9 and 1."""
    chain = Table(2, 2, seed=2)
    for _ in range(80):
        episodes: list[tuple[list[int], list[int], list[float]]] = []
        for _ in range(24):
            if chain.choose(0) == 0:
                episodes.append(([0], [0], [0.3]))
                continue
            last = chain.choose(1)
            episodes.append(([0, 1], [1, last], [-0.1, 1.0 if last == 1 else 0.0]))
        chain.learn(episodes)
    assert (chain.logits.detach().softmax(-1)[:, 1] > 0.9).all()
    assert chain.values.tolist() == pytest.approx([0.9, 1.0], abs=0.12)


def test_the_divergence_of_a_run_comes_near_its_target() -> None:
    """The reward alone would drive the policy to one arm of eight, ln 8 = 2.08 nats away; the target is 0.7."""
    bandit, kl = Table(1, 8, seed=4), KlController(0.01, target=0.7, horizon=64)
    seen = []
    for _ in range(300):
        actions = [bandit.choose(0) for _ in range(32)]
        divergence = bandit.learn([([0], [action], [action / 7]) for action in actions], kl.coefficient)
        kl = kl.after(divergence, 32)
        seen.append(divergence)
    assert sum(seen[150:]) / 150 == pytest.approx(0.7, abs=0.2)
    assert max(seen) < math.log(8) + 0.2
