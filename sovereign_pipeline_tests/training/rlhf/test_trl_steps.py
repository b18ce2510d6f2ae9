"""One iteration of TRL's trainers held to this package's own numbers, on the same replies and the same adapter.

What PPO shares with them: log-probabilities at the temperature, the divergence, and the clipped surrogate. Advantages
are held to their formula.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from sovereign_pipeline.training.models import load_trainable
from sovereign_pipeline.training.rlhf.policy import REFERENCE, Policy
from sovereign_pipeline.training.rlhf.ppo import policy_losses
from sovereign_pipeline.training.rlhf.run import put_back
from sovereign_pipeline.training.rows import Completion
from sovereign_pipeline_tests.training.rlhf.tiny_reward import log
from sovereign_pipeline_tests.training.rlhf.trl_runs import GROUPS, SEEN, Whole

pytestmark = pytest.mark.slow

CLIP, BETA = 0.2, 0.05


@pytest.fixture(scope="module")
def policy(rloo: Whole, parent: Path) -> Policy:
    """PPO's, with the parent adapter as its reference."""
    job = rloo.job.model_copy(update={"method": "ppo"})
    return Policy(load_trainable(job, lambda message: None), job, temperature=0.7)


def per_reply(policy: Policy, completions: list[Completion], adapter: str = "default") -> list[torch.Tensor]:
    found = policy.numbers_without_gradient(completions, adapter).log_probabilities
    return list(found.split([len(each.reply_ids) for each in completions]))


def own_numbers(policy: Policy, whole: Whole) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Log-probabilities of policy and reference, of each reply of the iteration that was looked into."""
    put_back(policy, whole.seen.adapter)
    completions = [each.completion for each in whole.seen.rollouts]
    return per_reply(policy, completions), per_reply(policy, completions, REFERENCE)


def each_row(padded: Any, mask: Any) -> list[torch.Tensor]:
    return [row[kept.bool()] for row, kept in zip(padded, mask, strict=True)]


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_log_probabilities_are_those_of_ppo_s_passes(
    policy: Policy, algorithm: str, request: pytest.FixtureRequest
) -> None:
    whole: Whole = request.getfixturevalue(algorithm)
    ours, reference = own_numbers(policy, whole)
    mask = whole.seen.output["completion_mask"]
    assert torch.allclose(torch.cat(ours), torch.cat(each_row(whole.seen.output["before"], mask)), atol=1e-4)
    if algorithm == "grpo":
        theirs = torch.cat(each_row(whole.seen.output["ref_per_token_logps"], mask))
        assert torch.allclose(torch.cat(reference), theirs, atol=1e-4)
    assert float((torch.cat(ours) - torch.cat(reference)).abs().mean()) > 1e-3, "the policy has moved"
    divergence = float((torch.cat(ours) - torch.cat(reference)).sum()) / len(ours)
    assert log(whole.job)[SEEN]["kl"] == pytest.approx(divergence, abs=1e-3)


def test_rloo_s_advantage_leaves_each_reply_out_of_its_baseline(policy: Policy, rloo: Whole) -> None:
    """Ahmadian et al. 2024, section 2: the reward, divergence included, less the mean of the others of its prompt."""
    ours, reference = own_numbers(policy, rloo)
    divergences = torch.tensor([float((log - other).sum()) for log, other in zip(ours, reference, strict=True)])
    rewards = (torch.tensor(rloo.seen.rewards) - BETA * divergences).view(-1, GROUPS["group"])
    others = (rewards.sum(1, keepdim=True) - rewards) / (GROUPS["group"] - 1)
    assert torch.allclose(rloo.seen.output["advantages"], (rewards - others).flatten(), atol=1e-4)
    assert float(rloo.seen.output["advantages"].abs().max()) > 0.01


def test_grpo_s_advantage_is_normalised_in_its_group(grpo: Whole) -> None:
    """Shao et al. 2024, section 4.1.2; TRL adds 1e-4 to the deviation. The divergence is part of the loss instead."""
    rewards = torch.tensor(grpo.seen.rewards).view(-1, GROUPS["group"])
    wanted = (rewards - rewards.mean(1, keepdim=True)) / (rewards.std(1, keepdim=True) + 1e-4)
    assert torch.allclose(grpo.seen.output["advantages"], wanted.flatten(), atol=1e-4)


def second_step(policy: Policy, whole: Whole) -> tuple[list[Any], list[Any], list[Any]]:
    """By this package's passes: log-probabilities of its replies now, as they were sampled, and of the reference."""
    step = whole.seen.second_step
    prompts = each_row(step["prompt_ids"], step["prompt_mask"])
    replies = each_row(step["completion_ids"], step["completion_mask"])
    completions = [Completion(asked.tolist(), given.tolist()) for asked, given in zip(prompts, replies, strict=True)]
    put_back(policy, whole.seen.adapter)
    before, reference = per_reply(policy, completions), per_reply(policy, completions, REFERENCE)
    put_back(policy, step["adapter"])
    now = per_reply(policy, completions)
    assert float((torch.cat(now) - torch.cat(before)).abs().max()) > 1e-3, "the first step moved the policy"
    return now, before, reference


def test_rloo_s_loss_is_the_clipped_surrogate_of_whole_replies(policy: Policy, rloo: Whole) -> None:
    now, before, _ = second_step(policy, rloo)
    whole_now, whole_before = (torch.stack([each.sum() for each in logs]) for logs in (now, before))
    wanted = policy_losses(whole_now, whole_before, rloo.seen.second_step["advantages"], CLIP).mean()
    assert rloo.seen.second_step["loss"] == pytest.approx(float(wanted), abs=1e-4)


def test_grpo_s_loss_is_ppo_s_clipped_surrogate_of_tokens_and_the_divergence(policy: Policy, grpo: Whole) -> None:
    """k3 of Schulman's note: exp(log π_ref − log π) − (log π_ref − log π) − 1; a mean over the step's tokens."""
    now, before, reference = second_step(policy, grpo)
    step = grpo.seen.second_step
    advantages = torch.cat([advantage.expand(len(log)) for advantage, log in zip(step["advantages"], now, strict=True)])
    gap = torch.cat(reference) - torch.cat(now)
    tokens = policy_losses(torch.cat(now), torch.cat(before), advantages, CLIP) + BETA * (gap.exp() - gap - 1)
    passes = int(grpo.seen.output["completion_mask"].sum()) / 2, 2  # tokens of a step, on average of its two
    assert step["loss"] == pytest.approx(float(tokens.sum()) / passes[0], abs=1e-4)


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_the_first_ratio_is_one_and_the_sampler_agrees(algorithm: str, request: pytest.FixtureRequest) -> None:
    rows = log(request.getfixturevalue(algorithm).job)
    assert max(row["first_ratio_off"] for row in rows) < 1e-5
    assert max(row["sampler_gap"] for row in rows) < 1e-5
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5), "the policy starts as its reference"
