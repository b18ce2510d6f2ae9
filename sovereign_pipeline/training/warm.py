"""Run training jobs one after another in one process. Between jobs, the process keeps the base model and the encoded
rows in memory.

The base model and the rows are reused only if their files have the same digests and all settings that affect them are
the same. A job therefore writes the same bytes as in a new process.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base.processes import die_with_parent, keep_private, silence
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.training import launcher
from sovereign_pipeline.training.job import TrainingJob, use_key
from sovereign_pipeline.training.launcher import PARENT_VARIABLE, ChildProcess, child_environment
from sovereign_pipeline.training.preflight import give_memory_back
from sovereign_pipeline.training.rows import EncodedRow
from sovereign_pipeline.training.worker import collect_sigterm, run_job

KEPT_FILES = 4
"""Number of files whose encoded rows are kept: documents and conversations, each for training and for selection."""
ENDED = "ended"
"""Key of the last progress message of a job. No earlier message has this key."""


class KeptParts:
    """The base model, encoded rows and measurements that later jobs in this process may reuse."""

    def __init__(self) -> None:
        self._key = ""
        self._base: Any = None
        self._tuned: Any = None
        """Last model that consists of the kept base model and an adapter."""
        self._bytes = ""
        """Digest of the base model's tensors as they were loaded."""
        self._rows: dict[str, list[EncodedRow]] = {}
        self._measured: dict[str, Any] = {}
        """Measurements of the kept base model."""

    def base(self, job: TrainingJob, load: Callable[[], Any], progress: Callable[[str], None]) -> Any:
        """Return the base model without an adapter: the kept model if it has the same key and is unchanged, otherwise a
        newly loaded model.

        A newly loaded model is kept, with two exceptions. The first exception is a job whose model has no key (see
        `_base_key`), such as full tuning, which changes the base model. The second is a model whose loading drew random
        numbers: a later job that skips the loading would draw different numbers.
        """
        import torch

        key = _base_key(job)
        if key is not None and key == self._key and self._is_unchanged():
            progress(f"{job.base_model_name} is still in memory")
            return self._base
        self._key, self._base, self._tuned, self._measured = "", None, None, {}
        before = torch.get_rng_state()
        base = load()
        if key is not None and torch.equal(before, torch.get_rng_state()):
            self._key, self._base, self._bytes = key, base, _tensors_digest(base)
        return base

    def is_on(self, model: Any) -> None:
        """Store the model that consists of the kept base model and an adapter."""
        self._tuned = model

    def once(self, job: TrainingJob, of: object, measure: Callable[[], Any]) -> Any:
        """Return a measurement of the base model with a new adapter. An earlier measurement is reused if the kept base
        model, the row files and `of`, which identifies the measurement, are the same.

        A new adapter does not change the model's output before the first step. A parent adapter changes the output, and
        a new DoRA adapter changes it by rounding. With such an adapter, or without a kept base model, every call
        measures.
        """
        if not self._key or job.parent_adapter is not None or job.sft.dora:
            return measure()
        key = digest_of([of, [self._rows_key(job, path) for path in job.row_files]])
        if key not in self._measured:
            self._measured[key] = measure()
        return self._measured[key]

    def rows(self, job: TrainingJob, dataset: Path, encode: Callable[[], list[EncodedRow]]) -> list[EncodedRow]:
        """Return the encoded rows of a file, from memory if they are kept. Otherwise encode the rows. Rows are kept if
        the job states the file's hash (`TrainingJob.files`); of these, the `KEPT_FILES` files used last stay."""
        key = self._rows_key(job, dataset)
        if key is None:
            return encode()
        rows = self._rows.pop(key) if key in self._rows else encode()
        self._rows[key] = rows  # the last one is the most recently used
        while len(self._rows) > KEPT_FILES:
            del self._rows[next(iter(self._rows))]
        return rows

    def _rows_key(self, job: TrainingJob, dataset: Path) -> str | None:
        files = job.files or {}
        shaped_by = [job.method, job.eos_ids, job.tuning.max_length, job.sft.supervise]
        return digest_of([files[dataset], _model_files(job), *shaped_by]) if dataset in files else None

    def _is_unchanged(self) -> bool:
        """Remove the last job's adapter from the kept base model. Returns True if all tensors of the base model are
        unchanged since they were loaded."""
        if self._tuned is not None:
            self._base = self._tuned.unload().eval()
            self._tuned = None
        return _tensors_digest(self._base) == self._bytes


def _base_key(job: TrainingJob) -> str | None:
    """Return a digest of everything that decides the loaded base model; None if the model cannot be kept: in full
    tuning, with several devices, or if its files have no verified hashes."""
    sft = job.sft
    if job.files is None or sft.adapter == "none" or job.devices.count > 1:
        return None
    return digest_of([_model_files(job), job.is_trls, sft.adapter, sft.precision, sft.gradient_checkpointing])


def _model_files(job: TrainingJob) -> dict[str, str]:
    """Return a mapping of path to SHA-256, for the base model's files. The stage verified these hashes."""
    return {str(path): digest for path, digest in (job.files or {}).items() if path.is_relative_to(job.base_model)}


def _tensors_digest(model: Any) -> str:
    """Return one SHA-256 over the name, type, shape and values of every parameter and buffer of a model."""
    import torch

    hasher = hashlib.sha256()
    for name, tensor in sorted({**dict(model.named_parameters()), **dict(model.named_buffers())}.items()):
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hasher.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


class WarmTrainer:
    """Runs jobs one after another in one child process. The first job starts the process, and the end of the `with`
    block ends it."""

    def __init__(self, directory: Path, progress: Progress) -> None:
        """Args:
        directory: existing directory for the process's caches. Only this account may have access to it.
        """
        self._directory = directory
        self._progress = progress
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        process = self._process
        if process is not None and process.poll() is None:
            assert process.stdin is not None and process.stdout is not None
            process.stdin.close()  # the end of its input ends the process
            process.stdout.close()
            try:
                process.wait(timeout=launcher.SECONDS_OF_REPEATED_INTERRUPT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, job: Path, key: str) -> None:
        """Run one job and wait. Raises the errors of `launcher.launch`. key: key for the job's MACs, 64 hex digits."""
        launcher.launch(_WarmJob(self, job, key, self._progress), job, self._progress)

    def started(self, environment: Mapping[str, str]) -> "subprocess.Popen[str]":
        """Return the running child process. If there is none, or the last one has ended, start a process."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sovereign_pipeline.training.warm"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # warnings of libraries quote their input
                text=True,
                cwd=self._directory,
                env=child_environment(self._directory / "job.json", environment),
                start_new_session=True,
            )
        return self._process


class _WarmJob(ChildProcess):
    """Runs one job in a warm trainer's process; see `launcher.Launcher`."""

    def __init__(self, trainer: WarmTrainer, job: Path, key: str, progress: Progress) -> None:
        super().__init__(job, progress, {})
        self._trainer = trainer
        self._key = key

    def submit(self) -> None:
        TrainingJob.read(self._job).result.unlink(missing_ok=True)
        self._process = self._trainer.started(self._environment)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"job": str(self._job), "key": self._key}) + "\n")
        self._process.stdin.flush()

    def follow(self) -> str | None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = json.loads(line)
            if ENDED in message:
                return None  # `launch` then reads the result, and raises its failure
            self._progress(message["message"])
        return self.ended()


# --- in the trainer's process ----------------------------------------------------------------------------------------


def main() -> int:
    """Read one job request per line from standard input, and run each job. Returns 0 at the end of the input, and 1
    after a stop request."""
    keep_private()
    die_with_parent(int(os.environ[PARENT_VARIABLE]))
    go_offline()
    stop_requests = collect_sigterm()
    channel = os.fdopen(os.dup(1), "w", buffering=1, encoding="utf-8")
    silence()

    def send(message: Mapping[str, object]) -> None:
        channel.write(json.dumps(message) + "\n")

    kept, environment = KeptParts(), dict(os.environ)
    for line in sys.stdin:
        request = json.loads(line)
        use_key(request["key"])
        # transformers sets environment variables that would decide the precision of the next training.
        os.environ.clear()
        os.environ.update(environment)
        job = TrainingJob.read(Path(request["job"]))
        _forget_peak()
        result = run_job(job, lambda message, values: send({"message": message, **values}), stop_requests, kept=kept)
        result.write(job.result)
        send({ENDED: True})
        if stop_requests:
            return 1
    return 0


def _forget_peak() -> None:
    """Reset the recorded peak memory of this process, so that each job reports its own peak."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    give_memory_back()  # otherwise freed memory of the last training would count as memory of this training
    Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    sys.exit(main())
