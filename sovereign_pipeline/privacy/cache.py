"""A cache of what the detectors found in a text, by digest, so that no text is searched twice.

What belongs here: the file and its entries: offsets and kinds, never text. What does not: when a finding may be
remembered (`scrubbing.py`), its written form (`detection.py`).
"""

import sqlite3
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

from sovereign_pipeline.base.errors import PrivacyError

SECONDS_TO_WAIT = 120.0  # for other processes that write
KEYS_PER_QUERY = 5_000  # SQLite binds at most 32,766 values in one statement
CHECK_BYTES = 8


class FindingsCache:
    """One SQLite file for each state of the detectors; many processes read and write it.

    An entry carries a checksum over its key and its content: one that was cut, changed or moved counts as absent.
    """

    def __init__(self, directory: Path, detector: str) -> None:
        """
        Args:
            detector: digest of all that decides what is found (`detection.detector_digest`).

        Raises PrivacyError when the file cannot be used.
        """
        self._path = directory / f"{detector}.sqlite"
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            # Ray makes and uses an actor in two threads, one after the other.
            self._connection = sqlite3.connect(
                self._path, timeout=SECONDS_TO_WAIT, isolation_level=None, check_same_thread=False
            )
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = OFF")  # the checksums find what a loss of power damaged
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS finding (key BLOB PRIMARY KEY, content BLOB NOT NULL) WITHOUT ROWID"
            )
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def read(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The entries that are there and whole, by key. Raises PrivacyError when the file is no database."""
        found: dict[bytes, bytes] = {}
        try:
            for start in range(0, len(keys), KEYS_PER_QUERY):
                some = keys[start : start + KEYS_PER_QUERY]
                marks = ",".join("?" * len(some))
                found.update(self._connection.execute(f"SELECT key, content FROM finding WHERE key IN ({marks})", some))
        except sqlite3.Error as error:
            raise self._unusable(error) from None
        return {key: entry[CHECK_BYTES:] for key, entry in found.items() if _is_whole(key, entry)}

    def write(self, entries: Mapping[bytes, bytes]) -> None:
        """Remember entries, in one transaction. Raises PrivacyError when they cannot be written."""
        rows = [(key, _check(key, content) + content) for key, content in entries.items()]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT OR REPLACE INTO finding VALUES (?, ?)", rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._unusable(error) from None

    def close(self) -> None:
        self._connection.close()

    def _unusable(self, error: sqlite3.Error) -> PrivacyError:
        return PrivacyError(
            f"{self._path}: the cache of earlier findings cannot be read or written ({error}).",
            "Delete the file, which only costs time, or make room for it, and run the line again.",
        )


def _check(key: bytes, content: bytes) -> bytes:
    return blake2b(key + content, digest_size=CHECK_BYTES).digest()


def _is_whole(key: bytes, entry: object) -> bool:
    return isinstance(entry, bytes) and entry[:CHECK_BYTES] == _check(key, entry[CHECK_BYTES:])
