"""Count answers and feedback by arm and hashed user, without texts.

Each gateway process writes its own file, so that the counts of several add up.
"""

import math
import secrets
import threading
import unicodedata
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import write_atomically
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.evaluation.red_team import loops
from sovereign_pipeline.serving.rollout.flag import Arm, Flag
from sovereign_pipeline.serving.rollout.in_force import Choice

FEWEST_LETTERS = 8
"""Of which the script of a text can be told."""
MOST_CHARACTERS = 4_000
"""Of a text that are looked at for its script."""


@dataclass(frozen=True)
class Checks:
    """What is wrong with an answer."""

    empty: bool
    looping: bool
    other_script: bool
    """In another script than the request, where both can be told: the answer to an Arabic letter in Latin letters."""


def check(request: str, answer: str) -> Checks:
    """request: the newest message of the conversation."""
    asked, answered = script_of(request), script_of(answer)
    is_other = asked is not None and answered is not None and asked != answered
    return Checks(empty=not answer.strip(), looping=loops(answer), other_script=is_other)


def script_of(text: str) -> str | None:
    """The script of most letters, as Unicode names it, such as LATIN and ARABIC; None for a text of too few."""
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
"""0: it does no harm. 1: the worst, it must not happen again; 2: serious; 3: minor."""
WORST = 1


class Feedback(Frozen):
    """What was said of one answer."""

    thumb: Thumb
    reason: Reason | None = None
    severity: Severity = 0

    @property
    def is_worst(self) -> bool:
        return self.severity == WORST


MOST_USERS = 50_000
"""Of one comparison in one process; of more, those who come first are counted."""
LAST = 20
"""Answers of the staged adapter in a row by which a broken one is known."""


Ended = Literal["complete", "cancelled", "lost", "stopped"]
"""How an answer ended; `cancelled` by its caller, `stopped` for the personal data in it."""


class Counted(Frozen):
    """What was counted of one user's answers by one arm."""

    answers: int = 0
    lost: int = 0
    """Begun and not completed by the engine."""
    given_up: int = 0
    """The caller went away before the end."""
    complete: int = 0
    empty: int = 0
    looping: int = 0
    other_script: int = 0
    log_seconds: float = 0.0
    """Sum over complete answers, and those given up with the time until then: one that is too slow is given up."""
    log_tokens: float = 0.0
    """Sum over complete answers."""
    rated: int = 0
    """Of which callers said something."""
    disliked: int = 0
    """With the thumb down."""
    searched: int = 0
    """Of which the whole was searched for personal data."""
    personal_data: int = 0
    """In which some was found that the caller did not give."""

    @property
    def timed(self) -> int:
        """How many answers `log_seconds` is over."""
        return self.complete + self.given_up

    def plus(self, other: "Counted") -> "Counted":
        mine, others = self.model_dump(), other.model_dump()
        return Counted(**{name: mine[name] + others[name] for name in mine})


class Tally(Frozen):
    """What one gateway process counted of a comparison, or several of them together."""

    drawn: dict[Arm, dict[str, Counted]] = Field(default={})
    """Arm -> hashed user -> what was counted; of users whom the hash drew."""
    is_broken: bool = False
    """Whether the newest answers of the staged adapter all failed, whoever asked, and the newest of the other did
    not. Answers that are empty count only if they are not all of one user, who could ask for nothing else."""
    reported: tuple[str, ...] = ()
    """Hashed users who reported severity 1 about the staged adapter: one counts once, whatever is said later."""

    @property
    def severe(self) -> int:
        return len(self.reported)


@dataclass(frozen=True)
class _Failed:
    """An answer that was lost or empty."""

    user: str
    is_lost: bool


def _row() -> deque[_Failed]:
    return deque(maxlen=LAST)


@dataclass
class _Counting:
    """A tally that grows."""

    drawn: dict[Arm, dict[str, Counted]] = field(default_factory=lambda: {"staged": {}, "production": {}})
    failed: dict[Arm, deque[_Failed]] = field(default_factory=lambda: {"staged": _row(), "production": _row()})
    """Arm -> the newest of its answers that were lost or empty, in a row."""
    reported: set[str] = field(default_factory=set)

    def add(self, choice: Choice, counted: Counted) -> None:
        in_a_row = self.failed[choice.arm]
        if counted.lost or counted.empty:
            in_a_row.append(_Failed(choice.user, is_lost=bool(counted.lost)))
        elif not counted.given_up:  # which says neither that the adapter answers nor that it does not
            in_a_row.clear()
        self._count(choice, counted)

    def rate(self, choice: Choice, said: Feedback, before: Feedback | None) -> None:
        was_disliked = before is not None and before.thumb == "down"
        if choice.arm == "staged" and said.is_worst:
            self.reported.add(choice.user)  # and stays, whatever is said later
        disliked = int(said.thumb == "down") - int(was_disliked)
        self._count(choice, Counted(rated=int(before is None), disliked=disliked))

    def _count(self, choice: Choice, counted: Counted) -> None:
        users = self.drawn[choice.arm]
        if choice.drawn and (choice.user in users or len(users) < MOST_USERS):
            users[choice.user] = users.get(choice.user, Counted()).plus(counted)

    def tally(self) -> Tally:
        newest = self.failed["staged"]
        is_of_several = len({each.user for each in newest}) > 1 or all(each.is_lost for each in newest)
        is_broken = len(newest) == LAST and is_of_several and not self.failed["production"]
        drawn = {arm: dict(users) for arm, users in self.drawn.items()}
        return Tally(drawn=drawn, is_broken=is_broken, reported=tuple(sorted(self.reported)))


class Telemetry:
    """Counts for one gateway process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._process = secrets.token_hex(8)
        self._countings: dict[Path, _Counting] = {}
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
        """Count one answer; nothing is counted while nothing is tried. request: the conversation's newest message.
        holds_personal_data: None where that is not known."""
        if choice.staged is None:
            return
        counted = _counted(text, tokens, seconds, ended, request)
        if holds_personal_data is not None:
            counted = counted.plus(Counted(searched=1, personal_data=int(holds_personal_data)))
        with self._changing:
            self._counting_of(line, choice.staged, choice.began).add(choice, counted)

    def rate(self, line: str, choice: Choice, said: Feedback, before: Feedback | None) -> None:
        """Count what a caller says of an answer, in the comparison that it was part of. before: what they had said."""
        if choice.staged is None:
            return
        with self._changing:
            self._counting_of(line, choice.staged, choice.began).rate(choice, said, before)

    def _counting_of(self, line: str, staged: str, began: int) -> _Counting:
        path = directory_of(self.directory, line, staged, began) / f"{self._process}.json"
        return self._countings.setdefault(path, _Counting())

    def write(self) -> None:
        """Put what was counted on disk."""
        with self._changing:
            tallies = {path: counting.tally() for path, counting in self._countings.items()}
        for path, tally in tallies.items():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_atomically(path, tally.model_dump_json() + "\n")


def counts_directory(settings: Settings) -> Path:
    """Where this installation's gateways count."""
    return settings.serving / "rollout"


def directory_of(directory: Path, line: str, staged: str, began: int) -> Path:
    """Where the counts of one comparison lie."""
    return directory / line / f"{staged}-{began:08d}"


def read_tally(directory: Path, flag: Flag) -> Tally:
    """What every gateway counted of a flag's comparison. Raises IntegrityError for a file that is none of theirs."""
    drawn: dict[Arm, dict[str, Counted]] = {"staged": {}, "production": {}}
    is_broken, reported = False, set[str]()
    if flag.staged is None:
        return Tally(drawn=drawn)
    for path in sorted(directory_of(directory, flag.line, flag.staged, flag.began).glob("*.json")):
        try:
            tally = Tally.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            raise IntegrityError(f"{path}: these counts of a rollout cannot be read.", "Remove the file.") from None
        is_broken, reported = is_broken or tally.is_broken, reported.union(tally.reported)
        for arm, users in tally.drawn.items():
            for user, counted in users.items():
                drawn[arm][user] = drawn[arm].get(user, Counted()).plus(counted)
    return Tally(drawn=drawn, is_broken=is_broken, reported=tuple(sorted(reported)))


def _counted(text: str, tokens: int, seconds: float, ended: Ended, request: str) -> Counted:
    log_seconds = math.log(max(seconds, 1e-3))
    if ended == "lost":
        return Counted(answers=1, lost=1)
    if ended == "cancelled":
        return Counted(answers=1, given_up=1, log_seconds=log_seconds)
    if ended == "stopped":  # it says nothing of the adapter's lengths and times
        return Counted(answers=1)
    checks = check(request, text)
    return Counted(
        answers=1,
        complete=1,
        empty=checks.empty,
        looping=checks.looping,
        other_script=checks.other_script,
        log_seconds=log_seconds,
        log_tokens=math.log(max(tokens, 1)),
    )


def sums(users: Mapping[str, Counted]) -> Counted:
    """Over all users."""
    total = Counted()
    for each in users.values():
        total = total.plus(each)
    return total
