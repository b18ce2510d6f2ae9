"""Train with proximal policy optimisation (PPO): the method, and the steps of one iteration. `rlhf/ppo.py` contains the
equations."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.training.checkpoints import CheckpointDirectory
from sovereign_pipeline.training.compute import Passed, added
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.rlhf.guards import Row, check_first_ratio, check_sampler
from sovereign_pipeline.training.rlhf.policy import POLICY, REFERENCE, Policy, TokenNumbers
from sovereign_pipeline.training.rlhf.ppo import (
    advantages,
    clip_share,
    mismatch_weights,
    policy_losses,
    token_rewards,
    value_losses,
    whitened,
)
from sovereign_pipeline.training.rlhf.run import RewardedMethod, RunState, put_back
from sovereign_pipeline.training.rlhf.sampling import Rollout
from sovereign_pipeline.training.rows import Completion

ADAM_EPSILON = 1e-5
"""Adam's epsilon (Huang et al. 2024, optimizer detail); PyTorch's default is 1e-8."""
LARGEST_GRADIENT = 1.0
"""Maximum gradient norm. The gradients of the adapter and of the value head are clipped separately."""


class PpoMethod(RewardedMethod):
    """Proximal policy optimisation with a value head. Each iteration samples replies, scores the replies, and updates
    the policy."""

    _policy: Policy

    def add_reference(self, model: Any) -> Policy:
        return Policy(model, self.job, self._rlhf.temperature)

    def prepare(self, model: Any) -> None:
        super().prepare(model)
        self._learner = Learner(self._policy, self._rlhf, self.job)

    def restore(self, checkpoint: Path) -> RunState:
        state, tensors = RunState.load(checkpoint)
        put_back(self._policy, tensors["adapter"])
        self._policy.value_head.load_state_dict(tensors["value_head"])
        self._learner.optimizer.load_state_dict(tensors["optimizer"])
        return state

    @property
    def optimizer(self) -> Any:
        return self._learner.optimizer

    def passed_in(self, rollouts: Sequence[Rollout]) -> tuple[Passed, Passed]:
        """Return the token counts of an iteration: first of the forward passes that a backward pass follows, then of
        all others. Policy and reference each read the replies once before the update. With `cut_replies: bootstrap`,
        the policy reads each cut reply once more."""
        once = self._policy.passed([each.completion for each in rollouts])
        after_cut = added(self._policy.passed([each]) for each in _beyond_cut(rollouts, self._rlhf).values())
        return once * self._rlhf.epochs, once * 2 + after_cut

    def learn(self, checkpoint: Path | None) -> None:
        state, following = self.state, None
        while following is None or not following.ends:
            rollouts, learned_from, row = self._iterate(state)
            self._ended(state, row, rollouts, learned_from)
            following = self._next(state)
            if following.saves:
                self._save(state)
            if following.stops:
                raise self._stopped(state)

    def _iterate(self, state: RunState) -> tuple[list[Rollout], list[Rollout], Row]:
        """Run one iteration: sample and score replies, and update the policy. Returns all replies, the replies that the
        policy learned from, and the metrics."""
        iteration = state.iteration
        prompts = self._drawn[iteration]
        rollouts = self._sample(prompts, f"rollouts/{iteration}")
        scores = self._judge(prompts, rollouts)
        row = self._judged(iteration, self._learner.learning_rate(iteration), rollouts, scores)
        kept = [
            (each, self._penalised(each, score.total))
            for each, score in zip(rollouts, scores, strict=True)
            if score.total is not None and (each.ended or self._rlhf.cut_replies != "excluded")
        ]
        before = self._learner.before([each for each, _ in kept], [score for _, score in kept], state.kl.coefficient)
        check_sampler(before.sampler_gap, self.job.sft.precision, by_server=self._engine is not None)
        update = self._learner.update(
            before.scored, iteration, lambda off: check_first_ratio(off, self.job.sft.precision)
        )
        numbers = {
            "kl_coefficient": state.kl.coefficient,
            "loss": update.policy_loss,
            "value_loss": update.value_loss,
            "clip_share": update.clip_share,
            "first_ratio_off": update.first_ratio_off,
            "kl": before.divergence,
            "entropy": before.entropy,
            "sampler_gap": before.sampler_gap,
        }
        state.kl = state.kl.after(before.divergence, len(kept))
        return rollouts, [each for each, _ in kept], {**row, **numbers}

    def _save(self, state: RunState) -> None:
        policy = self._policy
        tensors = {
            "adapter": {name: each.detach() for name, each in policy.adapter.items()},
            "value_head": policy.value_head.state_dict(),
            "optimizer": self._learner.optimizer.state_dict(),
        }
        with CheckpointDirectory.of(self.job).writing(state.iteration) as directory:
            state.save(directory, tensors)


@dataclass(frozen=True)
class Scored:
    """A rollout with its learning targets. The tensors have one value for each token of the reply."""

    rollout: Rollout
    log_before: Any
    """Log-probabilities under the policy that sampled the reply, computed in the same way as in the update."""
    value_before: Any
    advantage: Any
    value_target: Any
    weight: Any
    """Weight of the policy's loss: 1, or the correction of `mismatch_weights`."""


@dataclass(frozen=True)
class BeforeUpdate:
    """A batch before the update: its learning targets and its metrics."""

    scored: list[Scored]
    divergence: float
    """KL(policy, reference) of a whole reply: mean over the batch, in nats."""
    entropy: float
    """Entropy of the policy's distribution: mean over the tokens, in nats."""
    sampler_gap: float
    """Absolute difference between a token's log-probability at sampling and as computed for the update: mean over the
    tokens, in nats."""


@dataclass(frozen=True)
class Update:
    """The metrics of the update on a batch: means over the tokens of all its steps."""

    policy_loss: float
    value_loss: float
    clip_share: float
    first_ratio_off: float
    """Largest |ratio − 1| before the first step; 0 except for rounding."""


class Learner:
    """Computes the learning targets of a batch, and updates the policy with AdamW."""

    def __init__(self, policy: Policy, rlhf: Rlhf, job: TrainingJob) -> None:
        import torch

        self._policy = policy
        self._rlhf = rlhf
        self._seed = job.seed
        self._largest_weight = rlhf.largest_weight(job.sft.precision)
        self._adapter = [*policy.adapter.values()]
        self._head = [*policy.value_head.parameters()]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self._adapter, "lr": rlhf.learning_rate},
                {"params": self._head, "lr": rlhf.value_learning_rate},
            ],
            eps=ADAM_EPSILON,
            weight_decay=0.0,
        )

    def learning_rate(self, iteration: int) -> float:
        """Return the adapter's learning rate in an iteration, counted from 0. The rate falls linearly, so that it would
        be zero in the iteration after the last one (Huang et al. 2024)."""
        return self._rlhf.learning_rate * (1 - iteration / self._rlhf.iterations)

    def before(self, rollouts: Sequence[Rollout], scores: Sequence[float], coefficient: float) -> BeforeUpdate:
        """Compute the learning targets of a batch before the update, and metrics. scores: score of each rollout,
        penalties included. coefficient: KL coefficient."""
        import torch

        completions = [each.completion for each in rollouts]
        policy, reference = self._numbers(completions, POLICY), self._numbers(completions, REFERENCE)
        lengths = [len(each.reply_ids) for each in completions]
        after = self._values_after(rollouts)
        found: list[tuple[Any, Any, Any, Any]] = []
        of_policy, of_reference = (each.log_probabilities.split(lengths) for each in (policy, reference))
        per_reply = zip(scores, of_policy, of_reference, policy.values.split(lengths), strict=True)
        for place, (score, log, log_reference, value) in enumerate(per_reply):
            rewards = token_rewards(0.0 if place in after else score, log, log_reference, coefficient)
            advantage = advantages(rewards, value, self._rlhf.discount, self._rlhf.trace, after.get(place, 0.0))
            found.append((log, value, advantage, advantage + value))
        white = whitened(torch.cat([advantage for _, _, advantage, _ in found])).split(lengths)
        sampled = torch.tensor([log for each in rollouts for log in each.log_probabilities])
        logs, cap = policy.log_probabilities, self._largest_weight
        weights = torch.ones_like(logs) if cap is None else mismatch_weights(logs, sampled.to(logs.device), cap)
        return BeforeUpdate(
            [
                Scored(rollout, log, value, advantage, target, weight)
                for rollout, (log, value, _, target), advantage, weight in zip(
                    rollouts, found, white, weights.split(lengths), strict=True
                )
            ],
            divergence=float((policy.log_probabilities - reference.log_probabilities).sum()) / len(rollouts),
            entropy=float(policy.entropies.mean()),
            sampler_gap=float((policy.log_probabilities.cpu() - sampled).abs().mean()),
        )

    def update(self, scored: Sequence[Scored], iteration: int, check_first_ratio: Callable[[float], None]) -> Update:
        """Update the policy: one optimizer step for each minibatch, on the mean loss over the minibatch's tokens.

        The first epoch uses the same minibatches as `before`, so that the first ratio is 1 except for rounding. The
        order of later epochs is derived from the iteration and the seed. check_first_ratio: function that is called
        with the largest |ratio − 1| before the first step, and raises if this value is too large.
        """
        self.optimizer.param_groups[0]["lr"] = self.learning_rate(iteration)
        steps: list[tuple[float, float, float]] = []
        first_off = 0.0
        for epoch in range(self._rlhf.epochs):
            of_prompts = _by_prompt(scored)
            if epoch:
                random.Random(f"{self._seed}/minibatches/{iteration}/{epoch}").shuffle(of_prompts)
            order = [each for of_prompt in of_prompts for each in of_prompt]
            for part in self._minibatches(len(order)):
                numbers, off = self._gradients(order[part])
                if not steps:
                    first_off = off
                    check_first_ratio(off)
                self._step()
                steps.append(numbers)
        policy_loss, value_loss, outside = (sum(each[place] for each in steps) / len(steps) for place in range(3))
        return Update(policy_loss, value_loss, outside, first_off)

    def _values_after(self, rollouts: Sequence[Rollout]) -> dict[int, float]:
        """Return a mapping of reply index to the value of the state after the reply's last token, for the replies in
        `_beyond_cut`."""
        longer = _beyond_cut(rollouts, self._rlhf)
        return {
            place: float(self._policy.numbers_without_gradient([each]).values[-1]) for place, each in longer.items()
        }

    def _minibatches(self, replies: int) -> list[slice]:
        size = -(-replies // self._rlhf.minibatches)
        return [slice(start, start + size) for start in range(0, replies, size)]

    def _numbers(self, completions: Sequence[Completion], adapter: str) -> TokenNumbers:
        """Compute the per-token numbers in the same minibatches as the update, because rounding depends on the other
        rows of a pass."""
        parts = [completions[part] for part in self._minibatches(len(completions))]
        return TokenNumbers.joined([self._policy.numbers_without_gradient(each, adapter) for each in parts])

    def _gradients(self, minibatch: Sequence[Scored]) -> tuple[tuple[float, float, float], float]:
        """Accumulate gradients over the passes of a minibatch. Returns two values: the metrics (policy loss, value loss
        and clipped share, as means over the minibatch's tokens), and the largest |ratio − 1|."""
        import torch

        self.optimizer.zero_grad(set_to_none=True)
        tokens = sum(len(each.advantage) for each in minibatch)
        by_completion = {id(each.rollout.completion): each for each in minibatch}
        policy_loss = value_loss = outside = off = 0.0
        for completions in self._policy.passes([each.rollout.completion for each in minibatch]):
            part = [by_completion[id(each)] for each in completions]
            numbers = self._policy.numbers(completions)
            log_before, advantage, value_before, target, weight = (
                torch.cat([getattr(each, name) for each in part])
                for name in ("log_before", "advantage", "value_before", "value_target", "weight")
            )
            clip = self._rlhf.clip
            policy_losses_ = weight * policy_losses(numbers.log_probabilities, log_before, advantage, clip)
            value_losses_ = value_losses(numbers.values, value_before, target, clip)
            # Policy and value head share no parameter, so their losses need no relative weight.
            ((policy_losses_.sum() + value_losses_.sum()) / tokens).backward()
            policy_loss += float(policy_losses_.detach().sum()) / tokens
            value_loss += float(value_losses_.detach().sum()) / tokens
            now = numbers.log_probabilities.detach()
            outside += clip_share(now, log_before, clip) * len(now) / tokens
            off = max(off, float(((now - log_before).exp() - 1).abs().max()))
        return (policy_loss, value_loss, outside), off

    def _step(self) -> None:
        import torch

        for parameters in (self._adapter, self._head):
            torch.nn.utils.clip_grad_norm_(parameters, LARGEST_GRADIENT)
        self.optimizer.step()


def _beyond_cut(rollouts: Sequence[Rollout], rlhf: Rlhf) -> dict[int, Completion]:
    """Return a mapping of reply index to the reply with one more token, for the cut replies whose value after the last
    token counts (`cut_replies: bootstrap`). The value belongs to the state before a token, so any token will do."""
    if rlhf.cut_replies != "bootstrap":
        return {}
    return {
        place: Completion(each.completion.prompt_ids, [*each.completion.reply_ids, 0])
        for place, each in enumerate(rollouts)
        if not each.ended
    }


def _by_prompt(scored: Sequence[Scored]) -> list[list[Scored]]:
    """Group replies by prompt, because replies to one prompt share the prompt's tokens in a pass."""
    return [list(each) for _, each in groupby(scored, key=lambda each: each.rollout.completion.prompt_ids)]
