"""Processes that search, with the real detectors by pattern: started once for all tests of the folder."""

from collections.abc import Callable, Iterator

import pytest

from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.serving import Reaction, Screened
from sovereign_pipeline.privacy.corrections import NO_WORDS
from sovereign_pipeline.serving import scanning
from sovereign_pipeline.serving.scanning import LineDetectors, Scanner
from sovereign_pipeline.serving.screening import Screens
from sovereign_pipeline_tests.serving.gateway.conftest import bench as bench
from sovereign_pipeline_tests.serving.gateway.conftest import client as client
from sovereign_pipeline_tests.serving.gateway.conftest import running as running

LINE = "lamps"
Screening = Callable[..., Screens]


@pytest.fixture(scope="package")
def started() -> Iterator[Scanner]:
    treatments = Institution(name="Harbour Office", classification=("PUBLIC",)).treatments(LINE)
    privacy = Privacy(name_models={}, patterns_only=("en", "ar"))
    scanner = Scanner({LINE: LineDetectors(LINE, privacy, treatments, NO_WORDS)})
    scanner.start()
    yield scanner
    scanner.close()


@pytest.fixture
def scanner(started: Scanner, monkeypatch: pytest.MonkeyPatch) -> Scanner:
    """Its process runs, whatever the test before did to it. Here, since a process ends with the thread that started
    it, and a test's client has a new one for each request."""
    monkeypatch.setattr(scanning, "SECONDS_BETWEEN_STARTS", 0.0)
    started.start()
    return started


@pytest.fixture
def screening(scanner: Scanner) -> Screening:
    """Made by a call: what is done with requests and answers."""

    def make(requests: Reaction | None = None, answers: Reaction | None = None) -> Screens:
        return Screens(scanner, {LINE: Screened(requests=requests, answers=answers)})

    return make
