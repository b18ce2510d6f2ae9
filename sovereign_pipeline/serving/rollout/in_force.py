"""Decide which flags are in force in a gateway, and choose each user's adapter according to these flags.

Changes are compared by number and content, never by time. A change is rejected if it fails verification, if it is older
than an accepted change, or if it names an adapter that is not loaded yet. The previous change then stays in force, and
`problems` returns the reason.
"""

import datetime
import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sovereign_pipeline.base.errors import IntegrityError, SovereignError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.officers import OFFICER
from sovereign_pipeline.record.statements import REQUEST, verify_statement
from sovereign_pipeline.record.trust_root import Trust
from sovereign_pipeline.serving.high_water_marks import FlagMark, HighWaterMarks
from sovereign_pipeline.serving.rollout.flag import (
    SIGN_ANEW,
    Arm,
    Change,
    Flag,
    evaluated,
    evaluator_of,
    installed_evaluator,
    lines_with_flags,
    read_change,
    sequences,
    verified_flag,
)

if TYPE_CHECKING:
    from openfeature.contrib.tools.flagd.core import FlagdCore

SECONDS_BETWEEN_LOOKS = 0.1
SECONDS_BETWEEN_CHECKS = 10.0
"""Seconds after which the newest change is verified again, even if it is unchanged or was rejected."""
SECONDS_BETWEEN_TRIES = 0.5
"""Seconds between retries while an adapter that the newest change names is not loaded."""

Loaded = Callable[[], Collection[str]]
"""Function that returns the ids of the loaded adapters."""


@dataclass(frozen=True)
class Choice:
    """The adapter that should answer a user, and the comparison in which the answer counts."""

    adapter: str
    digest: str
    arm: Arm
    drawn: bool
    """True if the hash assigned the user to the adapter. False if the user is in a group of the flag; the comparison
    omits such users."""
    user: str
    """Salted hash of the user."""
    staged: str | None
    """Staged adapter that answers some users; None if there is no rollout."""
    otherwise: str | None
    """Adapter in production, which answers if the user may not use the chosen adapter."""
    began: int
    """Number of the flag's change at which the comparison of the two adapters began."""


@dataclass
class _Line:
    in_force: "tuple[Flag, FlagdCore] | None" = None
    seen: Change | None = None
    """The newest change that was read, whether it is in force or not."""
    problem: str | None = None
    looked: float = float("-inf")
    checked: float = float("-inf")


class Flags:
    def __init__(self, settings: Settings, loaded: Loaded | None = None, marks: HighWaterMarks | None = None) -> None:
        """Create the flags of a gateway.

        Args:
            loaded: function that returns the ids of the loaded adapters. If None, a flag takes effect even if its
                adapters are not loaded.
            marks: the high-water marks to use. If None, the marks that the installation's gateways share are used.
        """
        self._settings = settings
        self._marks = marks or HighWaterMarks.of(settings)
        self._loaded = loaded
        self._lines: dict[str, _Line] = {}
        self._on_record: Mapping[str, FlagMark] = {}
        self._held_back: set[tuple[str, int]] = set()
        self._changing = threading.Lock()

    def which(self, line: str, user: str, groups: Collection[str] = ()) -> Choice | None:
        """Choose the adapter of a user. While the flag does not change, a user always gets the same adapter. Returns
        None if no adapter answers the user. groups: the user's groups, as the institution's proxy sends them."""
        current = self._current(line)
        if current is None:
            return None
        flag, core = current
        hashed = hash_of(flag, user)
        adapter, in_group = flag.production, bool({*groups} & {*flag.groups})
        is_tried = flag.is_rolling_out and (line, flag.began) not in self._held_back
        if is_tried and flag.evaluator == installed_evaluator():
            adapter = evaluated(core, flag, hashed, tuple(groups))
        if adapter is None:
            return None
        arm: Arm = "staged" if adapter == flag.staged else "production"
        return Choice(
            adapter,
            flag.adapters[adapter].digest,
            arm,
            not in_group,
            hashed,
            flag.staged if is_tried else None,
            flag.production,
            flag.began,
        )

    def flag(self, line: str) -> Flag | None:
        current = self._current(line)
        return current[0] if current is not None else None

    def flags(self) -> dict[str, Flag]:
        lines = {*lines_with_flags(self._settings), *self._lines}
        return {line: flag for line in sorted(lines) if (flag := self.flag(line)) is not None}

    def answering(self) -> set[str]:
        """Return the ids of the adapters that answer users, according to the flags read last."""
        flags = [state.in_force[0] for state in list(self._lines.values()) if state.in_force is not None]
        return {adapter for flag in flags for adapter in _given(flag)}

    def problems(self) -> dict[str, str]:
        """Return a mapping of line to the problem of the line's flag. A problem is the reason why the newest change is
        not in force, or an error in the flag in force."""
        self.flags()
        found = {line: state.problem for line, state in sorted(self._lines.items()) if state.problem is not None}
        for line, state in self._lines.items():
            flag = state.in_force[0] if state.in_force is not None else None
            if flag is not None and flag.is_rolling_out and flag.evaluator != installed_evaluator():
                found.setdefault(
                    line,
                    f"The flag of line {line} was written for {flag.evaluator}. The installed {installed_evaluator()} "
                    f"may assign users differently, so everybody gets {flag.production or 'nothing'}.",
                )
        return found

    def hold_back(self, flag: Flag) -> None:
        """Stop giving users the staged adapter in this process, until the flag's comparison changes."""
        self._held_back.add((flag.line, flag.began))

    def compare_with(self, on_record: Mapping[str, FlagMark]) -> None:
        """From now on, reject changes that are older than the ledger's. on_record: mapping of line name to the newest
        change in the ledger."""
        self._on_record = dict(on_record)

    def _current(self, line: str) -> "tuple[Flag, FlagdCore] | None":
        state = self._lines.get(line)
        if state is None or time.monotonic() - state.looked >= SECONDS_BETWEEN_LOOKS:
            with self._changing:
                state = self._look(line)
        return state.in_force if state is not None else None

    def _look(self, line: str) -> _Line | None:
        now = time.monotonic()
        known = self._lines.get(line)
        if known is not None and now - known.looked < SECONDS_BETWEEN_LOOKS:
            return known  # another thread has read the flags meanwhile
        numbers = sequences(self._settings, line)
        if known is None and not numbers:
            return None
        state = known or _Line()
        try:
            self._take(line, state, numbers, now)
        except SovereignError as error:
            state.problem = error.message
        state.looked = now
        self._lines[line] = state
        return state

    def _take(self, line: str, state: _Line, numbers: list[int], now: float) -> None:
        """Put a line's newest change in force, unless the same bytes were checked recently. Raises SovereignError if
        the change is rejected."""
        if not numbers:
            raise IntegrityError(f"The flag of line {line} is missing.", SIGN_ANEW)
        change = read_change(self._settings, line, numbers[-1])
        is_due = now - state.checked >= SECONDS_BETWEEN_CHECKS
        if change == state.seen and not is_due:
            return
        state.seen, state.checked = change, now
        flag = self._believed(line, change)
        self._assert_loaded(flag, state)
        state.in_force, state.problem = (flag, evaluator_of(flag)), None

    def _believed(self, line: str, change: Change) -> Flag:
        """Verify a change, store it as the newest accepted one, and return its flag. Raises SovereignError if
        verification fails, or if a newer or different change was accepted before."""
        trust = self._marks.trust(self._settings)
        flag = verified_flag(change, line, trust)
        _assert_by_officer(change, flag, trust)
        newest = FlagMark(sequence=change.sequence, sha256=change.sha256)
        for before in (self._marks.flag(line), self._on_record.get(line)):
            if before is not None and newest.is_older_than(before):
                raise IntegrityError(
                    f"The newest flag of line {line} is change {newest.sequence}, but a newer or different change "
                    f"{before.sequence} was accepted before.",
                    f"Somebody restored an older change. {SIGN_ANEW}",
                )
        self._marks.accept_flag(line, newest, trust)
        return flag

    def _assert_loaded(self, flag: Flag, state: _Line) -> None:
        """Raise IntegrityError if a flag that is to replace another gives users an adapter that is not loaded."""
        if self._loaded is None or state.in_force is None or state.in_force[0] == flag:
            return
        loaded = self._loaded()
        missing = [each for each in _given(flag) if each not in loaded]
        if missing:
            state.checked -= SECONDS_BETWEEN_CHECKS - SECONDS_BETWEEN_TRIES  # a load takes a moment: retry soon
            raise IntegrityError(
                f"The flag of line {flag.line}, change {flag.sequence}, waits until {' and '.join(missing)} is loaded.",
                "If this takes long, look for the cause in the engine's log.",
            )


def _given(flag: Flag) -> list[str]:
    asked = (flag.production, flag.staged if flag.is_rolling_out else None)
    return [each for each in asked if each is not None]


def hash_of(flag: Flag, user: str) -> str:
    """Return a user's hash with the line's salt. Without the salt, nobody can test a guessed user."""
    return hmac.new(bytes.fromhex(flag.salt), user.encode(), hashlib.sha256).hexdigest()


def _assert_by_officer(change: Change, flag: Flag, trust: Trust) -> None:
    """Raise IntegrityError if a rollback lacks a request by an officer who may roll back, or if a change other than a
    rollback has a request."""
    if change.request is None and flag.cause != "rollback":
        return
    request = change.request if flag.cause == "rollback" else None
    if request is not None and any(_is_asked_for(request, flag, adapter, trust) for adapter in flag.adapters):
        return
    raise IntegrityError(
        f"The flag of line {flag.line}, change {flag.sequence}: no officer who may roll back requested this change.",
        SIGN_ANEW,
    )


def _is_asked_for(request: bytes, flag: Flag, adapter: str, trust: Trust) -> bool:
    """Return True if an officer who may roll back signed exactly this flag's rollback to `adapter`, the request had not
    expired, and the rollback needs no further approvals."""
    named = flag.adapters[adapter]
    try:
        verified = verify_statement(request, trust, OFFICER, predicate_type=REQUEST, sha256=named.record_manifest)
    except IntegrityError:
        return False
    asked = verified.statement.predicate
    try:
        transition, levels = asked["transition"], {named.classification, asked["classification"]}
        is_in_time = flag.at < datetime.datetime.fromisoformat(asked["expires"])
        is_about_this = (asked["line"], asked["adapter"], asked["approvals"]) == (flag.line, adapter, 0)
        went_back = transition == "roll_back" and flag.production == adapter and not flag.is_rolling_out
        taken_back = transition == "unstage" and (flag.production, flag.staged) == (asked["incumbent"], None)
    except (KeyError, TypeError, ValueError):
        return False
    may = all(verified.key.allows(transition, level) for level in levels)
    return may and is_in_time and is_about_this and (went_back or taken_back)
