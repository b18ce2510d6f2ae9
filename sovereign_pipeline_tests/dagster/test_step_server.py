"""The process from which steps are forked ends with the run, also while a step of it goes on."""

import subprocess
import sys

import psutil

from sovereign_pipeline_tests.waiting import wait_until_ended

RUN = """
import multiprocessing, time
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["sovereign_pipeline.dagster.step_server"])
step = context.Process(target=time.sleep, args=(600,))
step.start()
print(step.pid, flush=True)
time.sleep(600)
"""


def test_it_ends_with_a_run_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        step = psutil.Process(int(run.stdout.readline()))
        server = step.parent()
        try:
            assert server is not None and server.ppid() == run.pid
            run.kill()
            wait_until_ended([server])
        finally:
            step.kill()
            run.kill()
