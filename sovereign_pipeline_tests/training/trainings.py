"""Running a job in this process, and reading what it wrote."""

import json
from pathlib import Path
from typing import Any

from sovereign_pipeline.training.job import Step, TrainerHooks, TrainingJob
from sovereign_pipeline.training.methods import train


def run(job: TrainingJob) -> list[Step]:
    steps: list[Step] = []
    train(job, TrainerHooks(on_step=steps.append, progress=lambda message: None))
    return steps


def losses(job: TrainingJob) -> list[float]:
    return [json.loads(line)["loss"] for line in (job.output / "training_log.jsonl").read_text().splitlines()]


def report(job: TrainingJob) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((job.output / "report.json").read_bytes())
    return content


def files(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}
