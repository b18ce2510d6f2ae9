"""What Dagster loads. Tests build definitions of their own, with other settings or another stage."""

from collections.abc import Mapping

import dagster as dg

from sovereign_pipeline.artifacts.stage import Stage
from sovereign_pipeline.orchestration.assets import stage_asset
from sovereign_pipeline.orchestration.chain import chain_with
from sovereign_pipeline.orchestration.jobs import CHAIN_JOB, EXECUTOR, REVIEW_JOB
from sovereign_pipeline.orchestration.resources import resources
from sovereign_pipeline.orchestration.sensors import closed_reviews, new_lines
from sovereign_pipeline.processes import keep_private
from sovereign_pipeline.settings import Settings


def build_definitions(
    installation: Settings | None = None, stages: Mapping[str, Stage] | None = None
) -> dg.Definitions:
    """
    Args:
        installation: None takes the settings from the environment when a step runs.
        stages: name -> the stage to use in place of the real one.
    """
    return dg.Definitions(
        assets=[stage_asset(stage) for stage in chain_with(stages or {})],
        jobs=[CHAIN_JOB, REVIEW_JOB],
        sensors=[new_lines, closed_reviews],
        executor=EXECUTOR,
        resources=resources(installation),
    )


keep_private()  # this module is the entry point of the processes that Dagster starts: code server, runs, their steps
defs = build_definitions()


def chain_job() -> dg.JobDefinition:
    """The resolved job, for running a line from the command line."""
    return defs.resolve_job_def(CHAIN_JOB.name)
