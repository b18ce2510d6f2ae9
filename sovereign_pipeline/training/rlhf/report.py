"""What a training by reward records beside the report of every training: `rlhf.json` and `samples.jsonl`.

What belongs here: the records and the names of their files. What does not: measuring (`measuring.py`).
"""

from typing import Any

from sovereign_pipeline.base.frozen import Frozen

RLHF_FILE = "rlhf.json"
SAMPLES_FILE = "samples.jsonl"
"""Replies to a few training prompts at start, middle and end. It holds text: no page and no log shows it."""


class RewardFacts(Frozen):
    """One part of a reward."""

    weight: float
    identity: str
    """Digest over all that decides the tool's scores, but the replies, or the digest of the reward model's artifact."""


class HeldOutComparison(Frozen):
    """Held-out rewards of the adapter and of its parent, on the same prompts, none of which chose the adapter."""

    prompts: int
    cases: int
    """Case files, which the interval is based on."""
    parent: float
    adapter: float
    difference: float
    low: float
    """95 % interval of the difference."""
    high: float


class RlhfReport(Frozen):
    """`rlhf.json`; but for the last two, also part of the artifact's summary."""

    algorithm: str
    reward: dict[str, RewardFacts]
    gold: dict[str, RewardFacts]
    """What was measured on held-out prompts."""
    iterations: int
    """That were done."""
    stopped: str | None
    """Why the training ended before its last iteration; None where it did not."""
    best_iteration: int
    """The iteration behind which the adapter is the one that was kept."""
    gold_of_parent: float
    """Mean held-out reward that the choice was made by, of the parent adapter."""
    gold_of_best: float
    divergence_of_best: float
    """Nats of a whole reply, of the policy as it sampled that iteration: one update before the kept adapter."""
    kl_coefficient: float
    """At the end."""
    rollouts: int
    sampler: str = "trainer"
    """What sampled them: the trainer itself, or vLLM with its version."""
    prompts_cut: int
    """Prompts that left no room for a reply."""
    comparison: HeldOutComparison
    held_out_parent: dict[str, float]
    """Id of each compared prompt -> reward of the parent's reply."""
    held_out_adapter: dict[str, float]

    @property
    def summary(self) -> dict[str, Any]:
        """For the artifact's manifest."""
        return self.model_dump(mode="json", exclude={"held_out_parent", "held_out_adapter"})
