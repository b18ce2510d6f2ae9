"""The process from which the steps of a run are forked, with the program loaded once for all of them.

Only that process imports this module (`dagster/jobs.py` names it). What belongs here: what it does before the
first step. What does not: anything that a step must not find done, such as threads, connections and models.
"""

from sovereign_pipeline.base.processes import die_with_parent

die_with_parent()  # else steps, which end with this process, would continue after their run was killed

import sovereign_pipeline.dagster.definitions  # noqa: E402, F401
