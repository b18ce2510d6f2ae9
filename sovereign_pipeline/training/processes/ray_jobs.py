"""Running the trainer as a job of a Ray cluster, by Ray's jobs API.

What belongs here: submitting, watching and stopping. What does not: what a trainer needs on another machine
(`remote.py`).
"""

import importlib.util
import os
import shlex
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.base.errors import InputError, TrainingFailed
from sovereign_pipeline.policy.trainer import Ray
from sovereign_pipeline.training.job import TrainingJob, read_result
from sovereign_pipeline.training.processes.launcher import (
    INHERITED_VARIABLES,
    SECONDS_FOR_A_CHECKPOINT,
    worker_command,
)
from sovereign_pipeline.training.processes.remote import read_remote_result, remote_environment

SECONDS_BETWEEN_POLLS = 2.0
SECONDS_OUT_OF_REACH = 600.0
"""The head may restart or be unreachable for a while; the job on its node continues meanwhile."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Ray's client prefers them to the address that it is given."""


def run_trainer_on_ray(job: Path, place: Ray, progress: Progress, environment: Mapping[str, str]) -> None:
    """Run the trainer on a job file, on a node that sees the same paths, and wait.

    environment: variables beside those of every trainer, such as those that open a Dagster Pipes session.
    When this process is interrupted, the job is stopped: it gets SIGTERM, saves a checkpoint, and is waited for.
    Raises InputError when Ray is not installed here or refuses the job, and TrainingFailed with the trainer's own
    failure, or with how the job ended.
    """
    client = _client(place)
    submission = f"sovereign-{uuid.uuid4().hex[:16]}"
    reserved = {
        "entrypoint_num_gpus": place.gpus,
        "entrypoint_num_cpus": place.cpus,
        "entrypoint_memory": place.memory_gib * 2**30 if place.memory_gib is not None else None,
        "entrypoint_resources": place.resources or None,
    }
    try:
        client.submit_job(
            submission_id=submission,
            entrypoint=entrypoint(job, place, environment),
            # Read by Ray's supervisor of the job: after stop_job it kills when these seconds are over, by default 3.
            runtime_env={"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(SECONDS_FOR_A_CHECKPOINT)}},
            **reserved,
        )
    except _unreachable() as error:
        raise InputError(
            f"trainer.address {place.address} of institution.yaml: Ray refused the job: {_short(error)}.",
            "Correct the `trainer` section, or check the cluster.",
        ) from None
    progress(f"submitted {submission} to Ray at {place.address}")
    try:
        ended = _watch(client, submission, progress)
    except BaseException:
        _stop(client, submission, progress)
        raise
    if ended.status == "SUCCEEDED":
        read_result(TrainingJob.read(job).result)
        return
    read_remote_result(job, f"job {submission} on Ray ended as {ended.status} ({_short(ended.message)})", progress)


def entrypoint(job: Path, place: Ray, environment: Mapping[str, str]) -> str:
    """The shell command of the job.

    `env -i`, because a Ray job otherwise inherits the environment of its node; `exec`, so that the trainer itself gets
    the signals.
    """
    from_the_node = " ".join(f'${{{name}+"{name}=${name}"}}' for name in INHERITED_VARIABLES if name != "HOME")
    given = {**remote_environment(job), **environment}
    if place.gpus == 0:
        given["CUDA_VISIBLE_DEVICES"] = ""  # a job that reserves none would see every GPU of its node
    assigned = " ".join(shlex.quote(f"{name}={value}") for name, value in given.items())
    return f"exec env -i {from_the_node} {assigned} {shlex.join(worker_command(place.python, job))}"


def _client(place: Ray) -> Any:
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "institution.yaml: trainer.where is 'ray', and Ray is not installed here.",
            "Run `pip install 'sovereign-pipeline[ray]'` from the institution's own package mirror.",
        )
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read by Ray while it is imported
    from ray.job_submission import JobSubmissionClient

    hidden = {name: os.environ.pop(name) for name in ADDRESS_VARIABLES if name in os.environ}
    try:
        return JobSubmissionClient(place.address)
    except _unreachable() as error:
        raise InputError(
            f"trainer.address {place.address} of institution.yaml: no Ray answers there: {_short(error)}.",
            "Give the address of the head's dashboard, which accepts jobs (`ray start --head` prints it).",
        ) from None
    finally:
        os.environ.update(hidden)


def _unreachable() -> tuple[type[Exception], ...]:
    """Errors of Ray's client when the head is unreachable, requires a token, or answers with an error."""
    import requests
    from ray.exceptions import AuthenticationError

    return (ConnectionError, RuntimeError, AuthenticationError, requests.RequestException)


def _watch(client: Any, submission: str, progress: Progress) -> Any:
    """The job's details once it ended. Raises TrainingFailed when the head is unreachable for too long."""
    reported, reached = None, time.monotonic()
    while True:
        try:
            details = client.get_job_info(submission)
        except _unreachable() as error:
            if time.monotonic() - reached > SECONDS_OUT_OF_REACH:
                raise TrainingFailed(
                    f"Ray has not answered for {SECONDS_OUT_OF_REACH:.0f} s: {_short(error)}. The job {submission} may "
                    f"still run.",
                    "Run again when the cluster answers. A new job waits for that job's lock and resumes from its last "
                    "checkpoint.",
                ) from None
            if reported != "unreachable":
                progress(f"Ray does not answer ({_short(error)}); retrying for {SECONDS_OUT_OF_REACH:.0f} s")
                reported = "unreachable"
        else:
            reached = time.monotonic()
            if details.status != reported:
                reported = details.status
                progress(f"{submission} is {reported}")
            if reported in ENDED:
                return details
        time.sleep(SECONDS_BETWEEN_POLLS)


def _stop(client: Any, submission: str, progress: Progress) -> None:
    """Stop the job and wait for its end; Ray kills it when it takes longer than a checkpoint may."""
    progress(f"stopping {submission}; it saves a checkpoint first, in {SECONDS_FOR_A_CHECKPOINT} s at most")
    deadline = time.monotonic() + SECONDS_FOR_A_CHECKPOINT + 10 * SECONDS_BETWEEN_POLLS
    try:
        client.stop_job(submission)
        while client.get_job_info(submission).status not in ENDED:
            if time.monotonic() > deadline:
                progress(f"{submission} has not ended; see `ray job status {submission}`")
                return
            time.sleep(SECONDS_BETWEEN_POLLS)
    except _unreachable() as error:
        progress(f"{submission} could not be stopped and may still run: {_short(error)}")


def _short(message: object) -> str:
    """Its last line, which states the reason, and at most 300 characters of it."""
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"
