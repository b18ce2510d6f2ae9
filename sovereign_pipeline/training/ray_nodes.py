"""Start one trainer for each device on several nodes of a Ray cluster, as a Ray job:
`python -m sovereign_pipeline.training.ray_nodes ORDER.json NODES.json`.

A placement group reserves the nodes. On each node an actor starts the trainers as processes. The trainers get only the
environment variables of a trainer, and connect to each other as on Slurm.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import SovereignError, TrainingStopped
from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.base.processes import keep_private
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.training.job import Failure, TrainingJob, TrainingResult
from sovereign_pipeline.training.launcher import INHERITED_VARIABLES, PARENT_VARIABLE, Log
from sovereign_pipeline.training.node import NODE_RANK_VARIABLE
from sovereign_pipeline.training.node_task import NODE_VARIABLE, Order
from sovereign_pipeline.training.worker import collect_sigterm, open_progress

SECONDS_BETWEEN_LOOKS = 0.5
OF_THE_NODE = tuple(name for name in INHERITED_VARIABLES if name != "HOME")
"""Environment variables that trainers inherit from their own node."""


class Nodes(Frozen):
    """The nodes that a training reserves."""

    count: int
    python: str
    """Interpreter on the nodes."""
    reserved: dict[str, float]
    """Resource of Ray -> amount on each node."""


def main(order_file: Path, nodes: Nodes) -> int:
    """Train on these nodes and wait. Returns 0 if every trainer succeeded, else 1. The job's result file states any
    failure."""
    keep_private()
    go_offline()
    job = TrainingJob.read(Order.model_validate_json(order_file.read_bytes()).job)
    with open_progress() as progress:
        try:
            return _run(order_file, job, nodes, lambda line: progress(line, {}))
        except SovereignError as error:
            TrainingResult(failure=Failure.of(error)).write(job.result)
            return 1


def _run(
    order_file: Path,
    job: TrainingJob,
    nodes: Nodes,
    progress: Callable[[str], None],
) -> int:
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    ray.init(log_to_driver=False, logging_level="ERROR")
    stop_requests = collect_sigterm()  # after `ray.init`, which sets its own handler
    group = placement_group([nodes.reserved] * nodes.count, strategy="STRICT_SPREAD")
    ready = group.ready()
    reserved = ", ".join(f"{each:g} {name}" for name, each in nodes.reserved.items())
    progress(f"waiting for {nodes.count} nodes with {reserved} each")
    while not ray.wait([ready], timeout=SECONDS_BETWEEN_LOOKS)[0]:
        if stop_requests:
            raise TrainingStopped("The training was stopped, as requested, while it waited for its nodes.")
    actor = ray.remote(_node_class())
    on = [PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index) for index in range(nodes.count)]
    started = [
        actor.options(
            scheduling_strategy=each,
            num_cpus=nodes.reserved.get("CPU", 0),
            num_gpus=nodes.reserved.get("GPU", 0),
            max_concurrency=2,  # `stop` runs concurrently with `run`
        ).remote()
        for each in on
    ]
    log = Log(order_file.with_name("log"))
    log.skip()
    world, local = job.devices.count, job.devices.count // nodes.count
    given = {**_environment(), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(local)}
    command = [nodes.python, "-m", "sovereign_pipeline.training.node", str(order_file)]
    runs = [
        node.run.remote(command, {**given, NODE_RANK_VARIABLE: str(index)}, [*OF_THE_NODE])
        for index, node in enumerate(started)
    ]
    waiting, is_stopping, failed = list(runs), False, False
    while waiting:
        done, waiting = ray.wait(waiting, timeout=SECONDS_BETWEEN_LOOKS)
        _tell(log, progress)
        for each in done:
            try:
                failed = failed or ray.get(each) != 0
            except ray.exceptions.RayError as error:
                failed = True
                progress(f"a node was lost ({type(error).__name__})")
        if (stop_requests or failed) and not is_stopping:
            is_stopping = True
            for node in started:
                node.stop.remote()
    _tell(log, progress)
    if failed and not job.result.is_file():
        raise TrainingStopped("A node of this training was lost.")
    return 1 if failed else 0


def _tell(log: Log, progress: Callable[[str], None]) -> None:
    for message, _ in log.added():
        progress(message)


def _environment() -> dict[str, str]:
    """Return those environment variables of this process that the trainers get. The variables of the node, of Dagster
    and of Ray are excluded."""
    others = {name for name in os.environ if name in OF_THE_NODE or name.startswith(("DAGSTER_", "RAY_"))}
    return {name: value for name, value in os.environ.items() if name not in others}


def _node_class() -> type:
    """Return the actor's class. The class is defined inside a function, so that Ray sends the class's code to the
    nodes. Ray's interpreter on a node then does not need this package."""

    class Node:
        def __init__(self) -> None:
            self.process: Any = None
            self.is_stopping = False

        def run(self, command: list[str], given: dict[str, str], inherited: list[str]) -> int:
            """Run the node's trainers, and wait. Returns 0 if all trainers succeeded."""
            import os
            import socket
            import subprocess

            own = {name: os.environ[name] for name in inherited if name in os.environ and name not in given}
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**own, **given, PARENT: str(os.getpid()), NODE: socket.gethostname()},
            )
            if self.is_stopping:
                self.process.terminate()
            return int(self.process.wait())

        def stop(self) -> None:
            """Ask the trainers to save a checkpoint and end."""
            self.is_stopping = True
            if self.process is not None:
                self.process.terminate()

    NODE, PARENT = NODE_VARIABLE, PARENT_VARIABLE
    return Node


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Nodes.model_validate_json(Path(sys.argv[2]).read_bytes())))
