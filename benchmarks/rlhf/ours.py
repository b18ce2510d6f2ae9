"""One training by reward by this project: a job for the trainer's process, run through its launcher.

    python ours.py TASK.json ANSWER.json

Started by `run.py`. An algorithm of the recipe that finds nothing better than the parent adapter fails, as it would in
a line: the parent stays.
"""

import json
import sys
from pathlib import Path

from benchmarks.rlhf.jobs import by_reward, timed
from benchmarks.rlhf.task import Task
from sovereign_pipeline.training.report import RLHF_FILE


def main(task_file: Path, answer: Path) -> None:
    task = Task.read(task_file)
    job = by_reward(task)
    result = timed(job)
    if result["failed"] is None:
        report = json.loads((job.output / RLHF_FILE).read_bytes())
        result |= {key: report[key] for key in ("stopped", "best_iteration", "divergence_of_best")}
    answer.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
