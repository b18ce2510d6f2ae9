"""Where an interrupted training goes on from: whole checkpoints on disk, written aside and renamed, each hashed.

What is in one (weights, optimizer, schedule, random states, the log so far) is transformers' business; the order of the
data is decided by the plan and needs no state but the step.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.hashing import canonical_json, file_sha256
from sovereign_pipeline.errors import IntegrityError, TrainingFailed
from sovereign_pipeline.locks import held_if_free
from sovereign_pipeline.training.locks import lock_of_line

RECORD = "checkpoint.json"
ASIDE = "unfinished"


@dataclass(frozen=True)
class CheckpointDirectory:
    """The checkpoints of one training. identity: see TrainingJob. keep: the newest so many stay."""

    path: Path
    identity: str
    keep: int

    def newest(self, tell: Callable[[str], None]) -> Path | None:
        """The newest checkpoint whose files are all as they were written; None when there is none.

        A damaged one is passed over, and that is told. Raises IntegrityError for one of another training.
        """
        for checkpoint in reversed(self._all()):
            record = _read_record(checkpoint)
            if record is not None and record["identity"] != self.identity:
                raise IntegrityError(
                    f"{checkpoint}: a checkpoint of another training (other base model, data, recipe or library). "
                    f"Nothing goes on from it; remove {self.path} if it was put there by hand."
                )
            wrong = RECORD if record is None else _first_wrong(checkpoint, record["files"])
            if wrong is None:
                return checkpoint
            tell(f"{checkpoint.name} is damaged ({wrong}) and is passed over")
        if self._all():
            tell("no checkpoint is whole; starting anew")
        return None

    @contextmanager
    def writing(self, step: int, first: bool = True, together: Callable[[], None] = lambda: None) -> Iterator[Path]:
        """A directory to write the checkpoint of a step into; whole and hashed at the end, or not there at all.

        Of several processes that write into one checkpoint, the first makes and seals it; together: waits for all.
        Raises TrainingFailed when it cannot be written, saying what still stands.
        """
        aside = self.path / ASIDE
        try:
            if first:
                shutil.rmtree(aside, ignore_errors=True)
                aside.mkdir(parents=True)
            together()
            yield aside
            together()
            if first:
                self._seal(aside, step)
        # torch reports a full disk as RuntimeError, safetensors by an error of its own.
        except Exception as error:
            shutil.rmtree(aside, ignore_errors=True)
            raise TrainingFailed(self._not_written(step, error)) from error
        if first:
            self._remove_others(f"step-{step:08}")

    def _seal(self, aside: Path, step: int) -> None:
        files = {str(file.relative_to(aside)): file_sha256(file) for file in sorted(aside.rglob("*")) if file.is_file()}
        (aside / RECORD).write_bytes(canonical_json({"identity": self.identity, "step": step, "files": files}) + b"\n")
        for file in [*files, RECORD]:
            with (aside / file).open("rb") as written:
                os.fsync(written.fileno())
        target = self.path / f"step-{step:08}"
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)

    def _remove_others(self, newest: str) -> None:
        """Those of later steps are damaged: this training, which goes on from the newest whole one, went back behind
        them. Kept, they would take the place of what it writes."""
        later = [each for each in self._all() if each.name > newest]
        until = [each for each in self._all() if each.name <= newest]
        for other in [*later, *until[: -self.keep]]:
            shutil.rmtree(other)

    def _all(self) -> list[Path]:
        return sorted(self.path.glob("step-*"))

    def _not_written(self, step: int, error: Exception) -> str:
        free = shutil.disk_usage(self.path).free if self.path.exists() else 0
        last = self._all()
        stands = f"{last[-1].name} is kept, and the next run goes on from it" if last else "there is no earlier one"
        why = error.strerror if isinstance(error, OSError) and error.strerror else type(error).__name__
        return (
            f"{self.path}: the checkpoint of step {step} could not be written ({why}; {free / 1e6:,.0f} MB are free). "
            f"{stands}. Make room, or lower training.checkpoints.keep, and run again."
        )


def remove_unless_training(checkpoint_directories: Sequence[Path]) -> None:
    """Remove checkpoint directories of one line and method, or leave them all while somebody trains it: one of them may
    be that training's."""
    there = [directory for directory in checkpoint_directories if directory.is_dir()]
    if not there:
        return
    with held_if_free(lock_of_line(there[0])) as is_held:
        if is_held:
            for directory in there:
                shutil.rmtree(directory, ignore_errors=True)


def _read_record(checkpoint: Path) -> dict[str, Any] | None:
    try:
        record: dict[str, Any] = json.loads((checkpoint / RECORD).read_bytes())
    except (OSError, ValueError):
        return None
    return record if {"identity", "step", "files"} <= record.keys() else None


def _first_wrong(checkpoint: Path, files: dict[str, str]) -> str | None:
    for name, digest in files.items():
        if not (checkpoint / name).is_file() or file_sha256(checkpoint / name) != digest:
            return name
    return None
