"""`sovereign up`: every port is ours before anything is started, and a service is ready when it answers."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import InputError, ServiceEnded
from sovereign_pipeline.base.pages import listen
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.dagster import services
from sovereign_pipeline.dagster.services import Ports, Service, serve_until_interrupted
from sovereign_pipeline_tests.release.conftest import Office, office  # noqa: F401  fixtures

OPTIONS = ("--port", "--mlflow-port", "--review-port", "--pages-port", "--gateway-port")


@pytest.mark.parametrize("option", OPTIONS)
def test_a_taken_port_is_named_with_the_option_that_changes_it(tmp_path: Path, option: str) -> None:
    settings = Settings(home=tmp_path / "home", data=tmp_path / "data")
    told: list[str] = []
    with listen(0, "") as held, pytest.raises(InputError, match=f"another port with {option}\\."):
        taken = held.getsockname()[1]
        # 0 is a port that is free.
        ports = Ports(*(taken if option == each else 0 for each in OPTIONS))
        serve_until_interrupted(settings, ports, told.append)
    assert not told
    assert not settings.home.exists()


def test_definitions_that_cannot_be_loaded_end_the_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = {"loadStatus": "LOADED", "locationOrLoadError": {"__typename": "PythonError", "message": "planted"}}
    monkeypatch.setattr(services, "_query", lambda *given: {"workspaceOrError": {"locationEntries": [failed]}})
    with pytest.raises(ServiceEnded, match="planted"):
        services._has_loaded("http://any")


@pytest.mark.security_case(
    "The review page, the artifact pages or MLflow know the path of unscrubbed text",
    "`sovereign up` gives SOVEREIGN_CORPUS only to Dagster, whose stages need it",
)
def test_only_what_runs_stages_is_told_of_the_corpus(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home", data=tmp_path / "data")
    settings.logs.mkdir(parents=True)
    command = [sys.executable, "-c", "import os; print(os.environ.get('SOVEREIGN_CORPUS'))"]
    given = [Service(name, command, lambda: True, runs_stages=name == "stages") for name in ("stages", "page")]
    with services._running(given, settings) as processes:
        assert [process.wait() for process in processes.values()] == [0, 0]
    assert (settings.logs / "stages.log").read_text().strip() == str(tmp_path / "home-corpus")
    assert (settings.logs / "page.log").read_text().strip() == "None"
    others, with_auditors = (services._services(Ports(1, 2, 3, 4, 5, auditor), 0.0) for auditor in (None, 6))
    assert [each.name for each in with_auditors if each.runs_stages] == ["Dagster UI", "Dagster daemon"]
    assert with_auditors[-1].address == "http://127.0.0.1:6" and len(with_auditors) == len(others) + 1


def test_the_gateway_starts_with_the_first_adapter_in_production_and_is_tried_again(
    office: Office,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings, told = office.bench.settings, list[str]()
    adapter = office.adapter()
    programs = [[sys.executable, "-c", code] for code in ("raise SystemExit(1)", "import time; time.sleep(60)")]
    ready = iter((False, True))
    monkeypatch.setattr(services, "SECONDS_BETWEEN_LOOKS_FOR_PRODUCTION", 1)
    monkeypatch.setattr("signal.signal", lambda *_: None)

    def page(name: str, *_: object) -> Service:
        is_ready = next(ready)
        return Service(name, programs.pop(0), lambda: is_ready, "http://here")

    monkeypatch.setattr(services, "_services", lambda ports, started: [])
    monkeypatch.setattr(services, "_page", page)

    def tell(text: str) -> None:
        told.append(text)
        if text.startswith("all services are ready"):
            office.to_production(adapter)
        if text.startswith("✓ gateway"):
            raise KeyboardInterrupt

    serve_until_interrupted(settings, Ports(0, 0, 0, 0, 0), tell)
    assert told[0].startswith("no gateway") and told[-2].startswith("✓ gateway") and told[-1] == "stopping"
    assert told[-3].startswith("The gateway ended with status 1.")  # and nothing else was stopped
    assert services._gateway(replace(settings, registry_url="nonsense"), Ports(0, 0, 0, 0, 0), told.append) == []
    assert told[-1].startswith("no gateway: The database cannot be opened: SOVEREIGN_REGISTRY_URL")
