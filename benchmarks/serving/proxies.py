"""What stands between a client and the paced source of tokens, each in a process of its own on loopback.

The gateway with a token of its own, nginx as a plain proxy, LiteLLM's proxy, and nothing. What belongs here: starting
each. What does not: what is measured (`streaming.py`).
"""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.harness import PROJECT_ROOT, say
from benchmarks.serving.sse import MODEL, RelayedEngine, serve_paced
from sovereign_pipeline.base.pages import LOOPBACK, listen
from sovereign_pipeline.base.settings import OFFLINE_ENVIRONMENT

SECONDS_TO_START = 180
LITELLM_KEY = "sk-benchmark"
NO_LIMITS = {
    "concurrent": 1000,
    "waiting_per_line": 1000,
    "concurrent_per_caller": 1000,
    "requests_per_minute": 1e9,
    "tokens_per_minute": 1e12,
}

NGINX = """
user {user};
pid {directory}/nginx.pid;
error_log stderr warn;
worker_processes 1;
daemon off;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    upstream engine {{ server 127.0.0.1:{engine}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""
LITELLM = """
model_list:
  - model_name: {model}
    litellm_params: {{model: openai/{model}, api_base: "http://127.0.0.1:{engine}/v1", api_key: none}}
general_settings: {{master_key: {key}}}
litellm_settings: {{telemetry: false}}
"""


@contextmanager
def paced_source(tokens_per_second: float) -> Iterator[int]:
    """The port of the source."""
    with started([sys.executable, "-m", "benchmarks.serving.proxies", "source", str(tokens_per_second)]) as port:
        yield port


@contextmanager
def gateway(engine: int, directory: Path) -> Iterator[tuple[int, str]]:
    """The port of the gateway, and a token."""
    command = [sys.executable, "-m", "benchmarks.serving.proxies", "gateway", str(engine), str(directory)]
    with started(command) as port:
        yield port, (directory / "token").read_text()


@contextmanager
def nginx(engine: int, directory: Path) -> Iterator[tuple[int, str]]:
    """The port of nginx. Ends the program where it is not installed."""
    program = shutil.which("nginx") or "/usr/sbin/nginx"
    if not Path(program).exists():
        sys.exit("nginx is not installed: `apt-get install nginx-light`, or leave it out (--without nginx).")
    port, user = _free_port(), "root" if os.geteuid() == 0 else f"{os.getlogin()}"
    (directory / "nginx.conf").write_text(NGINX.format(directory=directory, engine=engine, port=port, user=user))
    with started([program, "-p", directory, "-c", directory / "nginx.conf"], port):
        yield port, "none"


@contextmanager
def litellm(engine: int, directory: Path, program: Path) -> Iterator[tuple[int, str]]:
    """The port of LiteLLM's proxy. program: `litellm` of a virtual environment of its own."""
    port, config = _free_port(), directory / "litellm.yaml"
    config.write_text(LITELLM.format(model=MODEL, engine=engine, key=LITELLM_KEY))
    command = [program, "--config", config, "--host", LOOPBACK, "--port", port, "--num_workers", 1]
    with started(command, port, {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}):
        yield port, LITELLM_KEY


@contextmanager
def started(command: list[object], port: int | None = None, environment: dict[str, str] | None = None) -> Iterator[int]:
    """A process, once it listens. Without a port it is given one as its last argument."""
    if port is None:
        port = _free_port()
        command = [*command, str(port)]
    variables = {**os.environ, **OFFLINE_ENVIRONMENT, "PYTHONPATH": str(PROJECT_ROOT), **(environment or {})}
    process = subprocess.Popen([str(each) for each in command], stdout=subprocess.DEVNULL, env=variables)
    try:
        _wait_for(port, process)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    until = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < until:
        if process.poll() is not None:
            sys.exit(f"{process.args!r} ended with status {process.returncode}.")
        with socket.socket() as probe:
            if probe.connect_ex((LOOPBACK, port)) == 0:
                return
        time.sleep(0.1)
    sys.exit(f"{process.args!r} did not listen within {SECONDS_TO_START} seconds.")


def _free_port() -> int:
    with listen(0, "") as held:
        port: int = held.getsockname()[1]
        return port


def _serve_gateway(engine: int, directory: Path, port: int) -> None:
    """The gateway as it is served, with its auth middleware, limits, journal and counts."""
    from sovereign_pipeline.serving.gateway.server import GatewayServer
    from sovereign_pipeline_tests.serving.gateway.scripted import Bench, adapter

    bench = Bench(directory, engine=RelayedEngine(engine), limits=NO_LIMITS)  # type: ignore[arg-type]
    bench.serve(adapter(MODEL))
    (directory / "token").write_text(bench.token())
    with listen(port, "") as held:
        GatewayServer(bench.app(), port, [], bench.engine.close).run(sockets=[held])


def main() -> None:
    role, *rest = sys.argv[1:]
    if role == "source":
        asyncio.run(serve_paced(int(rest[1]), float(rest[0])))
    elif role == "gateway":
        _serve_gateway(int(rest[0]), Path(rest[1]), int(rest[2]))
    else:
        say(f"unknown role {role}")


if __name__ == "__main__":
    main()
