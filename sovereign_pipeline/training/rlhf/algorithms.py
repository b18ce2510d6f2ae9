"""Which training an algorithm of `training.rlhf` is.

What does not belong here: anything that two of them share (`trainer.py`).
"""

from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.loop.hooks import TrainerHooks
from sovereign_pipeline.training.rlhf.ppo_run import PpoRun


def train_by_reward(job: TrainingJob, hooks: TrainerHooks) -> dict[str, float]:
    """Run the job: see `Run.train`."""
    if job.method == "ppo":
        return PpoRun(job, hooks).train()
    from sovereign_pipeline.training.rlhf.trl_run import TrlRun

    return TrlRun(job, hooks).train()
