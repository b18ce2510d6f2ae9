"""Run the trial of a staged adapter: compare it with the adapter in production, and abort or judge the trial.

The adapters are compared at regular intervals. Each comparison aborts the trial if the staged adapter is broken, or
worse by more than a margin. Non-inferiority is tested only once, when there are enough days, answers and users.
"""

import datetime
import hashlib
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from sovereign_pipeline.base.errors import IntegrityError, SovereignError
from sovereign_pipeline.base.files import canonical_json, write_atomically
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.serving import Hold
from sovereign_pipeline.record.officers import pipeline_signer, trust_root
from sovereign_pipeline.release.trial import Bound, Judgement, judgement_files, read_judgement, write_judgement
from sovereign_pipeline.serving.rollout.flag import Flag, changing
from sovereign_pipeline.serving.rollout.in_force import Flags
from sovereign_pipeline.serving.rollout.rollback import stop
from sovereign_pipeline.serving.rollout.telemetry import (
    LAST,
    WORST,
    Counted,
    Tally,
    Telemetry,
    directory_of,
    read_tally,
    sums,
)

PREPARED_FOR = 2.8
"""The bound of `is_worse_at_any_look` is tightest when the margin equals this many standard errors (1.96 + 0.84).
The number is fixed in advance."""


@dataclass(frozen=True)
class Sums:
    """The observations about one user: the number of observations, and their sum."""

    count: float
    total: float


Users = Mapping[str, Sums]
"""The sums of one arm: a mapping of hashed user to the user's sums."""


@dataclass(frozen=True)
class Difference:
    """The mean of the staged arm minus the mean of the production arm."""

    estimate: float
    variance: float
    users: int
    """Number of users in the smaller arm."""

    @property
    def standard_error(self) -> float:
        return math.sqrt(self.variance)


def difference(staged: Users, production: Users, *, is_share: bool) -> Difference | None:
    """Return the difference of the arms' means, staged minus production, with its variance. The variance is computed
    between users. Returns None while an arm has fewer than two users.

    An arm's mean is a ratio of sums over users, with the usual variance of a ratio (Cochran 1977, Sampling Techniques,
    6.3). is_share: True if each observation is 0 or 1. The variance is then at least the binomial variance after adding
    one 0 and one 1, so that an arm without any event yet is not treated as certain.
    """
    arms = [_mean(users, is_share) for users in (staged, production) if len(users) > 1]
    if len(arms) < 2:
        return None
    (one, first), (other, second) = arms
    return Difference(one - other, first + second, min(len(staged), len(production)))


def _mean(users: Users, is_share: bool) -> tuple[float, float]:
    count, total = sum(each.count for each in users.values()), sum(each.total for each in users.values())
    mean, known = total / count, len(users)
    squares = sum((each.total - mean * each.count) ** 2 for each in users.values())
    variance = known / (known - 1) * squares / count**2
    if is_share:
        smoothed = (total + 1) / (count + 2)
        variance = max(variance, smoothed * (1 - smoothed) / count)
    return mean, variance


def is_worse_at_any_look(found: Difference, margin: float, alpha: float) -> bool:
    """Return True if the staged arm is worse by more than the margin, by a test that is valid at every look.

    The test is the one-sided normal-mixture confidence sequence of Howard, Ramdas, McAuliffe and Sekhon 2021 (Annals of
    Statistics 49: 1055-1080), over the information 1/variance. Over any number of looks, the probability of an error is
    at most alpha (asymptotically: Waudby-Smith et al. 2024, Annals of Statistics 52: 2613-2640).
    """
    if found.variance <= 0:
        return False
    information = 1 / found.variance
    scale = best_scale((PREPARED_FOR / margin) ** 2, 2 * alpha)
    return (found.estimate - margin) * information > one_sided_bound(information, alpha, scale)


def best_scale(variance: float, alpha: float) -> float:
    """Return the mixture scale that makes the two-sided bound nearly tightest at this variance (a closed-form
    approximation of the optimum)."""
    log = 2 * math.log(1 / alpha)
    return variance / (log + math.log(1 + log))


def two_sided_bound(variance: float, alpha: float, scale: float) -> float:
    """Return the bound that a sum with this variance never exceeds in absolute value, with probability 1 - alpha."""
    both = variance + scale
    return math.sqrt(both * math.log(both / (scale * alpha**2)))


def one_sided_bound(variance: float, alpha: float, scale: float) -> float:
    """Return the bound that a sum with this variance never exceeds, with probability 1 - alpha. The bound is computed
    numerically, because it has no closed form."""
    from scipy.optimize import brentq
    from scipy.special import log_ndtr

    both = variance + scale

    def excess(total: float) -> float:
        log_mixture = 0.5 * math.log(4 * scale / both) + total**2 / (2 * both) + log_ndtr(total / math.sqrt(both))
        return float(log_mixture + math.log(alpha))

    return float(brentq(excess, 0.0, 10 * two_sided_bound(variance, alpha, scale)))


def upper_limit(found: Difference, alpha: float) -> float:
    """Return the upper confidence limit of the difference, for a single look. It uses Student's t with
    `found.users` - 1 degrees of freedom."""
    from scipy.stats import t

    return found.estimate + float(t.ppf(1 - alpha, max(1, found.users - 1))) * found.standard_error


def sample_ratio_p(staged: int, production: int, share: float) -> float:
    """Return the p-value of the sample-ratio check (chi-squared, one degree of freedom), or 1 if there are no users or
    `share` is 0 or 1. staged, production: numbers of users. share: intended share of the staged arm."""
    from scipy.stats import chisquare

    total = staged + production
    if not total or not 0 < share < 1:
        return 1.0
    return float(chisquare([staged, production], [total * share, total * (1 - share)]).pvalue)


ALPHA = 0.05
"""Maximum probability of a false abort, and of a false promotion of an adapter that is worse by exactly a margin."""
SAMPLE_RATIO_ALPHA = 0.001
LOOK_AT_REPORTS = "Waiting changes nothing: look at the reports of severity 1."
MOST_DAYS = 36_500
"""Maximum for an estimate in days, so that the resulting date is within the range of `datetime`."""
FEWEST_USERS = 10
"""Minimum number of users in an arm for a reliable variance between users."""

Outcome = Literal["open", "abort", "promote", "inconclusive"]


@dataclass(frozen=True)
class Measure:
    """A metric in which a staged adapter may be worse."""

    name: str
    is_share: bool
    sign: int
    """1 if a higher value is worse, -1 if a lower value is worse."""
    count: str
    total: str
    """`count` and `total` are names of fields in `Counted`: of the number of observations, and of their sum."""

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
    measure: Measure
    margin: float
    """Margin of the metric: a difference of shares, or the logarithm of a ratio."""
    found: Difference | None

    @property
    def is_worse(self) -> bool:
        """Return True if there are enough users and `is_worse_at_any_look` finds the staged arm worse by the margin."""
        if self.found is None or self.found.users < FEWEST_USERS:
            return False
        return is_worse_at_any_look(self.found, self.margin, ALPHA / len(MEASURES))

    @property
    def is_as_good(self) -> bool:
        """Return True if the staged arm is non-inferior, by a test that is valid only for a single look at the end."""
        return self.found is not None and upper_limit(self.found, ALPHA) < self.margin

    @property
    def more_needed(self) -> float | None:
        """Return the factor by which the number of answers must grow to show non-inferiority. Returns None if no number
        of answers would suffice."""
        if self.found is None or self.found.estimate >= self.margin:
            return None
        ratio = (upper_limit(self.found, ALPHA) - self.found.estimate) / (self.margin - self.found.estimate)
        return max(1.0, ratio**2)

    def figures(self) -> dict[str, str | None]:
        """Format the difference, its upper limit and the margin for display. The difference and its limit are None
        while there are too few users."""

        def shown(value: float, sign: str = "+") -> str:
            return f"{value:{sign}.1%}" if self.measure.is_share else f"{math.expm1(value):{sign}.0%}"

        found = self.found
        return {
            "difference": shown(found.estimate) if found is not None else None,
            "at_most": shown(upper_limit(found, ALPHA)) if found is not None else None,
            "margin": shown(self.margin, ""),
        }

    def in_words(self) -> str:
        if self.found is None:
            return f"{self.measure.in_words}: too few users"
        told = self.figures()
        return f"{self.measure.in_words}: {told['difference']}, at most {told['at_most']} (margin {told['margin']})"


@dataclass(frozen=True)
class Requirement:
    what: str
    there: float
    needed: int


@dataclass(frozen=True)
class State:
    line: str
    staged: str
    compared: tuple[Compared, ...]
    needed: tuple[Requirement, ...]
    """Requirements for a result: first the days, then the users and answers of both arms."""
    users: tuple[int, int]
    """Number of users in the staged and the production arm. Only users that the hash assigned are counted."""
    answers: tuple[int, int]
    days: float
    rated: tuple[int, int]
    """Number of answers with feedback, in the staged and the production arm."""
    severe: int
    """Number of users who reported severity 1 about the staged adapter."""
    outcome: Outcome = "open"
    because: str = ""
    expected: str = ""
    """Estimate of when the trial can be decided, or why waiting does not help; empty once it is decided."""


def judge(flag: Flag, tally: Tally, rules: Hold, now: datetime.datetime, *, is_searched: bool = False) -> State | None:
    """Judge the trial of a flag's staged adapter. Returns None if the adapter answers no users. is_searched: True if
    the line's answers are searched for personal data. If False, the metric `personal_data` is not compared."""
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
    answers, rated = (of_staged.answers, of_production.answers), (of_staged.rated, of_production.rated)
    days = (now - flag.began_at) / datetime.timedelta(days=1)
    needed = (
        Requirement("Days", days, rules.days),
        Requirement("Users of the staged adapter", users[0], rules.users),
        Requirement("Users of the other", users[1], rules.users),
        Requirement("Answers of the staged adapter", answers[0], rules.answers),
        Requirement("Answers of the other", answers[1], rules.answers),
    )
    state = State(flag.line, flag.staged, compared, needed, users, answers, days, rated, tally.severe)
    outcome, because = _outcome(state, tally.is_broken, flag.share)
    state = replace(state, outcome=outcome, because=because)
    return replace(state, expected=_expected(state, flag.began_at))


def _outcome(state: State, is_broken: bool, share: float) -> tuple[Outcome, str]:
    if is_broken:
        return "abort", f"the staged adapter is broken: its last {LAST} answers were lost or empty"
    worse = [each.in_words() for each in state.compared if each.is_worse]
    if worse:
        return "abort", "; ".join(worse)
    missing = [
        f"{each.needed - math.floor(each.there)} {each.what.lower()}"
        for each in state.needed
        if each.there < each.needed
    ]
    severe = [reports_in_words(state.severe)] if state.severe else []
    if missing:
        return "open", "; ".join([f"missing: {', '.join(missing)}", *severe])
    if severe:
        return "inconclusive", severe[0]
    one, other = state.users
    if (p := sample_ratio_p(one, other, share)) < SAMPLE_RATIO_ALPHA:
        numbers = f"{one} users of the staged adapter and {other} of the production adapter"
        return "inconclusive", f"{numbers} do not match a share of {share:.0%} (p = {p:.1g})"
    open_ = [each.in_words() for each in state.compared if not each.is_as_good]
    return ("inconclusive", "; ".join(open_)) if open_ else ("promote", "not worse by a margin in any metric")


def _expected(state: State, began_at: datetime.datetime) -> str:
    """Estimate when the trial can be decided, at the rate of requests so far."""
    if state.outcome == "open":
        days, *others = state.needed
        if any(not each.there for each in others):
            return "The date cannot be estimated: one of the two adapters has answered nobody yet."
        longest = max(days.needed, *(state.days * each.needed / each.there for each in others))
        return f"At the rate so far, the trial can be decided on {_day(began_at, longest)}."
    if state.outcome != "inconclusive":
        return ""
    if state.severe:
        return LOOK_AT_REPORTS
    factors = [each.more_needed for each in state.compared if not each.is_as_good]
    if not factors:
        return "Waiting changes nothing: find out why the numbers of users do not match the share."
    if any(each is None for each in factors):
        return "Waiting changes nothing: in at least one metric, the staged adapter is worse by the margin or more."
    factor = max(each for each in factors if each is not None)
    answers = math.ceil(min(state.answers) * factor)
    return (
        f"About {answers:,} answers of each adapter could decide the trial. At the rate so far, they would be there on "
        f"{_day(began_at, state.days * factor)}. Raise `rollout.hold.answers` and stage the adapter again."
    )


def _day(began_at: datetime.datetime, days: float) -> str:
    return f"{began_at + datetime.timedelta(days=min(days, MOST_DAYS)):%Y-%m-%d}"


def reports_in_words(severe: int) -> str:
    """Format the number of reports of severity 1. One report prevents an automatic promotion."""
    return f"{severe} report{'s' if severe > 1 else ''} of severity {WORST}"


Report = Callable[[str], None]


class Watcher:
    """Judges the trials and remembers their latest states. A gateway calls `look` at regular intervals."""

    def __init__(
        self, settings: Settings, institution: Institution, flags: Flags, telemetry: Telemetry, report: Report
    ) -> None:
        self._settings = settings
        self._institution = institution
        self._flags = flags
        self._telemetry = telemetry
        self._report = report
        self._states: dict[str, tuple[Flag, State | None]] = {}
        self._judging = threading.Lock()

    def state(self, flag: Flag) -> State | None:
        """Return the state of a flag's trial, computed by the latest `look` or, for a new flag, now. With many users,
        this takes seconds. Raises IntegrityError if counts or a judgement cannot be read."""
        with self._judging:
            known = self._states.get(flag.line)
            if known is None or known[0] != flag:
                known = self._states[flag.line] = (flag, self._state_of(flag))
            return known[1]

    def look(self) -> None:
        """Write the counts and judge every trial. Raises IntegrityError if counts cannot be read, or if the stop of a
        rollout cannot be signed. In the second case, this gateway still gives everybody the adapter in production."""
        self._telemetry.write()
        wrong: list[str] = []
        for flag in self._flags.flags().values():
            try:
                self._look_at(flag)
            except SovereignError as error:
                wrong.append(error.message)
        if wrong:
            raise IntegrityError(" ".join(wrong), "Correct the cause. Until then, no harmful adapter is detected.")

    def _look_at(self, flag: Flag) -> None:
        with self._judging:
            self._states.pop(flag.line, None)
            state = self._state_of(flag)
            self._states[flag.line] = (flag, state)
        if state is None:
            return
        if state.outcome == "abort":
            self._flags.hold_back(flag)
            stop(self._settings, flag.line, state.staged, state.because)
            self._report(f"the trial of {state.staged} is aborted: {state.because}")
        elif (state.outcome != "open" or state.severe) and (judged := self._judge(flag)) is not None:
            self._report(f"{judged.adapter}: {judged.outcome}: {judged.because}")

    def _state_of(self, flag: Flag) -> State | None:
        return state_of(self._settings, self._telemetry.directory, flag, self._institution)

    def _judge(self, flag: Flag) -> Judgement | None:
        """Sign the result of a trial or, while the trial is open, the number of severity-1 reports. Returns None if
        there is nothing new to sign."""
        trust = trust_root(self._settings)
        signer = pipeline_signer(self._settings, trust)
        with changing(self._settings, flag.line):
            tally = read_tally(self._telemetry.directory, flag)
            state, last = _state(self._settings, flag, self._institution, tally), judgement_of(self._settings, flag)
            if state is None or state.outcome == "abort" or (state.outcome == "open" and not state.severe):
                return None  # later counts changed the state
            outcome = "reported" if state.outcome == "open" else state.outcome
            if last is not None and (last.outcome, last.severe) == (outcome, state.severe):
                return None
            number = 1 if last is None else last.number + 1
            counts = directory_of(self._telemetry.directory, flag.line, state.staged, flag.began)
            observed = canonical_json(tally.model_dump(mode="json")) + b"\n"
            write_atomically(counts.with_name(f"{counts.name}.judged-{number:04d}.json"), observed)
            judgement = _judgement(flag, state, outcome, number, hashlib.sha256(observed).hexdigest())
            write_judgement(self._settings, signer, judgement, flag.adapters[state.staged].record_manifest)
        return judgement


def state_of(settings: Settings, directory: Path, flag: Flag, institution: Institution) -> State | None:
    """Return the state of a trial; None if the staged adapter answers no users. Once a result is signed, the state
    changes only if the trial must be aborted, or if another user reports severity 1. directory: contains the gateways'
    counts."""
    return _state(settings, flag, institution, read_tally(directory, flag))


def _state(settings: Settings, flag: Flag, institution: Institution, tally: Tally) -> State | None:
    rules, now = institution.rollout_of(flag.line).hold, datetime.datetime.now(datetime.UTC)
    state = judge(flag, tally, rules, now, is_searched=institution.serving.searches_answers(flag.line))
    if state is None or state.outcome == "abort":
        return state
    judged = judgement_of(settings, flag)
    if judged is None or judged.outcome == "reported":
        return state
    if state.severe > judged.severe:  # severe reports arrived after the judgement
        before = "to promote" if judged.outcome == "promote" else "inconclusive"
        told = f"{reports_in_words(state.severe)} (judged {before} on {judged.at:%Y-%m-%d})"
        return replace(state, outcome="inconclusive", because=told, expected=LOOK_AT_REPORTS)
    told = f"{judged.because} (judged on {judged.at:%Y-%m-%d})"
    return replace(state, outcome=judged.outcome, because=told, expected=judged.expected)


def judgement_of(settings: Settings, flag: Flag) -> Judgement | None:
    """Return the newest judgement of a flag's comparison; None if there is none. Raises IntegrityError if the pipeline
    did not sign the judgement."""
    if flag.staged is None:
        return None
    files = judgement_files(settings, flag.line, flag.staged, flag.began)
    if not files:
        return None
    return read_judgement(files[-1], trust_root(settings), flag.adapters[flag.staged].record_manifest).judgement


def _judgement(
    flag: Flag,
    state: State,
    outcome: Literal["promote", "inconclusive", "reported"],
    number: int,
    observations: str,
) -> Judgement:
    return Judgement(
        line=flag.line,
        adapter=state.staged,
        incumbent=flag.production,
        staged_by=flag.staged_by,
        began=flag.began,
        number=number,
        outcome=outcome,
        because=state.because,
        expected=state.expected,
        days=round(state.days, 3),
        users=state.users,
        answers=state.answers,
        rated=state.rated,
        severe=state.severe,
        bounds=tuple(
            Bound(
                measure=each.measure.name,
                estimate=None if each.found is None else each.found.estimate,
                at_most=None if each.found is None else upper_limit(each.found, ALPHA),
                margin=each.margin,
            )
            for each in state.compared
        ),
        observations=observations,
        at=datetime.datetime.now(datetime.UTC),
    )
