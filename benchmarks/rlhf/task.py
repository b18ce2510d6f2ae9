"""One cell of the benchmark as every arm is told it, and what `prepare.py` leaves for them.

Standard library only, so that TRL's side stays stock.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PACE_STEPS = 3
"""Of the training that a seed's number of steps is reckoned from."""
GROUP = 4
"""Replies to one prompt of an iteration, of every arm: the recipe's default."""


@dataclass(frozen=True)
class Task:
    """prepared: directory of `prepare.py`. output: directory that the arm makes; the adapter lies in it as `adapter/`.

    steps: iterations of learning from a reward; for dpo, prompts whose replies are sampled.
    """

    arm: str
    seed: int
    steps: int
    prepared: str
    output: str

    @classmethod
    def read(cls, path: Path) -> "Task":
        return cls(**json.loads(path.read_bytes()))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


@dataclass(frozen=True)
class Prepared:
    """What all arms share; the files of prompts are those of `training/rlhf/prompts.py`, one JSON object a line."""

    directory: Path

    @property
    def facts(self) -> dict[str, Any]:
        """model, parent: directories. base: of the base model's identity. eos_ids. sft, rlhf, preference: sections of
        the recipe. code: of the tools, path -> SHA-256. data: the data root that the tools lie in."""
        found: dict[str, Any] = json.loads((self.directory / "facts.json").read_bytes())
        return found

    @property
    def prompts(self) -> Path:
        """Of the training side."""
        return self.directory / "prompts.jsonl"

    @property
    def held_out(self) -> Path:
        """Of the held-out side; a job measures one half while it learns, and its adapter is chosen by that."""
        return self.directory / "held_out.jsonl"

    @property
    def judged(self) -> Path:
        """Of the held-out side: what the arms are compared on. No arm has seen one, nor another of its case file."""
        return self.directory / "judged.jsonl"

    @property
    def code(self) -> Path:
        """Copies of the tools."""
        return self.directory / "code"
