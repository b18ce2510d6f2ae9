"""MODULE DOCSTRING."""

import dagster as dg

from sovereign_pipeline.orchestration.chain import CHAIN

CHAIN_JOB = dg.define_asset_job(
    name="chain",
    selection=dg.AssetSelection.assets(*(stage.kind for stage in CHAIN)),
    description="The whole chain of one line, from raw corpus to registered adapter; unchanged work is found.",
)


REVIEW_JOB = dg.define_asset_job(
    name="closed_review",
    selection=dg.AssetSelection.assets("blind_review"),
    description="What a closed review amounts to. Started by the sensor closed_reviews.",
)


# A step is a process of its own, so that what one library leaves in memory never meets another step.
EXECUTOR = dg.multiprocess_executor.configured({"max_concurrent": 2})
