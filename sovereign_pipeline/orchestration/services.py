"""The processes of interactive use, on loopback: Dagster's web UI and daemon, MLflow's UI, and the review page."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sovereign_pipeline.errors import ServiceEnded
from sovereign_pipeline.loopback import listen
from sovereign_pipeline.settings import PROJECT_ROOT, Settings


def serve_until_interrupted(
    settings: Settings, port: int, mlflow_port: int, review_port: int, tell: Callable[[str], None]
) -> None:
    """Start all, wait for Ctrl-C, stop all. Raises InputError for a port that is taken, and ServiceEnded naming the
    service that ended by itself."""
    for taken, option in ((port, "--port"), (mlflow_port, "--mlflow-port"), (review_port, "--review-port")):
        listen(taken, option).close()
    settings.mlflow_artifacts.mkdir(parents=True, exist_ok=True)
    workspace = ["-w", str(PROJECT_ROOT / "workspace.yaml")]
    commands = {
        "Dagster UI": [_program("dagster-webserver"), "-h", "127.0.0.1", "-p", str(port), *workspace],
        "Dagster daemon": [_program("dagster-daemon"), "run", *workspace],
        "MLflow UI": [
            *(_program("mlflow"), "server", "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1"),
            *(
                "--backend-store-uri",
                settings.mlflow_url,
                "--artifacts-destination",
                settings.mlflow_artifacts.as_uri(),
            ),
        ],
        "review page": [_program("sovereign"), "review", "serve", "--port", str(review_port)],
    }
    logs = settings.home / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    # In the environment and not on the command line, where everyone on the machine could read a password.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": settings.mlflow_url}
    signal.signal(signal.SIGTERM, _interrupt)
    running: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            with (logs / f"{name.lower().replace(' ', '-')}.log").open("ab") as log:
                running[name] = subprocess.Popen(command, stdout=log, stderr=log, cwd=PROJECT_ROOT, env=environment)
        tell(
            f"Dagster UI http://127.0.0.1:{port}   MLflow http://127.0.0.1:{mlflow_port}   "
            f"review page http://127.0.0.1:{review_port}   logs {logs}   Ctrl-C ends"
        )
        while True:
            for name, process in running.items():
                if process.poll() is not None:
                    raise ServiceEnded(f"The {name} ended with status {process.returncode}. Read the log under {logs}.")
            time.sleep(1)
    except KeyboardInterrupt:
        tell("stopping")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()


def _interrupt(signal_number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _program(name: str) -> str:
    return str(Path(sys.executable).parent / name)
