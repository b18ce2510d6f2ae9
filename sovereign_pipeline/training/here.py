"""Run the trainer as a child process. If the parent process is killed, the kernel kills the trainer."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.training import launcher
from sovereign_pipeline.training.job import TrainingJob, read_result
from sovereign_pipeline.training.launcher import INHERITED_VARIABLES, PARENT_VARIABLE, worker_environment

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
        """Wait for the end of the process, which has already closed its output. Returns and raises as `follow` does."""
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
                "Lower training.sft.max_length or batch_size in the recipe, and run again. It resumes from its last "
                "checkpoint.",
            )
        read_result(result)
        raise TrainingFailed(
            f"{self._job}: the trainer's process ended with status {status} after the training.", "Run again."
        )

    def cancel(self) -> None:
        """Ask the trainer to save a checkpoint and end, and wait for it. If the trainer takes too long, or if a second
        interrupt arrives, the trainer is killed with all its children. A quick repetition of the first interrupt is
        ignored."""
        process, seconds = self._process, launcher.SECONDS_FOR_A_CHECKPOINT
        if process.poll() is not None:
            return
        os.killpg(process.pid, signal.SIGTERM)
        begun, reported = time.monotonic(), False
        while process.poll() is None:
            try:
                if not reported:
                    reported = True
                    self._progress(f"stopping the trainer; it saves a checkpoint first, in {seconds} s at most")
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
