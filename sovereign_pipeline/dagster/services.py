"""Start, monitor and stop the processes of `sovereign up` on loopback: Dagster, MLflow, pages and gateway."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import ConflictError, ServiceEnded, SovereignError
from sovereign_pipeline.base.files import held_if_free
from sovereign_pipeline.base.pages import LOOPBACK, listen
from sovereign_pipeline.base.settings import CORPUS_VARIABLE, PROJECT_ROOT, Settings
from sovereign_pipeline.dagster.auditor import READY, auditors_proxy
from sovereign_pipeline.serving.deployable import lines_in_production

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_BETWEEN_MESSAGES = 15
SECONDS_FOR_AN_ANSWER = 10
SECONDS_TO_END = 30
SECONDS_BETWEEN_LOOKS_FOR_PRODUCTION = 5

CODE_LOCATIONS = """{ workspaceOrError { ... on Workspace { locationEntries { loadStatus locationOrLoadError {
    __typename ... on PythonError { message } } } } } }"""
DAEMONS = "{ instance { daemonHealth { allDaemonStatuses { required lastHeartbeatTime } } } }"

WORKSPACE = Path(__file__).with_name("workspace.yaml")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Ports:
    dagster: int
    mlflow: int
    review: int
    pages: int
    gateway: int
    auditor: int | None = None

    @property
    def by_option(self) -> Mapping[str, int]:
        services = {
            "--port": self.dagster,
            "--mlflow-port": self.mlflow,
            "--review-port": self.review,
            "--pages-port": self.pages,
            "--gateway-port": self.gateway,
        }
        return services if self.auditor is None else {**services, "--auditor": self.auditor}


@dataclass(frozen=True)
class Service:
    """A service process and its readiness probe."""

    name: str
    command: Sequence[str]
    is_ready: Callable[[], bool]
    """Function that returns True if the service is ready. Raises OSError or ValueError without a valid response."""

    address: str = ""
    """URL for users; empty if the service has no page."""
    runs_stages: bool = False
    """True if stages run in child processes of the service. Other services do not get SOVEREIGN_CORPUS."""


def serve_until_interrupted(settings: Settings, ports: Ports, tell: Tell) -> None:
    """Start all services, report when each service is ready, wait for Ctrl-C, and stop them all.

    Raises InputError for a port in use or an auditor's Dagster without the proxy's secret, ConflictError if services of
    the same home are already running, and ServiceEnded if a service ends unexpectedly.
    """
    if ports.auditor is not None:
        auditors_proxy(settings)
    for option, port in ports.by_option.items():
        listen(port, option).close()
    settings.mlflow_artifacts.mkdir(parents=True, exist_ok=True)
    settings.logs.mkdir(parents=True, exist_ok=True)
    with held_if_free(settings.dagster_home / ".daemon") as is_only_one:
        if not is_only_one:  # Dagster itself would start every due run twice
            raise ConflictError(
                f"The services of {settings.home} are already running.", "Stop the other `sovereign up`."
            )
        _serve(settings, ports, tell)


def _serve(settings: Settings, ports: Ports, tell: Tell) -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    gateway = _gateway(settings, ports, tell)
    services = [*_services(ports, time.time()), *gateway]
    tell(f"starting {len(services)} services; their output is in {settings.logs}")
    with _running(services, settings) as processes:
        try:
            _wait_until_ready(services, processes, settings.logs, tell)
            tell("all services are ready; Ctrl-C stops them")
            for second in itertools.count():
                _assert_running(processes, settings.logs)
                if not gateway and second % SECONDS_BETWEEN_LOOKS_FOR_PRODUCTION == 0:
                    gateway = _gateway(settings, ports, lambda _: None)
                    for service in gateway:
                        started = _start(service, settings)
                        try:
                            _wait_until_ready([service], {**processes, service.name: started}, settings.logs, tell)
                        except ServiceEnded as error:
                            if started.poll() is None:  # because another service ended
                                raise
                            tell(f"{error.message} {error.hint} The start will be retried.")
                            gateway = []
                        else:
                            processes[service.name] = started
                time.sleep(1)
        except KeyboardInterrupt:
            tell("stopping")


def _services(ports: Ports, started: float) -> list[Service]:
    workspace = ["-w", str(WORKSPACE)]
    dagster = f"http://{LOOPBACK}:{ports.dagster}"
    return [
        Service(
            "Dagster UI",
            _module("dagster.dagster_ui", ports.dagster),
            lambda: _has_loaded(dagster),
            dagster,
            runs_stages=True,
        ),
        Service(
            "Dagster daemon",
            [_program("dagster-daemon"), "run", *workspace],
            lambda: _daemons_beat(dagster, since=started),
            runs_stages=True,
        ),
        _page("MLflow UI", _module("dagster.mlflow_ui", ports.mlflow), ports.mlflow, "/health"),
        _page(
            "review page",
            [_program("sovereign"), "review", "serve", "--port", str(ports.review)],
            ports.review,
            "/static/icon.svg",
        ),
        _page("artifact pages", _module("web.routes", ports.pages), ports.pages, "/ready"),
        *_auditors(ports.auditor),
    ]


def _auditors(port: int | None) -> list[Service]:
    return [] if port is None else [_page("auditor UI", _module("dagster.auditor", port), port, READY)]


def _gateway(settings: Settings, ports: Ports, tell: Tell) -> list[Service]:
    """Return a list with the gateway if a line has an adapter in production. Otherwise report the reason and return an
    empty list."""
    try:
        lines = lines_in_production(settings)
    except SovereignError as error:
        tell(f"no gateway: {error.message}")
        return []
    if not lines:
        tell("no gateway: no adapter is in production yet; the gateway starts with the first one")
        return []
    return [_page("gateway", [_program("sovereign"), "serve", "--port", str(ports.gateway)], ports.gateway, "/readyz")]


def _page(name: str, command: Sequence[str], port: int, probe: str) -> Service:
    address = f"http://{LOOPBACK}:{port}"
    return Service(name, command, lambda: _answers(address + probe), address)


@contextmanager
def _running(services: Sequence[Service], settings: Settings) -> Iterator[dict[str, "subprocess.Popen[bytes]"]]:
    """Start the services, and yield a mapping of name to process. Stop all processes on exit."""
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for service in services:
            processes[service.name] = _start(service, settings)
        yield processes
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            try:
                process.wait(timeout=SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                process.kill()


def _start(service: Service, settings: Settings) -> "subprocess.Popen[bytes]":
    environment = {**os.environ, **settings.to_environment()}
    if not service.runs_stages:
        del environment[CORPUS_VARIABLE]
    with (settings.logs / f"{service.name.lower().replace(' ', '-')}.log").open("ab") as log:
        return subprocess.Popen(service.command, stdout=log, stderr=log, cwd=PROJECT_ROOT, env=environment)


def _wait_until_ready(
    services: Sequence[Service], processes: Mapping[str, "subprocess.Popen[bytes]"], logs: Path, tell: Tell
) -> None:
    """Wait until every service is ready. Report each service when it becomes ready, and from time to time the services
    that are not ready yet. Raises ServiceEnded if a process ends."""
    waiting = list(services)
    started = told = time.monotonic()
    while waiting:
        _assert_running(processes, logs)
        for service in [each for each in waiting if _is_ready(each)]:
            waiting.remove(service)
            tell(f"✓ {service.name:<16}{service.address or 'ready'}  ({time.monotonic() - started:.0f} s)")
        if waiting and time.monotonic() - told > SECONDS_BETWEEN_MESSAGES:
            told = time.monotonic()
            tell(f"waiting for {', '.join(each.name for each in waiting)} ({told - started:.0f} s)")
        time.sleep(SECONDS_BETWEEN_LOOKS if waiting else 0)


def _is_ready(service: Service) -> bool:
    try:
        return service.is_ready()
    except (OSError, ValueError):  # no program listens yet, or another program listens
        return False


def _assert_running(processes: Mapping[str, "subprocess.Popen[bytes]"], logs: Path) -> None:
    for name, process in processes.items():
        if process.poll() is not None:
            raise ServiceEnded(f"The {name} ended with status {process.returncode}.", f"Read its log under {logs}.")


def _answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=SECONDS_FOR_AN_ANSWER) as response:
        return bool(response.status == 200)


def _has_loaded(dagster: str) -> bool:
    """Return True if the code location is loaded. Raises ServiceEnded if loading failed."""
    entries = _query(dagster, CODE_LOCATIONS)["workspaceOrError"]["locationEntries"]
    for entry in entries:
        found = entry["locationOrLoadError"] or {}
        if found.get("__typename") == "PythonError":
            raise ServiceEnded(
                f"Dagster cannot load the definitions: {found['message'].strip()}", "Correct the error and start again."
            )
    return bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)


def _daemons_beat(dagster: str, since: float) -> bool:
    """Return True if every required daemon of the instance has sent a heartbeat since the time `since`."""
    daemons = _query(dagster, DAEMONS)["instance"]["daemonHealth"]["allDaemonStatuses"]
    needed = [each for each in daemons if each["required"]]
    return bool(needed) and all((each["lastHeartbeatTime"] or 0) >= since for each in needed)


def _query(dagster: str, query: str) -> dict[str, Any]:
    """Send a GraphQL query and return its data. Raises ValueError for a response without data."""
    request = urllib.request.Request(
        f"{dagster}/graphql", json.dumps({"query": query}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=SECONDS_FOR_AN_ANSWER) as response:
        data = json.loads(response.read()).get("data")
    if data is None:
        raise ValueError("no data")
    return dict(data)


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def _module(name: str, port: int) -> list[str]:
    return [sys.executable, "-m", f"sovereign_pipeline.{name}", str(port)]
