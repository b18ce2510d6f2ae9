"""Run the trainer as a job of a cluster: the common part of `slurm.py` and `kubernetes_jobs.py`.

The job can outlive this process. The job's directory is in SOVEREIGN_HOME, so that a later process finds the job, the
log and the result.
"""

import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from sovereign_pipeline.base.errors import InputError, SovereignError, TrainingFailed, TrainingStopped
from sovereign_pipeline.base.files import held
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.policy.institution import Kubernetes, Slurm
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.training import launcher
from sovereign_pipeline.training.checkpoints import CheckpointDirectory
from sovereign_pipeline.training.job import Failure, TrainingJob, read_result
from sovereign_pipeline.training.node_task import Order, assert_sealed

SECONDS_BETWEEN_POLLS = 5.0
SECONDS_OUT_OF_REACH = 600.0
"""Seconds for which the cluster may be unreachable, such as during a restart of its controller."""

INSTALL = "Install this program on every node or in the image, at trainer.python of institution.yaml."

Place = TypeVar("Place", Slurm, Kubernetes)


def run_queued(
    kind: "type[QueuedJob[Place]]", place: Place, job_file: Path, settings: Settings, progress: Progress, key: str
) -> None:
    """Run the trainer on a job file, on nodes that see the same SOVEREIGN_HOME as this process, and wait. If an earlier
    process has already submitted the job, this function does not submit the job again but waits for its end. key: key
    for the job's MACs, 64 hex digits. Raises the errors of `launcher.launch` and `kind.submit`; RecipeError if the
    job's devices do not fill whole nodes; IntegrityError if the job's output was changed."""
    wanted = TrainingJob.read(job_file)
    name = "sovereign-" + sha256(str(wanted.checkpoint_directory).encode()).hexdigest()[:16]
    directory = settings.home / place.where / name
    directory.parent.mkdir(exist_ok=True, mode=0o700)
    with held(directory.with_name(f"{name}.lock"), progress):
        job = _in_directory(wanted, job_file.parent, directory)
        queued = kind(place, job, job_file, settings.secret_directories, progress, key)
        launcher.launch(queued, queued.file, progress)
        job.output.rename(wanted.output)
        shutil.copy(job.result, wanted.result)
        shutil.rmtree(directory)


class ClusterError(Exception):
    """Raised if the cluster does not answer or rejects a request. The text is the cluster's message."""


@dataclass(frozen=True)
class Ended:
    """The state of a job that has ended."""

    state: str
    text: str
    status: int | None = None
    """Exit status; None if a signal ended the job or the status is unknown."""


class QueuedJob(ABC, Generic[Place]):
    """Runs the trainer as a job of a cluster; see `launcher.Launcher`."""

    CLUSTER: ClassVar[str]
    """Name of the cluster's software, for messages."""
    ITS_LINES: ClassVar[tuple[str, ...]] = ()
    """Prefixes of the lines that the cluster itself writes into the log."""

    HINTS: ClassVar[Mapping[str, str]] = {
        "OUT_OF_MEMORY": "Raise trainer.memory_gib in institution.yaml, or lower training.sft.max_length or batch_size "
        "in the recipe.",
        "CANCELLED": "Find out who cancelled the job. Run again; the training resumes from its last checkpoint.",
    }
    """Remedy for each state of a job that ended without a result."""

    def __init__(
        self, place: Place, job: TrainingJob, original: Path, withheld: Mapping[str, Path], progress: Progress, key: str
    ) -> None:
        """Args:
        job: the job, with paths below its directory in SOVEREIGN_HOME instead of the workspace.
        original: the job's file in the workspace.
        withheld: mapping of environment variable to a directory that a trainer must not see."""
        self._place: Place = place
        self._job = job
        self._original = original
        self._withheld = withheld
        self._progress = progress
        self._key = key
        self._nodes = launcher.nodes_of(job, place.devices_per_node)
        self._on_each_node = job.devices.count // self._nodes
        self._directory = job.result.parent
        self.file = self._directory / f"{sha256(job.model_dump_json().encode()).hexdigest()}.json"
        self._order = self._directory / "order.json"
        self._log = launcher.Log(self._directory / "log", self.ITS_LINES)
        self._number: str | None = None
        """The cluster's id of the followed job."""
        self._told = ""
        self._failure: Failure | None = None
        """First failure in the log after which the job must not be submitted again. A process on a node without
        SOVEREIGN_HOME can report a failure only in the log."""

    def submit(self) -> None:
        """Submit the job, unless an earlier submission still runs or has succeeded."""
        self._number = self._find()
        if not self.file.is_file():  # otherwise an earlier process wrote the same job
            self.cancel()
            shutil.rmtree(self._directory, ignore_errors=True)
            shutil.copytree(self._original.parent, self._directory, ignore=shutil.ignore_patterns(self._original.name))
            self._job.write_named(self._directory)
        if self._number is not None:
            self._progress(f"job {self._number} on {self.CLUSTER} already runs this training; following that job")
        elif not self._is_done():
            self._submit()

    def follow(self) -> str | None:
        """Wait until the training has succeeded, and return None. A job that stopped with a new checkpoint is submitted
        again (`_resumes`). After a preemption, the cluster itself submits the job again. If the job fails, raises
        TrainingFailed with the trainer's error or the cluster's message."""
        while not self._is_done():
            before = CheckpointDirectory.of(self._job).newest_name
            self._number = self._number or self._find() or self._submit()
            ended = self._wait(self._number)
            self._number = None
            advanced = CheckpointDirectory.of(self._job).newest_name != before
            if not self._is_done() and not (advanced and self._resumes(ended)):
                raise self._error(ended)
        self._tidy()
        self._order.unlink(missing_ok=True)
        return None

    def cancel(self) -> None:
        """Cancel the job, and wait for its end. The trainer first gets SIGTERM, so that it saves a checkpoint."""
        number, self._number = self._number, None
        seconds = launcher.SECONDS_FOR_A_CHECKPOINT
        try:
            if number is not None and self._look(number) is None:
                self._progress(f"cancelling job {number}; it first saves a checkpoint, within {seconds} s")
                if not self._end(number):
                    self._progress(f"job {number} has not ended; {self._see(number)}")
                self._stream()
        except ClusterError as error:
            self._progress(f"job {number} could not be cancelled and may still be running: {error}")
        self._order.unlink(missing_ok=True)

    @abstractmethod
    def _find(self) -> str | None:
        """Return the cluster's id of the waiting or running job whose name is this job's directory name; None if there
        is no such job. Raises InputError if the cluster does not answer."""

    @abstractmethod
    def _start(self) -> str:
        """Submit the job; its name on the cluster is its directory's name. Returns the cluster's id of the job."""

    @abstractmethod
    def _look(self, number: str) -> Ended | None:
        """Return how the job ended; None while it may still be running."""

    @abstractmethod
    def _end(self, number: str) -> bool:
        """End the job, with time for a checkpoint, and wait. Returns True if the job has ended."""

    @abstractmethod
    def _see(self, number: str) -> str:
        """Return a clause that says how to inspect the job."""

    def _tidy(self) -> None:
        """Remove what a successful job left on the cluster. By default, do nothing."""

    def _submit(self) -> str:
        job, place = self._job, self._place
        job.result.unlink(missing_ok=True)
        order = Order(
            job=self.file,
            key=self._key,
            interface=place.interface if self._nodes > 1 else "lo",
            withheld=dict(self._withheld),
            submitted=time.time(),
        )
        self._order.touch(mode=0o600)
        self._order.write_text(order.model_dump_json(), encoding="utf-8")
        self._log.skip()
        try:
            self._number = self._start()
        except ClusterError as error:
            self._number = self._find()  # the cluster may have accepted the job although its answer was lost
            if self._number is None:
                self._order.unlink()
                raise InputError(
                    f"institution.yaml: trainer: {self.CLUSTER} rejected the job: {error}.",
                    "Correct the `trainer` section, or check the cluster.",
                ) from None
        self._progress(
            f"submitted job {self._number} to {self.CLUSTER}, on {counted(self._nodes, 'node')} with "
            f"{counted(self._on_each_node, 'process', 'processes')} each"
        )
        return self._number

    def _wait(self, number: str) -> Ended:
        """Wait for the job's end, and report the lines of its log. Raises TrainingFailed if the cluster is unreachable
        for longer than `SECONDS_OUT_OF_REACH`."""
        reached = time.monotonic()
        while True:
            try:
                ended = self._look(number)
                reached = time.monotonic()
            except ClusterError as error:
                ended = None
                if time.monotonic() - reached > SECONDS_OUT_OF_REACH:
                    raise TrainingFailed(
                        f"{self.CLUSTER} has not answered for {SECONDS_OUT_OF_REACH:.0f} s: {error}. Job {number} may "
                        f"still be running.",
                        "Run again when the cluster answers. The run then follows that job.",
                    ) from None
                self._tell(f"{self.CLUSTER} does not answer ({error}); retrying for {SECONDS_OUT_OF_REACH:.0f} s")
            self._stream()
            if ended is not None:
                return ended
            time.sleep(SECONDS_BETWEEN_POLLS)

    def _wait_for_the_end(self, number: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._look(number) is not None:
                return True
            time.sleep(min(SECONDS_BETWEEN_POLLS, 1))
        return False

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self._progress(text)

    def _stream(self) -> None:
        """Report the complete lines that were added to the log, and store the first failure in `_failure`."""
        for message, values in self._log.added():
            failure = values.get("failure")
            if failure is not None and self._failure is None and not failure["resumes"]:
                self._failure = Failure.model_validate(failure)
            self._progress(message)

    def _is_done(self) -> bool:
        """Return True if the training has succeeded. Raises IntegrityError if its output was changed afterwards."""
        if not self._job.result.is_file():
            return False
        try:
            read_result(self._job.result)
        except TrainingFailed:
            return False
        assert_sealed(self._job, bytes.fromhex(self._key))
        return True

    def _resumes(self, ended: Ended) -> bool:
        """Return True if a new job may continue the training: the job was not cancelled and did not run out of memory,
        and the trainer has reported no failure other than a stop."""
        if ended.state.startswith(("CANCELLED", "OUT_OF_MEMORY")):
            return False
        if self._failure is not None:
            return False
        if not self._job.result.is_file():
            return True
        try:
            read_result(self._job.result)
        except TrainingStopped as error:
            self._progress(f"{error.message} Submitting the job again.")
            return True
        except TrainingFailed:
            pass
        return False

    def _error(self, ended: Ended) -> SovereignError:
        if self._failure is not None:
            return self._failure.as_error()
        if self._job.result.is_file():
            try:
                read_result(self._job.result)
            except TrainingStopped as error:
                return TrainingStopped(f"{error.message} {ended.text}.")
            except TrainingFailed as error:
                return error
        hint = self.HINTS.get(ended.state.partition("+")[0])
        if ended.status == 127:
            hint = INSTALL
        return TrainingFailed(
            f"{ended.text}, without a result.",
            hint
            or "If the job's log is empty, the nodes do not share $SOVEREIGN_HOME or cannot import this program. "
            "Otherwise memory most often ran out. Run again; the training resumes from its last checkpoint.",
        )


def _in_directory(job: TrainingJob, scratch: Path, directory: Path) -> TrainingJob:
    """Return the job with every path below `scratch` moved below `directory`."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {moved(name): moved(each) for name, each in value.items()}
        if isinstance(value, list):
            return [moved(each) for each in value]
        if isinstance(value, str) and Path(value).is_relative_to(scratch):
            return str(directory / Path(value).relative_to(scratch))
        return value

    return TrainingJob.model_validate(moved(job.model_dump(mode="json")))
