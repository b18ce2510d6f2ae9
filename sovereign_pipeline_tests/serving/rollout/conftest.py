"""A line whose adapters officers stage and promote, with its flag and a gateway's view of it."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.serving.high_water_marks import HighWaterMarks
from sovereign_pipeline.serving.rollout.flag import Flag
from sovereign_pipeline.serving.rollout.in_force import Flags
from sovereign_pipeline.serving.rollout.publishing import follow
from sovereign_pipeline_tests.release.conftest import Office
from sovereign_pipeline_tests.release.conftest import office as office

LINE = "lamps"


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


@pytest.fixture
def desk(office: Office, tmp_path: Path) -> Desk:
    return Desk(office, tmp_path / "gateway")
