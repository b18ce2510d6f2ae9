"""A line whose adapters officers stage and promote, its flag, and a gateway whose users ask."""

import random
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.catalog import FLAG_CHANGED
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.serving.high_water_marks import HighWaterMarks
from sovereign_pipeline.serving.rollout import in_force, publishing
from sovereign_pipeline.serving.rollout.flag import Flag
from sovereign_pipeline.serving.rollout.hold import Watcher
from sovereign_pipeline.serving.rollout.in_force import Flags
from sovereign_pipeline.serving.rollout.publishing import follow
from sovereign_pipeline.serving.rollout.telemetry import Ended, Feedback, Severity, Telemetry
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.release.conftest import TO_PRODUCTION, Office, open_office
from sovereign_pipeline_tests.release.conftest import office as office
from sovereign_pipeline_tests.serving.copies import copy_of, new_institution
from sovereign_pipeline_tests.serving.gateway.scripted import LINE


def adapter_of(flags: Flags, user: str = "anybody", groups: Collection[str] = ()) -> str | None:
    """The adapter that a user gets."""
    choice = flags.which(LINE, user, groups)
    return choice.adapter if choice is not None else None


def adapters_of(flags: Flags, users: Iterable[str]) -> dict[str, str | None]:
    return {user: adapter_of(flags, user) for user in users}


@dataclass
class Desk:
    """Officers, and the flag of the line `lamps`."""

    office: Office
    directory: Path
    loaded: set[str] | None = None
    adapters: tuple[Adapter, ...] = ()
    """Those with which the test begins, the oldest first."""

    @property
    def settings(self) -> Settings:
        return self.office.bench.settings

    def follow(self) -> Flag:
        return follow(self.office.registry, self.office.bench.workplace())[0]

    def gateway(self, marks: str = "marks.json") -> Flags:
        """marks: the file in which the gateway keeps its high-water marks."""
        loaded = None if self.loaded is None else lambda: self.loaded or set()
        return Flags(self.settings, loaded, HighWaterMarks(self.directory / marks))

    def rules(self, **rollout: object) -> None:
        self.office.bench.institution.rules["rollout"] = rollout

    def in_production(self) -> Adapter:
        adapter = self.office.adapter(*TO_PRODUCTION)
        self.follow()
        return adapter

    def staged(self) -> Adapter:
        adapter = self.office.adapter("approve", "stage")
        self.follow()
        return adapter

    def told(self) -> list[dict[str, Any]]:
        """The changes of the flag in the ledger, the oldest first."""
        return [dict(each.subjects) for each in entries(self.office.registry) if each.action == FLAG_CHANGED]


@pytest.fixture
def desk(office: Office, tmp_path: Path) -> Desk:
    return Desk(office, tmp_path / "gateway")


@cache
def _made(share: float | None) -> Desk:
    """One adapter in production, and after it another: in production too, or staged with this share of the users.

    Everybody is drawn by the same salt, so that chance decides no judgement.
    """
    institution = new_institution()
    desk = Desk(open_office(institution), institution.root / "gateway")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(publishing, "secrets", SimpleNamespace(token_hex=lambda size: "5a" * size))
        first = desk.in_production()
        if share is not None:
            desk.rules(share=share)
        desk.adapters = (first, desk.staged() if share is not None else desk.in_production())
    desk.office.registry.engine.dispose()
    return desk


def _copied(made: Desk, institution: DemoInstitution, directory: Path) -> Desk:
    return Desk(copy_of(made.office, institution), directory, adapters=made.adapters)


@pytest.fixture
def desk_of_two(institution: DemoInstitution, tmp_path: Path) -> Desk:
    """One adapter in production, and another that it superseded."""
    return _copied(_made(None), institution, tmp_path / "gateway")


@pytest.fixture
def rolling_out(institution: DemoInstitution, tmp_path: Path) -> Desk:
    """One adapter in production, and another that half of the users get."""
    return _copied(_made(0.5), institution, tmp_path / "gateway")


USERS = [f"user-{number}" for number in range(100)]
REQUEST = "When does the harbour office answer?"
ARABIC = "يجيب مكتب الميناء خلال عشرة أيام كما تنص المادة الرابعة."
TEXT = "The harbour office answers within ten days, as Article 4 has it."


@pytest.fixture(autouse=True)
def look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_force, "SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(in_force, "SECONDS_BETWEEN_TRIES", 0.0)


class Traffic:
    """A gateway whose users ask, and what it counts."""

    def __init__(self, desk: Desk, directory: Path) -> None:
        self.desk = desk
        self.flags: Flags = desk.gateway()
        self.telemetry = Telemetry(directory)
        self.said: list[str] = []
        institution = desk.office.bench.workplace().institution
        self.watcher = Watcher(desk.settings, institution, self.flags, self.telemetry, self.said.append)
        self._draw = random.Random(4)

    def ask(
        self,
        times: int,
        *,
        lost: float = 0.01,
        empty: float = 0.0,
        other_script: float = 0.0,
        slower: float = 1.0,
        patience: float = 1e9,
        disliked: float = 0.0,
        discloses: float | None = None,
    ) -> None:
        """Every user asks so often; what is given holds for the staged adapter, but for the users' patience.
        discloses: personal data; None where answers are not searched."""
        for user in USERS:
            for _ in range(times):
                choice = self.flags.which(LINE, user)
                assert choice is not None
                is_staged = choice.arm == "staged"
                seconds = self._draw.lognormvariate(0, 0.4) * (slower if is_staged else 1)
                is_lost = self._draw.random() < (lost if is_staged else 0.01)
                ended: Ended = "lost" if is_lost else "cancelled" if seconds > patience else "complete"
                text = "" if is_staged and self._draw.random() < empty else TEXT
                if is_staged and other_script and self._draw.random() < other_script:
                    text = ARABIC
                tokens, found = 12 + self._draw.randrange(9), None
                if discloses is not None:
                    found = is_staged and self._draw.random() < discloses
                took = min(seconds, patience)
                self.telemetry.note(LINE, choice, text, tokens, took, ended, REQUEST, holds_personal_data=found)
                if is_staged and self._draw.random() < disliked:
                    self.telemetry.rate(LINE, choice, Feedback(thumb="down", reason="wrong"), None)

    def report(self, severity: Severity) -> None:
        """Somebody says how bad an answer of the staged adapter is, as the gateway counts it."""
        choices = (self.flags.which(LINE, user) for user in USERS)
        choice = next(each for each in choices if each is not None and each.arm == "staged")
        feedback = Feedback(thumb="down", severity=severity)
        self.telemetry.rate(LINE, choice, feedback, None)
        if feedback.is_worst:
            self.telemetry.report(LINE, choice.adapter, choice.user)

    @property
    def flag(self) -> Flag:
        flag = self.flags.flag(LINE)
        assert flag is not None
        return flag


@pytest.fixture
def traffic(rolling_out: Desk, tmp_path: Path) -> Traffic:
    return Traffic(rolling_out, tmp_path / "rollout")
