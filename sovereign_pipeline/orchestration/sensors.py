"""Sensors: what is started without a person starting it. What is started is in `jobs.py`."""

from collections.abc import Iterator

import dagster as dg

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.orchestration.jobs import REVIEW_JOB
from sovereign_pipeline.orchestration.partitions import register_lines
from sovereign_pipeline.record.catalog import registered_as
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.review.acts import find_closed_of


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Makes a partition of every recipe under data/lines, so that a new line appears without a restart.",
)
def new_lines(context: dg.SensorEvaluationContext, installation: dg.ResourceParam[Settings]) -> dg.SkipReason:
    new = register_lines(context.instance, installation)
    return dg.SkipReason(f"New lines: {', '.join(new)}." if new else "No new line.")


@dg.sensor(
    job=REVIEW_JOB,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Materializes blind_review of a line once a review of its current registered adapter is closed.",
)
def closed_reviews(
    context: dg.SensorEvaluationContext, installation: dg.ResourceParam[Settings]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    store, registry = open_store(installation), open_registry(installation)
    requested = False
    for line in context.instance.get_dynamic_partitions("line"):
        current = store.current(line, "registered_adapter")
        adapter = registered_as(registry, current.digest) if current is not None else None
        if current is None or adapter is None:
            continue
        for review, _ in find_closed_of(registry, line, adapter.adapter_sha256):
            requested = True
            yield dg.RunRequest(run_key=f"review-{review.id}-{current.digest[:12]}", partition_key=line)
    if not requested:
        yield dg.SkipReason("No review of a current registered adapter is closed.")
