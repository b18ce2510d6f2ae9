"""Which answers were given to whom, so that only who got one can say something of it. No text, no id, no name.

A row is found by one digest over the answer's id and its caller; it holds which adapter answered, the hashed user of
its rollout, and what was said. Several gateways share the file, and a restart keeps it. The oldest rows go: answers
older than `DAYS`, and all but the newest `MOST_ANSWERS`.

What belongs here: that file. What does not: counting what was said (`metrics.py`, `rollout/telemetry.py`).
"""

import dataclasses
import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.serving.callers import Caller
from sovereign_pipeline.serving.flags.in_force import Choice
from sovereign_pipeline.serving.rollout.feedback import Feedback
from sovereign_pipeline.serving.shared_database import SharedDatabase

_LOG = logging.getLogger(__name__)
MOST_ANSWERS = 50_000
DAYS = 7
BETWEEN_REMOVALS = 500
"""Answers after which the oldest rows are removed."""

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
    """An answer that was given to a caller."""

    line: str
    adapter: str
    choice: Choice | None
    """What its line's flag said of it; None where no flag spoke."""
    before: Feedback | None
    """What the caller had said of it."""


class GivenAnswers:
    """The answers that the gateways of one installation gave."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self._database = SharedDatabase(path, TABLE)
        self._clock = clock
        self._added = 0
        self._is_failing = False

    def remember(self, id: str, caller: Caller, line: str, adapter: str, choice: Choice | None) -> None:
        """Before any of it is sent. Where the disk refuses, the answer is given all the same, and nothing can be said
        of it: the log says so, once."""
        values = (
            digest_of_given(id, caller),
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
            if not self._is_failing:
                _LOG.warning("answers cannot be remembered for feedback (%s)", type(error).__name__)
            self._is_failing = True
        else:
            self._is_failing = False

    def take(
        self, id: str, caller: Caller, feedback: Feedback, may_note: Callable[[str], bool] = lambda _: True
    ) -> Given | None:
        """Note what a caller says of an answer; the last word stands. None where that caller got no such answer.

        may_note: whether what is said of a line's answers can be kept wherever else it belongs.

        Raises sqlite3.Error or OSError where it cannot be noted; then nothing is.
        """
        digest = digest_of_given(id, caller)
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


def digest_of_given(id: str, caller: Caller) -> bytes:
    """What tells an answer to a caller apart. An id has 128 random bits, so nobody finds it, or a caller, by trying."""
    return hashlib.sha256(f"{id}\n{caller.key}".encode()).digest()
