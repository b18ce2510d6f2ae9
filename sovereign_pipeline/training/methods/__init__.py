"""Map each training method to its class.

To add a method: add its name to `job.Method` and to the recipe (`policy/training.py`, or `policy/rlhf.py` if the method
learns from a reward). Write a subclass of `trainer.RowsMethod` or `rlhf.run.RewardedMethod` in a module of this
package. Return it from `_class_of`. The subclass inherits guards, memory checks, resuming, probes and the report.
"""

import shutil
from contextlib import closing, nullcontext

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import unchanged
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob
from sovereign_pipeline.training.trainer import Method
from sovereign_pipeline.training.trainer import train as train_by


def train(job: TrainingJob, hooks: TrainerHooks) -> dict[str, float]:
    """Run the job with its training method; see `trainer.train`. Raises IntegrityError if a file of the job changed. If
    the job may have read the changed file, the job's checkpoints are removed."""
    guarded = nullcontext() if job.files is None else unchanged(job.files, job.directories)
    has_read = False
    try:
        with guarded, closing(_class_of(job)(job, hooks)) as method:
            has_read = True
            return train_by(method)
    except IntegrityError:
        if has_read:
            shutil.rmtree(job.checkpoint_directory, ignore_errors=True)
        raise


def _class_of(job: TrainingJob) -> type[Method]:
    if job.method == "sft":
        from sovereign_pipeline.training.methods.sft import SftMethod

        return SftMethod
    if job.method in ("dpo", "ipo", "kto"):
        from sovereign_pipeline.training.methods.preference import PreferenceMethod

        return PreferenceMethod
    if job.method == "reward":
        from sovereign_pipeline.training.methods.reward import RewardMethod

        return RewardMethod
    if job.method == "ppo":
        from sovereign_pipeline.training.methods.ppo import PpoMethod

        return PpoMethod
    from sovereign_pipeline.training.methods.trl import TrlPairsMethod, TrlRewardMethod

    return TrlPairsMethod if job.method == "trl" else TrlRewardMethod
