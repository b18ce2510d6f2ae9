"""A line whose adapters officers stage and promote, with its flag and a gateway's view of it."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.catalog import FLAG_CHANGED
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.serving.high_water_marks import HighWaterMarks
from sovereign_pipeline.serving.rollout.flag import Flag
from sovereign_pipeline.serving.rollout.in_force import Flags
from sovereign_pipeline.serving.rollout.publishing import follow
from sovereign_pipeline_tests.release.conftest import Office
from sovereign_pipeline_tests.release.conftest import office as office

LINE = "lamps"


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
    adapters: list[Adapter] = field(default_factory=list)

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
        adapter = self.office.adapter()
        self.office.to_production(adapter)
        self.follow()
        return adapter

    def staged(self) -> Adapter:
        adapter = self.office.adapter()
        for transition in ("approve", "stage"):
            self.office.move(transition, adapter)
        self.follow()
        return adapter

    def told(self) -> list[dict[str, Any]]:
        """The changes of the flag in the ledger, the oldest first."""
        return [dict(each.subjects) for each in entries(self.office.registry) if each.action == FLAG_CHANGED]


@pytest.fixture
def desk(office: Office, tmp_path: Path) -> Desk:
    return Desk(office, tmp_path / "gateway")
