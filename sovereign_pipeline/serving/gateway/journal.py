"""Keep the journal of answers and ratings: a digest of each in an hourly file, and of each hour in the ledger.

A line holds counts and a digest, and no text. The digest covers the answer's id, which only its caller knows, so nobody
can guess a text by its digest. While the registry is down, finished hours wait in their files.
"""

import datetime
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select

from sovereign_pipeline.base.files import Frozen, digest_of, held_if_free
from sovereign_pipeline.record import audit_log
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.tables import AuditEntry
from sovereign_pipeline.release.trial import GATEWAY

ANSWERED = "hour of answers"
HOUR = "%Y-%m-%dT%H"
STILL_WRITTEN = datetime.timedelta(minutes=2)
"""Time after an hour's end during which another process may still write into its file."""
ENTERED = ".entered"
"""Suffix of an hour's file that is in the ledger."""

Clock = Callable[[], datetime.datetime]
Outcome = Literal["complete", "cancelled", "lost"]


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Answered(Frozen):
    """A journal record of an answer that was sent at least in part."""

    line: str
    adapter: str
    outcome: Outcome
    tokens: int
    digest: str
    transcript: str | None = None
    """SHA-256 of the sealed transcript; None if no transcript is kept."""


class Rated(Frozen):
    """A journal record of a caller's rating whose sealed record is kept."""

    line: str
    given: str
    """Identifier of the answer: a digest of its id and its caller."""
    rating: str
    """SHA-256 of the sealed rating."""


Noted = Answered | Rated
_NOTED: TypeAdapter[Noted] = TypeAdapter(Noted)


def digest_of_answer(id: str, adapter: str, messages: Sequence[Mapping[str, Any]], text: str) -> str:
    """Return the digest of an answer. Its caller can compute it again."""
    return digest_of({"id": id, "adapter": adapter, "messages": [dict(each) for each in messages], "answer": text})


class Journal:
    def __init__(self, directory: Path, clock: Clock = utc_now) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._clock = clock
        self._missed: list[Noted] = []

    def note(self, noted: Noted) -> None:
        """Write one record. If the disk fails, the record stays in memory until `is_whole` has written it.

        Each line begins with a newline, so that a line cut by a crash damages only itself.
        """
        self._missed.append(noted)
        self.is_whole()

    def is_whole(self) -> bool:
        """Retry unwritten records, and return whether all are written."""
        while self._missed:
            try:
                self._append(self._missed[0])
            except OSError:
                return False
            self._missed.pop(0)
        return True

    def enter(self, registry: Registry) -> int:
        """Log every finished hour that is not yet in the ledger. Returns the number of new entries.

        Raises the errors of opening or writing the registry; the files then stay for the next attempt.
        """
        current, made = (self._clock() - STILL_WRITTEN).strftime(HOUR), 0
        with held_if_free(self._directory / "journal.lock") as held:
            for path in sorted(self._directory.glob("*.jsonl")) if held else []:
                if path.stem < current:
                    made += _enter(registry, path)
                    path.rename(_name_when_entered(path))
        return made

    def _append(self, noted: Noted) -> None:
        hour = self._clock().strftime(HOUR)
        content = f"\n{noted.model_dump_json(exclude_none=True)}\n".encode()
        handle = os.open(self._directory / f"{hour}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "wb", buffering=0) as stream:
            if stream.write(content) != len(content):
                raise OSError("the line was cut short")


def _name_when_entered(path: Path) -> Path:
    names = (path.with_name(f"{path.name}{ENTERED}{suffix}") for suffix in ("", *(f"-{n}" for n in range(2, 10_000))))
    return next(name for name in names if not name.exists())


def read_hour(path: Path) -> tuple[list[Noted], int]:
    """Return the records of a file in order, and the number of unreadable lines."""
    found, unreadable = list[Noted](), 0
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        if not line:
            continue
        try:
            found.append(_NOTED.validate_json(line))
        except ValidationError:
            unreadable += 1
    return found, unreadable


def facts_of(hour: str, line: str, noted: Sequence[Noted], unreadable: int) -> dict[str, Any]:
    """Return the facts of one line's hour for its ledger entry, with transcripts and ratings if there are any."""
    noted = [each for each in noted if each.line == line]
    answered = [each for each in noted if isinstance(each, Answered)]
    sealed = [each.transcript for each in answered if each.transcript is not None]
    ratings = [digest_of([each.given, each.rating]) for each in noted if isinstance(each, Rated)]
    return {
        "line": line,
        "hour": f"{hour}:00Z",
        "answers": len(answered),
        "by_adapter": dict(sorted(Counter(each.adapter for each in answered).items())),
        "by_outcome": dict(sorted(Counter(each.outcome for each in answered).items())),
        "tokens": sum(each.tokens for each in answered),
        "digest": _digest(each.digest for each in answered),
        "unreadable": unreadable,
        **({"transcripts": len(sealed), "transcripts_digest": _digest(sealed)} if sealed else {}),
        **({"ratings": len(ratings), "ratings_digest": _digest(ratings)} if ratings else {}),
    }


def _digest(digests: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def _enter(registry: Registry, path: Path) -> int:
    """Log an hour in one transaction. Existing entries are skipped, so that a retry after a crash repeats nothing."""
    hour = path.stem
    noted, unreadable = read_hour(path)
    with registry.writing() as session:
        query = select(AuditEntry.subjects).where(
            AuditEntry.action == ANSWERED, AuditEntry.subjects["hour"].as_string() == f"{hour}:00Z"
        )
        entered = list(session.scalars(query))
        hours = [facts_of(hour, line, noted, unreadable) for line in sorted({each.line for each in noted})]
        new = [each for each in hours if each not in entered]
        for facts in new:
            audit_log.append(session, GATEWAY, ANSWERED, facts)
    return len(new)
