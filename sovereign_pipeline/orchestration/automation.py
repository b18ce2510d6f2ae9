"""Jobs and sensors: what runs as one, and what happens without being asked."""

import dagster as dg

from sovereign_pipeline.orchestration.partitions import register_lines
from sovereign_pipeline.orchestration.resources import Installation

CHAIN_JOB = dg.define_asset_job(
    name="chain",
    selection=dg.AssetSelection.all(),
    description="The whole chain of one line, from raw corpus to registered adapter; unchanged work is found.",
)

# A step is a process of its own, so that what one library leaves in memory never meets another step.
EXECUTOR = dg.multiprocess_executor.configured({"max_concurrent": 2})


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Makes a partition of every recipe under data/lines, so that a new line shows up without a restart.",
)
def new_lines(context: dg.SensorEvaluationContext, installation: Installation) -> dg.SkipReason:
    new = register_lines(context.instance, installation.settings)
    return dg.SkipReason(f"New lines: {', '.join(new)}." if new else "No new line.")
