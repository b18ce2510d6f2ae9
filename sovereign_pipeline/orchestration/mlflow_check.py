"""Whether MLflow shows of a line what the registry says, as a check of its registered adapter. A warning alone.

What belongs here: showing it. What does not: the comparison (`registry/mlflow_mirror.py`).
"""

import warnings

import dagster as dg

from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more
from sovereign_pipeline.orchestration.jobs import MLFLOW_CHECK
from sovereign_pipeline.orchestration.partitions import LINES
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.registry.mlflow_mirror import differences

with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.PreviewWarning)  # partitions of checks: pinned, and held by a test

    @dg.asset_check(
        asset=MLFLOW_CHECK.asset_key,
        name=MLFLOW_CHECK.name,
        blocking=False,
        partitions_def=LINES,
        description="Does MLflow show what the registry says? A warning alone: the registry is the authority.",
    )
    def mlflow_follows(
        context: dg.AssetCheckExecutionContext, installation: dg.ResourceParam[Settings]
    ) -> dg.AssetCheckResult:
        line = context.partition_key
        try:
            found = [str(each) for each in differences(open_registry(installation), installation, line)]
        except SovereignError as error:
            found = [error.message]
        return dg.AssetCheckResult(
            passed=not found,
            severity=dg.AssetCheckSeverity.WARN,
            description=and_more(found, separator="; ") or f"{line}: MLflow shows what the registry says",
            metadata={"differences": len(found)},
        )
