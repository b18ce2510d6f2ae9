"""The one partitions definition: a line of adapters is a partition of every asset and of every check."""

import dagster as dg

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.line import line_names

LINES = dg.DynamicPartitionsDefinition(name="line")


def register_lines(instance: dg.DagsterInstance, settings: Settings) -> list[str]:
    """Add every line that has a recipe to the instance's partitions. Returns the names that were new."""
    known = set(instance.get_dynamic_partitions("line"))
    new = [name for name in line_names(settings.data) if name not in known]
    if new:
        instance.add_dynamic_partitions("line", new)
    return new
