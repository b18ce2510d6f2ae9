"""Running an executable file of the institution in the sandbox: rows on standard input, lines on standard output.

What belongs here: what a command is given and shows, and how it ends. What does not: which parts of this machine it
needs (`machine.py`), and what its lines mean (`training/rlhf/rewards.py`).

A command has the limits, namespaces and refused calls of every program here (`sandbox.py`). It sees its own files in
/tool, the parts of this machine that it is shown, /dev/null, and an empty /tmp, which is its working directory and ends
with it. Standard input and output are files in memory, so that neither blocks; what it writes to standard error goes
nowhere, for it may quote what it was given.
"""

import os
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sovereign_pipeline.sandbox.inside import TOOL
from sovereign_pipeline.sandbox.sandbox import Limits, run_inside


@dataclass(frozen=True)
class CommandEnd:
    """How a command ended."""

    ending: Literal["ended", "timeout"]
    status: int | None = None
    """Exit status, or the signal as a negative number; None where the sandbox ended before it could tell."""
    output: bytes = b""
    """Standard output, up to the limit on one file and one byte more."""


def run_command(
    command: Sequence[str], placed: Mapping[str, bytes], shown: Sequence[str], given: str, limits: Limits
) -> CommandEnd:
    """Run an executable file with its arguments. Raises SandboxUnavailable as `run_program` does.

    Args:
        command: its path as the sandbox has it, and its arguments.
        placed: name -> content of the files in /tool.
        shown: paths of this machine that it may read, each by itself.
        given: what it reads from its standard input.
        limits: of each file, that on standard output too.
    """
    output = os.memfd_create("output")
    try:
        order = {
            "command": [*command],
            "placed": {name: b64encode(content).decode() for name, content in placed.items()},
            # Directories first, and the outer ones: what lies in one of them is there with it.
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
    """The path of a placed file, as the sandbox has it."""
    return f"{TOOL}/{name}"
