"""Define the assets, jobs, sensors and resources that Dagster loads. Tests build definitions with other settings or
stages."""

from collections.abc import Mapping

import dagster as dg

from sovereign_pipeline.base.processes import keep_private
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.dagster.assets import mlflow_follows, stage_asset
from sovereign_pipeline.dagster.chain import chain_with
from sovereign_pipeline.dagster.experiments import EXPERIMENT_TRIAL, experiment
from sovereign_pipeline.dagster.jobs import (
    CHAIN_JOB,
    DUE_JOB,
    EXECUTOR,
    EXPERIMENT_JOB,
    REVIEW_JOB,
    ROLLOUT_JOB,
    closed_reviews,
    new_lines,
    review_not_due,
    reviews_due,
)
from sovereign_pipeline.dagster.resources import Clock, resources
from sovereign_pipeline.dagster.rollout import PRODUCTION, STAGED, rollouts
from sovereign_pipeline.record.stage import Stage


def build_definitions(
    installation: Settings | None = None, stages: Mapping[str, Stage] | None = None, clock: Clock | None = None
) -> dg.Definitions:
    """Build the Dagster definitions.

    Args:
        installation: settings; None reads them from the environment when a step runs.
        stages: mapping of stage name to the stage to use instead.
        clock: function that returns the current time; None uses the system clock.
    """
    return dg.Definitions(
        assets=[
            *(stage_asset(stage) for stage in chain_with(stages or {})),
            *(STAGED, PRODUCTION, experiment, EXPERIMENT_TRIAL),
        ],
        asset_checks=[review_not_due, mlflow_follows],
        jobs=[CHAIN_JOB, REVIEW_JOB, DUE_JOB, ROLLOUT_JOB, EXPERIMENT_JOB],
        sensors=[new_lines, closed_reviews, reviews_due, rollouts],
        executor=EXECUTOR,
        resources=resources(installation, clock),
    )


keep_private()  # entry point of Dagster's processes (code server, runs, steps)
defs = build_definitions()


def chain_job() -> dg.JobDefinition:
    """Return the job that runs a line's chain, for the command line."""
    return defs.resolve_job_def(CHAIN_JOB.name)


def experiment_job() -> dg.JobDefinition:
    """Return the job that runs an experiment, for the command line."""
    return defs.resolve_job_def(EXPERIMENT_JOB.name)
