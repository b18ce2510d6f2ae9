"""The file in which stands who looked at what.

What belongs here: a line for each look, before it is answered. What does not: what a query looks at (`looks.py`).
"""

import datetime
import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.orchestration.auditor.looks import Look

SECONDS_OF_A_LOOK = 600
"""A page asks the same every few seconds while it is open. One line stands for that."""


def access_log_of(settings: Settings) -> Path:
    return settings.logs / "auditor-access.jsonl"


class AccessLog:
    """Adds to one file; a file that was moved away is begun anew."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._since = clock()
        self._written: set[tuple[str, Look]] = set()

    def write(self, person: str, look: Look) -> None:
        """One line, unless the same person's same look stands in the last ten minutes. Raises OSError."""
        with self._lock:
            if self._clock() - self._since >= SECONDS_OF_A_LOOK:
                self._since = self._clock()
                self._written.clear()
            if (person, look) in self._written:
                return
            at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
            facts = {name: value for name, value in asdict(look).items() if value}
            line = json.dumps({"at": at, "who": person, **facts}) + "\n"
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as log:
                log.write(line)
            self._written.add((person, look))
