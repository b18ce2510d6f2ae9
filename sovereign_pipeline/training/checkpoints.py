"""Write, verify and remove checkpoints. An interrupted training run resumes from its newest checkpoint.

A checkpoint is written to a temporary directory, hashed, authenticated with a MAC (keyed digest), and renamed once
complete. transformers writes the content of the checkpoint: weights, optimizer state, learning-rate schedule, random
states and the log so far. The order of the rows is not saved: the training plan and the step number determine it.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.files import canonical_json, file_sha256, held_if_free
from sovereign_pipeline.training.job import TrainingJob, lock_of_line, mark_of

RECORD = "checkpoint.json"
ASIDE = "unfinished"


@dataclass(frozen=True)
class CheckpointDirectory:
    """The checkpoints of one training run."""

    path: Path
    identity: str
    """Identity of the training run; see `TrainingJob.identity`."""
    keep: int
    """Number of checkpoints that stay on disk, counted from the newest."""

    @classmethod
    def of(cls, job: TrainingJob) -> "CheckpointDirectory":
        return cls(job.checkpoint_directory, job.identity, job.checkpoints.keep)

    def newest(self, progress: Callable[[str], None], before: int | None = None) -> Path | None:
        """Return the directory of the intact checkpoint with the highest step; None if there is none. A checkpoint that
        was changed, or was written by a different training run, is skipped and reported through `progress`. before:
        step number; checkpoints of this step and of later steps are ignored."""
        usable = [each for each in self._all() if before is None or each.name < f"step-{before:08}"]
        for checkpoint in reversed(usable):
            wrong = self._wrong(checkpoint)
            if wrong is None:
                return checkpoint
            progress(f"skipping {checkpoint.name}: {wrong}")
        if usable:
            progress("no checkpoint is intact; training starts at the first step")
        return None

    @property
    def newest_name(self) -> str | None:
        """Name of the checkpoint of the latest step, verified or not; None if there is none."""
        return max((each.name for each in self._all()), default=None)

    @contextmanager
    def writing(self, step: int, first: bool = True, wait_for_all: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """Yield a directory for the checkpoint of a step. On exit the checkpoint is complete and hashed, or absent. If
        it is complete, checkpoints of later steps are removed. Of the remaining checkpoints, the newest `keep` stay.

        If several processes write one checkpoint, the process with `first` creates the directory and hashes the files.
        `wait_for_all` must return when every process has called it. Raises TrainingFailed if the block raises an
        exception, or if the checkpoint cannot be written.
        """
        aside = self.path / ASIDE
        try:
            if first:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
            wait_for_all()
            yield aside
            wait_for_all()
            if first:
                self._seal(aside, step)
        # torch reports a full disk as RuntimeError, and safetensors as its own error class.
        except Exception as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise self._not_written(step, error) from error
        if first:
            self._remove_others(f"step-{step:08}")

    def _seal(self, aside: Path, step: int) -> None:
        target, files = self.path / f"step-{step:08}", _digests(aside)
        (aside / RECORD).write_bytes(canonical_json({"files": files, "mark": self._mark(target, files)}) + b"\n")
        for file in [*files, RECORD]:
            with (aside / file).open("rb") as written:
                os.fsync(written.fileno())
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)

    def _mark(self, checkpoint: Path, files: dict[str, str]) -> str:
        return mark_of("checkpoint", [self.identity, checkpoint.name, files])

    def _wrong(self, checkpoint: Path) -> str | None:
        try:
            record: dict[str, Any] = json.loads((checkpoint / RECORD).read_bytes())
            files, is_marked = record["files"], record["mark"] == self._mark(checkpoint, record["files"])
        except (OSError, ValueError, KeyError, TypeError):
            is_marked = False
        if not is_marked:
            return f"{RECORD} is damaged, or was not written by this training"
        found = _digests(checkpoint)
        wrong = [name for name in sorted(files.keys() | found.keys()) if files.get(name) != found.get(name)]
        return f"{wrong[0]} is damaged" if wrong else None

    def _remove_others(self, newest: str) -> None:
        """Remove the checkpoints of steps after `newest`. Of the remaining checkpoints, keep the newest `keep`.

        A checkpoint of a later step is damaged; otherwise the training would have resumed from that checkpoint. If a
        damaged checkpoint stayed, it would count towards `keep`.
        """
        later = [each for each in self._all() if each.name > newest]
        earlier = [each for each in self._all() if each.name <= newest]
        for other in [*later, *earlier[: -self.keep]]:
            shutil.rmtree(other)

    def _all(self) -> list[Path]:
        return sorted(self.path.glob("step-*"))

    def _not_written(self, step: int, error: Exception) -> TrainingFailed:
        free = shutil.disk_usage(self.path).free if self.path.exists() else 0
        last = self._all()
        kept = f"The next run resumes from {last[-1].name}" if last else "There is no earlier checkpoint"
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        return TrainingFailed(
            f"{self.path}: the checkpoint of step {step} was not written ({why}; {free / 1e6:,.0f} MB free). {kept}.",
            "Free disk space, or lower training.checkpoints.keep. Then run again.",
        )


def remove_unless_training(checkpoint_directories: Sequence[Path]) -> None:
    """Remove checkpoint directories of one line and method, unless a training run holds their lock (`lock_of_line`).
    Directories whose parent is a symbolic link are not removed."""
    there = [each for each in checkpoint_directories if each.is_dir() and not each.parent.is_symlink()]
    if not there:
        return
    with held_if_free(lock_of_line(there[0])) as is_held:
        if is_held:
            for directory in there:
                shutil.rmtree(directory, ignore_errors=True)


def _digests(checkpoint: Path) -> dict[str, str]:
    """Return a mapping of relative path to SHA-256, for each file of a checkpoint except `checkpoint.json`."""
    files = (file for file in sorted(checkpoint.rglob("*")) if file.is_file())
    return {name: file_sha256(file) for file in files if (name := str(file.relative_to(checkpoint))) != RECORD}
