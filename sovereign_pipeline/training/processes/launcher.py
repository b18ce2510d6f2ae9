"""Starting the trainer's process and waiting for it, so that neither outlives the other by accident.

The process gets an environment of its own: what is listed here and nothing else, so that no credential of the parent
reaches it. What the trainer does is `worker.py`.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.errors import TrainingFailed
from sovereign_pipeline.settings import OFFLINE_ENVIRONMENT, PROJECT_ROOT
from sovereign_pipeline.training.job import TrainingJob, read_result

PARENT_VARIABLE = "SOVEREIGN_TRAINER_PARENT"
# A step of the largest model and its checkpoint. dagster.yaml gives a terminated run longer than this.
SECONDS_FOR_A_CHECKPOINT = 300
# Ctrl-C reaches every process of the terminal, and Dagster's executor then interrupts each of its steps once more.
SECONDS_OF_AN_ECHO = 5

PASSED_ON = (
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
    """What is run, wherever it is run: the trainer, or the launcher of one for each device."""
    module = "worker" if TrainingJob.read(job).devices.count == 1 else "ranks"
    return [python, "-m", f"sovereign_pipeline.training.processes.{module}", str(job)]


def worker_environment(job: Path) -> dict[str, str]:
    """What every trainer is given, wherever it runs: values of this program's own, none of this machine's."""
    return {
        **OFFLINE_ENVIRONMENT,
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # cuBLAS is deterministic only with a fixed workspace
        "HF_HOME": str(job.parent / "caches"),
        # Waiting OpenMP threads sleep instead of spinning. On a machine that does anything else beside training, two
        # spinning threads wait for each other's time slice in every operation: 12 ms instead of 0.04 for a small one.
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONHASHSEED": "0",
    }


def run_trainer(job: Path, progress: Progress, environment: Mapping[str, str] | None = None) -> None:
    """Run the trainer on a job file and wait; each line it prints goes to `progress`.

    environment: variables beside the allowlisted ones (for example those that open a Dagster Pipes session). When this
    process is interrupted the trainer is asked to save a checkpoint and end, and is killed with all its children when
    it takes too long or at a second interrupt; when this process is killed, the kernel kills the trainer.
    Raises TrainingFailed with the trainer's own paragraph, or saying how its process ended.
    """
    result = TrainingJob.read(job).result
    result.unlink(missing_ok=True)
    process = subprocess.Popen(
        worker_command(sys.executable, job),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        # Libraries warn with pieces of the text they were given, and document text may not reach a log.
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
            f"{job}: the trainer's process {how} without an answer. SIGKILL from outside most often means that memory "
            f"ran out: lower training.sft.max_length or batch_size in the recipe. Run again; it goes on from its last "
            f"checkpoint."
        )
    read_result(result)
    if status != 0:
        raise TrainingFailed(f"{job}: the trainer's process ended with status {status} after its work. Run again.")


def _end(process: subprocess.Popen[str], progress: Progress) -> None:
    """The interruption that led here goes on when this returns; an echo of it is no second one."""
    os.killpg(process.pid, signal.SIGTERM)
    begun, told = time.monotonic(), False
    while process.poll() is None:
        try:
            if not told:
                told = True
                progress(f"ending the trainer; a checkpoint first, for at most {SECONDS_FOR_A_CHECKPOINT} s")
            process.communicate(timeout=SECONDS_FOR_A_CHECKPOINT)  # reads on, so that the trainer can go on writing
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        except BaseException:
            if time.monotonic() - begun < SECONDS_OF_AN_ECHO:
                continue
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise


def _environment(job: Path, extra: Mapping[str, str]) -> dict[str, str]:
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {
        **passed_on,
        **worker_environment(job),
        "PYTHONPATH": str(PROJECT_ROOT),
        PARENT_VARIABLE: str(os.getpid()),
        **extra,
    }
