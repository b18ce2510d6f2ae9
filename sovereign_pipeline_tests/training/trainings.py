"""Running jobs in this process, and reading what they wrote."""

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.training.job import Step, TrainerHooks, TrainingJob
from sovereign_pipeline.training.methods import train


def run(job: TrainingJob, stop_after: int | None = None, told: list[str] | None = None) -> list[Step]:
    """Its steps. stop_after: the step behind which it is requested to stop. told: gets the messages."""
    steps: list[Step] = []
    # By reward a step is reported before it is asked whether to stop behind it, and otherwise after.
    early = job.reward is None
    hooks = TrainerHooks(
        steps.append,
        (told if told is not None else list[str]()).append,
        should_stop=lambda: stop_after is not None and len(steps) + early == stop_after,
    )
    train(job, hooks)
    return steps


def learn(job: TrainingJob) -> list[str]:
    """Run it; what was told."""
    told: list[str] = []
    run(job, told=told)
    return told


def stopped(job: TrainingJob, after: int) -> TrainingJob:
    with pytest.raises(TrainingFailed, match=rf"stopped, as requested, at step {after} of "):
        run(job, after)
    return job


def refused(job: TrainingJob, match: str) -> None:
    with pytest.raises(TrainingFailed, match=match):
        run(job)
    assert not job.output.exists()


def log(job: TrainingJob, name: str = "training_log") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (job.output / f"{name}.jsonl").read_text().splitlines()]


def losses(job: TrainingJob) -> list[float]:
    return [row["loss"] for row in log(job)]


def report(job: TrainingJob, name: str = "report") -> dict[str, Any]:
    content: dict[str, Any] = json.loads((job.output / f"{name}.json").read_bytes())
    return content


def files(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def load(directory: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(directory, dtype="float32", attn_implementation="sdpa").eval()


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([[5, 6, 7, 8]])).logits


def logit_change(base: Path, adapter: Path) -> float:
    """How far the adapter, put by PEFT on a fresh base, moves a logit."""
    from peft import PeftModel

    model = load(base)
    before = logits(model)
    return float((logits(PeftModel.from_pretrained(model, str(adapter)).eval()) - before).abs().max())
