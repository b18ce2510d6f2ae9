"""A reward's tool: its program and files by digest, one run in the sandbox for each batch, and the cache of its scores.

What belongs here: what a tool is given, what it may return, and what its failures mean. A tool that fails or is too
slow is an error, never a low reward: the policy would learn whatever made it fail. What does not: putting several parts
together (`rewards.py`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.hashing import digest_of, file_sha256, short
from sovereign_pipeline.errors import IntegrityError, NotFoundError, TrainingFailed
from sovereign_pipeline.policy.rlhf import Rlhf, Tool
from sovereign_pipeline.sandbox.sandbox import Limits, call_function

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


def code_digests(data: Path, rlhf: Rlhf) -> dict[str, str]:
    """Path as in the recipe -> SHA-256, of every program and file of the section's tools. Raises NotFoundError."""
    found: dict[str, str] = {}
    for path in dict.fromkeys(path for tool in rlhf.tools for path in (tool.path, *tool.files)):
        file = data / path
        if not file.is_file():
            raise NotFoundError(f"{file}: there is no such file, and a tool in training.rlhf names it.", "Correct it.")
        found[str(path)] = file_sha256(file)
    return found


def copy_code(data: Path, rlhf: Rlhf, directory: Path) -> dict[str, str]:
    """Copy every program and file under its SHA-256, for the trainer alone; returns `code_digests` of the copies."""
    directory.mkdir()
    found = {}
    for path in code_digests(data, rlhf):
        content = (data / path).read_bytes()
        found[path] = sha256(content).hexdigest()
        (directory / found[path]).write_bytes(content)
    return found


class ScoreCache:
    """Scores by the digest of everything that decides them: a file of lines, each with its own digest.

    An interrupted training reads what its tool said already. A torn last line, of a process that was killed, is left
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
                    "Delete the file; the tool will be asked again.",
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

        Raises IntegrityError when a copy is not what the job states.
        """
        self.name = name
        self._tool = tool
        self._program = _read(directory, code, tool.path)
        self._files = {path.name: _read(directory, code, path) for path in tool.files}
        files = {path.name: code[str(path)] for path in tool.files}
        self.identity = digest_of(
            {
                "program": code[str(tool.path)],
                "function": tool.function,
                "files": files,
                "columns": sorted(tool.columns),
            }
        )
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
        # A function of two arguments is called by one of one, since the sandbox hands over one value.
        program, function, argument = self._program, self._tool.function, rows
        handed: Any = argument
        if self._files:
            program += f"\n\ndef _called(given):\n    return {function}(given[0], given[1])\n"
            function, handed = "_called", [argument, self._files]
        limits = Limits(
            cpu_seconds=self._tool.seconds,
            wall_seconds=CLOCK_FACTOR * self._tool.seconds,
            memory_bytes=self._tool.memory_mib << 20,
        )
        call = call_function(program, function, handed, limits)
        place = f"training.rlhf, tool of '{self.name}' ({self._tool.path}), on {len(rows)} replies"
        if call.ending == "timeout":
            raise TrainingFailed(
                f"{place}: it did not end within {self._tool.seconds} s of processor, or {CLOCK_FACTOR} times as "
                f"much by the clock.",
                "Make it faster, or raise its seconds. A tool that is too slow never counts as a low reward.",
            )
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


def _is_score(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1)


def _read(directory: Path, code: Mapping[str, str], path: Path) -> str:
    content = (directory / code[str(path)]).read_bytes()
    if sha256(content).hexdigest() != code[str(path)]:
        raise IntegrityError(f"{directory}: the copy of {path} is not {short(code[str(path)])}.", "Run again.")
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise TrainingFailed(f"{path}: a tool's program and files must be text in UTF-8.", "Save it so.") from None
