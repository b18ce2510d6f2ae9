"""Run the trainer as a job of Slurm, and wait for it.

This module uses only the commands sbatch, squeue, scontrol and scancel. The library submitit would do the same, but it
pickles functions with their arguments, so a changed pickle file could run any code.
"""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import Slurm
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.training import launcher
from sovereign_pipeline.training.job import Failure
from sovereign_pipeline.training.node_task import NODE_VARIABLE
from sovereign_pipeline.training.queued import INSTALL, ClusterError, Ended, QueuedJob, run_queued

ENDED = {
    *("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "LAUNCH_FAILED", "NODE_FAIL", "OUT_OF_MEMORY"),
    *("PREEMPTED", "RECONFIG_FAIL", "REVOKED", "TIMEOUT"),
}
"""Slurm's final job states. A job that also has a state outside this set, such as COMPLETING, has not ended yet."""
FORGOTTEN = "FORGOTTEN"
"""This program's state for an ended job that Slurm has forgotten. Slurm forgets jobs after MinJobAge (slurm.conf)."""


def run_trainer_on_slurm(job_file: Path, place: Slurm, settings: Settings, progress: Progress, key: str) -> None:
    """Run the trainer on a job file, on nodes that share SOVEREIGN_HOME, and wait; see `run_queued`."""
    run_queued(SlurmJob, place, job_file, settings, progress, key)


class SlurmJob(QueuedJob[Slurm]):
    """Runs the trainer as a job of Slurm; see `launcher.Launcher`."""

    CLUSTER = "Slurm"
    ITS_LINES = ("srun: ", "slurmstepd")
    HINTS = {
        **QueuedJob.HINTS,
        "TIMEOUT": "Raise trainer.time in institution.yaml to more than 10 minutes plus the trainer's start-up time.",
    }
    _is_running = False

    def _find(self) -> str | None:
        return _number_of(self._directory.name)

    def _start(self) -> str:
        place, directory = self._place, self._directory
        script = directory / "script.sh"
        script.write_text(_script(place, self.file, self._order))
        tasks = self._on_each_node
        options = {
            "nodes": self._nodes,
            "ntasks-per-node": tasks,
            "job-name": directory.name,
            "output": self._log.path,
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
        return _call("sbatch", "--parsable", "--requeue", *given, *place.sbatch, str(script)).strip().split(";")[0]

    def _look(self, number: str) -> Ended | None:
        jobs = json.loads(_call("scontrol", "show", "job", number, "--json"))["jobs"]
        if not jobs:  # scontrol --json also returns no job if the controller is unreachable; squeue then fails
            listed = _call("squeue", "--me", "--noheader", "--format=%A").split()
            return None if number in listed else Ended(FORGOTTEN, f"Job {number} is no longer known to Slurm")
        [found] = jobs
        states = set(found["job_state"])
        state = "+".join(sorted(states))
        self._is_running = "RUNNING" in states
        reason = found["state_reason"] if found["state_reason"] != "None" else ""
        nodes = f" on {found['nodes']}" if found.get("nodes") else ""
        if not states <= ENDED:
            self._tell(f"job {number} is {state}{nodes}{f' ({reason})' if reason else ''}")
            return None
        code = found["exit_code"]
        status, killed = code["return_code"]["number"], code["signal"]["id"]["number"]
        how = f"signal {killed}" if killed else f"exit status {status}"
        text = f"Job {number} on Slurm ended as {state}{nodes} ({', '.join(filter(None, (reason, how)))})"
        self._tell(text)
        return Ended(state, text, None if killed else status)

    def _end(self, number: str) -> bool:
        """End the job, first with SIGTERM. scancel alone would kill it after KillWait (slurm.conf; default 30 s)."""
        if self._is_running:
            _call("scancel", "--signal=TERM", number)
            self._wait_for_the_end(number, launcher.SECONDS_FOR_A_CHECKPOINT)
        _call("scancel", number)
        return self._wait_for_the_end(number, 60)

    def _see(self, number: str) -> str:
        return f"see `squeue -j {number}`"


def check_cluster(place: Slurm) -> str:
    """Return a clause for the operator: how much time the cluster gives a preempted job for its checkpoint. Raises
    InputError if Slurm's commands are not installed, if Slurm does not answer, or if it does not have the partition."""
    assert_installed()
    try:
        _call("scontrol", "show", "partition", *([place.partition] if place.partition is not None else []))
        config = dict(line.split("=", 1) for line in _call("scontrol", "show", "config").splitlines() if "=" in line)
    except ClusterError as error:
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
                f"institution.yaml: trainer.where is 'slurm', but `{command}` is not installed here.",
                "Install the cluster's version of Slurm's client commands, and its slurm.conf.",
            )


def _call(*command: str) -> str:
    # Pass only the variables with which the command finds the cluster. sbatch would also read options from SBATCH_*,
    # and pass SLURM_* on to the job.
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "SLURM_CONF") if name in os.environ}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{command[0]}: {type(error).__name__}") from None
    if done.returncode != 0:
        printed = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise ClusterError((printed or [f"{command[0]} failed"])[-1][:300].rstrip(". "))
    return done.stdout


def _number_of(name: str) -> str | None:
    """Return the number of the waiting or running job with this name; None if there is no such job. Raises InputError
    if Slurm's commands are not installed, or if Slurm does not answer."""
    assert_installed()
    try:
        found = _call("squeue", "--me", "--noheader", "--format=%A", f"--name={name}").split()
    except ClusterError as error:
        raise InputError(
            f"institution.yaml: trainer.where is 'slurm', but Slurm does not answer: {error}.", "Check the cluster."
        ) from None
    return found[0] if found else None


def _script(place: Slurm, job: Path, order: Path) -> str:
    """Return the batch script. It starts one trainer for each device, with only a trainer's environment variables. A
    trainer's standard error is discarded, because warnings of libraries quote their input."""
    assigned = " ".join(shlex.quote(f"{name}={value}") for name, value in launcher.remote_environment(job).items())
    kept = launcher.from_the_node(("PATH", "CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR"))
    ranks = (
        f'{NODE_VARIABLE}="$SLURMD_NODENAME" '
        'RANK="$SLURM_PROCID" LOCAL_RANK="$SLURM_LOCALID" WORLD_SIZE="$SLURM_NTASKS" '
        'LOCAL_WORLD_SIZE="$SLURM_NTASKS_PER_NODE"'
    )
    command = shlex.join([place.python, "-m", "sovereign_pipeline.training.node_task", str(order)])
    # srun's exit status would not name the node: srun ends the tasks of other nodes, and returns the highest status.
    absent = Failure(message=f"Node @ has no {place.python} (trainer.python).", hint=INSTALL)
    said = json.dumps({"failure": absent.model_dump(mode="json"), "message": "a node lacks the program"})
    before, _, after = said.partition("@")
    told = f'printf "%s%s%s\\n" {shlex.quote(before)} "$SLURMD_NODENAME" {shlex.quote(after)}'
    is_there = f"command -v {shlex.quote(str(place.python))} >/dev/null || {{ {told}; exit 127; }}"
    task = f"{is_there}; exec env -i {kept} {ranks} {assigned} {command} 2>/dev/null"
    return (
        f"#!/bin/sh\nexport PATH={shlex.quote(os.environ['PATH'])}\n"
        f"exec srun --kill-on-bad-exit=1 /bin/sh -c {shlex.quote(task)}\n"
    )
