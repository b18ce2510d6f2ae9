"""Running a script in the sandbox as a command."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from sovereign_pipeline.base.sandbox import (
    CommandEnd,
    Limits,
    in_tool,
    parts_of,
    python_parts,
    run_command,
    run_program,
)
from sovereign_pipeline_tests.waiting import SECONDS

ROOM = Limits(cpu_seconds=60, wall_seconds=SECONDS)
SHELL = "#!/bin/sh\n"


def python(program: str) -> str:
    """A script for this pipeline's own Python."""
    return f"#!{python_parts()[0]} -S\n{textwrap.dedent(program)}"


def end_of(
    script: str | bytes,
    given: str = "",
    *arguments: str,
    name: str = "check",
    files: Mapping[str, bytes] | None = None,
    uses: Sequence[str] = (),
    limits: Limits = ROOM,
) -> CommandEnd:
    content = script if isinstance(script, bytes) else script.encode()
    shown = parts_of(name, content, [Path(path) for path in uses])
    return run_command([in_tool(name), *arguments], {**(files or {}), name: content}, shown, given, limits)


def outcome_of(program: str, limits: Limits | None = None) -> str:
    """With time enough on a busy machine, where a test does not limit it."""
    return run_program(textwrap.dedent(program), limits or Limits(wall_seconds=SECONDS))
