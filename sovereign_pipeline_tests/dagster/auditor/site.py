"""The auditor's Dagster with one run, the institution's sign-in provider, and the proxies of `docs/proxies`.

The examples are run as they stand: only ports, names of files and the secret are put in.
"""

import getpass
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.events import DagsterEventType
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager

from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.dagster.auditor import access_log_of
from sovereign_pipeline.dagster.resources import LINES, open_instance
from sovereign_pipeline_tests.tracing import Trace
from sovereign_pipeline_tests.waiting import SECONDS, free_port, wait_until


def write_certificate(directory: Path, name: str) -> tuple[Path, ssl.SSLContext]:
    """The certificate's file, with the key beside it, and a client that trusts it alone."""
    path = directory / "lineage.crt"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-days", "30", "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"]
    command += ["-keyout", str(path.with_suffix(".key")), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path, ssl.create_default_context(cafile=str(path))


NAME = "lineage.institution.example"
EXAMPLES = {"nginx": PROJECT_ROOT / "docs/proxies/nginx.conf", "caddy": PROJECT_ROOT / "docs/proxies/Caddyfile"}
SECRET = "a secret of the proxy, thirty-two characters long"
TEXT = "Dear Sir, the quay at Al Munirah is closed to Salim Al-Harthy."
"""What a library printed in a step."""
MESSAGE = "5 documents were read."
"""What the step says in the run's events."""


@contextmanager
def planted_run(settings: Settings) -> Iterator[tuple[dg.DagsterInstance, str, list[str]]]:
    """The instance, the id of a run of `raw_corpus`, and the key of what its step printed."""

    @dg.asset(name="raw_corpus", partitions_def=LINES)
    def raw_corpus(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        context.log.info(MESSAGE)
        return dg.MaterializeResult(metadata={"documents": 5})

    with open_instance(settings) as instance:
        instance.add_dynamic_partitions("line", ["lamps"])
        result = dg.materialize([raw_corpus], partition_key="lamps", instance=instance)
        (captured,) = [each for each in result.all_events if each.event_type is DagsterEventType.LOGS_CAPTURED]
        key = [result.run_id, "compute_logs", captured.logs_captured_data.file_key]
        logs = instance.compute_log_manager
        assert isinstance(logs, LocalComputeLogManager)
        Path(logs.get_captured_local_path(key, "out")).write_text(TEXT)  # a test's own output goes elsewhere
        assert logs.get_log_data(key).stdout == TEXT.encode()  # else nothing would be refused
        yield instance, result.run_id, key


class Provider:
    """Who a cookie is. It answers as oauth2-proxy does, and keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.asked.append(dict(self.headers))
                cookie = self.headers.get("Cookie", "")
                asked = self.path == "/oauth2/auth?allowed_groups=auditors"  # and nothing of the client's
                self.send_response(202 if asked and cookie.startswith("session=") else 401)
                if cookie == "session=layla":
                    self.send_header("X-Auth-Request-User", "layla")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)


@dataclass
class Site:
    """What a test asks."""

    settings: Settings
    run: str
    log_key: Sequence[str]
    ports: dict[str, int]
    """server: of the auditor's Dagster itself; nginx and caddy: in front of it, where they are installed."""
    provider: Provider
    directory: Path
    trusted: ssl.SSLContext
    trace: Trace | None
    """Of every process of the auditor's Dagster."""
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def require(self, way: str) -> None:
        """Skip the test where the proxy is not installed."""
        if way not in self.ports:
            pytest.skip(f"{way} is not installed: apt-get install -y {'nginx-light' if way == 'nginx' else way}")

    def connect(self, way: str, name: str = NAME) -> socket.socket:
        """A connection, with TLS where a proxy ends it. name: as the handshake has it."""
        self.require(way)
        plain = socket.create_connection(("127.0.0.1", self.ports[way]), timeout=SECONDS)
        return plain if way == "server" else self.trusted.wrap_socket(plain, server_hostname=name)

    def ask(
        self,
        way: str,
        path: str = "/",
        cookie: str | None = "session=layla",
        method: str = "GET",
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        name: str = NAME,
    ) -> tuple[int, str]:
        """Status and content of an answer. body: sent as JSON."""
        sent = {"Host": NAME, **(headers or {}), **({"Cookie": cookie} if cookie else {})}
        if body is not None:
            sent["Content-Type"] = "application/json"
        connection = http.client.HTTPConnection("127.0.0.1")
        connection.sock = self.connect(way, name)
        try:
            connection.request(method, path, None if body is None else json.dumps(body).encode(), sent)
            answer = connection.getresponse()
            return answer.status, answer.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def query(self, way: str, query: str, variables: Any = None, **more: Any) -> tuple[int, str]:
        return self.ask(way, "/graphql", method="POST", body={"query": query, "variables": variables}, **more)

    def looks(self) -> list[dict[str, Any]]:
        """The lines of the access log."""
        path = access_log_of(self.settings)
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def proxy_log(self, way: str) -> str:
        return (self.directory / f"{way}.log").read_text()


@contextmanager
def running_site(directory: Path) -> Iterator[Site]:
    """Everything started; all is ended on leaving."""
    secret = directory / "secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    settings = Settings(
        home=directory / "home",
        data=directory / "data",
        auditor_proxy_secret=secret,
        ui_hosts=frozenset({NAME, "127.0.0.1"}),
    )
    certificate, trusted = write_certificate(directory, NAME)
    provider, trace = Provider(), Trace.where_possible(directory / "trace.txt")
    with ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        for name in ("DAGSTER_HOME", *settings.to_environment()):
            patch.setenv(name, os.environ.get(name, ""))  # and is undone afterwards
        _, run, key = stack.enter_context(planted_run(settings))
        threading.Thread(target=provider.http.serve_forever, daemon=True).start()
        stack.callback(provider.http.server_close)
        stack.callback(provider.http.shutdown)
        site = Site(settings, run, key, {"server": free_port()}, provider, directory, trusted, trace)
        traced = () if site.trace is None else site.trace.before
        command = [
            *traced,
            sys.executable,
            "-m",
            "sovereign_pipeline.dagster.auditor",
            str(site.ports["server"]),
        ]
        stack.callback(_end, site.processes)
        _start(site, "server", command)
        for way in EXAMPLES:
            if program := shutil.which(way):
                site.ports[way] = free_port()
                _start(site, way, _proxy_command(site, way, program, certificate))
        wait_until(lambda: all(_listens(site, way) for way in site.ports), lambda: _output(site, "server"))
        yield site


def _proxy_command(site: Site, way: str, program: str, certificate: Path) -> list[str]:
    """Writes the configuration. Fails where the example no longer has what is put in."""
    text = EXAMPLES[way].read_text(encoding="utf-8")
    secret = site.directory / f"{way}-secret"
    header = "proxy_set_header X-Proxy-Secret" if way == "nginx" else "header_up X-Proxy-Secret"
    secret.write_text(f'{header} "{SECRET}"{";" if way == "nginx" else ""}\n')
    port = site.ports[way]
    put_in = {
        "127.0.0.1:3001": f"127.0.0.1:{site.ports['server']}",
        "127.0.0.1:4180": f"127.0.0.1:{site.provider.http.server_port}",
        **(
            {
                "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
                "/etc/nginx/lineage-secret.conf": str(secret),
                "/etc/nginx/lineage": str(certificate.with_suffix("")),
                "/var/log/nginx/auditor.log": str(site.directory / "nginx.log"),
            }
            if way == "nginx"
            else {
                "auto_https off": f"auto_https off\n\thttps_port {port}\n\tdefault_bind 127.0.0.1\n\t",
                "/etc/caddy/lineage-secret": str(secret),
                "/etc/caddy/lineage": str(certificate.with_suffix("")),
                "/var/log/caddy/auditor.log": str(site.directory / "caddy.log"),
            }
        ),
    }
    for known, own in put_in.items():
        assert known in text, f"{EXAMPLES[way]} has no {known}"
        text = text.replace(known, own)
    written = site.directory / way
    written.mkdir()
    if way == "caddy":
        (written / "Caddyfile").write_text(text, encoding="utf-8")
        return [program, "run", "--config", str(written / "Caddyfile"), "--adapter", "caddyfile"]
    places = "".join(
        f"{kind}_temp_path {written / kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    user = f"user {getpass.getuser()};" if os.geteuid() == 0 else ""
    main = f"{user} pid {written}/pid; error_log stderr warn; worker_processes 1; daemon off; events {{}}\n"
    (written / "nginx.conf").write_text(f"{main}http {{ {places} access_log off;\n{text}}}\n", encoding="utf-8")
    return [program, "-c", str(written / "nginx.conf"), "-p", str(written)]


def _start(site: Site, way: str, command: Sequence[str]) -> None:
    environment = {**os.environ, **site.settings.to_environment(), "HOME": str(site.directory)}
    with (site.directory / f"{way}.out").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=PROJECT_ROOT, env=environment)
    site.processes.append(process)


def _end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    for process in processes:
        process.terminate()
    for process in processes:
        process.wait(timeout=SECONDS)


def _output(site: Site, way: str) -> str:
    return (site.directory / f"{way}.out").read_text()


def _listens(site: Site, way: str) -> bool:
    """Whether it answers. Fails where a process ended."""
    assert all(process.poll() is None for process in site.processes), [_output(site, each) for each in site.ports]
    try:
        return site.ask(way, "/ready")[0] == 200 if way == "server" else site.ask(way)[0] < 500
    except OSError:
        return False
