"""All that an interrupted training by reward resumes from, in one checkpoint.

What belongs here: what is in it, and reading and writing it. What does not: which checkpoint is whole and whose
(`loop/checkpoints.py`), and what an algorithm adds of its own. No random state is needed: every draw has a seed of its
own, made of the recipe's, the iteration and what is drawn.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovereign_pipeline.training.rlhf.policy import TwoAdapters
from sovereign_pipeline.training.rlhf.ppo import KlController

FACTS, TENSORS = "state.json", "tensors.pt"
BEST_ADAPTER = "best_adapter"


@dataclass
class RunState:
    """How far a training by reward is."""

    kl: KlController
    iteration: int = 0
    """Iterations that are done."""
    log: list[dict[str, float]] = field(default_factory=list)
    """One row an iteration, as in the training log."""
    samples: list[dict[str, str]] = field(default_factory=list)
    """Replies to the fixed prompts."""
    held_out_start: dict[str, float] = field(default_factory=dict)
    """Of each held-out prompt that is measured at start and end alone, by its id, the parent adapter's score."""
    gold_of_parent: float = 0.0
    """Mean held-out reward that the best adapter is chosen by, of the parent adapter."""
    judged_of_parent: int = 0
    """Prompts of that mean: those for which the tools did not abstain."""
    best_iteration: int = 0
    """0: the parent adapter."""
    best_gold: float = 0.0
    best_adapter: dict[str, Any] = field(default_factory=dict)
    """Name -> tensor, on the CPU."""
    stopped: str | None = None
    """Why the training ended before its last iteration."""

    def keep_best(self, policy: TwoAdapters, gold: float) -> None:
        """Remember the adapter as it is now."""
        self.best_iteration, self.best_gold = self.iteration, gold
        self.best_adapter = {name: each.detach().cpu().clone() for name, each in policy.adapter.items()}

    def save(self, directory: Path, tensors: Mapping[str, Any]) -> None:
        """tensors: of the algorithm."""
        import torch

        facts = {name: getattr(self, name) for name in _FACTS}
        # In the order of the rows, which is that of the training log.
        (directory / FACTS).write_text(json.dumps({**facts, "kl": vars(self.kl)}) + "\n", encoding="utf-8")
        torch.save({**tensors, BEST_ADAPTER: self.best_adapter}, directory / TENSORS)

    @classmethod
    def load(cls, directory: Path) -> "tuple[RunState, dict[str, Any]]":
        """The state, and the algorithm's tensors."""
        import torch

        facts = json.loads((directory / FACTS).read_bytes())
        tensors = torch.load(directory / TENSORS, map_location="cpu", weights_only=True)
        kl = KlController(**facts.pop("kl"))
        return cls(kl=kl, best_adapter=tensors.pop(BEST_ADAPTER), **facts), tensors


def put_back(policy: TwoAdapters, adapter: dict[str, Any]) -> None:
    """Give the policy's adapter these values."""
    import torch

    with torch.no_grad():
        for name, parameter in policy.adapter.items():
            parameter.copy_(adapter[name])


_FACTS = (
    "iteration",
    "log",
    "samples",
    "held_out_start",
    "gold_of_parent",
    "judged_of_parent",
    "best_iteration",
    "best_gold",
    "stopped",
)
