"""Looking at every hold each minute: what does harm is taken back at once, and the one look at the end is kept.

What belongs here: these acts. What does not: the judgement (`hold.py`).
"""

import datetime
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sovereign_pipeline.base.errors import IntegrityError, SovereignError
from sovereign_pipeline.base.files import canonical_json, write_atomically
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.release.hold_judgements import (
    Bound,
    Judgement,
    judgement_files,
    read_judgement,
    write_judgement,
)
from sovereign_pipeline.serving.flags.files import changing
from sovereign_pipeline.serving.flags.flag import Flag
from sovereign_pipeline.serving.flags.in_force import Flags
from sovereign_pipeline.serving.flags.rollback import stop
from sovereign_pipeline.serving.rollout.comparison import upper_limit
from sovereign_pipeline.serving.rollout.hold import ALPHA, LOOK_AT_REPORTS, State, judge, reports_in_words
from sovereign_pipeline.serving.rollout.telemetry import Tally, Telemetry, directory_of, read_tally
from sovereign_pipeline.signing.officers import pipeline_signer, trust_root

Report = Callable[[str], None]


class Watcher:
    """Looks at the holds of one gateway."""

    def __init__(
        self, settings: Settings, institution: Institution, flags: Flags, telemetry: Telemetry, report: Report
    ) -> None:
        self._settings = settings
        self._institution = institution
        self._flags = flags
        self._telemetry = telemetry
        self._report = report

    def look(self) -> None:
        """Raises IntegrityError for counts that cannot be read, and where a stop could not be signed: this gateway
        gives everybody the adapter in production all the same."""
        self._telemetry.write()
        wrong: list[str] = []
        for flag in self._flags.flags().values():
            try:
                self._look_at(flag)
            except SovereignError as error:
                wrong.append(error.message)
        if wrong:
            raise IntegrityError(" ".join(wrong), "Put it right: until then no harm is seen.")

    def _look_at(self, flag: Flag) -> None:
        state = state_of(self._settings, self._telemetry.directory, flag, self._institution)
        if state is None:
            return
        if state.outcome == "abort":
            self._flags.hold_back(flag)
            stop(self._settings, flag.line, state.staged, state.because)
            self._report(f"{state.staged} is taken back: {state.because}")
        elif state.outcome != "open" and (judged := self._judge(flag)) is not None:
            self._report(f"{judged.adapter}: {judged.outcome}: {judged.because}")

    def _judge(self, flag: Flag) -> Judgement | None:
        """Sign what a hold came to, once. None where it is signed already."""
        trust = trust_root(self._settings)
        signer = pipeline_signer(self._settings, trust)
        with changing(self._settings, flag.line):
            tally = read_tally(self._telemetry.directory, flag)
            state, last = _state(self._settings, flag, self._institution, tally), judgement_of(self._settings, flag)
            if state is None or state.outcome in ("open", "abort"):
                return None  # counted since
            if last is not None and (last.outcome, last.severe) == (state.outcome, state.severe):
                return None
            number = 1 if last is None else last.number + 1
            counts = directory_of(self._telemetry.directory, flag.line, state.staged, flag.began)
            observed = canonical_json(tally.model_dump(mode="json")) + b"\n"
            write_atomically(counts.with_name(f"{counts.name}.judged-{number:04d}.json"), observed)
            judgement = _judgement(flag, state, number, hashlib.sha256(observed).hexdigest())
            write_judgement(self._settings, signer, judgement, flag.adapters[state.staged].record_manifest)
        return judgement


def state_of(settings: Settings, directory: Path, flag: Flag, institution: Institution) -> State | None:
    """How far a hold is; once it was judged, that judgement stays, whatever is counted later, unless it does harm
    or the worst is reported. directory: of the gateways' counts."""
    return _state(settings, flag, institution, read_tally(directory, flag))


def _state(settings: Settings, flag: Flag, institution: Institution, tally: Tally) -> State | None:
    rules, now = institution.rollout_of(flag.line).hold, datetime.datetime.now(datetime.UTC)
    state = judge(flag, tally, rules, now, is_searched=institution.serving.searches_answers(flag.line))
    if state is None or state.outcome == "abort":
        return state
    judged = judgement_of(settings, flag)
    if judged is None:
        return state
    if state.severe > judged.severe:  # reported since
        before = "to promote" if judged.outcome == "promote" else "inconclusive"
        told = f"{reports_in_words(state.severe)} (judged {before} on {judged.at:%Y-%m-%d})"
        return replace(state, outcome="inconclusive", because=told, expected=LOOK_AT_REPORTS)
    told = f"{judged.because} (judged on {judged.at:%Y-%m-%d})"
    return replace(state, outcome=judged.outcome, because=told, expected=judged.expected)


def judgement_of(settings: Settings, flag: Flag) -> Judgement | None:
    """The newest judgement about what a flag compares. Raises IntegrityError for one that the pipeline did not sign."""
    if flag.staged is None:
        return None
    files = judgement_files(settings, flag.line, flag.staged, flag.began)
    if not files:
        return None
    return read_judgement(files[-1], trust_root(settings), flag.adapters[flag.staged].record_manifest).judgement


def _judgement(flag: Flag, state: State, number: int, observations: str) -> Judgement:
    assert state.outcome in ("promote", "inconclusive")
    return Judgement(
        line=flag.line,
        adapter=state.staged,
        incumbent=flag.production,
        staged_by=flag.staged_by,
        began=flag.began,
        number=number,
        outcome=state.outcome,
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
