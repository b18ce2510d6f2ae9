"""Run the trainer as a job of Slurm, and wait for it.

It uses the commands sbatch, squeue, scontrol and scancel alone. submitit would do the same, but it pickles functions
with their arguments, so a changed file could run any code.
"""

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import InputError, RecipeError, SovereignError, TrainingFailed, TrainingStopped
from sovereign_pipeline.base.files import held
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import Slurm
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.training import launcher
from sovereign_pipeline.training.checkpoints import CheckpointDirectory
from sovereign_pipeline.training.job import Failure, TrainingJob, read_result
from sovereign_pipeline.training.slurm_task import Order, assert_sealed

SECONDS_BETWEEN_POLLS = 5.0
SECONDS_OUT_OF_REACH = 600.0
"""Seconds for which Slurm's controller may be unreachable, such as during a restart."""
ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
}
"""States of a job that has ended for good. A job with a further flag, such as COMPLETING or REQUEUED, has not."""
FORGOTTEN = "FORGOTTEN"
"""State of a job that Slurm no longer knows (MinJobAge in slurm.conf)."""
HINTS = {
    "OUT_OF_MEMORY": "Raise trainer.memory_gib in institution.yaml, or lower training.sft.max_length or batch_size in "
    "the recipe.",
    "CANCELLED": "Ask who cancelled it. Run again; it resumes from its last checkpoint.",
    "TIMEOUT": "Raise trainer.time in institution.yaml to more than 10 minutes plus the start of the trainer.",
}


def run_trainer_on_slurm(job_file: Path, place: Slurm, settings: Settings, progress: Progress, key: str) -> None:
    """Run the trainer on a job file, on nodes that see the same home, and wait; see `SlurmLauncher.run`."""
    SlurmLauncher(place, settings.home / "slurm", settings.secret_directories, progress).run(job_file, key)


@dataclass(frozen=True)
class Ended:
    """The state of a Slurm job that has ended."""

    state: str
    text: str
    status: int | None = None
    """Exit status; None if it was killed by a signal or is not known."""


@dataclass
class SlurmLauncher:
    """Submits one job, follows it, and cancels it."""

    place: Slurm
    directory: Path
    """Directory of the jobs in the home, which every node sees."""
    withheld: Mapping[str, Path]
    """Variable -> directory that a trainer must not see."""
    progress: Progress
    failure: Failure | None = None
    """First failure that a process reported in the log for good. A process on a node without the home reports it
    nowhere else."""
    _read: int = 0
    _told: str = ""
    _state: str = ""
    _reached: float = field(default_factory=time.monotonic)

    def run(self, job_file: Path, key: str) -> None:
        """Run the job file on Slurm and wait. Moves the trainer's output to where the job says.

        A job that was submitted earlier, by a process that is gone, is followed instead of submitted again. A training
        that stopped with a new checkpoint is submitted again; at preemption Slurm itself does so. When this process is
        interrupted, the job is cancelled with time for a checkpoint.

        Raises InputError and RecipeError before submission, and TrainingFailed with the trainer's reason or Slurm's.
        """
        wanted = TrainingJob.read(job_file)
        nodes = nodes_of(self.place, wanted)
        name = "sovereign-" + sha256(str(wanted.checkpoint_directory).encode()).hexdigest()[:16]
        directory = self.directory / name
        self.directory.mkdir(exist_ok=True, mode=0o700)
        with held(self.directory / f"{name}.lock", self.progress):
            number = _number_of(name)
            job = _in_directory(wanted, job_file.parent, directory)
            if not directory.joinpath(job_name(job)).is_file():
                if number is not None:
                    self.cancel(number)
                    number = None
                shutil.rmtree(directory, ignore_errors=True)
                shutil.copytree(job_file.parent, directory, ignore=shutil.ignore_patterns(job_file.name))
                job.write_named(directory)
            if number is not None:
                self.progress(f"Slurm's job {number} already trains this; following it")
            while not self._is_done(job, key):
                before, number = _newest(job), number or _number_of(name)
                if number is None:
                    job.result.unlink(missing_ok=True)
                    number = self.submit(name, job, nodes, key)
                try:
                    ended = self.follow(number, directory / "log")
                except BaseException:
                    self.cancel(number)
                    self._stream(directory / "log")
                    _forget_key(directory)
                    raise
                number = None
                if not self._is_done(job, key) and not (self._resumes(job, ended) and _newest(job) != before):
                    _forget_key(directory)
                    raise self._error(job, ended)
            _forget_key(directory)
            job.output.rename(wanted.output)
            shutil.copy(job.result, wanted.result)
            shutil.rmtree(directory)

    def submit(self, name: str, job: TrainingJob, nodes: int, key: str) -> str:
        """Submit a job under this name, and return its number."""
        directory, place = job.result.parent, self.place
        order = Order(
            job=directory / job_name(job),
            key=key,
            interface=place.interface if nodes > 1 else "lo",
            withheld=dict(self.withheld),
            submitted=time.time(),
        )
        _order_file(directory).touch(mode=0o600)
        _order_file(directory).write_text(order.model_dump_json(), encoding="utf-8")
        script = directory / "script.sh"
        script.write_text(_script(place, order.job, _order_file(directory)))
        (directory / "log").touch(mode=0o600)
        self._read = (directory / "log").stat().st_size
        tasks = job.devices.count // nodes
        options = {
            "nodes": nodes,
            "ntasks-per-node": tasks,
            "job-name": name,
            "output": directory / "log",
            "chdir": directory,
            "export": "NIL",  # nothing of this process's environment
            "open-mode": "append",
            "signal": f"TERM@{launcher.SECONDS_FOR_A_CHECKPOINT}",  # before the time limit
            "gres": f"{place.gpu_resource}:{tasks}" if place.gpu_resource is not None else None,
            "partition": place.partition,
            "account": place.account,
            "time": place.time,
            "cpus-per-task": place.cpus,
            "mem": f"{place.memory_gib}G" if place.memory_gib is not None else None,
        }
        given = [f"--{option}={value}" for option, value in options.items() if value is not None]
        try:
            answer = _call("sbatch", "--parsable", "--requeue", *given, *place.sbatch, str(script))
        except SlurmError as error:
            raise InputError(
                f"institution.yaml: trainer: Slurm rejected the job: {error}.",
                "Correct the `trainer` section, or check the cluster.",
            ) from None
        number = answer.strip().split(";")[0]
        self.progress(f"submitted {name} to Slurm as job {number}, on {nodes} nodes with {tasks} processes each")
        return number

    def follow(self, number: str, log: Path) -> Ended:
        """Wait for the job's end, and report the lines of its log. Raises TrainingFailed if Slurm is unreachable for
        too long."""
        self._reached = time.monotonic()
        while True:
            try:
                ended = self._look(number)
                self._reached = time.monotonic()
            except SlurmError as error:
                ended = None
                if time.monotonic() - self._reached > SECONDS_OUT_OF_REACH:
                    raise TrainingFailed(
                        f"Slurm has not answered for {SECONDS_OUT_OF_REACH:.0f} s: {error}. Job {number} may still "
                        f"run.",
                        "Run again when the controller answers. The run then follows that job.",
                    ) from None
                self._tell(f"Slurm does not answer ({error}); retrying for {SECONDS_OUT_OF_REACH:.0f} s")
            self._stream(log)
            if ended is not None:
                return ended
            time.sleep(SECONDS_BETWEEN_POLLS)

    def cancel(self, number: str) -> None:
        """Cancel the job, and wait for its end. The trainer gets SIGTERM first and saves a checkpoint.

        scancel alone would kill it after KillWait of slurm.conf, 30 s by default.
        """
        seconds = launcher.SECONDS_FOR_A_CHECKPOINT
        self.progress(f"cancelling job {number}; it saves a checkpoint first, in {seconds} s at most")
        try:
            if "RUNNING" in self._state:
                _call("scancel", "--signal=TERM", number)
                self._wait_for_the_end(number, seconds)
            _call("scancel", number)
            if not self._wait_for_the_end(number, 60):
                self.progress(f"job {number} has not ended; see `squeue -j {number}`")
        except SlurmError as error:
            self.progress(f"job {number} could not be cancelled and may still run: {error}")

    def _wait_for_the_end(self, number: str, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self._look(number) is not None:
                return True
            time.sleep(min(SECONDS_BETWEEN_POLLS, 1))
        return False

    def _look(self, number: str) -> Ended | None:
        """Return how the job ended; None while it may still run."""
        try:
            [found] = json.loads(_call("scontrol", "show", "job", number, "--json"))["jobs"]
        except SlurmError as error:
            if "Invalid job id" not in str(error):
                raise
            return Ended(FORGOTTEN, f"Job {number} on Slurm is no longer known to it")
        states = set(found["job_state"])
        self._state = "+".join(sorted(states))
        reason = found["state_reason"] if found["state_reason"] != "None" else ""
        nodes = f" on {found['nodes']}" if found.get("nodes") else ""
        if not states <= ENDED:
            self._tell(f"job {number} is {self._state}{nodes}{f' ({reason})' if reason else ''}")
            return None
        code = found["exit_code"]
        status, killed = code["return_code"]["number"], code["signal"]["id"]["number"]
        how = f"signal {killed}" if killed else f"exit status {status}"
        text = f"Job {number} on Slurm ended as {self._state}{nodes} ({', '.join(filter(None, (reason, how)))})"
        self._tell(text)
        return Ended(self._state, text, None if killed else status)

    def _tell(self, text: str) -> None:
        if text != self._told:
            self._told = text
            self.progress(text)

    def _stream(self, log: Path) -> None:
        """Report the whole lines that were added to the log, and remember a failure among them."""
        if not log.exists():
            return
        with log.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        for line in whole.decode(errors="replace").splitlines():
            try:
                said = json.loads(line)
                message, failure = said["message"], said.get("failure")
            except (ValueError, TypeError, KeyError):  # of srun
                message, failure = line, None
            if failure is not None and self.failure is None and not failure["resumes"]:
                self.failure = Failure.model_validate(failure)
            self.progress(message)

    def _is_done(self, job: TrainingJob, key: str) -> bool:
        """Return whether the training has succeeded. Raises IntegrityError if its output was changed since."""
        if not job.result.is_file():
            return False
        try:
            read_result(job.result)
        except TrainingFailed:
            return False
        assert_sealed(job, bytes.fromhex(key))
        return True

    def _resumes(self, job: TrainingJob, ended: Ended) -> bool:
        """Return whether another job may continue the training: nobody cancelled it, and it did not fail."""
        if ended.state.startswith(("CANCELLED", "OUT_OF_MEMORY")):
            return False
        if self.failure is not None:
            return False
        if not job.result.is_file():
            return True
        try:
            read_result(job.result)
        except TrainingStopped as error:
            self.progress(f"{error.message} Submitting it again.")
            return True
        except TrainingFailed:
            pass
        return False

    def _error(self, job: TrainingJob, ended: Ended) -> SovereignError:
        if self.failure is not None:
            return self.failure.as_error()
        if job.result.is_file():
            try:
                read_result(job.result)
            except TrainingStopped as error:
                return TrainingStopped(f"{error.message} {ended.text}.")
            except TrainingFailed as error:
                return error
        hint = HINTS.get(ended.state.partition("+")[0])
        if ended.status == 127:
            hint = f"Install this program on every node, with the interpreter {self.place.python} (trainer.python)."
        return TrainingFailed(
            f"{ended.text}, without a result.",
            hint
            or "If its log is empty, the nodes do not share $SOVEREIGN_HOME or cannot import this program. Otherwise "
            "memory most often ran out. Run again; it resumes from its last checkpoint.",
        )


def nodes_of(place: Slurm, job: TrainingJob) -> int:
    """Return the number of nodes of a job. Raises RecipeError if its devices do not fill them."""
    count, each = job.devices.count, place.devices_per_node
    if count <= each:
        return 1
    if count % each:
        raise RecipeError(
            f"training.devices.count is {count}, and a node has {each} (trainer.devices_per_node in "
            f"institution.yaml). Each node must have the same number of processes.",
            f"Set count to a multiple of {each}.",
        )
    return count // each


class SlurmError(Exception):
    """Raised when a command of Slurm fails, with its message."""


def check_cluster(place: Slurm) -> str:
    """Return what an operator should know of the cluster. Raises InputError if it is not reachable, or has no such
    partition."""
    assert_installed()
    try:
        _call("scontrol", "show", "partition", *([place.partition] if place.partition is not None else []))
        config = dict(line.split("=", 1) for line in _call("scontrol", "show", "config").splitlines() if "=" in line)
    except SlurmError as error:
        raise InputError(
            f"institution.yaml: trainer.where is 'slurm': {error}.", "Correct the `trainer` section, or the cluster."
        ) from None
    wait = {name.strip(): value.strip() for name, value in config.items()}["KillWait"]
    return f"a preempted or requeued training has {wait} for its checkpoint (KillWait, or the partition's GraceTime)"


def assert_installed() -> None:
    """Raise InputError if Slurm's commands are not installed here."""
    for command in ("sbatch", "squeue", "scontrol", "scancel"):
        if shutil.which(command) is None:
            raise InputError(
                f"institution.yaml: trainer.where is 'slurm', and `{command}` is not installed here.",
                "Install the cluster's version of Slurm's client commands, and its slurm.conf.",
            )


def _call(*command: str) -> str:
    # Of this process's variables, the ones that tell the command where the cluster is: sbatch would also read options
    # from SBATCH_* and pass SLURM_* on to the job.
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "SLURM_CONF") if name in os.environ}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {type(error).__name__}") from None
    if done.returncode != 0:
        raise SlurmError((done.stderr.strip().splitlines() or [f"{command[0]} failed"])[-1][:300].rstrip(". "))
    return done.stdout


def _number_of(name: str) -> str | None:
    """Return the number of the job with this name that waits or runs; None if there is none."""
    assert_installed()
    try:
        found = _call("squeue", "--me", "--noheader", "--format=%A", f"--name={name}").split()
    except SlurmError as error:
        raise InputError(
            f"institution.yaml: trainer.where is 'slurm', and Slurm does not answer: {error}.", "Check the cluster."
        ) from None
    return found[0] if found else None


def _script(place: Slurm, job: Path, order: Path) -> str:
    """Return the batch script: one trainer for each device, with the variables of a trainer and no others.

    A trainer's standard error is discarded, because warnings of libraries quote their input.
    """
    assigned = " ".join(shlex.quote(f"{name}={value}") for name, value in launcher.remote_environment(job).items())
    kept = launcher.from_the_node(("PATH", "CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR"))
    slurm = launcher.from_the_node(("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_NODEID", "SLURMD_NODENAME"))
    ranks = (
        'RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS" '
        'LOCAL_WORLD_SIZE="$SLURM_NTASKS_PER_NODE"'
    )
    command = shlex.join([place.python, "-m", "sovereign_pipeline.training.slurm_task", str(order)])
    task = f"exec env -i {kept} {slurm} {ranks} {assigned} {command} 2>/dev/null"
    return (
        f"#!/bin/sh\nexport PATH={shlex.quote(os.environ['PATH'])}\n"
        f"exec srun --kill-on-bad-exit=1 /bin/sh -c {shlex.quote(task)}\n"
    )


def _order_file(directory: Path) -> Path:
    return directory / "order.json"


def _forget_key(directory: Path) -> None:
    _order_file(directory).unlink(missing_ok=True)


def job_name(job: TrainingJob) -> str:
    return f"{sha256(job.model_dump_json().encode()).hexdigest()}.json"


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


def _newest(job: TrainingJob) -> str | None:
    return CheckpointDirectory.of(job).newest_name
