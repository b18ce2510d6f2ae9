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
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import InputError, SovereignError, TrainingFailed, TrainingStopped
from sovereign_pipeline.base.files import held
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.policy.institution import Slurm
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.training import launcher
from sovereign_pipeline.training.checkpoints import CheckpointDirectory
from sovereign_pipeline.training.job import Failure, TrainingJob, read_result
from sovereign_pipeline.training.node_task import NODE_VARIABLE, Order, assert_sealed

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
    """Run the trainer on a job file, on nodes that see the same home, and wait.

    A job that an earlier process submitted is followed instead of submitted again. Its directory is in the home,
    because it outlives that process and its workspace.

    key: key of the training's marks, 64 hex digits. Raises as `launcher.launch` does, and InputError before submission.
    """
    wanted = TrainingJob.read(job_file)
    name = "sovereign-" + sha256(str(wanted.checkpoint_directory).encode()).hexdigest()[:16]
    directory = settings.home / "slurm" / name
    directory.parent.mkdir(exist_ok=True, mode=0o700)
    with held(directory.with_name(f"{name}.lock"), progress):
        job = _in_directory(wanted, job_file.parent, directory)
        slurm_job = SlurmJob(place, job, job_file, settings.secret_directories, progress, key)
        launcher.launch(slurm_job, slurm_job.file, progress)
        job.output.rename(wanted.output)
        shutil.copy(job.result, wanted.result)
        shutil.rmtree(directory)


@dataclass(frozen=True)
class Ended:
    """The state of a Slurm job that has ended."""

    state: str
    text: str
    status: int | None = None
    """Exit status; None if it was killed by a signal or is not known."""


class SlurmJob:
    """Runs the trainer as a job of Slurm; see `launcher.Launcher`."""

    def __init__(
        self, place: Slurm, job: TrainingJob, original: Path, withheld: Mapping[str, Path], progress: Progress, key: str
    ) -> None:
        """Args:
        job: the job, with paths below its directory in the home instead of the workspace.
        original: the job's file in the workspace.
        withheld: variable -> directory that a trainer must not see.
        """
        self._place = place
        self._job = job
        self._original = original
        self._withheld = withheld
        self._progress = progress
        self._key = key
        self._nodes = launcher.nodes_of(job, place.devices_per_node)
        self._directory = job.result.parent
        self.file = self._directory / f"{sha256(job.model_dump_json().encode()).hexdigest()}.json"
        self._order = self._directory / "order.json"
        self._log = self._directory / "log"
        self._number: str | None = None
        self._state = ""
        self._read = 0
        """Bytes of the log that were reported."""
        self._told = ""
        self._failure: Failure | None = None
        """First failure that a process reported in the log for good. A process on a node without the home reports it
        nowhere else."""

    def submit(self) -> None:
        """Submit the job, unless it is submitted or has succeeded already."""
        self._number = _number_of(self._directory.name)
        if not self.file.is_file():  # else an earlier process wrote the same job
            self.cancel()
            shutil.rmtree(self._directory, ignore_errors=True)
            shutil.copytree(self._original.parent, self._directory, ignore=shutil.ignore_patterns(self._original.name))
            self._job.write_named(self._directory)
        if self._number is not None:
            self._progress(f"Slurm's job {self._number} already trains this; following it")
        elif not self._is_done():
            self._submit()

    def follow(self) -> str | None:
        """Wait until the training has ended. It is submitted again if it stopped with a new checkpoint; at preemption
        Slurm itself does so. Raises TrainingFailed with the trainer's reason or Slurm's."""
        while not self._is_done():
            before = CheckpointDirectory.of(self._job).newest_name
            self._number = self._number or _number_of(self._directory.name) or self._submit()
            ended = self._wait(self._number)
            self._number = None
            advanced = CheckpointDirectory.of(self._job).newest_name != before
            if not self._is_done() and not (advanced and self._resumes(ended)):
                raise self._error(ended)
        self._order.unlink(missing_ok=True)
        return None

    def cancel(self) -> None:
        """Cancel the job, and wait for its end. The trainer gets SIGTERM first and saves a checkpoint.

        scancel alone would kill it after KillWait of slurm.conf, 30 s by default.
        """
        number, self._number = self._number, None
        seconds = launcher.SECONDS_FOR_A_CHECKPOINT
        try:
            if number is not None and self._look(number) is None:
                self._progress(f"cancelling job {number}; it saves a checkpoint first, in {seconds} s at most")
                if "RUNNING" in self._state:
                    _call("scancel", "--signal=TERM", number)
                    self._wait_for_the_end(number, seconds)
                _call("scancel", number)
                if not self._wait_for_the_end(number, 60):
                    self._progress(f"job {number} has not ended; see `squeue -j {number}`")
                self._stream()
        except SlurmError as error:
            self._progress(f"job {number} could not be cancelled and may still run: {error}")
        self._order.unlink(missing_ok=True)

    def _submit(self) -> str:
        job, place, directory = self._job, self._place, self._directory
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
        script = directory / "script.sh"
        script.write_text(_script(place, self.file, self._order))
        self._log.touch(mode=0o600)
        self._read = self._log.stat().st_size
        tasks = job.devices.count // self._nodes
        options = {
            "nodes": self._nodes,
            "ntasks-per-node": tasks,
            "job-name": directory.name,
            "output": self._log,
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
            found = _number_of(directory.name)  # the answer alone may be lost
            if found is None:
                self._order.unlink()
                raise InputError(
                    f"institution.yaml: trainer: Slurm rejected the job: {error}.",
                    "Correct the `trainer` section, or check the cluster.",
                ) from None
            answer = found
        self._number = answer.strip().split(";")[0]
        self._progress(
            f"submitted {directory.name} to Slurm as job {self._number}, on {counted(self._nodes, 'node')} with "
            f"{counted(tasks, 'process', 'processes')} each"
        )
        return self._number

    def _wait(self, number: str) -> Ended:
        """Wait for the job's end, and report the lines of its log. Raises TrainingFailed if Slurm is unreachable for
        too long."""
        reached = time.monotonic()
        while True:
            try:
                ended = self._look(number)
                reached = time.monotonic()
            except SlurmError as error:
                ended = None
                if time.monotonic() - reached > SECONDS_OUT_OF_REACH:
                    raise TrainingFailed(
                        f"Slurm has not answered for {SECONDS_OUT_OF_REACH:.0f} s: {error}. Job {number} may still "
                        f"run.",
                        "Run again when the controller answers. The run then follows that job.",
                    ) from None
                self._tell(f"Slurm does not answer ({error}); retrying for {SECONDS_OUT_OF_REACH:.0f} s")
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

    def _look(self, number: str) -> Ended | None:
        """Return how the job ended; None while it may still run."""
        jobs = json.loads(_call("scontrol", "show", "job", number, "--json"))["jobs"]
        if not jobs:  # with --json, scontrol does so also if the controller is unreachable, and squeue does not
            listed = _call("squeue", "--me", "--noheader", "--format=%A").split()
            return None if number in listed else Ended(FORGOTTEN, f"Job {number} is no longer known to Slurm")
        [found] = jobs
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
            self._progress(text)

    def _stream(self) -> None:
        """Report the whole lines that were added to the log, and remember a failure among them."""
        if not self._log.exists():
            return
        with self._log.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        for line in whole.decode(errors="replace").splitlines():
            try:
                said = json.loads(line)
                message, failure = said["message"], said.get("failure")
            except (ValueError, TypeError, KeyError):  # of srun
                message, failure = line, None
            if failure is not None and self._failure is None and not failure["resumes"]:
                self._failure = Failure.model_validate(failure)
            self._progress(message)

    def _is_done(self) -> bool:
        """Return whether the training has succeeded. Raises IntegrityError if its output was changed since."""
        if not self._job.result.is_file():
            return False
        try:
            read_result(self._job.result)
        except TrainingFailed:
            return False
        assert_sealed(self._job, bytes.fromhex(self._key))
        return True

    def _resumes(self, ended: Ended) -> bool:
        """Return whether another job may continue the training: nobody cancelled it, and it did not fail."""
        if ended.state.startswith(("CANCELLED", "OUT_OF_MEMORY")):
            return False
        if self._failure is not None:
            return False
        if not self._job.result.is_file():
            return True
        try:
            read_result(self._job.result)
        except TrainingStopped as error:
            self._progress(f"{error.message} Submitting it again.")
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
        hint = HINTS.get(ended.state.partition("+")[0])
        if ended.status == 127:
            hint = f"Install this program on every node, with the interpreter {self._place.python} (trainer.python)."
        return TrainingFailed(
            f"{ended.text}, without a result.",
            hint
            or "If its log is empty, the nodes do not share $SOVEREIGN_HOME or cannot import this program. Otherwise "
            "memory most often ran out. Run again; it resumes from its last checkpoint.",
        )


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
        printed = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise SlurmError((printed or [f"{command[0]} failed"])[-1][:300].rstrip(". "))
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
    ranks = (
        f'{NODE_VARIABLE}="$SLURMD_NODENAME" '
        'RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS" '
        'LOCAL_WORLD_SIZE="$SLURM_NTASKS_PER_NODE"'
    )
    command = shlex.join([place.python, "-m", "sovereign_pipeline.training.node_task", str(order)])
    task = f"exec env -i {kept} {ranks} {assigned} {command} 2>/dev/null"
    return (
        f"#!/bin/sh\nexport PATH={shlex.quote(os.environ['PATH'])}\n"
        f"exec srun --kill-on-bad-exit=1 /bin/sh -c {shlex.quote(task)}\n"
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
