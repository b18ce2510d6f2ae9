"""Start a trainer and wait for it, as a child process on this machine or on a cluster (`ray_jobs.py`, `slurm.py`,
`kubernetes_jobs.py`). If this process is killed, the kernel kills a trainer that is its child.

The trainer's environment contains only the variables that this module lists, so that no credential reaches the trainer.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from sovereign_pipeline.base.errors import RecipeError, TrainingFailed
from sovereign_pipeline.base.settings import OFFLINE_ENVIRONMENT, PROJECT_ROOT
from sovereign_pipeline.record.stage import Progress, library_versions, source_digest
from sovereign_pipeline.training import launcher
from sovereign_pipeline.training.job import TrainingJob, read_result
from sovereign_pipeline.training.report import TRAINING_LIBRARIES

PARENT_VARIABLE = "SOVEREIGN_TRAINER_PARENT"
"""Environment variable with the process id of the trainer's parent. The trainer ends when its parent ends."""
SECONDS_FOR_A_CHECKPOINT = 300
"""Seconds in which an interrupted trainer must finish its step and write a checkpoint; enough for the largest model.
dagster.yaml sets a longer limit for a terminated run."""

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
    """Return the command that starts the trainer or, for several devices, `ranks.py`, which starts all trainers."""
    module = "worker" if TrainingJob.read(job).devices.count == 1 else "ranks"
    return [python, "-m", f"sovereign_pipeline.training.{module}", str(job)]


def worker_environment(job: Path) -> dict[str, str]:
    """Return the environment variables of every trainer, wherever it runs. They do not depend on this machine."""
    return {
        **OFFLINE_ENVIRONMENT,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with a fixed workspace
        "HF_HOME": str(job.parent / "caches"),
        # The process keeps freed memory, because each step needs it again. Memory from the kernel would first be
        # cleared each time.
        "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
        "MALLOC_TOP_PAD_": str(1 << 28),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
        "PYTHONHASHSEED": "0",
        "PYTHONSAFEPATH": "1",  # imports nothing from the working directory, which is in SOVEREIGN_HOME
    }


class Launcher(Protocol):
    """Runs the trainer on one job, either on this machine or as a job of a cluster."""

    def submit(self) -> None:
        """Start the trainer. Raises InputError if the cluster rejects the job."""

    def follow(self) -> str | None:
        """Wait for the trainer's end, and report the trainer's progress. Returns None after a normal end, otherwise a
        clause that says how the trainer ended."""

    def cancel(self) -> None:
        """End the trainer, with time for a checkpoint, and wait until it has ended."""


def launch(launcher: Launcher, job: Path, progress: Progress) -> None:
    """Run the trainer on a job file and wait. When this process is interrupted, the trainer saves a checkpoint and
    ends. If the training fails, raises TrainingFailed. The message is the trainer's own error if there is one, and
    otherwise says how the trainer ended."""
    launcher.submit()
    try:
        ending = launcher.follow()
    except BaseException:
        launcher.cancel()
        raise
    if ending is None:
        read_result(TrainingJob.read(job).result)
    else:
        read_remote_result(job, ending, progress)


class Log:
    """The file to which the trainers of a training run append messages, as JSON lines. Lines that libraries wrote are
    not reported, because they may quote document text."""

    def __init__(self, path: Path, others: tuple[str, ...] = ()) -> None:
        """others: prefixes of lines that the cluster itself writes and that are reported too."""
        self.path, self._others = path, others
        self._read = 0

    def skip(self) -> None:
        """Skip the lines that the file already contains. Creates the file if it is missing."""
        self.path.touch(mode=0o600)
        self._read = self.path.stat().st_size

    def added(self) -> list[tuple[str, dict[str, Any]]]:
        """Return a pair for each complete line added since the last call: the message, and the line's other values. A
        line that reports a failure has the value `failure`."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        found: list[tuple[str, dict[str, Any]]] = []
        for line in whole.decode(errors="replace").splitlines():
            try:
                values = json.loads(line)
                found.append((values.pop("message"), values))
            except (ValueError, TypeError, KeyError, AttributeError):
                if line.startswith(self._others):
                    found.append((line, {}))
        return found


INSTALLATION_VARIABLE = "SOVEREIGN_TRAINER_INSTALLATION"


def remote_environment(job: Path) -> dict[str, str]:
    """Return the environment variables of a remote trainer. This process's own variables are not passed on.
    `PARENT_VARIABLE` is not set, because a remote trainer cannot end with its parent."""
    return {
        **worker_environment(job),
        "HOME": str(job.parent / "caches"),
        "USER": "trainer",  # libraries read USER, and the user id may have no name on the remote machine
        INSTALLATION_VARIABLE: json.dumps(_installation(), sort_keys=True),
    }


def nodes_of(job: TrainingJob, devices_per_node: int) -> int:
    """Return the number of nodes of a job. Raises RecipeError if the job's devices do not fill whole nodes."""
    count = job.devices.count
    if count <= devices_per_node:
        return 1
    if count % devices_per_node:
        raise RecipeError(
            f"training.devices.count is {count}, but a node has {devices_per_node} devices "
            f"(trainer.devices_per_node in institution.yaml). Each node must have the same number of processes.",
            f"Set count to a multiple of {devices_per_node}.",
        )
    return count // devices_per_node


def from_the_node(names: Iterable[str]) -> str:
    """Return shell arguments for `env` that set each variable of `names` to the node's value, if the node sets it."""
    return " ".join(f'${{{name}+"{name}=${name}"}}' for name in names)


def refuse_another_installation() -> None:
    """Raise TrainingFailed if this trainer's code or libraries differ from its launcher's.

    The launcher records its own versions in the artifact's manifest. If the trainer's versions differed, the manifest
    would be wrong. Builds of one version for different devices, such as 2.13.0+cpu and 2.13.0+cu130, count as equal.
    The trainer's report states the build that trained.
    """
    stated = os.environ.get(INSTALLATION_VARIABLE)
    if stated is None:
        return
    wanted, found = json.loads(stated), _installation()
    different = [f"{name} is {found[name]}, not {wanted[name]}" for name in found if found[name] != wanted.get(name)]
    if different:
        raise TrainingFailed(
            f"The installation on the trainer's machine {platform.node()} differs from the installation that started "
            f"the trainer: {'; '.join(different)}.",
            "Install the same release, with requirements/, on both machines (in the image, or on the cluster's nodes).",
        )


def read_remote_result(job: Path, ending: str, progress: Progress) -> None:
    """Read the result of a trainer that did not end normally.

    If the result file exists, it is valid: the trainer writes it last, and atomically. Raises TrainingFailed if the
    file is missing or states a failure. ending: clause that says how the trainer ended, such as "the pod …".
    """
    result = TrainingJob.read(job).result
    if not result.is_file():
        raise TrainingFailed(
            f"{job}: {ending}, without a result. If the trainer was killed, memory most often ran out.",
            "Lower training.sft.max_length or batch_size in the recipe, or raise trainer.memory_gib in "
            "institution.yaml. Then run again; the training resumes from its last checkpoint.",
        )
    read_result(result)
    progress(f"{ending}; the training had ended before, and its result is complete")


def _installation() -> dict[str, str]:
    versions = {name: version.split("+")[0] for name, version in library_versions(TRAINING_LIBRARIES).items()}
    return {"the program's source": source_digest()[:16], **versions}


SECONDS_OF_REPEATED_INTERRUPT = 5
"""Seconds within which a second interrupt is ignored as a repetition of the first. Ctrl-C interrupts every process of
the terminal, and Dagster's executor then interrupts each of its steps again."""


def run_trainer(job: Path, progress: Progress, environment: Mapping[str, str] | None = None) -> None:
    """Run the trainer on a job file and wait. Each line that the trainer prints goes to `progress`. Raises the errors
    of `launcher.launch`.

    environment: variables in addition to the inherited variables, for example for a Dagster Pipes session.
    """
    launcher.launch(ChildProcess(job, progress, environment or {}), job, progress)


class ChildProcess:
    """Runs the trainer as a child process; see `launcher.Launcher`."""

    _process: "subprocess.Popen[str]"

    def __init__(self, job: Path, progress: Progress, environment: Mapping[str, str]) -> None:
        self._job = job
        self._progress = progress
        self._environment = environment

    def submit(self) -> None:
        TrainingJob.read(self._job).result.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            launcher.worker_command(sys.executable, self._job),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # Warnings of libraries quote their input, and document text may not reach a log.
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=self._job.parent,
            env=child_environment(self._job, self._environment),
            start_new_session=True,
        )

    def follow(self) -> str | None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._progress(line.rstrip("\n"))
        return self.ended()

    def ended(self) -> str | None:
        """Wait for the process, which has already closed its output, and return None if its exit status is 0. Otherwise
        raise the failure in its result file or, if there is none, TrainingFailed with the exit status."""
        process, result = self._process, TrainingJob.read(self._job).result
        assert process.stdout is not None
        status = process.wait()
        process.stdout.close()
        if status == 0:
            return None
        if not result.is_file():
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            raise TrainingFailed(
                f"{self._job}: the trainer's process {how} without a result. SIGKILL from outside most often means "
                f"that memory ran out.",
                "Lower training.sft.max_length or batch_size in the recipe, and run again. The training resumes from "
                "its last checkpoint.",
            )
        read_result(result)
        raise TrainingFailed(
            f"{self._job}: the trainer's process ended with status {status} after the training.", "Run again."
        )

    def cancel(self) -> None:
        """Ask the trainer to save a checkpoint and end, and wait for its end. If the trainer takes too long, or if a
        second interrupt arrives, the trainer is killed with all its children. A quick repetition of the first interrupt
        is ignored."""
        process, seconds = self._process, launcher.SECONDS_FOR_A_CHECKPOINT
        if process.poll() is not None:
            return
        os.killpg(process.pid, signal.SIGTERM)
        begun, reported = time.monotonic(), False
        while process.poll() is None:
            try:
                if not reported:
                    reported = True
                    self._progress(f"stopping the trainer; it first saves a checkpoint, within {seconds} s")
                process.communicate(timeout=seconds)  # keeps reading, so that the trainer can write
            except subprocess.TimeoutExpired:
                self._kill()
            except BaseException:
                if time.monotonic() - begun < SECONDS_OF_REPEATED_INTERRUPT:
                    continue
                self._kill()
                raise

    def _kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def child_environment(job: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return all environment variables of a trainer on this machine."""
    inherited = {name: os.environ[name] for name in INHERITED_VARIABLES if name in os.environ}
    return {
        **inherited,
        **worker_environment(job),
        "PYTHONPATH": str(PROJECT_ROOT),
        PARENT_VARIABLE: str(os.getpid()),
        **extra,
    }
