"""A cluster of two nodes under Debian's Slurm: network namespaces of this machine that a pair of virtual devices joins.

Nothing outside its directory and its namespaces changes: it has its own munge key and socket, and no unit of systemd.
"""

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sovereign_pipeline_tests.waiting import SECONDS, wait_until

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "squeue", "ip")
INTERFACE = "sov0"
SLURM_CONF = """\
ClusterName=sovereign
SlurmctldHost=node1(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool.%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=20
SlurmdTimeout=6
MinJobAge=15
ReturnToService=2
NodeName=node1 NodeAddr=10.77.0.1 NodeHostname=node1 CPUs=2 RealMemory=8000 State=UNKNOWN
NodeName=node2 NodeAddr=10.77.0.2 NodeHostname=node2 CPUs=2 RealMemory=8000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 State=UP MaxTime=INFINITE
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP MaxTime=INFINITE
"""


def needs_slurm() -> None:
    """Skip the test if this machine cannot run the cluster."""
    if os.getuid() != 0:
        pytest.skip("a Slurm cluster of network namespaces needs root")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed (Debian: slurmctld slurmd slurm-client munge iproute2)")
    probe = f"sov-{os.getpid()}-probe"
    if subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine allows no network namespaces")
    subprocess.run(["ip", "netns", "del", probe], check=True)


@dataclass
class Cluster:
    root: Path
    private: Path
    """Directory that the nodes do not see, as they should not see the vault."""
    first: Path
    """Directory that the second node does not see."""
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def bin(self) -> Path:
        """Directory of the client commands, for PATH: as on a login node."""
        return self.root / "bin"

    def start(self) -> None:
        for directory in (self.root / "state", self.bin, self.private / "vault", self.first):
            directory.mkdir(parents=True)
        (self.root / "slurm.conf").write_text(SLURM_CONF.format(root=self.root))
        (self.root / "cgroup.conf").write_text("CgroupPlugin=disabled\n")
        key = self.root / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        for node in (1, 2):
            _run("ip", "netns", "add", self._namespace(node))
        first, second = self._namespace(1), self._namespace(2)
        _run("ip", "link", "add", INTERFACE, "netns", first, "type", "veth", "peer", "name", INTERFACE, "netns", second)
        for node in (1, 2):
            within = ("ip", "-n", self._namespace(node))
            _run(*within, "addr", "add", f"10.77.0.{node}/24", "dev", INTERFACE)
            _run(*within, "link", "set", INTERFACE, "up")
            _run(*within, "link", "set", "lo", "up")
        for command in ("sbatch", "scontrol", "scancel", "squeue", "sinfo"):
            wrapper = self.bin / command
            program = f"exec ip netns exec {first} env SLURM_CONF={self.root}/slurm.conf {shutil.which(command)}"
            wrapper.write_text(f'#!/bin/sh\n{program} "$@"\n')
            wrapper.chmod(0o755)
        munge = [f"--key-file={key}", f"--socket={self.root}/munge.sock", f"--pid-file={self.root}/munged.pid"]
        munge += [f"--log-file={self.root}/munged.log", f"--seed-file={self.root}/munged.seed"]
        self._start("munged", 1, f"exec munged --foreground --force {' '.join(munge)}")
        self.wait((self.root / "munge.sock").exists)
        self.start_controller()
        for node in (1, 2):
            self.start_node(node)
        self.wait(lambda: self.states() == ["idle", "idle"])

    def start_controller(self) -> None:
        self._start("slurmctld", 1, f"exec slurmctld -D -f {self.root}/slurm.conf")

    def kill_controller(self) -> None:
        controller = self.processes.pop("slurmctld")
        controller.kill()
        controller.wait()

    def start_node(self, node: int) -> None:
        (self.root / f"spool.node{node}").mkdir(exist_ok=True)
        hidden = [self.private] if node == 1 else [self.private, self.first]
        hide = " && ".join(f"mount -t tmpfs -o size=1m none {directory}" for directory in hidden)
        self._start(f"slurmd{node}", node, f"{hide} && exec slurmd -D -N node{node} -f {self.root}/slurm.conf")

    def listeners(self, node: int) -> set[str]:
        """The addresses at which Python processes of a node listen, without their ports."""
        listed = _run("ip", "netns", "exec", self._namespace(node), "ss", "--no-header", "-ltnp").splitlines()
        return {line.split()[3].rpartition(":")[0] for line in listed if "python" in line}

    def stop(self) -> None:
        for node in (2, 1):
            namespace = self._namespace(node)
            deadline = time.monotonic() + SECONDS
            while pids := subprocess.run(["ip", "netns", "pids", namespace], capture_output=True, text=True).stdout:
                assert time.monotonic() < deadline, f"{namespace}: {pids}"
                for process in pids.split():
                    with suppress(ProcessLookupError):
                        os.kill(int(process), signal.SIGKILL)
                for each in self.processes.values():
                    each.poll()
                time.sleep(0.05)
            subprocess.run(["ip", "netns", "del", namespace], check=False)

    def call(self, command: str, *arguments: str) -> str:
        return _run(str(self.bin / command), *arguments)

    def wait(self, is_so: Callable[[], bool]) -> None:
        wait_until(is_so, self.log)

    def states(self) -> list[str]:
        found = subprocess.run(
            [str(self.bin / "sinfo"), "-h", "-N", "-p", "low", "-o", "%T"], capture_output=True, text=True, check=False
        )
        return found.stdout.split()

    def log(self) -> str:
        texts = [f"== {file.name}\n{file.read_text()[-3000:]}" for file in sorted(self.root.glob("*.log"))]
        return "\n".join([str(self.states()), *texts])

    def _namespace(self, node: int) -> str:
        return f"sov-{os.getpid()}-{node}"

    def _start(self, name: str, node: int, command: str) -> None:
        with (self.root / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [
                    *("ip", "netns", "exec", self._namespace(node), "unshare", "--uts", "sh", "-c"),
                    f"hostname node{node} && {command}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env={"PATH": os.environ["PATH"], "SLURM_CONF": str(self.root / "slurm.conf")},
            )


@contextmanager
def running(directory: Path) -> Iterator[Cluster]:
    needs_slurm()
    cluster = Cluster(directory / "slurm", directory / "private", directory / "first")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
