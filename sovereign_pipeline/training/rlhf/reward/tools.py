"""A reward's tool: its program and files by digest, one run in the sandbox for each batch, and the cache of its scores.

What belongs here: what a tool is given, what it may return, and what its failures mean. A tool that fails or is too
slow is an error, never a low reward: the policy would learn whatever made it fail. What does not: what is particular to
a command (`commands.py`), and putting several parts together (`rewards.py`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError, TrainingFailed
from sovereign_pipeline.base.files import digest_of, file_sha256, short
from sovereign_pipeline.policy.training.rlhf import Rlhf, Tool
from sovereign_pipeline.sandbox.sandbox import Limits, call_function
from sovereign_pipeline.training.rlhf.reward.commands import CommandTool, machine_digests, scores_in

CLOCK_FACTOR = 3
"""Times the processor's seconds: so long by the clock that a busy machine does not decide."""


@dataclass(frozen=True)
class Reply:
    """A reply that is to be judged."""

    prompt: str
    """The whole user message."""
    text: str
    columns: Mapping[str, str]
    """Of its document; a tool gets those that it asks for."""
    ids: tuple[int, ...] | None = None
    """Token ids as the policy wrote them, the end of turn included where it has one. None: a text that nobody sampled,
    which is a whole reply."""


def code_digests(data: Path, rlhf: Rlhf) -> dict[str, str]:
    """Path as in the recipe -> SHA-256, of every program and file of the section's tools, and of what commands need of
    this machine. Raises InputError for what is not there or cannot be run."""
    found: dict[str, str] = {}
    for path in _named(rlhf):
        file = data / path
        if not file.is_file():
            raise NotFoundError(f"{file}: there is no such file, and a tool in training.rlhf names it.", "Correct it.")
        found[str(path)] = file_sha256(file)
    for tool in rlhf.tools:
        if tool.command is not None:
            found |= machine_digests(tool, (data / tool.program).read_bytes())
    return found


def _named(rlhf: Rlhf) -> list[Path]:
    return [*dict.fromkeys(path for tool in rlhf.tools for path in tool.named)]


def copy_code(data: Path, rlhf: Rlhf, directory: Path) -> dict[str, str]:
    """Copy every program and file under its SHA-256, for the trainer alone; returns `code_digests` of the copies."""
    directory.mkdir()
    found = code_digests(data, rlhf)
    for path in _named(rlhf):
        content = (data / path).read_bytes()
        found[str(path)] = sha256(content).hexdigest()
        (directory / found[str(path)]).write_bytes(content)
    return found


class ScoreCache:
    """Scores by the digest of everything that decides them: a file of lines, each with its own digest.

    An interrupted training reads what was scored already. A torn last line, of a process that was killed, is left
    out.
    """

    def __init__(self, path: Path) -> None:
        """Raises IntegrityError for a line that was changed."""
        self._path = path
        self._scores: dict[str, float | None] = {}
        lines = path.read_bytes().split(b"\n") if path.is_file() else [b""]
        for number, line in enumerate(lines[:-1], start=1):
            try:
                key, score, digest = json.loads(line)
                is_whole = digest == digest_of([key, score])
            except (ValueError, TypeError):
                is_whole = False
            if not is_whole:
                raise IntegrityError(
                    f"{path}, line {number}: a cached score is not as the trainer wrote it.",
                    "Delete the file; what it holds is scored again.",
                )
            self._scores[key] = score
        if lines[-1]:
            path.write_bytes(b"".join(line + b"\n" for line in lines[:-1]))

    def __contains__(self, key: str) -> bool:
        return key in self._scores

    def __getitem__(self, key: str) -> float | None:
        return self._scores[key]

    def add(self, scores: Mapping[str, float | None]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as stream:
            stream.write(
                b"".join(
                    json.dumps([key, score, digest_of([key, score])]).encode() + b"\n" for key, score in scores.items()
                )
            )
        self._scores.update(scores)


class ToolRunner:
    """One tool, ready to judge."""

    def __init__(self, name: str, tool: Tool, code: Mapping[str, str], directory: Path, cache: Path) -> None:
        """name: of the part of the reward. code, directory: see `copy_code`. cache: directory of the cached scores.

        Raises IntegrityError when a copy, or what a command needs of this machine, is not what the job states.
        """
        self.name = name
        self._tool = tool
        identity: dict[str, Any] = {
            "program": code[str(tool.program)],
            "files": {path.name: code[str(path)] for path in tool.files},
            "columns": sorted(tool.columns),
        }
        self._command: CommandTool | None = None
        if tool.command is None:
            self._program = _text(directory, code, tool.program)
            self._files = {path.name: _text(directory, code, path) for path in tool.files}
            identity["function"] = tool.function
        else:
            self._command = CommandTool(tool, {path.name: _read(directory, code, path) for path in tool.named}, code)
            identity |= {"command": tool.command, "machine": self._command.machine}
        self.identity = digest_of(identity)
        """Digest of what decides its scores, but the replies."""
        self._cache = ScoreCache(cache / f"{self.identity}.jsonl")

    def scores(self, replies: Sequence[Reply]) -> list[float | None]:
        """Of each reply a number from 0 to 1, or None where the tool abstains: cached, or from one run of the tool.

        Raises TrainingFailed when the tool fails, takes too long or returns anything else; SandboxUnavailable when this
        machine cannot run it.
        """
        rows = [self._row(reply) for reply in replies]
        keys = [digest_of([self.identity, row]) for row in rows]
        unknown = {key: row for key, row in zip(keys, rows, strict=True) if key not in self._cache}
        if unknown:
            found = self._run([*unknown.values()])
            self._cache.add(dict(zip(unknown, found, strict=True)))
        return [self._cache[key] for key in keys]

    def _row(self, reply: Reply) -> dict[str, str]:
        columns: dict[str, str] = {name: reply.columns[name] for name in self._tool.columns}
        return {**columns, "prompt": reply.prompt, "reply": reply.text}

    def _run(self, rows: list[dict[str, str]]) -> list[float | None]:
        limits = Limits(
            cpu_seconds=self._tool.seconds,
            wall_seconds=CLOCK_FACTOR * self._tool.seconds,
            memory_bytes=self._tool.memory_mib << 20,
        )
        place = f"training.rlhf, tool of '{self.name}' ({self._tool.program}), on {len(rows)} replies"
        if self._command is not None:
            end = self._command.run(rows, limits)
            if end.ending == "timeout":
                raise self._too_slow(place)
            return scores_in(end, len(rows), limits, place)
        # A function of two arguments is called by one of one, since the sandbox hands over one value.
        program, function, argument = self._program, self._tool.function, rows
        handed: Any = argument
        if self._files:
            program += f"\n\ndef _called(given):\n    return {function}(given[0], given[1])\n"
            function, handed = "_called", [argument, self._files]
        call = call_function(program, function, handed, limits)
        if call.ending == "timeout":
            raise self._too_slow(place)
        if call.ending == "raised":
            raise TrainingFailed(
                f"{place}: it failed with {call.where}.",
                "Correct the tool, or have it return None for what it cannot judge. A failure never counts as a low "
                "reward.",
            )
        if not isinstance(call.value, list) or len(call.value) != len(rows) or not all(map(_is_score, call.value)):
            raise TrainingFailed(
                f"{place}: it must return a list with a number from 0 to 1, or None, for each reply.",
                "Correct the tool.",
            )
        return [None if score is None else float(score) for score in call.value]

    def _too_slow(self, place: str) -> TrainingFailed:
        return TrainingFailed(
            f"{place}: it did not end within {self._tool.seconds} s of processor, or {CLOCK_FACTOR} times as much by "
            f"the clock.",
            "Make it faster, or raise its seconds. A tool that is too slow never counts as a low reward.",
        )


def _is_score(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1)


def _text(directory: Path, code: Mapping[str, str], path: Path) -> str:
    try:
        return _read(directory, code, path).decode()
    except UnicodeDecodeError:
        raise TrainingFailed(f"{path}: a function's program and files must be text in UTF-8.", "Save it so.") from None


def _read(directory: Path, code: Mapping[str, str], path: Path) -> bytes:
    content = (directory / code[str(path)]).read_bytes()
    if sha256(content).hexdigest() != code[str(path)]:
        raise IntegrityError(f"{directory}: the copy of {path} is not {short(code[str(path)])}.", "Run again.")
    return content
