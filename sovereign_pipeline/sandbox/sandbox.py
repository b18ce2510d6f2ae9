"""Running generated code in a process of its own, without network, within limits that the kernel enforces.

What belongs here: starting that process, waiting for it, and the meaning of its end. What happens inside it is in
`inside.py`, and executables other than Python in `command.py`; which program is run and what its end means is for the
caller: an answer to a suite (`evaluation/capability.py`), or a reward (`training/rlhf/rewards.py`).

Guaranteed: no network, not even the machine's loopback; no file of this machine except Python, its standard library and
the shared libraries that these load, all read-only, so no installed package, vault, home or key ring; an empty
environment; limits on time, memory, size and number of files, and number of processes; and nothing that was started
outlives the run. Not guaranteed: memory is limited for each process, so a program may use `memory_bytes` times
`processes`, and some MiB that the kernel keeps for its pipes and sockets; and a program may cheat its own test, since
both run in one process, as HumanEval defines it. Where the kernel does not allow a limit, nothing is run.
"""

import builtins
import json
import os
import re
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal

from sovereign_pipeline.base.errors import SandboxUnavailable
from sovereign_pipeline.sandbox.inside import OUT_OF_TIME

INSIDE = Path(__file__).with_name("inside.py")

# Python of the standard library alone; the virtual environment, if there is one, is left out.
_PYTHON = [os.path.realpath(sys.executable), "-P", "-s", "-S", "-B"]

# Prints what such a Python consists of: its module directories, and the shared libraries loaded for all of them, by the
# names under which the loader finds them.
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

_REPORT_BYTES = 60_000
"""Most bytes of a run's report; a pipe holds no fewer on Linux (pipe(7)), so that writing them never waits."""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    The reference implementation of Chen et al. 2021 (Evaluating Large Language Models Trained on Code) allows 3 s of
    wall-clock time.
    """

    cpu_seconds: int = 3
    """Processor time of each process."""
    wall_seconds: float = 20.0
    """Wall-clock time, so long that a busy machine does not decide whether an answer is right."""
    memory_bytes: int = 512 << 20
    """Address space of each process."""
    file_bytes: int = 1 << 20
    """Of one file."""
    disk_bytes: int = 4 << 20
    """Of all files together."""
    files: int = 16
    """That may exist at once."""
    processes: int = 8
    """At once, threads counted, with up to three of the sandbox's own."""


def run_program(program: str, limits: Limits | None = None) -> Ending:
    """Run Python source: "passed" when its last line was reached and nothing was raised.

    Output is discarded. An exit before the last line (`sys.exit(0)`, `os._exit(0)`) is "failed": the run reports a
    nonce, after the last line only. Raises SandboxUnavailable when this machine does not allow a limit; then nothing
    was run.
    """
    report, timed_out = run_inside(_order(program, None, None), limits or Limits(), ())
    if report == "passed":
        return "passed"
    return "timeout" if timed_out else "failed"


@dataclass(frozen=True)
class Call:
    """How a call of a function in the sandbox ended."""

    ending: Literal["returned", "raised", "timeout"]
    value: Any = None
    """What it returned, as JSON has it."""
    where: str = ""
    """Type of what was raised, where it is one of Python's own, and the line of the program; never its message, nor the
    name of a type that the program made, which may quote the argument."""


def call_function(program: str, function: str, argument: Any, limits: Limits) -> Call:
    """Run Python source, call one function of it with a value that JSON has, and return what it returns.

    The value must be finite and at most some 60 kB as JSON. Raises SandboxUnavailable as `run_program` does.
    """
    report, timed_out = run_inside(_order(program, function, argument), limits, ("returned:", "raised:"))
    if report.startswith("returned:"):
        try:
            return Call("returned", json.loads(report.removeprefix("returned:")))
        except (ValueError, RecursionError):
            return Call("raised", where="a value that is no JSON")
    if report.startswith("raised:"):
        return Call("raised", where=_where(report.removeprefix("raised:"), program))
    return Call("timeout") if timed_out else Call("raised", where="an end before it returned")


def _where(said: str, program: str) -> str:
    name, _, line = said.partition(" in line ")
    kind = getattr(builtins, name, None)
    is_own = isinstance(kind, type) and issubclass(kind, BaseException)
    is_line = re.fullmatch("[0-9]{1,7}", line) is not None and int(line) <= program.count("\n") + 1
    return (name if is_own else "an exception") + (f" in line {line}" if is_line else "")


def _order(program: str, function: str | None, argument: Any) -> dict[str, Any]:
    return {
        "program": program,
        "function": function,
        "argument": argument,
        "most": _REPORT_BYTES - 100,
        "command": None,
        "placed": None,
        "shown": python_parts(),
    }


def run_inside(
    order: Mapping[str, Any], limits: Limits, reports: tuple[str, ...], descriptors: Sequence[int] = ()
) -> tuple[str, bool]:
    """What the run reported behind its nonce, and whether a time limit ended it. Raises SandboxUnavailable.

    order: see `inside.py`. reports: beginnings of what it may report beside "passed". descriptors: that it gets.
    """
    of_set_up, of_program = secrets.token_hex(16), secrets.token_hex(16)
    nonces = {"nonce": of_set_up, "program_nonce": of_program}
    whole = {**order, **nonces, "parent": os.getpid(), "limits": asdict(limits)}
    with _started(descriptors) as (process, report):
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # it ended at once; the report says why
            process.stdin.write(json.dumps(whole).encode())
            process.stdin.close()
        timed_out = _timed_out(process, limits.wall_seconds)
        reported = (report.read(_REPORT_BYTES) or b"").decode(errors="replace")
    nonce, _, said = reported.partition(":")
    for each in (of_set_up, of_program):
        said = said.partition(f"{each}:")[0]  # what comes first says more
    is_end = said == "passed" or said.startswith(reports)
    if nonce not in (of_set_up, of_program) or (nonce == of_program and not is_end):
        return "", timed_out  # a program finds its nonce where it looks for it, and may put any words behind it
    if is_end:
        return said, timed_out
    raise SandboxUnavailable(
        f"Code is run in the sandbox only within limits, and this machine does not allow one of them ({said}).",
        "Use Linux 5.12 or newer with seccomp filters and user, mount, network and process namespaces for this "
        "account: see docs/how-to/models.md. Or remove the suite or the reward from the "
        "recipe.",
    )


def require_sandbox() -> None:
    """Raise SandboxUnavailable when this machine cannot run programs, before answers are generated in vain."""
    if run_program("assert True") != "passed":
        raise SandboxUnavailable(
            "A program of one line does not run in the sandbox within its limits, so its verdicts cannot be trusted.",
            "Check the load of this machine.",
        )


@contextmanager
def _started(descriptors: Sequence[int]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """The process, and the reading end of its report. Nothing is left running.

    The report is read after the end, without waiting: a program that writes endlessly blocks on a full pipe instead of
    filling this process's memory.
    """
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
            pass_fds=(writing, *descriptors),
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
    """Wait for the end; True when a time limit ended it, wall-clock or processor."""
    try:
        return process.wait(timeout=wall_seconds) == OUT_OF_TIME
    except subprocess.TimeoutExpired:
        return True


@cache
def python_parts() -> list[str]:
    """What a Python program may read of this machine: Python, its standard library, and the shared libraries of both.

    Each library by itself: a directory of them (/usr/lib) holds packages and much else. Packages in the directory of
    the standard library are covered inside the sandbox.
    """
    listed = subprocess.run([*_PYTHON, "-c", _PARTS], cwd="/", env={}, stdout=subprocess.PIPE, check=False)
    if listed.returncode != 0:
        raise SandboxUnavailable(
            f"{_PYTHON[0]} could not list the files that it consists of.", "Check this installation of Python."
        )
    parts = [_PYTHON[0], *os.fsdecode(listed.stdout).splitlines()]
    # The list has no name for the program itself, and a part of the kernel in it (vdso) has no file.
    return [path for path in parts if Path(path).is_absolute() and Path(path).exists()]
