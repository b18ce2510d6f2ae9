"""Start the trainer as a child process or as a Ray job, and wait for it.

The trainer's environment holds only the variables listed here, so that no credential reaches it.
"""

import importlib.util
import json
import os
import platform
import shlex
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import InputError, TrainingFailed
from sovereign_pipeline.base.settings import OFFLINE_ENVIRONMENT, PROJECT_ROOT
from sovereign_pipeline.policy.institution import Ray
from sovereign_pipeline.record.stage import Progress, library_versions, source_digest
from sovereign_pipeline.training.job import KEY_VARIABLE, TrainingJob, read_result
from sovereign_pipeline.training.report import TRAINING_LIBRARIES

PARENT_VARIABLE = "SOVEREIGN_TRAINER_PARENT"
"""Variable with the process id of the parent, which the trainer must not outlive."""
SECONDS_FOR_A_CHECKPOINT = 300
"""Seconds for a step of the largest model and its checkpoint. dagster.yaml gives a terminated run longer."""
SECONDS_OF_REPEATED_INTERRUPT = 5
"""Seconds within which a second interrupt counts as the same one. Ctrl-C reaches every process of the terminal, and
Dagster's executor then interrupts each of its steps again."""

INHERITED_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HOME",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "PATH",
    "TMPDIR",
)


def worker_command(python: str, job: Path) -> list[str]:
    """Return the command of the trainer, or of the launcher that starts one trainer for each device."""
    module = "worker" if TrainingJob.read(job).devices.count == 1 else "ranks"
    return [python, "-m", f"sovereign_pipeline.training.{module}", str(job)]


def worker_environment(job: Path) -> dict[str, str]:
    """Return the variables of every trainer, wherever it runs. None depends on this machine."""
    return {
        **OFFLINE_ENVIRONMENT,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with a fixed workspace
        "HF_HOME": str(job.parent / "caches"),
        # Waiting OpenMP threads sleep instead of spinning. On a busy machine, two spinning threads wait for each
        # other's time slice in every operation: 12 ms instead of 0.04 ms for a small one.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONHASHSEED": "0",
        "PYTHONSAFEPATH": "1",  # imports nothing from the working directory, which is in the home
    }


def run_trainer(job: Path, progress: Progress, environment: Mapping[str, str] | None = None) -> None:
    """Run the trainer on a job file and wait; each line that it prints goes to `progress`.

    environment: variables beside the inherited ones, such as those that open a Dagster Pipes session. When this process
    is interrupted, the trainer saves a checkpoint and ends. It is killed with all its children if it takes too long or
    at a second interrupt. When this process is killed, the kernel kills the trainer. Raises TrainingFailed with the
    trainer's own failure, or with the way in which its process ended.
    """
    result = TrainingJob.read(job).result
    result.unlink(missing_ok=True)
    process = subprocess.Popen(
        worker_command(sys.executable, job),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        # Warnings of libraries quote their input, and document text may not reach a log.
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=job.parent,
        env=_environment(job, environment or {}),
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            progress(line.rstrip("\n"))
        status = process.wait()
    finally:
        if process.poll() is None:
            _end(process, progress)
        process.stdout.close()
    if status != 0 and not result.is_file():
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        raise TrainingFailed(
            f"{job}: the trainer's process {how} without a result. SIGKILL from outside most often means that memory "
            f"ran out.",
            "Lower training.sft.max_length or batch_size in the recipe, and run again. It resumes from its last "
            "checkpoint.",
        )
    read_result(result)
    if status != 0:
        raise TrainingFailed(
            f"{job}: the trainer's process ended with status {status} after the training.", "Run again."
        )


def _end(process: subprocess.Popen[str], progress: Progress) -> None:
    """End the trainer. The interrupt that caused this is raised again afterwards; its repetition counts as the same
    one."""
    os.killpg(process.pid, signal.SIGTERM)
    begun, reported = time.monotonic(), False
    while process.poll() is None:
        try:
            if not reported:
                reported = True
                progress(f"stopping the trainer; it saves a checkpoint first, in {SECONDS_FOR_A_CHECKPOINT} s at most")
            process.communicate(timeout=SECONDS_FOR_A_CHECKPOINT)  # keeps reading, so that the trainer can write
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        except BaseException:
            if time.monotonic() - begun < SECONDS_OF_REPEATED_INTERRUPT:
                continue
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def _environment(job: Path, extra: Mapping[str, str]) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ}
    return {
        **inherited,
        **worker_environment(job),
        "PYTHONPATH": str(PROJECT_ROOT),
        PARENT_VARIABLE: str(os.getpid()),
        **extra,
    }


INSTALLATION_VARIABLE = "SOVEREIGN_TRAINER_INSTALLATION"


def remote_environment(job: Path) -> dict[str, str]:
    """Return the variables of a remote trainer. They include none of this process's and no parent, since a remote
    trainer cannot die with its parent."""
    return {
        **worker_environment(job),
        "HOME": str(job.parent / "caches"),
        "USER": "trainer",  # libraries read it, and the user's id may have no name there
        INSTALLATION_VARIABLE: json.dumps(_installation(), sort_keys=True),
    }


def from_the_node(names: Iterable[str]) -> str:
    """Return arguments of `env`, for a shell, that keep these of the node's variables."""
    return " ".join(f'${{{name}+"{name}=${name}"}}' for name in names)


def refuse_another_installation() -> None:
    """Raise TrainingFailed in a trainer whose launcher has other code or other libraries.

    The launcher records its own versions in the artifact's manifest, which would then be wrong. Builds of one version
    for different devices, such as 2.13.0+cpu and 2.13.0+cu130, count as equal; the trainer's report names the build
    that trained.
    """
    stated = os.environ.get(INSTALLATION_VARIABLE)
    if stated is None:
        return
    wanted, found = json.loads(stated), _installation()
    different = [f"{name} is {found[name]}, not {wanted[name]}" for name in found if found[name] != wanted.get(name)]
    if different:
        raise TrainingFailed(
            f"The trainer's machine {platform.node()} has another installation than the machine that started it: "
            f"{'; '.join(different)}.",
            "Install the same release on both (image, or nodes of the cluster), with requirements/.",
        )


def read_remote_result(job: Path, ending: str, progress: Progress) -> None:
    """Read the result of a trainer that did not end normally.

    An existing result counts, because it is written last and completely. Raises TrainingFailed with the trainer's own
    failure, or if there is no result. ending: clause that says how the trainer ended: "the pod …".
    """
    result = TrainingJob.read(job).result
    if not result.is_file():
        raise TrainingFailed(
            f"{job}: {ending}, without a result. If it was killed, memory most often ran out.",
            "Lower training.sft.max_length or batch_size in the recipe, or raise trainer.memory_gib in "
            "institution.yaml. Then run again; it resumes from its last checkpoint.",
        )
    read_result(result)
    progress(f"{ending}; the training had ended before, and its result is complete")


def _installation() -> dict[str, str]:
    versions = {name: version.split("+")[0] for name, version in library_versions(TRAINING_LIBRARIES).items()}
    return {"the program's source": source_digest()[:16], **versions}


SECONDS_BETWEEN_POLLS = 2.0
SECONDS_OUT_OF_REACH = 600.0
"""Seconds for which Ray's head may be unreachable, such as during a restart. The job on its node continues
meanwhile."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that Ray's client prefers to an address passed as an argument."""


def run_trainer_on_ray(job: Path, place: Ray, progress: Progress, environment: Mapping[str, str]) -> None:
    """Run the trainer on a job file, on a node that sees the same paths, and wait.

    environment: variables beside those of every trainer, such as those that open a Dagster Pipes session. When this
    process is interrupted, the job is stopped: it gets SIGTERM and saves a checkpoint, and this process waits for it.
    Raises InputError if Ray is not installed here or rejects the job, and TrainingFailed with the trainer's own
    failure, or with the way in which the job ended.
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
            runtime_env={
                "env_vars": {
                    # Ray's job supervisor reads it: after stop_job it kills the job after this many seconds, by
                    # default 3.
                    "RAY_JOB_STOP_WAIT_TIME_S": str(SECONDS_FOR_A_CHECKPOINT),
                    KEY_VARIABLE: environment.get(KEY_VARIABLE, ""),
                }
            },
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
    """Return the shell command of the job.

    `env -i` is needed because a Ray job otherwise inherits the environment of its node, and `exec` so that the trainer
    itself gets the signals.
    """
    from_node = from_the_node([name for name in (*INHERITED_VARIABLES, KEY_VARIABLE) if name != "HOME"])
    given = {name: value for name, value in {**remote_environment(job), **environment}.items() if name != KEY_VARIABLE}
    if place.gpus == 0:
        given["CUDA_VISIBLE_DEVICES"] = ""  # a job that reserves none would see every GPU of its node
    assigned = " ".join(shlex.quote(f"{name}={value}") for name, value in given.items())
    return f"exec env -i {from_node} {assigned} {shlex.join(worker_command(place.python, job))}"


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
    """Return the errors of Ray's client for a head that is unreachable, requires a token, or answers with an error."""
    import requests
    from ray.exceptions import AuthenticationError

    return (ConnectionError, RuntimeError, AuthenticationError, requests.RequestException)


def _watch(client: Any, submission: str, progress: Progress) -> Any:
    """Wait for the end of the job and return its details. Raises TrainingFailed if the head is unreachable for too
    long."""
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
    """Stop the job and wait for its end. Ray kills it if it takes longer than a checkpoint may."""
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
    """Return the last line of a message, which states the reason, up to 300 characters."""
    lines = [line.strip() for line in str(message).splitlines() if line.strip()]
    return lines[-1][:300] if lines else "no reason given"
