"""Measuring a policy on prompts that it does not learn from: held-out rewards, and samples for people.

Replies are the most likely tokens, so that two measurements of one adapter agree. What does not belong here: what
follows from the numbers (`guards.py`, `trainer.py`).
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any

from sovereign_pipeline.base.intervals import clustered_interval
from sovereign_pipeline.training.rlhf.policy import TwoAdapters
from sovereign_pipeline.training.rlhf.prompts import Prompt
from sovereign_pipeline.training.rlhf.report import HeldOutComparison
from sovereign_pipeline.training.rlhf.reward.rewards import Rewards, Score
from sovereign_pipeline.training.rlhf.rollouts import sample


class Measuring:
    """Greedy replies of a policy, judged."""

    def __init__(
        self,
        policy: TwoAdapters,
        rewards: Rewards,
        eos_ids: Sequence[int],
        text_of: Callable[[Sequence[int]], str],
        *,
        most_tokens: int,
        a_time: int,
    ) -> None:
        self._policy = policy
        self._rewards = rewards
        self._eos_ids = eos_ids
        self._text_of = text_of
        self._most_tokens = most_tokens
        self._a_time = a_time

    def replies(self, prompts: Sequence[Prompt]) -> list[str]:
        """The policy's reply to each prompt."""
        return [self._text_of(ids) for ids in self._reply_ids(prompts)]

    def scores(self, prompts: Sequence[Prompt]) -> dict[str, Score]:
        """Id of each prompt -> the score of the policy's reply."""
        replies = zip(prompts, self._reply_ids(prompts), strict=True)
        judged = self._rewards.judge([prompt.answered(self._text_of(ids), ids) for prompt, ids in replies])
        return {prompt.row.id: score for prompt, score in zip(prompts, judged, strict=True)}

    def _reply_ids(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        found: list[list[int]] = []
        with self._policy.running() as model:
            for start in range(0, len(prompts), self._a_time):
                rollouts = sample(
                    model,
                    [prompt.ids for prompt in prompts[start : start + self._a_time]],
                    self._eos_ids,
                    most_tokens=self._most_tokens,
                    temperature=1.0,
                    seed=None,
                )
                found += [[*each.completion.reply_ids] for each in rollouts]
        return found


def totals(scores: dict[str, Score]) -> dict[str, float]:
    """Those that the tools did not abstain from."""
    return {name: score.total for name, score in scores.items() if score.total is not None}


def compared(
    parent: dict[str, float], adapter: dict[str, float], prompts: Sequence[Prompt], seed: int
) -> HeldOutComparison | None:
    """The paired comparison, over the prompts that both have a score for; None without any."""
    both = [prompt for prompt in prompts if prompt.row.id in parent and prompt.row.id in adapter]
    if not both:
        return None
    before = [parent[prompt.row.id] for prompt in both]
    after = [adapter[prompt.row.id] for prompt in both]
    differences = [later - earlier for earlier, later in zip(before, after, strict=True)]
    cases = [prompt.row.case for prompt in both]
    low, high = clustered_interval(differences, cases, seed)
    return HeldOutComparison(
        prompts=len(both),
        cases=len(set(cases)),
        parent=fmean(before),
        adapter=fmean(after),
        difference=fmean(differences),
        low=low,
        high=high,
    )


def mean_parts(scores: Sequence[Score], names: Sequence[str], prefix: str) -> dict[str, float]:
    """`PREFIX/NAME` -> mean of a part over the replies that it does not abstain from; absent where it always does.

    `PREFIX_raw/NAME` is the mean of a reward model's raw scores, in logits.
    """
    found: dict[str, Any] = {}
    for name in names:
        said = [score.parts[name] for score in scores if score.parts[name] is not None]
        if said:
            found[f"{prefix}/{name}"] = fmean(each for each in said if each is not None)
        raw = [score.raw[name] for score in scores if name in score.raw]
        if raw:
            found[f"{prefix}_raw/{name}"] = fmean(raw)
    return found
