"""`sovereign up`: every port is ours before anything is started, and a service is ready when it answers."""

import json
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import InputError, ServiceEnded
from sovereign_pipeline.base.hosts import listen
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


class Dagster:
    """Answers GraphQL as a webserver does. location: of the code; beat: time of the daemon's last sign of life."""

    def __init__(self) -> None:
        self.location: dict[str, Any] = {"loadStatus": "LOADING", "locationOrLoadError": None}
        self.beat: float | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["query"]
                daemons = [{"required": True, "lastHeartbeatTime": outer.beat}]
                data: dict[str, Any] = {"instance": {"daemonHealth": {"allDaemonStatuses": daemons}}}
                if "workspaceOrError" in asked:
                    data = {"workspaceOrError": {"locationEntries": [outer.location]}}
                content = json.dumps({"data": data}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def dagster() -> Iterator[Dagster]:
    server = Dagster()
    thread = threading.Thread(target=server.http.serve_forever, daemon=True)
    thread.start()
    yield server
    server.http.shutdown()
    server.http.server_close()


def test_dagster_is_ready_once_its_code_location_is_loaded(dagster: Dagster) -> None:
    assert not services._has_loaded(dagster.address)
    dagster.location = {"loadStatus": "LOADED", "locationOrLoadError": {"__typename": "RepositoryLocation"}}
    assert services._has_loaded(dagster.address)


def test_definitions_that_cannot_be_loaded_end_the_waiting(dagster: Dagster) -> None:
    dagster.location = {
        "loadStatus": "LOADED",
        "locationOrLoadError": {"__typename": "PythonError", "message": "NameError: planted"},
    }
    with pytest.raises(ServiceEnded, match="NameError: planted"):
        services._has_loaded(dagster.address)


def test_a_daemon_is_ready_once_it_beat_after_the_start(dagster: Dagster) -> None:
    started = time.time()
    assert not services._daemons_beat(dagster.address, started)
    dagster.beat = started - 60  # of the daemon before it
    assert not services._daemons_beat(dagster.address, started)
    dagster.beat = started + 1
    assert services._daemons_beat(dagster.address, started)


def test_each_service_is_told_when_it_answers_and_the_others_are_named_while_they_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "SECONDS_BETWEEN_LOOKS", 0.01)
    monkeypatch.setattr(services, "SECONDS_BETWEEN_MESSAGES", 0.05)
    looks = iter(range(100))

    def late() -> bool:
        if next(looks) < 12:
            raise ConnectionRefusedError
        return True

    told: list[str] = []
    waited_for = [Service("slow one", [], late), Service("quick one", [], lambda: True, "http://127.0.0.1:1")]
    services._wait_until_ready(waited_for, {}, tmp_path, told.append)
    assert told[0].startswith("✓ quick one") and "http://127.0.0.1:1" in told[0]
    assert told[1].startswith("waiting for slow one (")
    assert told[-1].startswith("✓ slow one") and "ready" in told[-1]


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
    real = services._services(Ports(1, 2, 3, 4, 5), 0.0)
    assert [each.name for each in real if each.runs_stages] == ["Dagster UI", "Dagster daemon"]


def test_the_auditors_dagster_is_started_where_it_is_asked_for_and_told_nothing_of_the_corpus() -> None:
    without = {each.name for each in services._services(Ports(1, 2, 3, 4, 5), 0.0)}
    (auditors,) = [each for each in services._services(Ports(1, 2, 3, 4, 5, 6), 0.0) if each.name not in without]
    assert (auditors.name, auditors.address, auditors.runs_stages) == ("auditor UI", "http://127.0.0.1:6", False)


def test_the_gateway_is_started_where_an_adapter_is_in_production_and_else_it_is_said(
    office: Office,  # noqa: F811
) -> None:
    settings, told = office.bench.settings, list[str]()
    ports = Ports(1, 2, 3, 4, 5)
    adapter = office.adapter()
    assert services._gateway(settings, ports, told.append) == []
    assert told == ["no gateway: no adapter is in production yet; the gateway starts with the first one"]
    office.to_production(adapter)
    (gateway,) = services._gateway(settings, ports, told.append)
    assert gateway.name == "gateway" and gateway.address == "http://127.0.0.1:5"
    assert not gateway.runs_stages and len(told) == 1
    broken = replace(settings, registry_url="nonsense")
    assert services._gateway(broken, ports, told.append) == []
    assert told[1].startswith("no gateway: The database cannot be opened: SOVEREIGN_REGISTRY_URL")


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
        if text.startswith("all ready"):
            office.to_production(adapter)
        if text.startswith("✓ gateway"):
            raise KeyboardInterrupt

    serve_until_interrupted(settings, Ports(0, 0, 0, 0, 0), tell)
    assert told[0].startswith("no gateway") and told[-2].startswith("✓ gateway") and told[-1] == "stopping"
    assert told[-3].startswith("The gateway ended with status 1.")  # and nothing else was stopped
