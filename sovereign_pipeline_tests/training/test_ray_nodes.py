"""The trainer on two nodes of a Ray cluster: it trains what one machine does, and can be stopped.

The nodes are two of Ray's own on this machine, which the placement group keeps apart. The job is started as Ray's head
starts it; `dagster/launching/test_ray.py` has the submission.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import RecipeError, TrainingStopped
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.policy.institution import Ray
from sovereign_pipeline.training.job import KEY_VARIABLE, TrainingJob, read_result
from sovereign_pipeline.training.launcher import remote_environment
from sovereign_pipeline.training.node_task import Order
from sovereign_pipeline.training.ray_jobs import Nodes, run_trainer_on_ray
from sovereign_pipeline_tests.ray_cluster import cluster
from sovereign_pipeline_tests.training.conftest import TWO, JobMaker
from sovereign_pipeline_tests.training.processes.launching import KEY, written
from sovereign_pipeline_tests.training.trainings import files
from sovereign_pipeline_tests.waiting import SECONDS, wait_until

__all__ = ["cluster"]

pytestmark = pytest.mark.slow


def start(job: TrainingJob, cluster: str) -> "subprocess.Popen[str]":
    """Start the Ray job's process on its head."""
    file = written(job)
    order = Order(job=file, key=KEY[KEY_VARIABLE], interface="lo", withheld={}, submitted=time.time())
    nodes = Nodes(count=2, python=sys.executable, reserved={"CPU": 1})
    for name, content in (("order.json", order), ("nodes.json", nodes)):
        file.with_name(name).write_text(content.model_dump_json())
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "sovereign_pipeline.training.ray_jobs",
            *(str(file.with_name(name)) for name in ("order.json", "nodes.json")),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **remote_environment(file),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(PROJECT_ROOT),
            "RAY_ADDRESS": cluster,
        },
    )


def test_two_nodes_train_what_two_processes_of_one_machine_do(
    cluster: str, on_one_machine: TrainingJob, make_for_two: JobMaker
) -> None:
    job = make_for_two("nodes")
    process = start(job, cluster)
    output, _ = process.communicate(timeout=10 * SECONDS)
    assert process.returncode == 0
    assert files(job.output) == files(on_one_machine.output)
    assert read_result(job.result).measured["tokens_per_second"] > 0
    lines = [json.loads(line)["message"] for line in output.splitlines()]
    assert len([line for line in lines if line.startswith("step ")]) > 1
    nodes = {json.loads(path.read_text())[0] for path in job.result.parent.glob("nodes/[1-9]")}
    assert len(nodes) == 1


def test_a_job_that_is_stopped_leaves_a_checkpoint(cluster: str, make_for_two: JobMaker) -> None:
    job = make_for_two("stopped", sft={"epochs": 2000})
    process = start(job, cluster)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["message"].startswith("step 3/"):
            process.send_signal(signal.SIGTERM)
            break
    process.communicate(timeout=10 * SECONDS)
    assert process.returncode == 1
    with pytest.raises(TrainingStopped):
        read_result(job.result)
    newest = max(path.name for path in job.checkpoint_directory.iterdir())
    assert int(newest.removeprefix("step-")) >= 3


def test_a_job_that_is_killed_leaves_no_trainer(cluster: str, make_for_two: JobMaker, tmp_path: Path) -> None:
    job = make_for_two("killed", sft={"epochs": 2000})
    process = start(job, cluster)
    assert process.stdout is not None
    next(line for line in process.stdout if json.loads(line)["message"].startswith("step 1/"))
    process.kill()
    process.communicate()

    def are_gone() -> bool:
        running = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, check=False)
        return running.returncode == 1

    wait_until(are_gone, lambda: "trainers still run")


def test_devices_that_do_not_fill_the_nodes_are_refused(make_for_two: JobMaker) -> None:
    job = make_for_two("three", devices={**TWO, "count": 3})
    file = written(job)
    for place in ({"devices_per_node": 2, "interface": "ib0"}, {"devices_per_node": 1}):
        with pytest.raises(RecipeError):
            run_trainer_on_ray(
                file,
                Ray.model_validate({"where": "ray", "address": "http://127.0.0.1:9", **place}),
                print,
                KEY,
            )
