"""SQLite files that gateways share: the feedback store and the user quota."""

import dataclasses
import hashlib
import hmac
import json
import logging
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.serving.gateway.auth import Caller
from sovereign_pipeline.serving.rollout.in_force import Choice
from sovereign_pipeline.serving.rollout.telemetry import Feedback

_LOG = logging.getLogger(__name__)
LOCK_SECONDS = 0.2
"""Seconds to wait for the file's lock. All answers wait meanwhile; another gateway locks the file for a millisecond."""


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
        """Run one transaction. A failed connection is closed, and the next transaction opens a new one.

        Raises sqlite3.Error and OSError.
        """
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


MOST_ANSWERS = 50_000
DAYS = 7
BETWEEN_REMOVALS = 500
"""Number of answers between two removals of the oldest rows."""

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
    """Flag's choice; None if there was no flag."""
    before: Feedback | None
    """Caller's earlier feedback."""


class FeedbackStore:
    """A store of which caller got which answer, and of their feedback. It holds no text, id or name in clear."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = SharedDatabase(path, TABLE)
        self._clock = clock
        self._added = 0

    def remember(self, id: str, caller: Caller, line: str, adapter: str, choice: Choice | None) -> None:
        """Store who gets an answer, before any of it is sent. If the disk fails, the answer cannot be rated, and the
        failure is logged once."""
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
            self._database.report("answers cannot be remembered for feedback", error)

    def take(
        self, id: str, caller: Caller, feedback: Feedback, may_note: Callable[[str], bool] = lambda _: True
    ) -> Given | None:
        """Store feedback, replacing earlier feedback. Returns None if the caller got no such answer.

        may_note: whether the line's transcripts can be written too.

        Raises sqlite3.Error or OSError if the feedback cannot be stored.
        """
        digest = answer_digest(id, caller)
        with self._database.writing() as connection:
            found = connection.execute(
                "SELECT line, adapter, choice, feedback FROM answer WHERE digest = ? AND at >= ?",
                (digest, self._clock() - DAYS * 86_400),
            ).fetchone()
            if found is None:
                return None
            if not may_note(found[0]):
                raise OSError("what else is kept of the line cannot be written")
            connection.execute("UPDATE answer SET feedback = ? WHERE digest = ?", (feedback.model_dump_json(), digest))
        line, adapter, choice, before = found
        return Given(
            line,
            adapter,
            Choice(**json.loads(choice)) if choice is not None else None,
            Feedback.model_validate_json(before) if before is not None else None,
        )


def _remove_oldest(connection: sqlite3.Connection, now: float) -> None:
    connection.execute("DELETE FROM answer WHERE at < ?", (now - DAYS * 86_400,))
    connection.execute("DELETE FROM answer WHERE number <= (SELECT max(number) FROM answer) - ?", (MOST_ANSWERS,))


def answer_digest(id: str, caller: Caller) -> bytes:
    """Return the digest of an answer's id and its caller. The id has 128 random bits, so neither can be guessed."""
    return hashlib.sha256(f"{id}\n{caller.key}".encode()).digest()


SECONDS_OF_A_DAY = 86_400
USER_DAYS = 366
"""Days after which a user is forgotten: at least the lifetime of any token."""
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
    """A quota of the new users that each caller may add."""

    def __init__(self, path: Path, most_a_day: int, clock: Callable[[], float] = time.time) -> None:
        """Store the limits. most_a_day: new users per caller and day."""
        self._database = SharedDatabase(path, *TABLES)
        self._most_a_day = most_a_day
        self._clock = clock
        self._known: set[tuple[str, str]] = set()

    def counts(self, caller: str, user: str) -> bool:
        """Return whether a caller's requests for a user are compared. They are not if the user cannot be stored."""
        if (caller, user) in self._known:
            return True
        try:
            is_in = self._brought_in(caller, user)
        except (sqlite3.Error, OSError) as error:
            self._database.report("users that callers speak for cannot be noted", error)
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
            keys = (_digest(salt, caller), _digest(salt, f"{caller}\n{user}"))
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


def _digest(salt: bytes, text: str) -> bytes:
    return hmac.new(salt, text.encode(), hashlib.sha256).digest()
