"""What the stage sft_adapter costs beside its training loop: one production through the real stage, then its gates.

    python overhead.py --model DIR --card FILE --rows FILE --work DIR --answer FILE

The stage gets its dataset from a stage in the place of training_dataset; everything else is what a line runs. Started
by `run.py`, in a process of its own.
"""

import argparse
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.harness import PROJECT_ROOT, trust_demonstration
from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.settings import Settings, go_offline
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.dataset.jsonl import TRAINING_ROWS
from sovereign_pipeline.dataset.stages import TRAINING_DATASET
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.launcher import run_trainer
from sovereign_pipeline.training.stages import SFT_ADAPTER
from sovereign_pipeline.workplace import open_workplace

LINE = "benchmark"
SUITE, PROMPTS = "suites/coastal_rules.jsonl", "red_team/prompts.jsonl"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--card", "--rows", "--work", "--answer"):
        parser.add_argument(name, type=Path, required=True)
    arguments = parser.parse_args()
    go_offline()
    answer = measure(workplace_in(arguments.work, arguments.model, arguments.card), arguments.rows)
    arguments.answer.write_text(json.dumps(answer), encoding="utf-8")


def measure(workplace: Workplace, rows: Path) -> dict[str, Any]:
    launched: dict[str, float] = {}
    start_up = 0.0

    def launch(job: Path) -> None:
        nonlocal start_up
        started = time.monotonic()
        start_up = seconds_without_rows(job)
        launched["not_counted"] = time.monotonic() - started
        launched["from"] = time.monotonic()
        run_trainer(job, lambda line: None)
        launched["until"] = time.monotonic()

    def copy_rows(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        shutil.copyfile(rows, workspace / TRAINING_ROWS)
        return Built(summary={}, classification="PUBLIC")

    workplace = replace(workplace, launch=launch)
    dataset = Stage(TRAINING_DATASET.kind, code_version="1", build=copy_rows)
    stage = replace(SFT_ADAPTER, inputs=(BASE_MODEL, dataset))
    inputs = {BASE_MODEL.kind: made(BASE_MODEL, workplace), dataset.kind: made(dataset, workplace)}
    started = time.monotonic()
    ref = produce(stage, workplace, inputs).ref
    produced = time.monotonic()
    verdicts = evaluate_gates(stage, workplace, ref)
    judged = time.monotonic()
    measured = workplace.store.read_manifest(ref).circumstances.measured
    stage_seconds = produced - started - launched["not_counted"]
    process = launched["until"] - launched["from"]
    training = measured["training_seconds"]
    return {
        "stage_seconds": stage_seconds,
        "training_seconds": training,
        "overhead_share": (stage_seconds - training) / training,
        "parts": {
            "verify inputs, hash the base model": launched["from"] - launched["not_counted"] - started,
            "encode, load the model, build the trainer": measured["preparation_seconds"],
            "start the trainer's process, its imports; save, end": process - measured["preparation_seconds"] - training,
            "hash and seal the artifact": produced - launched["until"],
        },
        "process_without_rows_seconds": start_up,
        "gates_seconds": judged - produced,
        "gates_passed": all(verdict.passed for verdict in verdicts.values()),
        "measured": measured,
    }


def seconds_without_rows(job_file: Path) -> float:
    """Of the same job without rows: what the trainer's process needs until it sees that there are none."""
    job = TrainingJob.read(job_file)
    directory = job_file.parent / "no-rows"
    directory.mkdir()
    (directory / "none.jsonl").touch()
    empty = {"dataset": directory / "none.jsonl", "result": directory / "result.json", "output": directory / "output"}
    job.model_copy(update=empty).write(directory / "job.json")
    started = time.monotonic()
    try:
        run_trainer(directory / "job.json", lambda line: None)
    except TrainingFailed:
        return time.monotonic() - started
    finally:
        shutil.rmtree(directory)
    raise RuntimeError("the trainer trained on no rows")


def made(stage: Stage, workplace: Workplace) -> ArtifactRef:
    ref = produce(stage, workplace, {}).ref
    workplace.store.make_current(LINE, stage.kind, ref)
    evaluate_gates(stage, workplace, ref)
    return ref


def workplace_in(directory: Path, model: Path, card: Path) -> Workplace:
    data = directory / "data"
    (data / "lines").mkdir(parents=True)
    (data / "models").mkdir()
    (directory / "models").mkdir()
    (directory / "models" / card.stem).symlink_to(model.resolve())
    shutil.copyfile(card, data / "models" / card.name)
    institution = {"name": "Benchmark", "classification": ["PUBLIC"]}
    for name in (SUITE, PROMPTS):  # a gate of the stage reads them
        (data / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(PROJECT_ROOT / "data" / name, data / name)
    (data / "institution.yaml").write_text(yaml.safe_dump(institution), encoding="utf-8")
    (data / "lines" / f"{LINE}.yaml").write_text(yaml.safe_dump(recipe(card.stem)), encoding="utf-8")
    settings = Settings(home=directory, data=data, vault=directory / "vault")
    trust_demonstration(settings)
    return open_workplace(settings, LINE)


def recipe(base_model: str) -> dict[str, Any]:
    return {
        "line": LINE,
        "purpose": "Measure the training.",
        "owner": "team:benchmarks",
        "ceiling": "PUBLIC",
        "sources": [{"name": "questions", "path": "none.jsonl", "licence": "public", "retention": "none"}],
        "training": {
            "base_model": base_model,
            "instruction": "Answer this written question for the department.",
            "sft": {"learning_rate": 5e-4, "gradient_accumulation": 1},
        },
        "evaluation": {
            "capability": [{"name": "suite", "path": SUITE, "classification": "PUBLIC"}],
            "red_team": {"classification": "PUBLIC", "prompts": PROMPTS},
        },
    }


if __name__ == "__main__":
    main()
