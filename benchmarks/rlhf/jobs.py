"""Jobs for the trainer's process, and the reward, out of what is prepared."""

import json
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.rlhf.task import GROUP, Prepared, Task
from benchmarks.trainer_job import Base, new_job, run_job
from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.policy.training import Preference, Sft
from sovereign_pipeline.training.job import Method, RewardJob, TrainingJob
from sovereign_pipeline.training.rlhf.rewards import Rewards


def by_reward(task: Task) -> TrainingJob:
    """With the line's own section, for this algorithm and number of iterations.

    Without samples for people: in a training of three steps, those of its middle would count to the pace of every step.
    """
    prepared = Prepared(Path(task.prepared))
    facts, place = prepared.facts, Path(task.output).parent
    section = {**facts["rlhf"], "algorithm": task.arm, "iterations": task.steps, "group": GROUP, "samples": 0}
    reward = RewardJob(
        rlhf=Rlhf.model_validate(section),
        held_out=prepared.held_out,
        code=facts["code"],
        code_directory=prepared.code,
        cache=place / "rewards",
    )
    return _job(task, facts, method=reward.rlhf.algorithm, dataset=prepared.prompts, reward=reward)


def by_pairs(task: Task, pairs: Path) -> TrainingJob:
    facts = Prepared(Path(task.prepared)).facts
    preference = Preference.model_validate(facts["preference"])
    return _job(task, facts, method="dpo", dataset=pairs, preference=preference)


def rewards_of(prepared: Prepared, cache: Path) -> Rewards:
    facts = prepared.facts
    return Rewards(Rlhf.model_validate(facts["rlhf"]).reward, facts["code"], prepared.code, cache)


def _job(task: Task, facts: dict[str, Any], method: Method, **parts: Any) -> TrainingJob:
    return new_job(
        Base(directory=Path(facts["model"]), eos_ids=tuple(facts["eos_ids"]), **facts["base"]),
        Path(task.output),
        method,
        seed=task.seed,
        sft=Sft.model_validate(facts["sft"]),
        parent_adapter=Path(facts["parent"]),
        **parts,
    )


def timed(job: TrainingJob) -> dict[str, Any]:
    """Run it as the stages do.

    Returns measured: the trainer's own figures. steps: how many there were. step_seconds: of each but the first, whose
    start is not seen. loop_seconds: by the trainer, or of these and a first one as long as their mean. failed: why
    there is no adapter; else None. Raises TrainingFailed for a trainer that was killed: that says nothing of the
    algorithm.
    """
    ends: list[float] = []

    def progress(line: str) -> None:
        if json.loads(line).get("step"):
            ends.append(time.monotonic())

    measured: dict[str, float] = {}
    failed = None
    try:
        measured = run_job(job, progress)
    except TrainingFailed as error:
        if not job.result.is_file():
            raise
        failed = error.message
    seconds = [later - earlier for earlier, later in pairwise(ends)]
    return {
        "measured": measured,
        "steps": len(ends),
        "step_seconds": seconds,
        "loop_seconds": measured.get("training_seconds", sum(seconds) * (1 + 1 / max(1, len(seconds)))),
        "failed": failed,
    }
