"""Which parts of this machine an executable file needs: its interpreter, and the shared libraries of both.

What belongs here: reading a script's first line and a binary's loader, and asking that loader for the libraries. What
does not: running the file (`command.py`).

The loader is asked inside the sandbox, for a binary may have the loader run code of its own (DT_AUDIT). What it answers
is believed only where it names a library in a directory of libraries.
"""

import os
import re
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.sandbox.command import in_tool, run_command
from sovereign_pipeline.sandbox.sandbox import Limits, python_parts

DIRECTORIES = ("/bin", "/lib", "/lib64", "/opt", "/sbin", "/usr")
"""Below these lie programs. Nothing else of this machine is shown to a command: no /etc, no home."""
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib")
LIBRARY_LIST = "/etc/ld.so.cache"
"""Where the loader of glibc looks names of libraries up; it holds nothing else."""

ELF, SCRIPT = b"\x7fELF", b"#!"
LONGEST_FIRST_LINE = 255
"""Characters of it that Linux reads (execve(2))."""
FIRST_HEADER, HEADER_SIZES, PROGRAM_HEADER, INTERPRETER = 32, 54, "<IIQQQQ", 3
"""Of a 64-bit ELF file (elf(5)): where it says where its headers lie and how large and how many they are; the beginning
of a program header, and the type of the one that names the loader."""
LISTING = Limits(wall_seconds=120.0)
LISTED = re.compile(rb"(?:^\s*|=> )(/\S+) \(0x", re.MULTILINE)


def interpreter_of(name: str, content: bytes) -> Path | None:
    """The interpreter that a script's first line names; None for a binary. Raises InputError for another file.

    name: of the file, for the message.
    """
    if content.startswith(ELF):
        return None
    first = content.partition(b"\n")[0][:LONGEST_FIRST_LINE]
    words = first.removeprefix(SCRIPT).split(maxsplit=1)
    if not first.startswith(SCRIPT) or not words:
        raise InputError(
            f"{name}: this file is neither a binary of Linux nor a script whose first line names its interpreter.",
            "Let its first line be '#!' and the interpreter's path, such as #!/bin/sh.",
        )
    path = Path(os.fsdecode(words[0]))
    if path.name == "env":
        raise InputError(
            f"{name}: its first line leaves it to {path} which interpreter is found.",
            "Name the interpreter itself, such as #!/usr/bin/awk -f: its digest is part of the identity.",
        )
    return path


def parts_of(name: str, content: bytes, uses: Sequence[Path]) -> list[str]:
    """What must be shown so that the file `/tool/name` runs: its interpreter or its libraries, and what it uses.

    Raises InputError for a part that may not be shown or is not there, and SandboxUnavailable.
    """
    interpreter = interpreter_of(name, content)
    if interpreter is None:
        found = _libraries(in_tool(name), content, is_placed=True)
    else:
        found = [*_parts_of_machine(interpreter)]
        if not _is_own_python(interpreter) and not interpreter.read_bytes().startswith(ELF):
            raise InputError(f"{name}: its interpreter {interpreter} is itself a script.", "Name that one's.")
    found += [part for path in uses for part in _parts_of_machine(path)]
    return [*dict.fromkeys(found)]


def assert_may_be_shown(path: Path) -> None:
    """Raise InputError for a path of this machine that is no program, or lies where no programs lie."""
    if _is_own_python(path):
        return
    real = Path(os.path.realpath(path))
    if not path.is_absolute() or ".." in path.parts or not any(Path(each) in real.parents for each in DIRECTORIES):
        raise InputError(
            f"{path}: a command may use only what lies below {', '.join(DIRECTORIES)}, and this pipeline's own Python "
            f"by the path {python_parts()[0]}.",
            "Name another path.",
        )
    if not real.exists():
        raise InputError(
            f"{path}: this machine has no such file, and a command needs it.", "Install it, or correct it."
        )


@cache
def _parts_of_machine(path: Path) -> tuple[str, ...]:
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
    """The loader that a binary names, and the libraries that this loader finds for it; none for a static one."""
    loader = _loader_of(program, content)
    if loader is None:
        return []
    if not _is_library(loader):
        raise InputError(f"{program}: its loader {loader} is none of this machine's.", "Link it on such a machine.")
    shown = [loader, *(path for path in (LIBRARY_LIST, *LIBRARIES) if Path(path).exists())]
    placed = {Path(program).name: content} if is_placed else {}
    end = run_command([loader, "--list", program], placed, shown if is_placed else [*shown, program], "", LISTING)
    if end.status != 0 or b"=> not found" in end.output:
        raise InputError(
            f"{program}: the loader {loader} does not find the shared libraries of this binary.",
            "Install them, or link it statically.",
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
            f"{program}: this binary is not one of this machine.", "Build it for Linux, 64 bits."
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
