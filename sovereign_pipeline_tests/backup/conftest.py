"""An installation with two artifacts, and a pair of age keys."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sovereign_pipeline.backup.restoring import Restored, restore
from sovereign_pipeline.backup.taking import Taken, take
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, RAW_CORPUS
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline_tests.artifacts.small_stages import make
from sovereign_pipeline_tests.conftest import DemoInstitution

ACT = "lantern lit"


@dataclass(frozen=True)
class Pair:
    private: str
    public: str


@dataclass(frozen=True)
class Office:
    """An installation that is backed up."""

    workplace: Workplace
    refs: tuple[ArtifactRef, ...]
    pair: Pair

    @property
    def settings(self) -> Settings:
        return self.workplace.settings

    def take(self, out: Path) -> Taken:
        return take(self.settings, out, self.pair.public, print)

    def elsewhere(self, root: Path) -> Settings:
        """Another machine: the same rules and trust root, and no home yet."""
        return Settings(home=root / "home", data=self.settings.data, ledger_copy=self.settings.ledger_copy)

    def restore(self, settings: Settings, backup: Path, known: tuple[Path, ...] = (), loses: int = 0) -> Restored:
        return restore(settings, backup, self.pair.private, "the disk died", print, known=known, loses=loses)


def act(settings: Settings, action: str = ACT) -> None:
    with open_registry(settings).writing() as session:
        append(session, "keeper", action, {})


@pytest.fixture(scope="session")
def pair() -> Pair:
    import pyrage

    identity = pyrage.x25519.Identity.generate()
    return Pair(str(identity), str(identity.to_public()))


@pytest.fixture
def make_office(institution: DemoInstitution, pair: Pair) -> Callable[[], Office]:
    def made() -> Office:
        workplace = institution.workplace()
        raw = make(RAW_CORPUS, workplace)
        workplace.settings.vault.mkdir(exist_ok=True)
        (workplace.settings.vault / "sealed.age").write_bytes(b"sealed")
        return Office(workplace, (raw, make(CLASSIFIED_CORPUS, workplace, raw_corpus=raw)), pair)

    return made


@pytest.fixture
def office(make_office: Callable[[], Office]) -> Office:
    return make_office()
