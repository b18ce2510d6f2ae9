"""The state of a hold: what was compared, with what result, and what is missing.

A staged adapter that is worse by more than its margin is taken back at any look. Whether it is as good is decided in
one look, once days, answers and users are enough; until then it is open. What belongs here: that judgement. What does
not: taking it back (`watching.py`), and promoting, which officers do.
"""

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from sovereign_pipeline.policy.rollout import Hold
from sovereign_pipeline.serving.flags.flag import Flag
from sovereign_pipeline.serving.rollout.comparison import (
    Difference,
    Sums,
    difference,
    is_worse_at_any_look,
    sample_ratio_p,
    upper_limit,
)
from sovereign_pipeline.serving.rollout.feedback import WORST
from sovereign_pipeline.serving.rollout.telemetry import LAST, Counted, Tally, sums

ALPHA = 0.05
"""How often a staged adapter that is worse by exactly a margin is taken back for it, and how often let through."""
SAMPLE_RATIO_ALPHA = 0.001
LOOK_AT_REPORTS = "Waiting changes nothing: look at what was reported."
MOST_DAYS = 36_500
"""So far ahead a date is told."""
FEWEST_USERS = 10
"""Of the smaller arm, from which on the variance between users can be believed."""

Outcome = Literal["open", "abort", "promote", "inconclusive"]


@dataclass(frozen=True)
class Measure:
    """One thing in which a staged adapter may be worse."""

    name: str
    is_share: bool
    sign: int
    """1 where more is worse, -1 where less is."""
    count: str
    total: str
    """Fields of `Counted`."""

    @property
    def in_words(self) -> str:
        return self.name.replace("_", " ")

    def of(self, users: Mapping[str, Counted]) -> dict[str, Sums]:
        found = {user: (getattr(each, self.count), getattr(each, self.total)) for user, each in users.items()}
        return {user: Sums(count, self.sign * total) for user, (count, total) in found.items() if count}


MEASURES = (
    Measure("lost", True, 1, "answers", "lost"),
    Measure("given_up", True, 1, "answers", "given_up"),
    Measure("empty", True, 1, "complete", "empty"),
    Measure("looping", True, 1, "complete", "looping"),
    Measure("other_script", True, 1, "complete", "other_script"),
    Measure("slower", False, 1, "timed", "log_seconds"),
    Measure("longer", False, 1, "complete", "log_tokens"),
    Measure("shorter", False, -1, "complete", "log_tokens"),
    Measure("disliked", True, 1, "answers", "disliked"),
    Measure("personal_data", True, 1, "searched", "personal_data"),
)


@dataclass(frozen=True)
class Compared:
    """One measure of both arms."""

    measure: Measure
    margin: float
    """Of shares as they are, of the others as a logarithm of the ratio."""
    found: Difference | None

    @property
    def is_worse(self) -> bool:
        """By more than the margin, whenever it is asked."""
        if self.found is None or self.found.users < FEWEST_USERS:
            return False
        return is_worse_at_any_look(self.found, self.margin, ALPHA / len(MEASURES))

    @property
    def is_as_good(self) -> bool:
        """By one look."""
        return self.found is not None and upper_limit(self.found, ALPHA) < self.margin

    @property
    def more_needed(self) -> float | None:
        """How many times as many answers could show it as good; None where none can, as it stands."""
        if self.found is None or self.found.estimate >= self.margin:
            return None
        ratio = (upper_limit(self.found, ALPHA) - self.found.estimate) / (self.margin - self.found.estimate)
        return max(1.0, ratio**2)

    def figures(self) -> "Figures":
        """The difference, as people read it."""
        margin = f"{self.margin:.1%}" if self.measure.is_share else f"{math.expm1(self.margin):.0%}"
        if self.found is None:
            return Figures(None, None, margin)
        estimate, most = self.found.estimate, upper_limit(self.found, ALPHA)
        if self.measure.is_share:
            return Figures(f"{estimate:+.1%}", f"{most:+.1%}", margin)
        return Figures(f"{math.expm1(estimate):+.0%}", f"{math.expm1(most):+.0%}", margin)

    def in_words(self) -> str:
        """The difference as a sentence."""
        told = self.figures()
        if told.difference is None:
            return f"{self.measure.in_words}: too few users"
        return f"{self.measure.in_words}: {told.difference}, at most {told.at_most} (margin {told.margin})"


@dataclass(frozen=True)
class Figures:
    """A comparison in numbers; the difference and its upper limit are None while there are too few users."""

    difference: str | None
    at_most: str | None
    margin: str


@dataclass(frozen=True)
class State:
    """How far a hold is."""

    line: str
    staged: str
    outcome: Outcome
    because: str
    compared: tuple[Compared, ...]
    users: tuple[int, int]
    """Staged, production; whom the hash drew."""
    answers: tuple[int, int]
    days: float
    rated: tuple[int, int] = (0, 0)
    """Answers of which callers said something."""
    severe: int = 0
    """Reports of severity 1 about the staged adapter."""
    expected: str = ""
    """When what is missing could be there; empty where nothing is."""


def judge(flag: Flag, tally: Tally, rules: Hold, now: datetime.datetime, *, is_searched: bool = False) -> State | None:
    """How far the hold of a flag's staged adapter is; None where nobody gets it. is_searched: whether the line's
    answers are searched for personal data: without that, it is not compared."""
    if flag.staged is None or not flag.is_rolling_out:
        return None
    staged, production = tally.drawn.get("staged", {}), tally.drawn.get("production", {})
    compared = tuple(
        Compared(
            each,
            rules.margin_of(each.name),
            difference(each.of(staged), each.of(production), is_share=each.is_share),
        )
        for each in MEASURES
        if is_searched or each.name != "personal_data"
    )
    users, of_staged, of_production = (len(staged), len(production)), sums(staged), sums(production)
    answers = (of_staged.answers, of_production.answers)
    days = (now - flag.began_at) / datetime.timedelta(days=1)
    outcome, because = _outcome(flag, tally, rules, compared, users, answers, days)
    rated = (of_staged.rated, of_production.rated)
    state = State(flag.line, flag.staged, outcome, because, compared, users, answers, days, rated, tally.severe)
    return replace(state, expected=expected(state, rules, flag.began_at))


def _outcome(
    flag: Flag,
    tally: Tally,
    rules: Hold,
    compared: tuple[Compared, ...],
    users: tuple[int, int],
    answers: tuple[int, int],
    days: float,
) -> tuple[Outcome, str]:
    if tally.is_broken:
        return "abort", f"broken: its last {LAST} answers were lost or empty"
    worse = [each.in_words() for each in compared if each.is_worse]
    if worse:
        return "abort", "; ".join(worse)
    missing = [
        f"{needed - math.floor(there)} {what}"
        for what, there, needed in (
            ("days", days, rules.days),
            ("users of the staged adapter", users[0], rules.users),
            ("users of the other", users[1], rules.users),
            ("answers of the staged adapter", answers[0], rules.answers),
            ("answers of the other", answers[1], rules.answers),
        )
        if there < needed
    ]
    severe = [reports_in_words(tally.severe)] if tally.severe else []
    if missing:
        return "open", "; ".join([f"missing: {', '.join(missing)}", *severe])
    if severe:
        return "inconclusive", severe[0]
    if (p := sample_ratio_p(*users, flag.share)) < SAMPLE_RATIO_ALPHA:
        return "inconclusive", f"{users[0]} and {users[1]} users are not as {flag.share:.0%} was drawn (p = {p:.1g})"
    open_ = [each.in_words() for each in compared if not each.is_as_good]
    return ("inconclusive", "; ".join(open_)) if open_ else ("promote", "as good in all that is compared")


def expected(state: State, rules: Hold, began_at: datetime.datetime) -> str:
    """When what is missing could be there, if users go on asking as they did."""
    if state.outcome == "open":
        times = [
            (rules.days, state.days),
            *((rules.users, there) for there in state.users),
            *((rules.answers, there) for there in state.answers),
        ]
        if any(not there for _, there in times[1:]):
            return "No date can be told: one of the two has answered nobody yet."
        days = max(rules.days, *(state.days * needed / there for needed, there in times[1:]))
        return f"At the rate so far it could be there on {_day(began_at, days)}."
    if state.outcome != "inconclusive":
        return ""
    if state.severe:
        return LOOK_AT_REPORTS
    factors = [each.more_needed for each in state.compared if not each.is_as_good]
    if not factors:
        return "Waiting changes nothing: find out why users are not as they were drawn."
    if any(each is None for each in factors):
        return "Waiting changes nothing: as it stands, it is worse by its margin or more."
    factor = max(each for each in factors if each is not None)
    answers = math.ceil(min(state.answers) * factor)
    return (
        f"About {answers:,} answers of each could settle it, at the rate so far in a hold until "
        f"{_day(began_at, state.days * factor)}: raise `rollout.hold.answers` and stage it anew."
    )


def _day(began_at: datetime.datetime, days: float) -> str:
    return f"{began_at + datetime.timedelta(days=min(days, MOST_DAYS)):%Y-%m-%d}"


def reports_in_words(severe: int) -> str:
    """Reports of the worst severity: one is enough that nothing is promoted by itself."""
    return f"{severe} report{'s' if severe > 1 else ''} of severity {WORST}"
