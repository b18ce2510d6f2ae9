"""One training by this project: a job for the trainer's process, run through its launcher as the stages do it.

    python ours.py TASK.json ANSWER.json

Started by `run.py` and by `benchmarks/gpu/run.py`.
"""

import json
import sys
from pathlib import Path

from benchmarks.trainer_job import Base, new_job, run_job
from benchmarks.training.task import Task
from sovereign_pipeline.policy.training import Preference, Sft
from sovereign_pipeline.training.job import TrainingJob


def main(task_file: Path, answer: Path) -> None:
    task = Task.read(task_file)
    job = job_of(task)
    measured = run_job(job)
    report = json.loads((job.output / "report.json").read_bytes())
    result = {
        "measured": measured,
        "steps": report["steps"],
        "loop_seconds": loop_seconds(task, measured),
        "flops": report["compute"]["flops"],
    }
    answer.write_text(json.dumps(result), encoding="utf-8")


def loop_seconds(task: Task, measured: dict[str, float]) -> float:
    """Seconds of the training loop. For dpo with the pass of the reference over the pairs, which the stock recipe makes
    inside its loop; where the trainer does not time that pass apart, with all of its preparation (imports, loading)."""
    if task.method == "sft":
        return measured["training_seconds"]
    return measured["training_seconds"] + measured.get("reference_seconds", measured["preparation_seconds"])


def job_of(task: Task) -> TrainingJob:
    """Makes the directory around the output."""
    output = Path(task.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    shared = {
        "learning_rate": task.learning_rate,
        "warmup_steps": task.warmup_steps,
        "scheduler": "cosine",
        "max_length": task.max_length,
        "batch_size": 1,
        "gradient_accumulation": task.packs_a_step,
        "packing": True,
    }
    sft = Sft.model_validate(
        {
            **shared,
            "adapter": task.adapter,
            "precision": task.precision,
            "rank": task.rank,
            "alpha": task.alpha,
            "optimizer": "adamw",
            "gradient_checkpointing": task.gradient_checkpointing,
        }
    )
    preference = Preference.model_validate({**shared, "method": "dpo", "beta": task.beta})
    return new_job(
        Base.of(Path(task.model)),
        output,
        task.method,
        dataset=Path(task.rows),
        seed=task.seed,
        sft=sft,
        preference=preference if task.method == "dpo" else None,
        parent_adapter=Path(task.parent_adapter) if task.parent_adapter is not None else None,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
