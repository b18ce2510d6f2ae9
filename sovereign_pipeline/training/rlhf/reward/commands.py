"""A reward's tool that is a command: what of this machine it needs, by digest, and the numbers in what it writes.

What belongs here: what a command is given, and what its lines and its end mean. What does not: running it
(`sandbox/command.py`), and the cache and time limit of every tool (`tools.py`).
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from sovereign_pipeline.base.errors import InputError, IntegrityError, TrainingFailed
from sovereign_pipeline.base.files import digest_of, file_sha256, short
from sovereign_pipeline.policy.training.rlhf import Tool
from sovereign_pipeline.sandbox.command import CommandEnd, in_tool, run_command
from sovereign_pipeline.sandbox.inside import PACKAGES
from sovereign_pipeline.sandbox.machine import assert_may_be_shown, interpreter_of, parts_of
from sovereign_pipeline.sandbox.sandbox import Limits

LARGEST = 64 << 20
"""Bytes of a command with its files: they are handed to each run."""
SCORE = re.compile(rb"(null)|(?:0|[1-9][0-9]{0,30})(?:\.[0-9]{1,40})?(?:[eE][+-]?[0-9]{1,3})?")
"""Null, or a number of JSON that is not negative."""
CORRECT = "Correct the tool, or have it write null for what it cannot judge. A failure never counts as a low reward."


def machine_digests(tool: Tool, program: bytes) -> dict[str, str]:
    """Path -> SHA-256 of what the command needs of this machine: its interpreter, and what it uses.

    Shared libraries are not part of it. Raises InputError for a path that is not there or may not be shown.
    """
    interpreter = interpreter_of(str(tool.program), program)
    paths = [*([interpreter] if interpreter is not None else []), *tool.uses]
    return {str(path): _digest(path) for path in paths}


def _digest(path: Path) -> str:
    """Of a file's bytes, or of all files below a directory, but for packages, which are covered in the sandbox."""
    assert_may_be_shown(path)
    try:
        if not path.is_dir():
            return file_sha256(path)
        inside = ((each.relative_to(path), each) for each in sorted(path.rglob("*")))
        return digest_of(
            {
                str(name): f"-> {each.readlink()}" if each.is_symlink() else file_sha256(each)
                for name, each in inside
                if name.parts[0] not in PACKAGES and (each.is_symlink() or each.is_file())
            }
        )
    except OSError as error:
        raise InputError(
            f"{path}: a part of it cannot be read ({type(error).__name__}), and a command in training.rlhf uses it.",
            "Name another path.",
        ) from None


class CommandTool:
    """A command, ready to be run."""

    def __init__(self, tool: Tool, files: Mapping[str, bytes], code: Mapping[str, str]) -> None:
        """files: name -> content of command and files. code: path -> digest, as `code_digests` gives it.

        Raises IntegrityError when this machine's parts are not those of `code`, InputError for a part that is missing.
        """
        assert tool.command is not None
        program = files[tool.program.name]
        if sum(map(len, files.values())) > LARGEST:
            raise InputError(
                f"{tool.program}: the command and its files are larger than {LARGEST >> 20} MiB.", "Make them smaller."
            )
        self._tool = tool
        self.machine = self._machine(program, code)
        """Path -> SHA-256 of what it needs of this machine."""
        self._command = [in_tool(tool.program.name), *tool.command[1:]]
        self._files = files
        self._shown = parts_of(tool.program.name, program, tool.uses)

    def run(self, rows: Sequence[Mapping[str, str]], limits: Limits) -> CommandEnd:
        """Give it the rows, each a line of JSON. Raises SandboxUnavailable, and IntegrityError when this machine's
        parts are no longer what they were: a training takes hours, and a package may be upgraded meanwhile."""
        lines = (json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows)
        given = "".join(lines).encode(errors="replace").decode()
        end = run_command(self._command, self._files, self._shown, given, limits)
        self._machine(self._files[self._tool.program.name], self.machine)
        return end

    def _machine(self, program: bytes, code: Mapping[str, str]) -> dict[str, str]:
        found = machine_digests(self._tool, program)
        for path, digest in found.items():
            if digest != code.get(path):
                raise IntegrityError(
                    f"{path}: on this machine it is {short(digest)}, and the training by reward was prepared with "
                    f"another one.",
                    "Train where it was prepared, or run again.",
                )
        return found


def scores_in(end: CommandEnd, replies: int, limits: Limits, place: str) -> list[float | None]:
    """The numbers that a command wrote, a line for each reply.

    Raises TrainingFailed for any other end and any other line, and quotes none of them: they may hold replies.
    """
    if end.status != 0:
        raise TrainingFailed(f"{place}: it {_how(end.status)}.", CORRECT)
    if len(end.output) >= limits.file_bytes:
        raise TrainingFailed(f"{place}: it wrote {limits.file_bytes} bytes or more.", CORRECT)
    lines = end.output.removesuffix(b"\n").split(b"\n") if end.output else []
    if len(lines) != replies:
        raise TrainingFailed(
            f"{place}: it wrote {len(lines)} lines to its standard output, and there must be one for each reply.",
            CORRECT,
        )
    return [_score(line.strip(), number, place) for number, line in enumerate(lines, start=1)]


def _score(line: bytes, number: int, place: str) -> float | None:
    found = SCORE.fullmatch(line)
    score = None if found is None or found[1] else float(line)
    if found is None or (score is not None and score > 1):
        raise TrainingFailed(
            f"{place}: line {number} of its standard output is neither a number from 0 to 1 nor null.", CORRECT
        )
    return score


def _how(status: int | None) -> str:
    if status is None:
        return "was ended with its sandbox"
    return f"ended with exit status {status}" if status > 0 else f"was ended by signal {-status}"
