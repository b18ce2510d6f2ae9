"""Running code that a model wrote: in a process of its own, without network, behind limits that the kernel holds.

What belongs here: starting that process, waiting for it, and what its ending means. What happens inside it is
`sandbox_inside.py`; what is run and what follows from it is `suite_answers.py`.

What holds: no network, not even the machine's own loopback; no file of this machine but Python, its standard library
and the shared libraries that these load, and they cannot be written, so no installed package, no vault and no home is
there, nor the account's key ring; an empty environment; time, memory, size and number of files, number of processes;
and nothing that was started outlives the run. What does not: memory is limited for each process, so a program may use
`memory_bytes` times `processes`, and some MiB that the kernel keeps for its pipes and sockets; and a program that means
to cheat its own test can, since both run in one process, as HumanEval defines it. Where the kernel does not allow a
limit to be set, nothing is run: there is no way to run without them.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Literal

from sovereign_pipeline.errors import SandboxUnavailable
from sovereign_pipeline.evaluation.capability.sandbox_inside import OUT_OF_TIME

INSIDE = Path(__file__).with_name("sandbox_inside.py")

# Python of the standard library alone; the virtual environment, if there is one, is left out.
_PYTHON = [os.path.realpath(sys.executable), "-P", "-s", "-S", "-B"]

# Prints what such a Python consists of: where it looks for modules, and what the loader loads for all of these, by the
# names under which it looks for them.
_PARTS = """
import ctypes, glob, os, sys
class Loaded(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("name", ctypes.c_char_p)]
@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(Loaded), ctypes.c_size_t, ctypes.c_void_p)
def show(loaded, size, data):
    print(os.fsdecode(loaded.contents.name))
    return 0
for directory in sys.path:
    print(directory)
    for module in glob.glob(directory + "/*.so"):
        try:
            ctypes.CDLL(module)
        except OSError:  # a module whose library is not installed cannot be imported outside either
            pass
ctypes.CDLL(None).dl_iterate_phdr(show, None)
"""

Ending = Literal["passed", "failed", "timeout"]

# The most that is read of what a run reports of itself; a pipe holds no less (pipe(7)).
_REPORT_BYTES = 4_096


@dataclass(frozen=True)
class Limits:
    """cpu_seconds: of processor time, each process; wall_seconds: on the clock, so much longer that a busy machine does
    not decide whether an answer is right. memory_bytes: address space of each process. file_bytes: of one file;
    disk_bytes: of all together. files: that may exist at once. processes: at once, threads counted, with up to three of
    the sandbox's own.

    The reference implementation of Chen et al. 2021 (Evaluating Large Language Models Trained on Code) has 3 s, on the
    clock.
    """

    cpu_seconds: int = 3
    wall_seconds: float = 20.0
    memory_bytes: int = 512 << 20
    file_bytes: int = 1 << 20
    disk_bytes: int = 4 << 20
    files: int = 16
    processes: int = 8


def run_program(program: str, limits: Limits | None = None) -> Ending:
    """Run Python source and say how it ended: "passed" when its last line was reached and nothing was raised.

    What the program prints is not kept. An ordinary exit before the last line (`sys.exit(0)`, `os._exit(0)`) is
    "failed": the run reports a number drawn for it, after the last line only. Raises SandboxUnavailable when a limit
    cannot be set on this machine; then nothing was run.
    """
    limits = limits or Limits()
    nonce = secrets.token_hex(16)
    order = {"program": program, "nonce": nonce, "shown": _shown(), "limits": asdict(limits)}
    with _started() as (process, report):
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it ended at once; the report says why
            process.stdin.write(json.dumps(order).encode())
            process.stdin.close()
        timed_out = _timed_out(process, limits.wall_seconds)
        said = (report.read(_REPORT_BYTES) or b"").decode(errors="replace")
    if said == f"{nonce}:passed":
        return "passed"
    if said.startswith(nonce):
        raise SandboxUnavailable(
            f"Code that a model wrote is run only behind limits, and this machine does not allow one of them "
            f"({said.removeprefix(nonce + ':')}). It takes Linux 5.12 or newer, with seccomp filters, that lets this "
            f"account make user, mount, network and process namespaces: see 'Suites that run code' in "
            f"docs/administrator.md. Or take the suite out of the recipe."
        )
    return "timeout" if timed_out else "failed"


def require_sandbox() -> None:
    """Raise SandboxUnavailable when programs cannot be run here, before anything is generated for nothing."""
    if run_program("assert True") != "passed":
        raise SandboxUnavailable(
            "A program of one line does not run in the sandbox within its limits, so nothing that it says of a model's "
            "code could be believed. Look at the load of this machine."
        )


@contextmanager
def _started() -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """The process, and the reading end of its report, which is read when it is over and without waiting: a program that
    writes without end blocks on a full pipe instead of filling this process's memory. Nothing is left running."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    report = os.fdopen(reading, "rb", buffering=0)
    try:
        process = subprocess.Popen(
            [*_PYTHON, str(INSIDE), str(writing)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={},
            pass_fds=(writing,),
            start_new_session=True,
        )
    finally:
        os.close(writing)
    try:
        yield process, report
    finally:
        # The session holds the sandbox's first process and the init of its process namespace; with that init, the
        # kernel kills everything in the namespace, whatever session it moved itself to (pid_namespaces(7)).
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        report.close()


def _timed_out(process: "subprocess.Popen[bytes]", wall_seconds: float) -> bool:
    """Wait for the end; True when time ended it, on the clock or on the processor."""
    try:
        return process.wait(timeout=wall_seconds) == OUT_OF_TIME
    except subprocess.TimeoutExpired:
        return True


@cache
def _shown() -> list[str]:
    """What the program may read of this machine: Python, its standard library, and the shared libraries of both. Each
    library by itself, for a directory of them (/usr/lib) holds packages and much else. What is installed in the
    directory of the standard library is covered inside."""
    listed = subprocess.run([*_PYTHON, "-c", _PARTS], cwd="/", env={}, stdout=subprocess.PIPE, check=False)
    if listed.returncode != 0:
        raise SandboxUnavailable(f"{_PYTHON[0]} could not list the files that it consists of, so nothing is run.")
    parts = [_PYTHON[0], *os.fsdecode(listed.stdout).splitlines()]
    # The program itself has no name in the list, and a part of the kernel that is in it (vdso) no file.
    return [path for path in parts if Path(path).is_absolute() and Path(path).exists()]
