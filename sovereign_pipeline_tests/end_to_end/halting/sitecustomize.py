"""Have trainers of a run halt after the third step, until they are asked to stop; of an experiment, each second one.

Python imports this module at its start, in each process whose PYTHONPATH leads here.
"""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HALT = {"SOVEREIGN_TEST_HALT_AT_STEP": "3", "SOVEREIGN_TEST_HALT_UNTIL_THERE_IS": "/nothing"}
PROCESSES = "sovereign_pipeline_tests.training.processes"

if "step_server" in " ".join(sys.orig_argv):
    from sovereign_pipeline.training import launcher, warm

    def worker_that_halts(python: str, job: Path) -> list[str]:
        variables = [f"{name}={value}" for name, value in HALT.items()]
        return ["/usr/bin/env", *variables, python, "-m", f"{PROCESSES}.worker_that_halts", str(job)]

    def warm_that_halts(command: list[str], env: dict[str, str], **options: Any) -> "subprocess.Popen[str]":
        return subprocess.Popen([*command[:-1], f"{PROCESSES}.warm_that_halts"], env={**env, **HALT}, **options)

    launcher.worker_command = worker_that_halts
    vars(warm)["subprocess"] = SimpleNamespace(**{**vars(subprocess), "Popen": warm_that_halts})
