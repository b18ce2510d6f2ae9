"""Looking at every hold each minute: what does harm is taken back at once, and the one look at the end is kept.

What belongs here: these acts. What does not: the judgement (`hold.py`).
"""

import datetime
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from sovereign_pipeline.errors import IntegrityError, SovereignError
from sovereign_pipeline.frozen import Frozen
from sovereign_pipeline.ledger.log.checkpoints import write_atomically
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.serving.flags.flag import Flag
from sovereign_pipeline.serving.flags.in_force import Flags
from sovereign_pipeline.serving.flags.rollback import stop
from sovereign_pipeline.serving.rollout.hold import State, judge, reports_in_words
from sovereign_pipeline.serving.rollout.telemetry import Telemetry, directory_of, read_tally
from sovereign_pipeline.settings import Settings

Report = Callable[[str], None]


class Judged(Frozen):
    """The one look at the end of a hold."""

    outcome: Literal["promote", "inconclusive"]
    because: str
    at: datetime.datetime


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
            raise IntegrityError(" ".join(wrong), "Put it right; nothing is promoted meanwhile.")

    def _look_at(self, flag: Flag) -> None:
        state = state_of(self._telemetry.directory, flag, self._institution)
        if state is None:
            return
        if state.outcome == "abort":
            self._flags.hold_back(flag)
            stop(self._settings, flag.line, state.staged, state.because)
            self._report(f"{state.staged} is taken back: {state.because}")
        elif state.outcome != "open":
            path = _judgement(self._telemetry.directory, flag)
            if not path.exists():
                judged = Judged(outcome=state.outcome, because=state.because, at=datetime.datetime.now(datetime.UTC))
                write_atomically(path, judged.model_dump_json() + "\n")
                self._report(f"{state.staged}: {state.outcome}: {state.because}")


def state_of(directory: Path, flag: Flag, institution: Institution) -> State | None:
    """How far a hold is; once it was judged, that judgement stays, whatever is counted later, unless it does harm
    or the worst is reported."""
    rules = institution.rollout_of(flag.line).hold
    state = judge(flag, read_tally(directory, flag), rules, datetime.datetime.now(datetime.UTC))
    if state is None or state.outcome == "abort":
        return state
    path = _judgement(directory, flag)
    try:
        judged = Judged.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return state
    except (OSError, ValidationError):
        raise IntegrityError(f"{path}: the judgement of a hold cannot be read.", "Find out who changed it.") from None
    if judged.outcome == "promote" and state.severe:  # reported since
        told = f"{reports_in_words(state.severe)} (judged to promote on {judged.at:%Y-%m-%d})"
        return replace(state, outcome="inconclusive", because=told)
    return replace(state, outcome=judged.outcome, because=f"{judged.because} (judged on {judged.at:%Y-%m-%d})")


def _judgement(directory: Path, flag: Flag) -> Path:
    counts = directory_of(directory, flag.line, flag.staged or "", flag.began)
    return counts.with_name(f"{counts.name}.judgement.json")
