"""Starting the trainer as a child process and waiting for it, so that neither outlives the other by accident.

The child's environment holds only what is listed here, so that no credential of the parent reaches it. What does not
belong here: what the trainer does (`worker.py`).
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.settings import OFFLINE_ENVIRONMENT, PROJECT_ROOT
from sovereign_pipeline.training.job import TrainingJob, read_result

PARENT_VARIABLE = "SOVEREIGN_TRAINER_PARENT"
"""Process id of the parent that the trainer must not outlive."""
SECONDS_FOR_A_CHECKPOINT = 300
"""For a step of the largest model and its checkpoint. dagster.yaml gives a terminated run longer than this."""
SECONDS_OF_REPEATED_INTERRUPT = 5
"""Ctrl-C reaches every process of the terminal, and Dagster's executor then interrupts each of its steps once more."""

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
    """The command of the trainer, or of the launcher that starts one for each device."""
    module = "worker" if TrainingJob.read(job).devices.count == 1 else "ranks"
    return [python, "-m", f"sovereign_pipeline.training.processes.{module}", str(job)]


def worker_environment(job: Path) -> dict[str, str]:
    """Variables of every trainer, wherever it runs; none depends on this machine."""
    return {
        **OFFLINE_ENVIRONMENT,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with a fixed workspace
        "HF_HOME": str(job.parent / "caches"),
        # Waiting OpenMP threads sleep instead of spinning. On a busy machine, two spinning threads wait for each
        # other's time slice in every operation: 12 ms instead of 0.04 ms for a small one.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONHASHSEED": "0",
    }


def run_trainer(job: Path, progress: Progress, environment: Mapping[str, str] | None = None) -> None:
    """Run the trainer on a job file and wait; each line that it prints goes to `progress`.

    environment: variables beside the inherited ones, such as those that open a Dagster Pipes session.
    When this process is interrupted, the trainer saves a checkpoint and ends; it is killed with all its children when
    it takes too long or at a second interrupt. When this process is killed, the kernel kills the trainer.
    Raises TrainingFailed with the trainer's own failure, or with how its process ended.
    """
    result = TrainingJob.read(job).result
    result.unlink(missing_ok=True)
    process = subprocess.Popen(
        worker_command(sys.executable, job),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        # Warnings of libraries quote the text they were given, and document text may not reach a log.
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
    """End the trainer. The interrupt that led here continues afterwards; its repetition counts as the same one."""
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
