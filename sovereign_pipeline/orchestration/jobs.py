"""What runs together: the chain of one line, and the result of one review.

What belongs here: jobs and how their steps are executed. What does not: when a job is started (`sensors.py`).
"""

import dagster as dg

from sovereign_pipeline.orchestration.chain import AFTER_PEOPLE, CHAIN

DUE_CHECK = dg.AssetCheckKey(dg.AssetKey("registered_adapter"), "review_not_due")
"""Of the calendar, not of a run of the chain, where it would cost a process of its own."""

MLFLOW_CHECK = dg.AssetCheckKey(dg.AssetKey("registered_adapter"), "mlflow_follows")
"""Of the registry's states, which change between runs of the chain."""

CHAIN_JOB = dg.define_asset_job(
    name="chain",
    selection=dg.AssetSelection.assets(*(stage.kind for stage in CHAIN))
    - dg.AssetSelection.checks(DUE_CHECK, MLFLOW_CHECK),
    description="The whole chain of one line, from raw corpus to registered adapter; unchanged work is reused.",
)

REVIEW_JOB = dg.define_asset_job(
    name="closed_review",
    selection=dg.AssetSelection.assets(*(stage.kind for stage in AFTER_PEOPLE)),
    description="The result of a closed review. Started by the sensor closed_reviews.",
)

DUE_JOB = dg.define_asset_job(
    name="due_review",
    selection=dg.AssetSelection.checks(DUE_CHECK, MLFLOW_CHECK),
    description="Whether the review of one line's adapter is due, and whether MLflow follows. Started by the sensor "
    "reviews_due when either changes.",
)

ROLLOUT_JOB = dg.define_asset_job(
    name="rollout",
    selection=dg.AssetSelection.assets("staged_adapter", "production_adapter"),
    description="What officers staged and promoted, in the line's flag. Started by the sensor rollouts.",
)

EXECUTOR = dg.multiprocess_executor.configured(
    {"max_concurrent": 2, "start_method": {"forkserver": {"preload_modules": ["sovereign_pipeline.step_server"]}}}
)
"""A step is a process of its own, so that what one library leaves in memory never meets another step. It is forked from
one that has loaded the program, which takes longer than most steps."""
