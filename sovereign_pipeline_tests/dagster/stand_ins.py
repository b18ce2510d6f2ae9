"""Stand-ins at the border: an HTTP server that answers as Ray's jobs API does. `kubernetes_cluster.py` has another.

It runs what it is given as a process of this machine, with the environment that it would have there, and signals it as
the real one would. It decides nothing else.
"""

import json
import os
import signal
import subprocess
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlparse


class Server(ABC):
    """Serves on loopback; `seen` is what the client sent, in order."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, Any]] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.fails: Callable[[str, str], bool] = lambda method, path: False
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                body = json.loads(self.rfile.read(length) or b"null")
                url = urlparse(self.path)
                outer.seen.append((self.command, url.path, body))
                if outer.fails(self.command, url.path):
                    self.tell({"message": "planted"}, 503)
                    return
                outer.respond(self, url.path, {key: value[0] for key, value in parse_qs(url.query).items()}, body)

            do_GET = do_POST = do_DELETE = _any

            def tell(self, answer: Any, status: int = 200) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                return

        self.handler = Handler
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)

    @abstractmethod
    def respond(self, request: Any, path: str, query: dict[str, str], body: Any) -> None:
        """Answer one request by `request.tell`."""

    @contextmanager
    def serving(self) -> Iterator[Self]:
        self._thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait()


class RayHead(Server):
    """Of Ray's jobs API what the launcher asks: `POST /api/jobs/`, `GET /api/jobs/ID`, `POST /api/jobs/ID/stop`.

    The entrypoint runs by a shell under the node's own environment with the job's on top, and stopping sends SIGTERM to
    every process of it, as `ray/dashboard/modules/job/job_supervisor.py` of Ray 2.60 does.
    """

    def __init__(self, node_environment: dict[str, str]) -> None:
        super().__init__()
        self.node_environment = node_environment
        self.job: dict[str, Any] = {}
        self.stopped = False

    def respond(self, request: Any, path: str, query: dict[str, str], body: Any) -> None:
        if path == "/api/version":
            request.tell({"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": ""})
        elif path == "/api/jobs/":
            self.job = body
            environment = {**self.node_environment, **body["runtime_env"].get("env_vars", {})}
            self.process = subprocess.Popen(
                body["entrypoint"],
                shell=True,
                env=environment,
                start_new_session=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            request.tell({"submission_id": body["submission_id"], "job_id": body["submission_id"]})
        elif path.endswith("/stop"):
            assert self.process is not None
            self.stopped = True
            os.killpg(self.process.pid, signal.SIGTERM)
            request.tell({"stopped": True})
        else:
            request.tell(self._details())

    def _details(self) -> dict[str, Any]:
        assert self.process is not None
        status = self.process.poll()
        told = "RUNNING" if status is None else "STOPPED" if self.stopped else "FAILED" if status else "SUCCEEDED"
        message = f"Job entrypoint command failed with exit code {status}" if told == "FAILED" else ""
        return {
            "type": "SUBMISSION",
            "submission_id": self.job["submission_id"],
            "status": told,
            "entrypoint": self.job["entrypoint"],
            "message": message,
        }
