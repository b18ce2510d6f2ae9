"""Run the trainer as a job on a Ray cluster, on one or several nodes. All nodes must see the same paths."""

import importlib.util
import os
import shlex
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sovereign_pipeline.base.errors import InputError, RecipeError, SovereignError, TrainingFailed, TrainingStopped
from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.base.processes import keep_private
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.policy.institution import Ray
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.training.job import KEY_VARIABLE, Failure, TrainingJob, TrainingResult
from sovereign_pipeline.training.launcher import (
    INHERITED_VARIABLES,
    PARENT_VARIABLE,
    SECONDS_FOR_A_CHECKPOINT,
    Log,
    from_the_node,
    launch,
    nodes_of,
    remote_environment,
    worker_command,
)
from sovereign_pipeline.training.node_task import NODE_VARIABLE, Order
from sovereign_pipeline.training.ranks import NODE_RANK_VARIABLE
from sovereign_pipeline.training.worker import collect_sigterm, open_progress

SECONDS_BETWEEN_POLLS = 2.0
SECONDS_OUT_OF_REACH = 600.0
"""Seconds for which Ray's head node may be unreachable, such as during a restart. The job continues meanwhile."""
OF_RAY = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Environment variables with which a job on several nodes reaches its Ray cluster. Trainers do not get these
variables."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Environment variables that Ray's client would use instead of the address passed to it."""


def run_trainer_on_ray(
    job: Path,
    place: Ray,
    progress: Progress,
    environment: Mapping[str, str],
    withheld: Mapping[str, Path] = MappingProxyType({}),
) -> None:
    """Run the trainer on a job file and wait. Raises the errors of `launcher.launch` and `_nodes`, and InputError if
    Ray is not installed here, does not answer, or rejects the job.

    Args:
        environment: variables in addition to those of every trainer, for example for a Dagster Pipes session.
        withheld: mapping of environment variable to a directory that trainers on several nodes must not see.
    """
    order = job.with_name("order.json")
    try:
        launch(RayJob(job, place, progress, environment, order, withheld), job, progress)
    finally:
        order.unlink(missing_ok=True)  # the file contains a key


class RayJob:
    """Runs the trainer as a Ray job; see `launcher.Launcher`."""

    def __init__(
        self,
        job: Path,
        place: Ray,
        progress: Progress,
        environment: Mapping[str, str],
        order: Path,
        withheld: Mapping[str, Path],
    ) -> None:
        self._job = job
        self._place = place
        self._progress = progress
        self._environment = environment
        self._order = order
        self._withheld = withheld
        self._nodes = _nodes(place, TrainingJob.read(job))
        self._client = _client(place)
        self._submission = f"sovereign-{uuid.uuid4().hex[:16]}"

    def submit(self) -> None:
        place, environment, command = self._place, self._environment, worker_command(self._place.python, self._job)
        reserved: dict[str, Any] = {
            "entrypoint_num_gpus": place.gpus,
            "entrypoint_num_cpus": place.cpus,
            "entrypoint_memory": place.memory_gib * 2**30 if place.memory_gib is not None else None,
            "entrypoint_resources": place.resources or None,
        }
        if self._nodes > 1:
            command = self._command_for_nodes()
            environment = {name: value for name, value in environment.items() if name != KEY_VARIABLE}
            reserved = {"entrypoint_num_cpus": 0, "entrypoint_num_gpus": 0}  # a placement group reserves the nodes
        try:
            self._client.submit_job(
                submission_id=self._submission,
                entrypoint=entrypoint(command, self._job, place, environment),
                runtime_env={
                    "env_vars": {
                        # After stop_job, Ray's job supervisor waits this many seconds until it kills the job. The
                        # default is 3.
                        "RAY_JOB_STOP_WAIT_TIME_S": str(SECONDS_FOR_A_CHECKPOINT),
                        **{name: value for name, value in environment.items() if name == KEY_VARIABLE},
                    }
                },
                **reserved,
            )
        except _unreachable() as error:
            raise InputError(
                f"trainer.address {place.address} of institution.yaml: Ray rejected the job: {_short(error)}.",
                "Correct the `trainer` section, or check the cluster.",
            ) from None
        self._progress(f"submitted {self._submission} to Ray at {place.address}")

    def _command_for_nodes(self) -> list[str]:
        """Write the order file and `nodes.json` beside it. Returns the job's command."""
        place = self._place
        reserved = {"CPU": place.cpus, "GPU": place.gpus or None, "memory": (place.memory_gib or 0) * 2**30 or None}
        nodes = Nodes(
            count=self._nodes,
            python=place.python,
            reserved={name: each for name, each in {**reserved, **place.resources}.items() if each is not None},
        )
        order = Order(
            job=self._job,
            key=self._environment[KEY_VARIABLE],
            interface=place.interface or "",
            withheld=dict(self._withheld),
            submitted=time.time(),
        )
        nodes_file = self._order.with_name("nodes.json")
        for path, content in ((self._order, order), (nodes_file, nodes)):
            path.touch(mode=0o600)
            path.write_text(content.model_dump_json(), encoding="utf-8")
        return [place.python, "-m", "sovereign_pipeline.training.ray_jobs", str(self._order), str(nodes_file)]

    def follow(self) -> str | None:
        """Wait for the end of the job; see `Launcher.follow`. Raises TrainingFailed if Ray's head node is unreachable
        for longer than `SECONDS_OUT_OF_REACH`."""
        reported, reached = None, time.monotonic()
        while True:
            try:
                details = self._client.get_job_info(self._submission)
            except _unreachable() as error:
                if time.monotonic() - reached > SECONDS_OUT_OF_REACH:
                    raise TrainingFailed(
                        f"Ray has not answered for {SECONDS_OUT_OF_REACH:.0f} s: {_short(error)}. The job "
                        f"{self._submission} may still be running.",
                        "Run again when the cluster answers. A new job waits for that job's lock and resumes from its "
                        "last checkpoint.",
                    ) from None
                if reported != "unreachable":
                    self._progress(f"Ray does not answer ({_short(error)}); retrying for {SECONDS_OUT_OF_REACH:.0f} s")
                    reported = "unreachable"
            else:
                reached = time.monotonic()
                if details.status != reported:
                    reported = details.status
                    self._progress(f"{self._submission} is {reported}")
                if reported == "SUCCEEDED":
                    return None
                if reported in ENDED:
                    return f"job {self._submission} on Ray ended as {reported} ({_short(details.message)})"
            time.sleep(SECONDS_BETWEEN_POLLS)

    def cancel(self) -> None:
        """Stop the job and wait for its end. The job gets SIGTERM. If the job takes longer than the time for a
        checkpoint, Ray kills it."""
        submission, progress = self._submission, self._progress
        progress(f"stopping {submission}; it first saves a checkpoint, within {SECONDS_FOR_A_CHECKPOINT} s")
        deadline = time.monotonic() + SECONDS_FOR_A_CHECKPOINT + 10 * SECONDS_BETWEEN_POLLS
        try:
            self._client.stop_job(submission)
            while self._client.get_job_info(submission).status not in ENDED:
                if time.monotonic() > deadline:
                    progress(f"{submission} has not ended; see `ray job status {submission}`")
                    return
                time.sleep(SECONDS_BETWEEN_POLLS)
        except _unreachable() as error:
            progress(f"{submission} could not be stopped and may still be running: {_short(error)}")


def _nodes(place: Ray, job: TrainingJob) -> int:
    """Return the number of nodes of a job. Raises RecipeError if the job's devices do not fill whole nodes, or if the
    job needs several nodes and `trainer.interface` is not set."""
    nodes = nodes_of(job, place.devices_per_node or job.devices.count)
    if nodes > 1 and place.interface is None:
        raise RecipeError(
            "institution.yaml: trainer.interface is missing. Several nodes exchange tensors through this interface.",
            "Set trainer.interface to the network interface that connects the nodes, such as ib0.",
        )
    return nodes


def entrypoint(command: list[str], job: Path, place: Ray, environment: Mapping[str, str]) -> str:
    """Return the shell command of the job. The command uses `env -i`, so that the trainer inherits only a few listed
    variables of the node. It uses `exec`, so that the trainer itself gets the signals."""
    of_ray = (KEY_VARIABLE,) if KEY_VARIABLE in environment else OF_RAY
    from_node = from_the_node([name for name in (*INHERITED_VARIABLES, *of_ray) if name != "HOME"])
    given = {name: value for name, value in {**remote_environment(job), **environment}.items() if name != KEY_VARIABLE}
    if place.gpus == 0:
        given["CUDA_VISIBLE_DEVICES"] = ""  # a job that reserves no GPU would see every GPU of its node
    assigned = " ".join(shlex.quote(f"{name}={value}") for name, value in given.items())
    return f"exec env -i {from_node} {assigned} {shlex.join(command)}"


def _client(place: Ray) -> Any:
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "institution.yaml: trainer.where is 'ray', but Ray is not installed here.",
            "Run `pip install 'sovereign-pipeline[ray]'` from the institution's own package mirror.",
        )
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read by Ray while it is imported
    from ray.job_submission import JobSubmissionClient

    hidden = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        return JobSubmissionClient(place.address)
    except _unreachable() as error:
        raise InputError(
            f"trainer.address of institution.yaml: no Ray cluster answers at {place.address}: {_short(error)}.",
            "Set trainer.address to the head's dashboard, which accepts jobs (`ray start --head` prints its address).",
        ) from None
    finally:
        os.environ.update(hidden)


def _unreachable() -> tuple[type[Exception], ...]:
    """Return the exceptions that Ray's client raises if the head is unreachable, requires a token, or answers with an
    error."""
    import requests
    from ray.exceptions import AuthenticationError

    return (ConnectionError, RuntimeError, AuthenticationError, requests.RequestException)


def _short(message: object) -> str:
    """Return the last line of a message, up to 300 characters. The last line states the reason."""
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"


SECONDS_BETWEEN_LOOKS = 0.5
OF_THE_NODE = tuple(name for name in INHERITED_VARIABLES if name != "HOME")
"""Environment variables that trainers inherit from their own node."""


class Nodes(Frozen):
    """The nodes that a job reserves."""

    count: int
    python: str
    """Interpreter on the nodes."""
    reserved: dict[str, float]
    """Mapping of Ray resource to the amount that is reserved on each node."""


def main(order_file: Path, nodes: Nodes) -> int:
    """Train on several nodes of the cluster and wait: `python -m sovereign_pipeline.training.ray_jobs ORDER NODES`.

    Ray runs this function as a job on the cluster's head. A placement group reserves the nodes. On each node an actor
    starts one trainer process for each device. The trainers get only the environment variables of a trainer, and
    connect to each other through a shared file (`devices.meet`). Returns 0 if every trainer succeeded, otherwise 1. The
    job's result file states any failure.
    """
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
    command = [nodes.python, "-m", "sovereign_pipeline.training.ranks", str(order_file)]
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
    """Return the environment variables of this process that the trainers get. The variables of the node, of Dagster and
    of Ray are excluded."""
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
