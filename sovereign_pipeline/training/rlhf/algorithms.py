"""Which training an algorithm of `training.rlhf` is.

What does not belong here: anything that two of them share (`trainer.py`).
"""

from sovereign_pipeline.training.job import TrainerHooks, TrainingJob
from sovereign_pipeline.training.rlhf.ppo_run import PpoRun
from sovereign_pipeline.training.rlhf.run import Run


def train_by_reward(job: TrainingJob, hooks: TrainerHooks) -> dict[str, float]:
    """Run the job: see `Run.train`."""
    run = _run_of(job, hooks)
    try:
        return run.train()
    finally:
        run.close()


def _run_of(job: TrainingJob, hooks: TrainerHooks) -> Run:
    if job.method == "ppo":
        return PpoRun(job, hooks)
    from sovereign_pipeline.training.rlhf.trl_run import TrlRun

    return TrlRun(job, hooks)
