"""Run one trainer on one of several nodes: `python -m sovereign_pipeline.training.node_task ORDER.json`.

Before the training, each node is checked: files, versions, clock, locks, and directories that the node must not see.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from secrets import token_hex

from sovereign_pipeline.base.errors import IntegrityError, TrainingFailed, TrainingStopped
from sovereign_pipeline.base.files import FIND_OUT, Frozen, file_sha256, held, held_if_free, write_atomically
from sovereign_pipeline.base.processes import die_with_parent, keep_private
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.training.devices import MEETING_VARIABLE
from sovereign_pipeline.training.job import TrainingJob, lock_of_line, mark_of, use_key
from sovereign_pipeline.training.launcher import PARENT_VARIABLE
from sovereign_pipeline.training.worker import collect_sigterm, open_progress, run_job

NODE_VARIABLE = "SOVEREIGN_TRAINER_NODE"
"""Environment variable with the node's name."""
SEAL = "sealed.json"
_LOCKS_BETWEEN_NODES = (
    "Mount SOVEREIGN_HOME with locks that work between nodes: NFS 4, NFS 3 without nolock and local_lock, or Lustre "
    "with -o flock."
)
SECONDS_APART = 5.0
"""Largest accepted difference between the clocks of two nodes."""
SECONDS_BETWEEN_LOOKS = 0.2
GO, MEETING = "go", "meeting-"
"""GO: name of the file that the first process writes to start the other processes. MEETING: prefix of the name of the
file through which the processes connect."""


class Order(Frozen):
    """The content of an order file: the job, and what a node needs to run it. Only the account that owns SOVEREIGN_HOME
    can read the file."""

    job: Path
    key: str
    """Key for the MACs of this training identity; see `job.KEY_VARIABLE`."""
    interface: str
    """Network interface through which the processes exchange tensors."""
    withheld: dict[str, Path]
    """Mapping of environment variable to a directory that a trainer must not see."""
    submitted: float
    """Time of the submission (Unix time), by the clock of the machine that submitted the job."""


def main(order_file: Path) -> int:
    """Run one of the job's training processes. Returns exit status 0 if the training succeeded, otherwise 1. This
    process's output states the failure. So does the job's result file, if this node can read the job."""
    keep_private()
    if PARENT_VARIABLE in os.environ:
        die_with_parent(int(os.environ[PARENT_VARIABLE]))
    go_offline()
    stop_requests = collect_sigterm()
    order, job = _read(order_file)
    if job is None or order is None:
        return 1
    use_key(order.key)
    first, node = os.environ["RANK"] == "0", os.environ[NODE_VARIABLE]
    os.environ |= {
        "GLOO_SOCKET_IFNAME": order.interface,
        "NCCL_SOCKET_IFNAME": order.interface,
        # With several machines accelerate requires an address, although the processes are already connected.
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "0",
    }
    if job.devices.count > 1:
        os.environ["OMP_NUM_THREADS"] = "1"  # as torchrun sets it
    else:  # with these variables, accelerate would wrap the model for several processes
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            os.environ.pop(name)
    with open_progress() as progress:
        call = RollCall(order, job, order_file.with_name("nodes"), node, lambda: bool(stop_requests))
        result = run_job(job, progress, stop_requests, call.together(lambda text: progress(text, {"waiting": True})))
        if result.failure is not None:
            message = result.failure.message
            _say(
                message if node in message else f"Node {node}: {message}",
                failure=result.failure.model_dump(mode="json"),
            )
        elif first:
            _seal(job)
        if result.failure is not None or result.measured:
            result.write(job.result)
    return 0 if result.failure is None else 1


def assert_sealed(job: TrainingJob, key: bytes) -> None:
    """Raise IntegrityError if the job's output has no valid seal. A seal is a MAC of the digests of all output files.
    The first process writes the seal after the training. key: key of the MAC."""
    try:
        mark = json.loads(job.output.with_name(SEAL).read_bytes())["mark"]
    except (OSError, ValueError, KeyError, TypeError):
        mark = None
    if mark != mark_of("output", [job.identity, _digests(job.output)], key):
        raise IntegrityError(f"{job.output}: a file was changed after the trainer wrote it.", FIND_OUT)


def _seal(job: TrainingJob) -> None:
    write_atomically(
        job.output.with_name(SEAL), json.dumps({"mark": mark_of("output", [job.identity, _digests(job.output)])})
    )


def _digests(directory: Path) -> dict[str, str]:
    return {
        str(file.relative_to(directory)): file_sha256(file) for file in sorted(directory.rglob("*")) if file.is_file()
    }


def _read(order_file: Path) -> tuple[Order | None, TrainingJob | None]:
    """Return the order and its job. If this node cannot read a file, report this and return None for both."""
    try:
        order = Order.model_validate_json(order_file.read_bytes())
        return order, TrainingJob.read(order.job)
    except OSError as error:
        failure = {
            "message": f"Node {os.environ[NODE_VARIABLE]}: {error.filename} cannot be read "
            f"({error.strerror}). This node does not share $SOVEREIGN_HOME with the machine that submitted the job.",
            "hint": "Mount the directory of SOVEREIGN_HOME at the same path on every node, for the same account.",
        }
        _say(failure["message"], failure={**failure, "resumes": False})
        return None, None


def _say(message: str, **values: object) -> None:
    """Write a line to the job's log. A process can call this function even without write access to SOVEREIGN_HOME."""
    with suppress(OSError):
        os.write(1, (json.dumps({"message": message, **values}) + "\n").encode())


class RollCall:
    """Compares the nodes of a job with each other, and with the machine that submitted the job."""

    def __init__(
        self, order: Order, job: TrainingJob, directory: Path, node: str, should_stop: Callable[[], bool]
    ) -> None:
        self._order = order
        self._job = job
        self._directory = directory
        """Directory in which each process writes a file."""
        self._node = node
        self._should_stop = should_stop

    @contextmanager
    def together(self, waiting: Callable[[str], None]) -> Iterator[None]:
        """Check this node, compare it with the other nodes, and set `MEETING_VARIABLE`. The first process locks the
        line during the block, and reports through `waiting` while it waits for the lock.

        Raises TrainingFailed if a check fails; the message names the node and the problem. Raises TrainingStopped if a
        stop is requested while this process waits for the lock or for a node.
        """
        self._check_this_node()
        lock = lock_of_line(self._job.checkpoint_directory)
        rank = int(os.environ.get("RANK", "0"))
        with ExitStack() as stack:
            try:
                if rank == 0:
                    stack.enter_context(held(lock, waiting, self._should_stop))
                    attempt = self._call_the_others()
                else:
                    attempt = self._answer(rank)
                    self._check_lock(lock)
            except OSError as error:
                raise self._wrong(
                    f"{error.filename or lock}: {error.strerror}.",
                    f"The file system of SOVEREIGN_HOME must be writable on every node. {_LOCKS_BETWEEN_NODES}",
                ) from None
            os.environ[MEETING_VARIABLE] = str(self._directory / f"{MEETING}{attempt}")
            yield

    def _check_this_node(self) -> None:
        missing = [path for path in self._job.inputs if not os.access(path, os.R_OK)]
        if missing:
            raise self._wrong(f"{missing[0]} is missing on this node.", "Mount this path on every node.")
        for variable, directory in self._order.withheld.items():
            if directory.is_dir() and os.access(directory, os.R_OK):
                raise self._wrong(
                    f"{directory} ({variable}) can be read on this node, but a trainer must not see it.",
                    f"Do not mount this directory on the nodes. If it is in a shared directory, move it ({variable}).",
                )
        self._compare_clocks(self._order.submitted, time.time(), float("inf"), "the machine that submitted the job")

    def _call_the_others(self) -> str:
        """Remove the files of an earlier attempt, wait until every other process has announced itself, and write the
        file `go`. Returns the attempt's name.

        `go` contains a random word of each process. A process begins only if its own word is in `go`, so files of an
        earlier attempt have no effect.
        """
        called = time.time()
        ranks = range(1, self._job.devices.count)
        self._job.result.unlink(missing_ok=True)
        shutil.rmtree(self._job.output, ignore_errors=True)
        self._directory.mkdir(exist_ok=True)
        for path in [self._directory / GO, *(self._directory / str(rank) for rank in ranks)]:
            path.unlink(missing_ok=True)
        for path in self._directory.glob(f"{MEETING}*"):
            path.unlink()
        words = [token_hex(8)]
        for rank in ranks:
            while not (answer := self._read(str(rank))):
                self._pause()
            node, at, word = json.loads(answer)
            self._compare_clocks(called, at, time.time(), node)
            words.append(word)
        write_atomically(self._directory / GO, json.dumps(words))
        return words[0]

    def _answer(self, rank: int) -> str:
        """Write this process's announcement to its own file, and wait until the first process has read it. Returns the
        attempt's name."""
        word = token_hex(8)
        while word not in (go := self._read(GO)):
            if word not in self._read(str(rank)):
                write_atomically(self._directory / str(rank), json.dumps([self._node, time.time(), word]))
            self._pause()
        return str(json.loads(go)[0])

    def _check_lock(self, lock: Path) -> None:
        with held_if_free(lock) as is_mine:
            if is_mine:
                raise self._wrong(
                    f"{lock}: this node could lock the file, although another node has locked it.",
                    _LOCKS_BETWEEN_NODES,
                )

    def _read(self, name: str) -> str:
        """Return the content of another process's file; empty if the file does not exist yet."""
        with suppress(FileNotFoundError):
            list(self._directory.iterdir())  # listing a directory makes NFS read it again
            return (self._directory / name).read_text()
        return ""

    def _pause(self) -> None:
        """Wait for another process. If that process fails, the cluster ends this process."""
        if self._should_stop():
            raise TrainingStopped("The training was stopped, as requested, while it compared its nodes.")
        time.sleep(SECONDS_BETWEEN_LOOKS)

    def _compare_clocks(self, earliest: float, at: float, latest: float, other: str) -> None:
        apart = max(earliest - at, at - latest)
        if apart > SECONDS_APART:
            raise self._wrong(
                f"the clocks of this node and of {other} are at least {apart:.0f} seconds apart.",
                "Synchronise the clocks (NTP or PTP).",
            )

    def _wrong(self, message: str, hint: str) -> TrainingFailed:
        return TrainingFailed(f"Node {self._node}: {message}", hint)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
