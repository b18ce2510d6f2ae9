"""Search texts for personal data, in worker processes that are restarted when they fail."""

import asyncio
import gc
import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cache
from typing import Literal

from sovereign_pipeline.base.errors import PrivacyError, ScannerLost, SovereignError
from sovereign_pipeline.base.processes import WorkerPool, silence
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.corpus.document import Document, Message
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import KINDS, Kind
from sovereign_pipeline.privacy.case_files import replaced_spans
from sovereign_pipeline.privacy.corrections import WordLists
from sovereign_pipeline.privacy.json_texts import is_json
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.spans import PLACEHOLDER, kind_of
from sovereign_pipeline.privacy.vault import MappingRow

_ARABIC = re.compile(r"[\u0620-\u064a\u066e-\u06d3\u0750-\u077f\u08a0-\u08c7\ufb50-\ufdff\ufe70-\ufefc]")
_LATIN = re.compile(r"[A-Za-z\u00c0-\u024f]")


def is_arabic(text: str) -> bool:
    """Return whether a text has more Arabic than Latin letters."""
    return len(_ARABIC.findall(text)) > len(_LATIN.findall(text))


def language_of(text: str) -> str:
    return "ar" if is_arabic(text) else "en"


_IN_ARABIC_LETTERS = ("ar", "fa", "ur", "ps")
_WHOLE_PLACEHOLDER = re.compile(rf"(?:{'|'.join(KINDS)})_\d{{1,3}}(?!\d)")
_NO_LETTER = "…"
_MOST_MASKINGS = 3


@dataclass(frozen=True)
class LineDetectors:
    """The settings for finding personal data in one adapter line's texts."""

    line: str
    privacy: Privacy
    treatments: Treatments
    words: WordLists

    def language_of(self, text: str) -> str:
        """Return the language whose detectors are used for a text: the first language in the recipe that is written in
        the text's script or, if there is none, Arabic or English."""
        in_arabic = is_arabic(text)
        return next(
            (each for each in self.privacy.detected if (each in _IN_ARABIC_LETTERS) == in_arabic), language_of(text)
        )


@dataclass(frozen=True)
class Detection:
    """Personal data in a half-open span of a text."""

    start: int
    end: int
    kind: Kind
    value: str
    """Identifies the found value: equal values in texts that were searched together have the same `value`."""
    quote: str = ""
    """Quotation mark to put around the placeholder if it replaces a number in JSON. Otherwise empty."""


class TextDetectors:
    """Searches texts for personal data with the detectors of one line. Does not store the findings."""

    def __init__(self, detectors: LineDetectors) -> None:
        self._detectors = detectors
        self._scrubber = Scrubber(
            detectors.line, "passing", detectors.privacy, detectors.treatments, words=detectors.words
        )

    def find(self, texts: Sequence[str], tools: str = "") -> list[list[Detection]]:
        """Return the personal data in each text of one conversation, in order and without overlaps. JSON is searched
        value by value. Placeholders are ignored, because models trained on scrubbed documents write them.

        tools: the element of `texts` that is a list of tools, or "". The schemas in this list are not searched.

        Raises PrivacyError if a detector raises an error or misses its canary, or if a disguised placeholder cannot be
        masked.
        """
        masked = [_masked(text) for text in texts]
        listed = [bool(tools) and text == tools for text in texts]
        documents = [self._document(*each) for each in zip(range(len(masked)), masked, listed, strict=True)]
        (case,) = self._scrubber.scrub([documents])
        rows: dict[str, list[MappingRow]] = {document.id: [] for document in documents}
        for row in case.mapping:
            rows[row.row].append(row)
        return [
            [
                Detection(start, end, kind_of(row.placeholder), row.placeholder.strip('\\"'), row.placeholder[:quoted])
                for row, start, end, _ in replaced_spans(_searched(after), rows[after.id])
                if row.original
                for quoted in [len(row.placeholder) - len(row.placeholder.lstrip('\\"'))]
            ]
            for after in case.documents
        ]

    def _document(self, number: int, text: str, is_tools: bool) -> Document:
        role: Literal["tool", "user"] = "tool" if is_json(text) else "user"
        return Document(
            id=f"text {number + 1}",
            source="gateway",
            case="conversation",
            department="",
            author="",
            date="2000-01-01",
            classification="",
            language=self._detectors.language_of(text),
            subject="",
            messages=(Message(role=role, content="" if is_tools else text), Message(role="assistant")),
            tools=json.loads(text) if is_tools else (),
        )


def _searched(document: Document) -> str:
    """Return the single text of a document that `TextDetectors._document` built."""
    return "".join(document.texts.values())


def _masked(text: str) -> str:
    """Mask everything that looks like a placeholder, such as `NAME_1`, with a mask of the same length. If more than
    three digits follow the kind's name, the digits are not masked. Raises PrivacyError if a placeholder remains."""
    for _ in range(_MOST_MASKINGS):
        normalised = normalise(text)
        found = [*PLACEHOLDER.finditer(normalised.text)]
        if not found:
            return text
        for begun in found:
            whole = _WHOLE_PLACEHOLDER.match(normalised.text, begun.start())
            start, end = normalised.original_span(begun.start(), whole.end() if whole else begun.end() - 1)
            text = text[:start] + _NO_LETTER * (end - start) + text[end:]
    raise PrivacyError(
        "A text contains a disguised placeholder that cannot be masked.",
        "Write the placeholder in plain characters, such as NAME_1.",
    )


SECONDS_TO_SEARCH = 15.0
"""Maximum seconds for a search, including the wait for a process. A longer search fails."""
SECONDS_TO_LOAD = 120.0
"""Maximum seconds for loading the detectors in a new process."""
SECONDS_BETWEEN_STARTS = 5.0
MOST_CHARACTERS = 100_000
"""Maximum number of characters in one search. A search of this size takes about three seconds on one core."""
LONG = 10_000
"""Requests with at least this many characters are searched one at a time, so that shorter ones need not wait."""

_Work = tuple[str, Sequence[str], str]
"""The line, the texts to search, and the one text that is a list of tools ("" if there is none)."""


class Scanner:
    """A pool of processes that searches the texts of some lines. Use an instance from only one event loop. The event
    loop's thread must live as long as the processes."""

    def __init__(self, lines: Mapping[str, LineDetectors], processes: int = 1) -> None:
        self._lines, self._processes = dict(lines), processes
        self._pool: WorkerPool | None = None
        self._started_at = self._heard_at = 0.0
        """Times of the last start and of the last finished search."""
        self._of_long_ones = asyncio.Semaphore(1)
        self.starts = 0
        """Number of times the processes were started."""

    def start(self) -> None:
        """Start the processes, and load each line's detectors by searching sample texts. Raises ScannerLost if the
        processes end or loading takes too long, and PrivacyError if a detector cannot be loaded."""
        pool = self._running()
        texts = ("Good morning.", "صباح الخير")
        begun = [pool.begin(_find, (line, texts, "")) for line in self._lines for _ in range(self._processes)]
        try:
            for each in begun:
                each.result(SECONDS_TO_LOAD)
        except (BrokenProcessPool, TimeoutError):
            self._give_up(pool)
            raise ScannerLost(
                "The search for personal data cannot be started.", "Free memory, and try again."
            ) from None
        self._heard_at = time.monotonic()

    async def find(self, line: str, texts: Sequence[str], tools: str = "") -> list[list[Detection]]:
        """Find personal data in the texts of one conversation, as `TextDetectors.find` does. Raises ScannerLost if the
        search fails or takes too long."""
        try:
            async with asyncio.timeout(SECONDS_TO_SEARCH):
                work = (line, texts, tools)
                if sum(map(len, texts)) < LONG:
                    return await self._find(work)
                async with self._of_long_ones:
                    return await self._find(work)
        except TimeoutError:
            raise ScannerLost("The search for personal data took too long.") from None

    async def _find(self, work: _Work) -> list[list[Detection]]:
        pool = self._running()
        try:
            begun: Future[list[list[Detection]]] = pool.begin(_find, work)
            begun.add_done_callback(self._hear)
            try:
                return await asyncio.wrap_future(begun)
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if begun.cancelled() and task is not None and not task.cancelling():
                    raise BrokenProcessPool from None  # the pool was ended, and the caller still waits
                self._watch(pool, begun)
                raise
        except BrokenProcessPool:
            self._give_up(pool)
            raise ScannerLost("The process that searches for personal data was killed.") from None
        except SovereignError as error:
            raise ScannerLost(f"The search for personal data failed: {error.message}") from None

    def _hear(self, begun: "Future[list[list[Detection]]]") -> None:
        if not begun.cancelled():
            self._heard_at = time.monotonic()

    def _watch(self, pool: WorkerPool, begun: "Future[list[list[Detection]]]") -> None:
        """Watch a search whose caller was cancelled. If no search finishes within the allowed time, treat the processes
        as hung and stop them."""
        if begun.done():
            return
        allowed = SECONDS_TO_SEARCH if self._heard_at > self._started_at else SECONDS_TO_LOAD
        left = max(self._heard_at, self._started_at) + allowed - time.monotonic()
        if left <= 0:
            self._give_up(pool)
        else:
            asyncio.get_running_loop().call_later(left, self._watch, pool, begun)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.kill()

    def _running(self) -> WorkerPool:
        """Return the pool of processes, and start one if none is running. Raises ScannerLost if the last start was too
        recent."""
        if self._pool is None:
            if self.starts and time.monotonic() - self._started_at < SECONDS_BETWEEN_STARTS:
                raise ScannerLost("The search for personal data is restarting.")
            self._pool = WorkerPool(self._processes, _begin_worker, self._lines)
            self._started_at = time.monotonic()
            self.starts += 1
        return self._pool

    def _give_up(self, pool: WorkerPool) -> None:
        pool.kill()
        if self._pool is pool:
            self._pool = None


# --- in a worker process ---------------------------------------------------------------------------------------------


_lines: Mapping[str, LineDetectors]  # set by `_begin_worker`, once in each process


def _begin_worker(lines: Mapping[str, LineDetectors]) -> None:
    global _lines
    go_offline()
    os.environ["OMP_NUM_THREADS"] = "1"
    silence()
    _lines = lines


@cache
def _detectors() -> dict[str, TextDetectors]:
    """Create the detectors at the first search rather than when the process starts. An error during the start would
    break the pool without a message."""
    made = {line: TextDetectors(each) for line, each in _lines.items()}
    gc.freeze()
    return made


def _find(work: _Work) -> list[list[Detection]]:
    line, texts, tools = work
    return _detectors()[line].find(texts, tools)
