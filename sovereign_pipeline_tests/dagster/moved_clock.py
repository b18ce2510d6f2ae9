"""The real definitions under Dagster's own clock, which a test can move; settings come from the environment."""

import datetime

from dagster._time import get_current_datetime

from sovereign_pipeline.dagster.definitions import build_definitions


def clock() -> datetime.datetime:
    return get_current_datetime()


defs = build_definitions(clock=clock)
