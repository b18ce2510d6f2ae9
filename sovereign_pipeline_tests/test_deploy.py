"""The files in `deploy/` name commands, variables, metrics and addresses that exist; units and proxy are tried."""

import getpass
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import subprocess
import threading
import tomllib
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from http.client import HTTPSConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from sovereign_pipeline.base.settings import PROJECT_ROOT, VARIABLES
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.serving.engines.engine import EngineState
from sovereign_pipeline.serving.gateway.metrics import Figures, Metrics
from sovereign_pipeline.serving.rollout.telemetry import Feedback
from sovereign_pipeline_tests.dagster.auditor.site import write_certificate
from sovereign_pipeline_tests.waiting import free_port, wait_until

DEPLOY = PROJECT_ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
NGINX = (DEPLOY / "nginx.conf").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
CONTAINERFILE = (DEPLOY / "Containerfile").read_text(encoding="utf-8").replace("\\\n", " ")
HANDED_OVER = (*(file.name for file in DEPLOY.iterdir()), "ca.crt")
"""What lies beside the composition: the files here, and the institution's certificate authority."""
GATEWAY = "gateway.institution.example"
ALIASES = COMPOSE["services"]["sovereign"]["networks"]["inside"]["aliases"]


def variables_in(text: str) -> set[str]:
    return {*re.findall(r"\bSOVEREIGN_[A-Z_]+", text)}


@pytest.mark.parametrize("file", sorted(DEPLOY.iterdir()), ids=lambda file: file.name)
def test_every_variable_is_one_of_the_program(file: Path) -> None:
    assert variables_in(file.read_text(encoding="utf-8")) <= {*VARIABLES.values()}


@pytest.mark.parametrize(
    "arguments",
    [
        *(shlex.split(line)[1:] for unit in UNITS for line in re.findall("ExecStart=(.*)", unit.read_text())),
        COMPOSE["services"]["sovereign"]["command"],
        json.loads(re.findall("^CMD (.*)", CONTAINERFILE, re.MULTILINE)[0]),
    ],
    ids=" ".join,
)
def test_every_command_is_one_of_the_program(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0


def test_the_image_is_built_from_files_that_are_there() -> None:
    for copied in re.findall("^COPY (.*)", CONTAINERFILE, re.MULTILINE):
        assert all((PROJECT_ROOT / name).exists() for name in copied.split()[:-1]), copied
    for torch in ("cpu", "cuda"):
        assert (PROJECT_ROOT / f"requirements/torch-{torch}.txt").exists()
    (program,) = json.loads(re.findall("^ENTRYPOINT (.*)", CONTAINERFILE, re.MULTILINE)[0])
    assert program in tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def test_every_file_of_the_package_is_installed_with_it() -> None:
    patterns = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    package = PROJECT_ROOT / "sovereign_pipeline"
    named = {
        file
        for name, globs in patterns.items()
        for glob in globs
        for file in (PROJECT_ROOT / name.replace(".", "/")).glob(glob)
    }
    others = {file for file in package.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert others == named


def test_the_composition_is_whole() -> None:
    services = COMPOSE["services"]
    for name, service in services.items():
        assert {*service.get("secrets", ())} <= {*COMPOSE["secrets"]}, name
        assert {*service.get("networks", ())} <= {*COMPOSE["networks"]}, name
        assert {*service.get("depends_on", ())} <= {*services}, name
        written = (part.split(":")[0] for part in service.get("volumes", ()))
        assert {name for name in written if name.startswith("./")} <= {f"./{name}" for name in HANDED_OVER}, name
    assert COMPOSE["networks"]["inside"]["internal"]
    assert [name for name, service in services.items() if "ports" in service] == ["sovereign"]
    assert {*ALIASES} == {*re.findall(r"server_name (\S+);", NGINX)}
    assert {*ALIASES} - {"chat.institution.example"} <= {
        *services["sovereign"]["environment"]["SOVEREIGN_UI_HOSTS"].split()
    }


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    if (program := shutil.which("systemd-analyze")) is None:
        pytest.skip("systemd-analyze is not installed: apt-get install -y systemd")
    for each in UNITS:
        text = each.read_text(encoding="utf-8")
        text = text.replace("/opt/sovereign/bin/sovereign", "/bin/true").replace("User=sovereign", "User=root")
        (tmp_path / each.name).write_text(text, encoding="utf-8")
    verified = subprocess.run(
        [program, "verify", "--man=no", tmp_path / unit.name],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )
    assert [line for line in verified.stderr.splitlines() if "sovereign" in line] == []
    assert verified.returncode == 0


def test_the_dashboard_asks_for_metrics_and_labels_of_the_gateway() -> None:
    exported = _exported()
    panels = json.loads((DEPLOY / "dashboard.json").read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(queries) > 10
    for query in queries:
        for name in re.findall(r"\b(?:sovereign|gen_ai)_\w+", query):
            asked = {
                *(label for labels in re.findall(r"by \(([^)]*)\)", query) for label in labels.split(", ")),
                *re.findall(r"(\w+)!?=", query),
            }
            assert asked <= exported[name], query


def _exported() -> dict[str, set[str]]:
    """Name of each metric that the gateway exports -> its labels."""
    metrics, of = Metrics(), ("lamps", "lamps-1.0.0")
    metrics.ended(*of, "complete", 1.0, 10, 20)
    for histogram in metrics.of_tokens(*of):
        histogram.observe(0.1)
    metrics.said(*of, Feedback(thumb="down", severity=1))
    metrics.found(*of, "answer", {"NAME": 1})
    metrics.unsearched(*of, 1)
    engine = EngineState("local", "tiny", "0" * 64, True, 1)
    page = metrics.page(
        Figures(engines=[engine], waiting={"lamps": 0}, running={"lamps": 1}, adapters={}, is_registry_reached=True)
    )
    exported: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            exported.setdefault(sample.name, set()).update(sample.labels)
    return exported


class Upstream(BaseHTTPRequestHandler):
    """A service that answers with what it was asked."""

    def do_GET(self) -> None:
        content = json.dumps({"port": self.server.server_port, **self.headers}).encode()  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        return


@dataclass(frozen=True)
class Proxied:
    port: int
    upstreams: dict[str, int]
    """Port of a service in `nginx.conf` -> port of the one that stands for it."""
    trusted: ssl.SSLContext

    def ask(self, name: str, path: str = "/", **headers: str) -> tuple[int, dict[str, Any]]:
        connection = HTTPSConnection("127.0.0.1", self.port, context=self.trusted)
        connection.sock = self.trusted.wrap_socket(
            socket.create_connection(("127.0.0.1", self.port)), server_hostname=GATEWAY
        )
        connection.request("GET", path, headers={"Host": name, **headers})
        answer = connection.getresponse()
        content = answer.read()
        return answer.status, json.loads(content) if answer.status == 200 else {}


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxied]:
    if (program := shutil.which("nginx")) is None:
        pytest.skip("nginx is not installed: apt-get install -y nginx-light")
    directory, port = tmp_path_factory.mktemp("nginx"), free_port()
    certificate, trusted = write_certificate(directory, GATEWAY)
    servers = {known: ThreadingHTTPServer(("127.0.0.1", 0), Upstream) for known in ("3000", "8700", "8800")}
    text = NGINX.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    text = text.replace("/run/secrets/proxy", str(certificate.with_suffix("")))
    text = text.replace("/run/secrets/operators.htpasswd", str(directory / "operators"))
    (directory / "operators").write_text("layla:{PLAIN}lamp\n", encoding="utf-8")
    for known, server in servers.items():
        assert f"127.0.0.1:{known};" in text
        text = text.replace(f"127.0.0.1:{known};", f"127.0.0.1:{server.server_port};")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {directory / kind}; " for kind in kinds)
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    main = f"{user} pid {directory}/pid; error_log stderr; worker_processes 1; daemon off; events {{}}\n"
    (directory / "nginx.conf").write_text(f"{main}http {{ {places} access_log off;\n{text}}}\n", encoding="utf-8")
    with ExitStack() as stack:
        for server in servers.values():
            threading.Thread(target=server.serve_forever, daemon=True).start()
            stack.callback(server.server_close)
            stack.callback(server.shutdown)
        process = stack.enter_context(subprocess.Popen([program, "-c", directory / "nginx.conf", "-p", directory]))
        stack.callback(process.terminate)
        wait_until(lambda: _listens(port), lambda: f"nginx does not listen ({process.poll()})")
        yield Proxied(port, {known: server.server_port for known, server in servers.items()}, trusted)


def _listens(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.security_case(
    "Somebody without a sign-in opens Dagster or the artifact pages through the proxy of `deploy/`", "401"
)
@pytest.mark.parametrize(("name", "port"), [("dagster", "3000"), ("pages", "8700")])
def test_what_has_no_sign_in_is_for_operators_alone(proxied: Proxied, name: str, port: str) -> None:
    host = f"{name}.institution.example"
    known, unknown = (f"Basic {b64encode(each).decode()}" for each in (b"layla:lamp", b"layla:chain"))
    assert [proxied.ask(host)[0], proxied.ask(host, Authorization=unknown)[0]] == [401, 401]
    status, seen = proxied.ask(host, Authorization=known)
    assert (status, seen["port"]) == (200, proxied.upstreams[port])


def test_a_client_says_nothing_of_itself_to_the_gateway(proxied: Proxied) -> None:
    forged = {"X-Remote-User": "layla", "X-Remote-Roles": "desk", "X-Proxy-Secret": "x", "X-Forwarded-For": "10.0.0.1"}
    status, seen = proxied.ask(GATEWAY, **forged)
    assert (status, seen["port"], seen["Host"]) == (200, proxied.upstreams["8800"], GATEWAY)
    assert not {"X-Remote-User", "X-Remote-Roles", "X-Proxy-Secret"} & seen.keys()
    assert seen["X-Forwarded-For"] == "127.0.0.1"


def test_what_is_not_for_outside_is_refused(proxied: Proxied) -> None:
    assert proxied.ask(GATEWAY, "/metrics")[0] == 404
    assert proxied.ask("other.example")[0] == 421
