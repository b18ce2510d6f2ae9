"""The journal of answers: a digest of each in a file of the hour, and of each hour in the ledger.

A line holds counts and a digest, and no text. The digest covers the answer's id, which only its caller knows, so nobody
can guess a text by its digest. While the registry is down, finished hours wait in their files.
"""

import datetime
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy import select

from sovereign_pipeline.base.files import digest_of, held_if_free
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.record import audit_log
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.tables import AuditEntry

ANSWERED = "hour of answers"
ACTOR = "gateway"
HOUR = "%Y-%m-%dT%H"
STILL_WRITTEN = datetime.timedelta(minutes=2)
"""How long after its end another process may still write into an hour's file."""
ENTERED = ".entered"
"""What stands behind the name of a file whose hour is in the ledger."""

Clock = Callable[[], datetime.datetime]
Outcome = Literal["complete", "cancelled", "lost"]


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Answered(Frozen):
    """One answer of which at least a part was sent."""

    line: str
    adapter: str
    outcome: Outcome
    tokens: int
    digest: str
    transcript: str | None = None
    """SHA-256 of the sealed transcript; None where none is kept."""


def digest_of_answer(id: str, adapter: str, messages: Sequence[Mapping[str, str]], text: str) -> str:
    """What the caller can compute again from what it sent and got."""
    return digest_of({"id": id, "adapter": adapter, "messages": [dict(each) for each in messages], "answer": text})


class Journal:
    """The files of the hours."""

    def __init__(self, directory: Path, clock: Clock = utc_now) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._clock = clock
        self._missed: list[Answered] = []

    def note(self, answered: Answered) -> None:
        """Write one answer down. Where the disk refuses, it is kept in mind until it is written: see `is_whole`.

        A line begins anew, so that one which a crash cut short spoils itself alone.
        """
        self._missed.append(answered)
        self.is_whole()

    def is_whole(self) -> bool:
        """Whether all that was answered is written down; what is not is tried again."""
        while self._missed:
            try:
                self._append(self._missed[0])
            except OSError:
                return False
            self._missed.pop(0)
        return True

    def enter(self, registry: Registry) -> int:
        """Enter every hour that has been over for a moment and is not entered. Returns how many entries were made.

        Raises what opening or writing the registry raises; the files stay for the next time.
        """
        current, made = (self._clock() - STILL_WRITTEN).strftime(HOUR), 0
        with held_if_free(self._directory / "journal.lock") as held:
            for path in sorted(self._directory.glob("*.jsonl")) if held else []:
                if path.stem < current:
                    made += _enter(registry, path)
                    path.rename(_name_when_entered(path))
        return made

    def _append(self, answered: Answered) -> None:
        hour = self._clock().strftime(HOUR)
        content = f"\n{answered.model_dump_json(exclude_none=True)}\n".encode()
        handle = os.open(self._directory / f"{hour}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "wb", buffering=0) as stream:
            if stream.write(content) != len(content):
                raise OSError("the line was cut short")


def _name_when_entered(path: Path) -> Path:
    """A name that no other file has."""
    names = (path.with_name(f"{path.name}{ENTERED}{suffix}") for suffix in ("", *(f"-{n}" for n in range(2, 10_000))))
    return next(name for name in names if not name.exists())


def read_hour(path: Path) -> tuple[list[Answered], int]:
    """The answers of a file, in their order, and how many lines of it cannot be read."""
    found, unreadable = [], 0
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line:
            continue
        try:
            found.append(Answered.model_validate_json(line))
        except ValidationError:
            unreadable += 1
    return found, unreadable


def facts_of(hour: str, line: str, answered: Sequence[Answered], unreadable: int) -> dict[str, Any]:
    """What the entry of one line's hour says. Of transcripts, only where some are kept."""
    sealed = [each.transcript for each in answered if each.transcript is not None]
    kept = {"transcripts": len(sealed), "transcripts_digest": hashlib.sha256("\n".join(sealed).encode()).hexdigest()}
    return {
        "line": line,
        "hour": f"{hour}:00Z",
        "answers": len(answered),
        "by_adapter": dict(sorted(Counter(each.adapter for each in answered).items())),
        "by_outcome": dict(sorted(Counter(each.outcome for each in answered).items())),
        "tokens": sum(each.tokens for each in answered),
        "digest": hashlib.sha256("\n".join(each.digest for each in answered).encode()).hexdigest(),
        "unreadable": unreadable,
        **(kept if sealed else {}),
    }


def _enter(registry: Registry, path: Path) -> int:
    """One transaction for the hour. What a crash after the commit left is not entered twice; what a clock that went
    back added to an hour that was entered is an entry of its own."""
    hour = path.stem
    answered, unreadable = read_hour(path)
    with registry.writing() as session:
        query = select(AuditEntry.subjects).where(
            AuditEntry.action == ANSWERED, AuditEntry.subjects["hour"].as_string() == f"{hour}:00Z"
        )
        entered = list(session.scalars(query))
        lines = sorted({each.line for each in answered})
        hours = [facts_of(hour, line, [each for each in answered if each.line == line], unreadable) for line in lines]
        new = [each for each in hours if each not in entered]
        for facts in new:
            audit_log.append(session, ACTOR, ANSWERED, facts)
    return len(new)
