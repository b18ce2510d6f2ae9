"""An SQLite file of the serving directory that several gateways share.

What belongs here: opening it privately, and one transaction. What does not: what is kept (`gateway/given_answers.py`,
`rollout/spoken_for.py`).
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_SECONDS = 0.2
"""Answers of everybody wait meanwhile, and another gateway needs the file for a millisecond."""


class SharedDatabase:
    """The file, opened when it is needed first."""

    def __init__(self, path: Path, *tables: str) -> None:
        """tables: statements that make what is not there yet."""
        self._path = path
        self._tables = tables
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; a connection that failed is given up, so that the next one finds what was put right.

        Raises sqlite3.Error and OSError.
        """
        connection = self._connection = self._connection or self._connected()
        try:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")
        except BaseException:
            self._connection = None
            connection.close()
            raise

    def _connected(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self._path, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")  # else each answer would wait for the disk
            for table in self._tables:
                connection.execute(table)
        except BaseException:
            connection.close()
            raise
        return connection
