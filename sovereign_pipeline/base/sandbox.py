"""Run an untrusted program without network access and within limits."""

import builtins
import json
import os
import re
import secrets
import signal
import socket
import struct
import subprocess
import sys
from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, Literal

from sovereign_pipeline.base.errors import InputError, SandboxUnavailable
from sovereign_pipeline.base.sandbox_child import OUT_OF_TIME, TOOL

INSIDE = Path(__file__).with_name("sandbox_child.py")

# Python with the standard library alone, without the virtual environment.
_PYTHON = [os.path.realpath(sys.executable), "-P", "-s", "-S", "-B"]

# Prints this Python's module directories, and the paths of the shared libraries that its modules load.
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
for library in sys.argv[1:]:
    ctypes.CDLL(library)
ctypes.CDLL(None).dl_iterate_phdr(show, None)
"""

_LIBRARIES_OF_PACKAGES = ("libgcc_s.so.1", "libstdc++.so.6", "librt.so.1", "libpthread.so.0", "libdl.so.2")
"""Shared libraries of the system that compiled packages need."""

Ending = Literal["passed", "failed", "timeout"]

_REPORT_BYTES = 60_000
"""Maximum size of a run's report, in bytes. A Linux pipe's buffer is at least as large (pipe(7)), so writing a report
never blocks."""


@dataclass(frozen=True)
class Limits:
    """The resource limits of a program in the sandbox. (Chen et al. 2021, Evaluating Large Language Models Trained on
    Code, allow 3 s of wall-clock time.)"""

    cpu_seconds: int = 3
    """Processor seconds of each process."""
    wall_seconds: float = 20.0
    """Wall-clock seconds of the run. The limit is generous, so that other load on the machine does not change a
    verdict."""
    memory_bytes: int = 512 << 20
    """Address space of each process, in bytes."""
    file_bytes: int = 1 << 20
    """Size of one file, in bytes."""
    disk_bytes: int = 4 << 20
    """Total size of all files, in bytes."""
    files: int = 16
    """Maximum number of files that exist at the same time."""
    processes: int = 8
    """Maximum number of processes and threads at the same time, including up to three of the sandbox itself."""


def run_program(program: str, limits: Limits | None = None) -> Ending:
    """Run Python source. Returns "passed" if the program ran to its last line without an exception, "timeout" if a time
    limit ended the program, and otherwise "failed".

    Output is discarded. An exit before the last line (`sys.exit(0)`, `os._exit(0)`) is "failed", because success is
    reported only after the last line. Raises SandboxUnavailable, and runs nothing, if this machine cannot enforce a
    limit.
    """
    report, timed_out = run_inside(_order(program, None, None), limits or Limits(), ())
    if report == "passed":
        return "passed"
    return "timeout" if timed_out else "failed"


@dataclass(frozen=True)
class Call:
    ending: Literal["returned", "raised", "timeout"]
    value: Any = None
    """The function's return value, decoded from JSON."""
    where: str = ""
    """Reason why nothing was returned, such as "KeyError in line 3". Only built-in exceptions are named: the
    exception's message and the program's own class names may quote the argument. Empty unless `ending` is "raised"."""


def call_function(program: str, function: str, argument: Any, limits: Limits) -> Call:
    """Run Python source, then call one of its functions with a JSON value. The function must return finite JSON of at
    most about 60 kB. Raises SandboxUnavailable in the same cases as `run_program`."""
    report, timed_out = run_inside(_order(program, function, argument), limits, ("returned:", "raised:"))
    if report.startswith("returned:"):
        try:
            return Call("returned", json.loads(report.removeprefix("returned:")))
        except (ValueError, RecursionError):
            return Call("raised", where="a value that is not JSON")
    if report.startswith("raised:"):
        return Call("raised", where=_where(report.removeprefix("raised:"), program))
    return Call("timeout") if timed_out else Call("raised", where="an exit before it returned")


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
    """Run an order in the sandbox. Return two values: the report without its nonce, or "" if there is no accepted
    report; and whether a time limit ended the run.

    Raises SandboxUnavailable if this machine cannot enforce a limit.

    Args:
        order: the order, as described in `sandbox_child.py`.
        reports: prefixes of the accepted reports, besides "passed".
        descriptors: file descriptors that the run inherits.
    """
    of_set_up, of_program = secrets.token_hex(16), secrets.token_hex(16)
    nonces = {"nonce": of_set_up, "program_nonce": of_program}
    whole = {**order, **nonces, "parent": os.getpid(), "limits": asdict(limits)}
    with _started(descriptors) as (process, report):
        assert process.stdin is not None
        with suppress(BrokenPipeError):  # the process ended at once; its report says why
            process.stdin.write(json.dumps(whole).encode())
            process.stdin.close()
        timed_out = _timed_out(process, limits.wall_seconds)
        reported = (report.read(_REPORT_BYTES) or b"").decode(errors="replace")
    nonce, _, said = reported.partition(":")
    for each in (of_set_up, of_program):
        said = said.partition(f"{each}:")[0]  # keep the text before the next nonce
    is_end = said == "passed" or said.startswith(reports)
    if nonce not in (of_set_up, of_program) or (nonce == of_program and not is_end):
        return "", timed_out  # A program can find its nonce in memory, and could write anything after it.
    if is_end:
        return said, timed_out
    raise SandboxUnavailable(
        f"This machine cannot enforce one of the sandbox's limits ({said}).",
        "Use Linux 5.12 or newer with seccomp filters and user, mount, network and process namespaces for this "
        "account: see docs/how-to/models.md. Or remove the suite or the reward from the "
        "recipe.",
    )


@contextmanager
def conversation(
    program: str, mounted: Mapping[str, Path], limits: Limits, shown: Sequence[str] = ()
) -> Iterator[socket.socket]:
    """Run Python source, call its function `main` with the descriptor of a socket, and yield the socket's other end.

    The program sees an empty /tmp and, read-only, the paths in `mounted` (path in the sandbox -> path on this machine)
    and in `shown` (the same path in both). The program must first send one byte. Each receive on the yielded socket
    waits at most `limits.wall_seconds`. Raises SandboxUnavailable if the program does not start, or does not send the
    byte in that time.
    """
    ours, theirs = socket.socketpair()
    with ours, _started((theirs.fileno(),)) as (process, report):
        nonces = {"nonce": secrets.token_hex(16), "program_nonce": secrets.token_hex(16)}
        order = {**_order(program, "main", theirs.fileno()), **nonces, "parent": os.getpid(), "limits": asdict(limits)}
        order |= {
            "shown": [*python_parts(*_LIBRARIES_OF_PACKAGES), *shown],
            "mounted": {at: str(at_) for at, at_ in mounted.items()},
        }
        theirs.close()
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(order).encode())
            process.stdin.close()
        ours.settimeout(limits.wall_seconds)
        try:
            started = ours.recv(1) != b""
        except TimeoutError:
            raise SandboxUnavailable(
                f"A program did not start in the sandbox within {limits.wall_seconds:g} s.",
                "Check the load of this machine.",
            ) from None
        if not started:
            said = (report.read(_REPORT_BYTES) or b"").decode(errors="replace").partition(":")[2]
            raise SandboxUnavailable(f"The sandbox of this machine cannot start a program ({said[:200]}).")
        yield ours


def require_sandbox() -> None:
    """Raise SandboxUnavailable if this machine cannot run programs in the sandbox. Call before generating answers."""
    if run_program("assert True") != "passed":
        raise SandboxUnavailable(
            "A test program of one line does not run in the sandbox within its limits, so verdicts cannot be trusted.",
            "Check the load of this machine.",
        )


@contextmanager
def _started(descriptors: Sequence[int]) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """Start the sandbox's process, and yield the process with the read end of the pipe for its report. At the end, kill
    all processes of the sandbox.

    The report is read after the process has ended, without waiting. A program that writes endlessly blocks on a full
    pipe and cannot fill this process's memory.
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
        # The session holds the sandbox's first process and the init of its process namespace. When that init ends, the
        # kernel kills every process of the namespace, regardless of its session (pid_namespaces(7)).
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        report.close()


def _timed_out(process: "subprocess.Popen[bytes]", wall_seconds: float) -> bool:
    """Wait for the process. Return True if a limit on wall-clock or processor time ended it."""
    try:
        return process.wait(timeout=wall_seconds) == OUT_OF_TIME
    except subprocess.TimeoutExpired:
        return True


@cache
def python_parts(*libraries: str) -> list[str]:
    """Return the paths that a Python program may read: the interpreter, the standard library, their shared libraries,
    and the shared libraries in `libraries`.

    Each shared library is listed separately, because its directory (/usr/lib) also contains packages. The sandbox hides
    the packages in the directory of the standard library. Raises SandboxUnavailable if Python cannot list the paths.
    """
    listed = subprocess.run([*_PYTHON, "-c", _PARTS, *libraries], cwd="/", env={}, stdout=subprocess.PIPE, check=False)
    if listed.returncode != 0:
        raise SandboxUnavailable(
            f"{_PYTHON[0]} could not list the files that it consists of.", "Check this installation of Python."
        )
    parts = [_PYTHON[0], *os.fsdecode(listed.stdout).splitlines()]
    # The list has an empty name for the program itself, and an entry (vdso) that has no file.
    return [path for path in parts if Path(path).is_absolute() and Path(path).exists()]


@dataclass(frozen=True)
class CommandEnd:
    ending: Literal["ended", "timeout"]
    status: int | None = None
    """Exit status, or the negative number of the signal. None after a timeout, or if the sandbox ended before it could
    report."""
    output: bytes = b""
    """Standard output, truncated one byte after the file size limit."""


def run_command(
    command: Sequence[str], placed: Mapping[str, bytes], shown: Sequence[str], given: str, limits: Limits
) -> CommandEnd:
    """Run an executable file with its arguments. Raises SandboxUnavailable in the same cases as `run_program`.

    Args:
        command: the executable's path inside the sandbox, and its arguments.
        placed: content of each file in /tool, by name.
        shown: paths of this machine that the command may read.
        given: text for standard input.
        limits: resource limits. The file size limit also applies to standard output.
    """
    output = os.memfd_create("output")
    try:
        order = {
            "command": [*command],
            "placed": {name: b64encode(content).decode() for name, content in placed.items()},
            # Outer directories first: the sandbox then skips the paths below them.
            "shown": sorted(shown, key=lambda path: (not Path(path).is_dir(), len(path))),
            "given": given,
            "output": output,
        }
        report, timed_out = run_inside(order, limits, ("ended:",), (output,))
        if timed_out:
            return CommandEnd("timeout")
        if not report:
            return CommandEnd("ended")
        written = os.pread(output, limits.file_bytes + 1, 0)
        return CommandEnd("ended", int(report.removeprefix("ended:")), written)
    finally:
        os.close(output)


def in_tool(name: str) -> str:
    return f"{TOOL}/{name}"


DIRECTORIES = ("/bin", "/lib", "/lib64", "/opt", "/sbin", "/usr")
"""Directories of programs. A command cannot read other directories of this machine, such as /etc or home
directories."""
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
LIBRARY_LIST = "/etc/ld.so.cache"
"""File in which glibc's loader looks up the paths of libraries."""

ELF, SCRIPT = b"\x7fELF", b"#!"
LONGEST_FIRST_LINE = 255
"""Maximum length of a script's first line, in characters. Linux ignores the rest of the line (execve(2))."""
FIRST_HEADER, HEADER_SIZES, PROGRAM_HEADER, INTERPRETER = 32, 54, "<IIQQQQ", 3
"""Layout of a 64-bit ELF file (elf(5)): offset of the program headers' offset, offset of their size and count, format
of the start of a program header, and type of the header that names the loader."""
LISTING = Limits(wall_seconds=120.0)
LISTED = re.compile(rb"(?:^\s*|=> )(/\S+) \(0x", re.MULTILINE)


def interpreter_of(name: str, content: bytes) -> Path | None:
    """Return the interpreter in a script's first line, or None for an ELF file. Raises InputError for any other file,
    and for a script whose first line names `env`.

    Args:
        name: the file's name, for the message.
    """
    if content.startswith(ELF):
        return None
    first = content.partition(b"\n")[0][:LONGEST_FIRST_LINE]
    words = first.removeprefix(SCRIPT).split(maxsplit=1)
    if not first.startswith(SCRIPT) or not words:
        raise InputError(
            f"{name}: this file is neither a Linux binary nor a script with an interpreter in its first line.",
            "Begin the script with '#!' and the interpreter's path, such as #!/bin/sh.",
        )
    path = Path(os.fsdecode(words[0]))
    if path.name == "env":
        raise InputError(
            f"{name}: its first line lets {path} choose the interpreter.",
            "Write the interpreter's own path, such as #!/usr/bin/awk -f. The interpreter's digest is part of the "
            "adapter's identity.",
        )
    return path


def parts_of(name: str, content: bytes, uses: Sequence[Path]) -> list[str]:
    """Return the paths that the file `/tool/name` needs: its interpreter or its libraries, and the paths in `uses`.
    Raises InputError if the file is neither a binary nor a script for this machine, if its interpreter is itself a
    script, or if a path is missing or outside `DIRECTORIES`. Raises SandboxUnavailable if this machine cannot enforce a
    limit."""
    interpreter = interpreter_of(name, content)
    if interpreter is None:
        found = _libraries(in_tool(name), content, is_placed=True)
    else:
        found = [*parts_of_machine(interpreter)]
        if not _is_own_python(interpreter) and not interpreter.read_bytes().startswith(ELF):
            raise InputError(
                f"{name}: its interpreter {interpreter} is itself a script.",
                "Write the path of the script's own interpreter instead.",
            )
    found += [part for path in uses for part in parts_of_machine(path)]
    return [*dict.fromkeys(found)]


def assert_may_be_shown(path: Path) -> None:
    """Raise InputError if a path is missing or outside `DIRECTORIES`. This pipeline's own Python is always allowed."""
    if _is_own_python(path):
        return
    real = Path(os.path.realpath(path))
    if not path.is_absolute() or ".." in path.parts or not any(Path(each) in real.parents for each in DIRECTORIES):
        raise InputError(
            f"{path}: a command may use only files below {', '.join(DIRECTORIES)}, and this pipeline's own Python, "
            f"{python_parts()[0]}.",
            "Choose another path.",
        )
    if not real.exists():
        raise InputError(
            f"{path}: a command needs this file, but it does not exist.", "Install the file, or correct the path."
        )


@cache
def parts_of_machine(path: Path) -> tuple[str, ...]:
    """Return the path of a program or directory of this machine, with the program's libraries. Raises the errors of
    `parts_of`."""
    assert_may_be_shown(path)
    if _is_own_python(path):
        return tuple(python_parts())
    if path.is_dir():
        return (str(path),)
    content = path.read_bytes()
    return (str(path), *(_libraries(str(path), content, is_placed=False) if content.startswith(ELF) else ()))


def _is_own_python(path: Path) -> bool:
    return str(path) == python_parts()[0]


def _libraries(program: str, content: bytes, *, is_placed: bool) -> list[str]:
    """Return the paths of a binary's loader and shared libraries. The list is empty for a static binary."""
    loader = _loader_of(program, content)
    if loader is None:
        return []
    if not _is_library(loader):
        raise InputError(
            f"{program}: its loader {loader} does not exist on this machine.",
            "Build the program on a machine like this one.",
        )
    shown = [loader, *(path for path in (LIBRARY_LIST, *LIBRARIES) if Path(path).exists())]
    placed = {Path(program).name: content} if is_placed else {}
    end = run_command([loader, "--list", program], placed, shown if is_placed else [*shown, program], "", LISTING)
    if end.status != 0 or b"=> not found" in end.output:
        raise InputError(
            f"{program}: the loader {loader} does not find the shared libraries of this binary.",
            "Install the libraries, or link the program statically.",
        )
    listed = [os.fsdecode(path) for path in LISTED.findall(end.output)]
    return [loader, *(path for path in (LIBRARY_LIST,) if Path(path).exists()), *filter(_is_library, listed)]


def _loader_of(program: str, binary: bytes) -> str | None:
    try:
        if binary[len(ELF)] != 2:
            raise struct.error
        (first,) = struct.unpack_from("<Q", binary, FIRST_HEADER)
        size, count = struct.unpack_from("<HH", binary, HEADER_SIZES)
        for number in range(count):
            kind, _, start, _, _, length = struct.unpack_from(PROGRAM_HEADER, binary, first + number * size)
            if kind == INTERPRETER:
                return os.fsdecode(binary[start : start + length].rstrip(b"\0"))
    except (struct.error, IndexError):
        raise InputError(
            f"{program}: this binary is for another machine type.", "Build the program for 64-bit Linux."
        ) from None
    return None


def _is_library(path: str) -> bool:
    real = os.path.realpath(path)
    if ".." in Path(path).parts:
        return False
    directories = [os.path.realpath(each) for each in LIBRARIES]
    return (
        any(real.startswith(f"{each}/") for each in directories)
        and re.search(r"\.so(\.|$)", Path(path).name) is not None
        and Path(real).is_file()
    )
