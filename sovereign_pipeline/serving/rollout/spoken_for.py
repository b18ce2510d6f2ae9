"""For whom callers speak that ask for several people: how many users each may bring into comparisons on one day.

Whoever holds such a token could else invent users until a hold says what they like. A user who was brought in once
stays. No name is kept: salted digests, in one file for the gateways of one installation. What belongs here: that bound.
What does not: who may speak for users (`callers.py`), and which adapter they get (`flags/`).
"""

import hashlib
import hmac
import logging
import secrets
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from sovereign_pipeline.serving.shared_database import SharedDatabase

_LOG = logging.getLogger(__name__)
SECONDS_OF_A_DAY = 86_400
DAYS = 366
"""After which a user is forgotten; no token lives longer."""
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


class SpokenFor:
    """The users whom callers brought in."""

    def __init__(self, path: Path, most_a_day: int, clock: Callable[[], float] = time.time) -> None:
        """most_a_day: new users of one caller."""
        self._database = SharedDatabase(path, *TABLES)
        self._most_a_day = most_a_day
        self._clock = clock
        self._known: set[tuple[str, str]] = set()
        self._is_failing = False

    def counts(self, caller: str, user: str) -> bool:
        """Whether what a caller asks for a user is compared. Where that cannot be noted, it is not."""
        if (caller, user) in self._known:
            return True
        try:
            is_in = self._brought_in(caller, user)
        except (sqlite3.Error, OSError) as error:
            if not self._is_failing:
                _LOG.warning("users that callers speak for cannot be noted (%s)", type(error).__name__)
            self._is_failing = True
            return False
        self._is_failing = False
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
            connection.execute("DELETE FROM spoken_for WHERE caller = ? AND day < ?", (keys[0], day - DAYS))
            connection.execute("INSERT INTO spoken_for VALUES (?, ?, ?)", (*keys, day))
            return True


def _salt(connection: sqlite3.Connection) -> bytes:
    """Of this file: without it nobody can test a guess."""
    found = connection.execute("SELECT value FROM salt").fetchone()
    if found is None:
        found = (secrets.token_bytes(32),)
        connection.execute("INSERT INTO salt VALUES (?)", found)
    return bytes(found[0])


def _digest(salt: bytes, text: str) -> bytes:
    return hmac.new(salt, text.encode(), hashlib.sha256).digest()
