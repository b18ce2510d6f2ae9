"""Store a gateway's journal of answers and ratings, its feedback and its user quota.

The journal writes a digest of each answer into an hourly file. A digest of each finished hour is logged in the ledger.
While the registry is down, finished hours stay in their files. Records contain no text. The digest of an answer covers
the answer's id, which only the caller knows, so nobody else can test a guessed text.

The feedback store and the user quota are SQLite files that gateways share.
"""

import dataclasses
import datetime
import hashlib
import hmac
import json
import logging
import os
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import select

from sovereign_pipeline.base.files import Frozen, digest_of, held_if_free
from sovereign_pipeline.record import audit_log
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.tables import AuditEntry
from sovereign_pipeline.release.trial import GATEWAY
from sovereign_pipeline.serving.gateway.auth import Caller
from sovereign_pipeline.serving.rollout.in_force import Choice
from sovereign_pipeline.serving.rollout.telemetry import Feedback

_LOG = logging.getLogger(__name__)

ANSWERED = "hour of answers"
HOUR = "%Y-%m-%dT%H"
STILL_WRITTEN = datetime.timedelta(minutes=2)
"""Time after an hour's end during which another process may still write into the hour's file."""
ENTERED = ".entered"
"""Suffix that an hour's file gets once the hour is in the ledger."""

Clock = Callable[[], datetime.datetime]
Outcome = Literal["complete", "cancelled", "lost"]


def utc_now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


class Answered(Frozen):
    """A journal record of an answer that the engine began."""

    line: str
    adapter: str
    outcome: Outcome
    tokens: int
    digest: str
    transcript: str | None = None
    """SHA-256 of the sealed transcript; None if no transcript is kept."""


class Rated(Frozen):
    """A journal record of a caller's rating, for a line that keeps sealed ratings."""

    line: str
    given: str
    """Identifies the answer: a digest of the answer's id and the caller."""
    rating: str
    """SHA-256 of the sealed rating."""


Noted = Answered | Rated
_NOTED: TypeAdapter[Noted] = TypeAdapter(Noted)


def digest_of_answer(id: str, adapter: str, messages: Sequence[Mapping[str, Any]], text: str) -> str:
    """Return the digest of an answer. The caller can recompute the digest from the request and the answer."""
    return digest_of({"id": id, "adapter": adapter, "messages": [dict(each) for each in messages], "answer": text})


class Journal:
    def __init__(self, directory: Path, clock: Clock = utc_now) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory = directory
        self._clock = clock
        self._missed: list[Noted] = []

    def note(self, noted: Noted) -> None:
        """Write one record. If the disk fails, the record stays in memory until `is_whole` writes it. Each line begins
        with a newline, so that a line truncated by a crash does not damage the next line."""
        self._missed.append(noted)
        self.is_whole()

    def is_whole(self) -> bool:
        """Try to write the unwritten records. Return True if no unwritten record is left."""
        while self._missed:
            try:
                self._append(self._missed[0])
            except OSError:
                return False
            self._missed.pop(0)
        return True

    def enter(self, registry: Registry) -> int:
        """Log every finished hour that is not yet in the ledger. Returns the number of new entries. Raises the errors
        of opening or writing the registry; the files then stay for the next attempt."""
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
    """Return the facts for the ledger entry about one line and hour. If there are transcripts or ratings, the facts
    include their number and digest."""
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


LOCK_SECONDS = 0.2
"""Maximum seconds to wait for the file's lock. All answers of this gateway wait meanwhile. Other gateways lock the file
only for about a millisecond."""


class SharedDatabase:
    """An SQLite file that is opened at its first use."""

    def __init__(self, path: Path, *tables: str) -> None:
        """Store the path. tables: statements that create missing tables."""
        self._path = path
        self._tables = tables
        self._connection: sqlite3.Connection | None = None
        self._is_failing = False

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Run one transaction. A failed connection is closed, and the next transaction opens a new one. Raises
        sqlite3.Error or OSError if the file cannot be opened, locked or written."""
        connection = self._connection = self._connection or self._connected()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
            self._is_failing = False
        except BaseException:
            self._connection = None
            connection.close()
            raise

    def report(self, what: str, error: Exception) -> None:
        """Log a failure, but only once until a transaction succeeds."""
        if not self._is_failing:
            _LOG.warning("%s (%s)", what, type(error).__name__)
        self._is_failing = True

    def _connected(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # otherwise each answer would wait for the disk
            for table in self._tables:
                connection.execute(table)
        except BaseException:
            connection.close()
            raise
        return connection


SECONDS_OF_A_DAY = 86_400
MOST_ANSWERS = 50_000
DAYS = 7
BETWEEN_REMOVALS = 500
"""Number of answers that are stored between two removals of the oldest rows."""

TABLE = """
CREATE TABLE IF NOT EXISTS answer (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    digest BLOB NOT NULL UNIQUE,
    at REAL NOT NULL,
    line TEXT NOT NULL,
    adapter TEXT NOT NULL,
    choice TEXT,
    feedback TEXT
)
"""


@dataclass(frozen=True)
class Given:
    """An answer that can be rated."""

    line: str
    adapter: str
    choice: Choice | None
    """The flag's choice, with the adapter that answered; None if the flag gave this caller no adapter."""
    before: Feedback | None
    """The caller's earlier feedback on this answer, if there is any."""


class FeedbackStore:
    """Stores which caller got which answer, and the feedback. Ids of answers and names of callers are stored only as
    hashes. Texts are not stored."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = SharedDatabase(path, TABLE)
        self._clock = clock
        self._added = 0

    def remember(self, id: str, caller: Caller, line: str, adapter: str, choice: Choice | None) -> None:
        """Store which caller gets an answer, before any part of the answer is sent. If the disk fails, the answer
        cannot be rated, and the failure is logged once."""
        values = (
            answer_digest(id, caller),
            self._clock(),
            line,
            adapter,
            json.dumps(dataclasses.asdict(choice)) if choice is not None else None,
        )
        try:
            with self._database.writing() as connection:
                connection.execute(
                    "INSERT INTO answer (digest, at, line, adapter, choice) VALUES (?, ?, ?, ?, ?)", values
                )
                if self._added % BETWEEN_REMOVALS == 0:
                    _remove_oldest(connection, self._clock())
                self._added += 1
        except (sqlite3.Error, OSError) as error:
            self._database.report("answers cannot be stored for feedback", error)

    def take(
        self, id: str, caller: Caller, feedback: Feedback, may_note: Callable[[str], bool] = lambda _: True
    ) -> Given | None:
        """Store feedback, replacing earlier feedback. Returns None if this caller got no answer with this id in the
        last week. Raises sqlite3.Error or OSError if the feedback cannot be stored.

        may_note: function that takes a line, and returns True if the line's transcripts can be written. If they cannot
            be written, the feedback is not stored.
        """
        digest = answer_digest(id, caller)
        with self._database.writing() as connection:
            found = connection.execute(
                "SELECT line, adapter, choice, feedback FROM answer WHERE digest = ? AND at >= ?",
                (digest, self._clock() - DAYS * SECONDS_OF_A_DAY),
            ).fetchone()
            if found is None:
                return None
            if not may_note(found[0]):
                raise OSError("the line's transcripts cannot be written")
            connection.execute("UPDATE answer SET feedback = ? WHERE digest = ?", (feedback.model_dump_json(), digest))
        line, adapter, choice, before = found
        return Given(
            line,
            adapter,
            Choice(**json.loads(choice)) if choice is not None else None,
            Feedback.model_validate_json(before) if before is not None else None,
        )


def _remove_oldest(connection: sqlite3.Connection, now: float) -> None:
    connection.execute("DELETE FROM answer WHERE at < ?", (now - DAYS * SECONDS_OF_A_DAY,))
    connection.execute("DELETE FROM answer WHERE number <= (SELECT max(number) FROM answer) - ?", (MOST_ANSWERS,))


def answer_digest(id: str, caller: Caller) -> bytes:
    """Return the digest of an answer's id together with its caller. Nobody can guess id and caller from the digest,
    because the id has 128 random bits."""
    return hashlib.sha256(f"{id}\n{caller.key}".encode()).digest()


USER_DAYS = 366
"""Days after which a user is forgotten. This is at least as long as any token is valid."""
MOST_IN_MEMORY = 50_000

TABLES = (
    "CREATE TABLE IF NOT EXISTS salt (value BLOB NOT NULL)",
    """
    CREATE TABLE IF NOT EXISTS spoken_for (
        caller BLOB NOT NULL, user BLOB NOT NULL, day INTEGER NOT NULL, PRIMARY KEY (caller, user)
    ) WITHOUT ROWID
    """,
    "CREATE INDEX IF NOT EXISTS spoken_for_by_day ON spoken_for (caller, day)",
)


class UserQuota:
    """Limits the number of new users that each caller may add in a day."""

    def __init__(self, path: Path, most_a_day: int, clock: Callable[[], float] = time.time) -> None:
        """Store the limit. most_a_day: maximum number of new users per caller and day."""
        self._database = SharedDatabase(path, *TABLES)
        self._most_a_day = most_a_day
        self._clock = clock
        self._known: set[tuple[str, str]] = set()

    def counts(self, caller: str, user: str) -> bool:
        """Return True if a caller's requests for a user count in a rollout's comparison. They count if the user is
        known, or is new and within the quota. Return False if the user cannot be stored."""
        if (caller, user) in self._known:
            return True
        try:
            is_in = self._brought_in(caller, user)
        except (sqlite3.Error, OSError) as error:
            self._database.report("new users of callers cannot be stored", error)
            return False
        if is_in:
            if len(self._known) >= MOST_IN_MEMORY:
                self._known.clear()
            self._known.add((caller, user))
        return is_in

    def _brought_in(self, caller: str, user: str) -> bool:
        day = int(self._clock() // SECONDS_OF_A_DAY)
        with self._database.writing() as connection:
            salt = _salt(connection)
            keys = (_salted(salt, caller), _salted(salt, f"{caller}\n{user}"))
            found = connection.execute("SELECT 1 FROM spoken_for WHERE caller = ? AND user = ?", keys).fetchone()
            if found is not None:
                return True
            query = "SELECT count(*) FROM spoken_for WHERE caller = ? AND day = ?"
            (today,) = connection.execute(query, (keys[0], day)).fetchone()
            if today >= self._most_a_day:
                return False
            connection.execute("DELETE FROM spoken_for WHERE caller = ? AND day < ?", (keys[0], day - USER_DAYS))
            connection.execute("INSERT INTO spoken_for VALUES (?, ?, ?)", (*keys, day))
            return True


def _salt(connection: sqlite3.Connection) -> bytes:
    """Return this file's salt. Without the salt, nobody can test a guessed user."""
    found = connection.execute("SELECT value FROM salt").fetchone()
    if found is None:
        found = (secrets.token_bytes(32),)
        connection.execute("INSERT INTO salt VALUES (?)", found)
    return bytes(found[0])


def _salted(salt: bytes, text: str) -> bytes:
    return hmac.new(salt, text.encode(), hashlib.sha256).digest()
