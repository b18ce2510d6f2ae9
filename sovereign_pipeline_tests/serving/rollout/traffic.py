"""A line with one adapter in production and one staged, users who ask, and what a gateway counts of it."""

import random
from pathlib import Path

import pytest

from sovereign_pipeline.serving.rollout import in_force
from sovereign_pipeline.serving.rollout.flag import Flag
from sovereign_pipeline.serving.rollout.hold import Watcher
from sovereign_pipeline.serving.rollout.in_force import Flags
from sovereign_pipeline.serving.rollout.telemetry import Ended, Feedback, Severity, Telemetry
from sovereign_pipeline_tests.serving.rollout.conftest import LINE, Desk

USERS = [f"user-{number}" for number in range(100)]
REQUEST = "When does the harbour office answer?"
ARABIC = "يجيب مكتب الميناء خلال عشرة أيام كما تنص المادة الرابعة."
TEXT = "The harbour office answers within ten days, as Article 4 has it."


@pytest.fixture(autouse=True)
def look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(in_force, "SECONDS_BETWEEN_LOOKS", 0.0)


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
                self.telemetry.note(
                    LINE,
                    choice,
                    text,
                    tokens,
                    min(seconds, patience),
                    ended,
                    REQUEST,
                    holds_personal_data=found,
                )
                if is_staged and self._draw.random() < disliked:
                    self.telemetry.rate(LINE, choice, Feedback(thumb="down", reason="wrong"), None)

    def report(self, severity: Severity) -> None:
        """Somebody says how bad an answer of the staged adapter is."""
        choices = (self.flags.which(LINE, user) for user in USERS)
        choice = next(each for each in choices if each is not None and each.arm == "staged")
        self.telemetry.rate(LINE, choice, Feedback(thumb="down", severity=severity), None)

    @property
    def flag(self) -> Flag:
        flag = self.flags.flag(LINE)
        assert flag is not None
        return flag


@pytest.fixture
def traffic(desk: Desk, tmp_path: Path) -> Traffic:
    desk.in_production()
    desk.rules(share=0.5)
    desk.staged()
    return Traffic(desk, tmp_path / "rollout")
