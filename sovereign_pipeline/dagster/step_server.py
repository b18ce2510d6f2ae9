"""Load the program in the process from which the steps of a run are forked. Only that process imports this module (see
`dagster/jobs.py`). The module must not start threads, open connections or load models, because forked steps would
inherit them.
"""

from sovereign_pipeline.base.processes import die_with_parent

die_with_parent()  # otherwise steps would continue after their run was killed

import sovereign_pipeline.dagster.definitions  # noqa: E402, F401
