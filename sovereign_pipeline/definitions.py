"""What Dagster loads. `build_definitions` is the seam for tests: give it other paths."""

import dagster as dg

from sovereign_pipeline.orchestration.assets import CHAIN_ASSETS, REVIEW_ASSETS
from sovereign_pipeline.orchestration.jobs import CHAIN_JOB, EXECUTOR, REVIEW_JOB
from sovereign_pipeline.orchestration.resources import Installation, References
from sovereign_pipeline.orchestration.sensors import closed_reviews, new_lines


def build_definitions(installation: Installation | None = None) -> dg.Definitions:
    installation = installation or Installation()
    return dg.Definitions(
        assets=[*CHAIN_ASSETS, *REVIEW_ASSETS],
        jobs=[CHAIN_JOB, REVIEW_JOB],
        sensors=[new_lines, closed_reviews],
        executor=EXECUTOR,
        resources={"installation": installation, "references": References(installation=installation)},
    )


defs = build_definitions()


def chain_job() -> dg.JobDefinition:
    """The resolved job, for running a line from the command line."""
    return defs.resolve_job_def(CHAIN_JOB.name)
