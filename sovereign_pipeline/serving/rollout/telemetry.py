"""Count answers and feedback by arm and hashed user, without storing texts.

Each gateway process writes its own files, and readers add up the counts of all processes.
"""

import json
import math
import secrets
import threading
import unicodedata
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import Frozen, write_atomically
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.evaluation.red_team import loops
from sovereign_pipeline.release.trial import Report
from sovereign_pipeline.serving.rollout.flag import Arm, Flag
from sovereign_pipeline.serving.rollout.in_force import Choice

FEWEST_LETTERS = 8
"""Minimum number of letters for detecting a text's script."""
MOST_CHARACTERS = 4_000
"""Number of characters of a text that are read to detect its script."""


def script_of(text: str) -> str | None:
    """Return the script of most letters by their Unicode names, such as LATIN; None for too few letters."""
    letters = [each for each in text[:MOST_CHARACTERS] if each.isalpha()]
    if len(letters) < FEWEST_LETTERS:
        return None
    named = Counter(unicodedata.name(each, "?").partition(" ")[0] for each in letters)
    return named.most_common(1)[0][0]


Thumb = Literal["up", "down"]
Reason = Literal[
    "wrong", "invented", "incomplete", "off_topic", "wrong_language", "tone", "personal_data", "harmful", "other"
]
Severity = Annotated[int, Field(ge=0, le=3)]
"""Severity of a report. 0: no harm. 1: the worst, it must not happen again. 2: serious. 3: minor."""
WORST = 1


class Feedback(Frozen):
    thumb: Thumb
    reason: Reason | None = None
    severity: Severity = 0

    @property
    def is_worst(self) -> bool:
        return self.severity == WORST


MOST_USERS = 50_000
"""Maximum number of users that one process counts in each arm of a comparison."""
LAST = 20
"""Number of consecutive failed answers after which a staged adapter counts as broken."""


Ended = Literal["complete", "cancelled", "lost", "stopped"]
"""Outcome of an answer: `cancelled` by the caller, `lost` by the engine, `stopped` because of personal data in it."""


class Counted(Frozen):
    """Counts of one user's answers from one arm."""

    answers: int = 0
    lost: int = 0
    """Number of answers that the engine did not complete."""
    given_up: int = 0
    """Number of cancelled answers: the caller disconnected, or the answer's grammar became too complex."""
    complete: int = 0
    empty: int = 0
    looping: int = 0
    other_script: int = 0
    """Number of answers in a different script from the request's newest message, such as Latin instead of Arabic."""
    log_seconds: float = 0.0
    """Sum of the logarithms of the durations, in seconds, of complete and cancelled answers. A cancelled answer's
    duration ends when the caller disconnected."""
    log_tokens: float = 0.0
    """Sum of the logarithms of token counts of complete answers."""
    rated: int = 0
    """Number of answers with feedback."""
    disliked: int = 0
    """Number of answers that were rated with thumbs down."""
    searched: int = 0
    """Number of answers that were searched completely for personal data."""
    personal_data: int = 0
    """Number of answers with personal data that the caller did not send."""

    @property
    def timed(self) -> int:
        """Return the number of answers whose duration is in `log_seconds`."""
        return self.complete + self.given_up

    def plus(self, other: "Counted") -> "Counted":
        mine, others = self.model_dump(), other.model_dump()
        return Counted(**{name: mine[name] + others[name] for name in mine})


class Tally(Frozen):
    """The counts of a comparison, from one gateway process or several."""

    drawn: dict[Arm, dict[str, Counted]] = Field(default={})
    """Mapping of arm to a mapping of hashed user to counts. Only users whom the hash assigned are counted."""
    is_broken: bool = False
    """True if the newest `LAST` answers of the staged adapter all failed, and the newest answer of the production
    adapter did not. Cancelled answers are ignored. If one of the failed answers is empty, the failed answers must come
    from several users, because a single user could request empty answers on purpose."""
    reported: tuple[str, ...] = ()
    """Hashed users who reported severity 1 about the staged adapter, at any time."""

    @property
    def severe(self) -> int:
        return len(self.reported)


@dataclass
class _Counting:
    drawn: dict[Arm, dict[str, Counted]] = field(default_factory=lambda: {"staged": {}, "production": {}})
    failed: dict[Arm, deque[tuple[str, bool]]] = field(
        default_factory=lambda: {"staged": deque(maxlen=LAST), "production": deque(maxlen=LAST)}
    )
    """Mapping of arm to its newest consecutive failed answers. Each item is the hashed user, and True if the answer was
    lost or False if the answer was empty."""

    def add(self, choice: Choice, counted: Counted) -> None:
        in_a_row = self.failed[choice.arm]
        if counted.lost or counted.empty:
            in_a_row.append((choice.user, bool(counted.lost)))
        elif not counted.given_up:  # a cancelled answer does not show whether the adapter works
            in_a_row.clear()
        self._count(choice, counted)

    def rate(self, choice: Choice, said: Feedback, before: Feedback | None) -> None:
        was_disliked = before is not None and before.thumb == "down"
        disliked = int(said.thumb == "down") - int(was_disliked)
        self._count(choice, Counted(rated=int(before is None), disliked=disliked))

    def _count(self, choice: Choice, counted: Counted) -> None:
        users = self.drawn[choice.arm]
        if choice.drawn and (choice.user in users or len(users) < MOST_USERS):
            users[choice.user] = users.get(choice.user, Counted()).plus(counted)

    def tally(self) -> Tally:
        newest = self.failed["staged"]
        is_of_several = len({user for user, _ in newest}) > 1 or all(is_lost for _, is_lost in newest)
        is_broken = len(newest) == LAST and is_of_several and not self.failed["production"]
        drawn = {arm: dict(users) for arm, users in self.drawn.items()}
        return Tally(drawn=drawn, is_broken=is_broken)


class Telemetry:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process = secrets.token_hex(8)
        self._countings: dict[Path, _Counting] = {}
        self._reports: dict[Path, set[str]] = {}
        self._changing = threading.Lock()

    def note(
        self,
        line: str,
        choice: Choice,
        text: str,
        tokens: int,
        seconds: float,
        ended: Ended,
        request: str = "",
        *,
        holds_personal_data: bool | None = None,
    ) -> None:
        """Count one answer, if a rollout is running. request: the conversation's newest message. holds_personal_data:
        True if the answer has personal data that the caller did not send; None if the answer was not searched."""
        if choice.staged is None:
            return
        counted = _counted(text, tokens, seconds, ended, request)
        if holds_personal_data is not None:
            counted = counted.plus(Counted(searched=1, personal_data=int(holds_personal_data)))
        with self._changing:
            self._counting_of(line, choice.staged, choice.began).add(choice, counted)

    def rate(self, line: str, choice: Choice, said: Feedback, before: Feedback | None) -> None:
        """Count feedback on an answer in the answer's comparison. before: the caller's earlier feedback on this answer,
        which is subtracted."""
        if choice.staged is None:
            return
        with self._changing:
            self._counting_of(line, choice.staged, choice.began).rate(choice, said, before)

    def report(self, line: str, adapter: str, user: str) -> None:
        """Note that a hashed user reported severity 1 about an adapter. Later feedback does not remove this report."""
        with self._changing:
            self._reports.setdefault(self._file(_reports_of(line, adapter)), set()).add(user)

    def _counting_of(self, line: str, staged: str, began: int) -> _Counting:
        return self._countings.setdefault(self._file(directory_of(Path(), line, staged, began)), _Counting())

    def _file(self, directory: Path) -> Path:
        return self.directory / directory / f"{self._process}.json"

    def write(self) -> None:
        with self._changing:
            written = {path: counting.tally().model_dump_json() for path, counting in self._countings.items()}
            written |= {path: json.dumps(sorted(users)) for path, users in self._reports.items()}
        for path, content in written.items():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(path, content + "\n")


def counts_directory(settings: Settings) -> Path:
    return settings.serving / "rollout"


def directory_of(directory: Path, line: str, staged: str, began: int) -> Path:
    return directory / line / f"{staged}-{began:08d}"


def read_tally(directory: Path, flag: Flag) -> Tally:
    """Add up all gateways' counts of a flag's comparison, and add the reports about its staged adapter. Raises
    IntegrityError for an invalid file."""
    drawn: dict[Arm, dict[str, Counted]] = {"staged": {}, "production": {}}
    is_broken = False
    if flag.staged is None:
        return Tally(drawn=drawn)
    for _, tally in _read(_TALLY, directory_of(directory, flag.line, flag.staged, flag.began).glob("*.json")):
        is_broken = is_broken or tally.is_broken
        for arm, users in tally.drawn.items():
            for user, counted in users.items():
                drawn[arm][user] = drawn[arm].get(user, Counted()).plus(counted)
    reports = read_reports(directory, flag.line, flag.staged)
    return Tally(drawn=drawn, is_broken=is_broken, reported=tuple(sorted(each.user for each in reports)))


def read_reports(directory: Path, line: str = "*", adapter: str = "*") -> set[Report]:
    """Return the reports of severity 1 about one or all adapters. Raises IntegrityError for an invalid file."""
    files = _read(_USERS, directory.glob(f"{_reports_of(line, adapter)}/*.json"))
    return {Report(path.parts[-3], path.parent.stem, user) for path, users in files for user in users}


def _reports_of(line: str, adapter: str) -> Path:
    return Path(line) / f"{adapter}.reports"


T = TypeVar("T")
_TALLY, _USERS = TypeAdapter(Tally), TypeAdapter(list[str])


def _read(content: TypeAdapter[T], paths: Iterable[Path]) -> Iterator[tuple[Path, T]]:
    for path in sorted(paths):
        try:
            yield path, content.validate_json(path.read_bytes())
        except (OSError, ValidationError):
            raise IntegrityError(f"{path}: the counts of a rollout cannot be read.", "Remove the file.") from None


def _counted(text: str, tokens: int, seconds: float, ended: Ended, request: str) -> Counted:
    log_seconds = math.log(max(seconds, 1e-3))
    if ended == "lost":
        return Counted(answers=1, lost=1)
    if ended == "cancelled":
        return Counted(answers=1, given_up=1, log_seconds=log_seconds)
    if ended == "stopped":  # length and duration of a stopped answer say nothing about the adapter
        return Counted(answers=1)
    asked, answered = script_of(request), script_of(text)
    return Counted(
        answers=1,
        complete=1,
        empty=not text.strip(),
        looping=loops(text),
        other_script=asked is not None and answered is not None and asked != answered,
        log_seconds=log_seconds,
        log_tokens=math.log(max(tokens, 1)),
    )


def sums(users: Mapping[str, Counted]) -> Counted:
    total = Counted()
    for each in users.values():
        total = total.plus(each)
    return total
