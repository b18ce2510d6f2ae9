"""One training as both sides of the comparison are told it. Standard library only, so that TRL's side stays stock."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Task:
    """model: directory. rows: what `rows.py` wrote. output: made by the side; the adapter lies in it as `adapter/`.

    max_length: tokens of the longest row, and of a pack here. packs_a_step: optimizer batch here, in packs (in pairs,
    where the trainer does not pack them). batch_size, accumulation: of stock TRL. parent_adapter: for dpo. as_it_comes:
    stock TRL keeps its own batch size, precision and gradient checkpointing.
    """

    method: Literal["sft", "dpo"]
    model: str
    rows: str
    output: str
    seed: int
    learning_rate: float
    adapter: Literal["lora", "qlora"] = "lora"
    precision: Precision = "float32"
    gradient_checkpointing: bool = False
    rank: int = 16
    alpha: int = 32
    beta: float = 0.1
    warmup_steps: int = 2
    max_length: int = 1024
    packs_a_step: int = 1
    batch_size: int = 4
    accumulation: int = 1
    parent_adapter: str | None = None
    as_it_comes: bool = False

    @classmethod
    def read(cls, path: Path) -> "Task":
        return cls(**json.loads(path.read_bytes()))

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def read_rows(path: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]
