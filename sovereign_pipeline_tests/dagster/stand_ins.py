"""Stand-ins at the border: an HTTP server that answers as Ray's jobs API does, and one that answers as Kubernetes does.

Each runs what it is given as a process of this machine, with the environment that it would have there, and signals it
as the real one would. Neither decides anything else.
"""

import json
import os
import signal
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

import yaml


class _Server(ABC):
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
    def serving(self) -> Iterator["_Server"]:
        self._thread.start()
        try:
            yield self
        finally:
            self._http.shutdown()
            self._http.server_close()
            if self.process is not None and self.process.poll() is None:
                self.process.kill()
                self.process.wait()


class RayHead(_Server):
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


class ApiServer(_Server):
    """Of Kubernetes' API what the launcher and Dagster's client ask of pods: create, list, log, delete.

    The first container's command runs with the container's environment and no other; its stdout and stderr are the
    pod's log. Deleting sends SIGTERM, and the pod is listed until the process has ended.
    """

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.log = directory / "pod.log"
        self.pod: dict[str, Any] | None = None
        self.waiting: dict[str, str] | None = None
        self.deleted = False
        self.gone_at_last_list = False

    def kubeconfig(self, path: Path) -> Path:
        named = {"clusters": [{"name": "c", "cluster": {"server": self.address}}], "users": [{"name": "u", "user": {}}]}
        context = {"contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}], "current-context": "x"}
        path.write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **named, **context}))
        return path

    def respond(self, request: Any, path: str, query: dict[str, str], body: Any) -> None:
        if request.command == "POST":
            self._create(body)
            request.tell(body, 201)
        elif request.command == "DELETE":
            self.deleted = True
            if self.process is not None and self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
            request.tell({})
        elif path.endswith("/log"):
            self._stream(request)
        elif path.endswith("/events"):
            request.tell({"kind": "EventList", "apiVersion": "v1", "items": []})
        else:
            request.tell({"kind": "PodList", "apiVersion": "v1", "items": self._pods(query)})

    def _create(self, pod: dict[str, Any]) -> None:
        self.pod = pod
        if self.waiting is not None:
            return
        (container,) = pod["spec"]["containers"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                container["command"],
                env={each["name"]: each["value"] for each in container["env"]},
                cwd=container["workingDir"],
                stdout=log,
                stderr=log,
            )

    def _pods(self, query: dict[str, str]) -> list[dict[str, Any]]:
        if self.pod is None:
            return []
        status = self.process.poll() if self.process is not None else None
        if self.deleted and (self.process is None or status is not None):
            self.gone_at_last_list = True
            return []
        key, _, value = query.get("labelSelector", "").partition("=")
        assert not key or self.pod["metadata"]["labels"][key] == value
        state: dict[str, Any] = {"running": {}}
        if self.waiting is not None:
            state = {"waiting": self.waiting}
        elif status is not None:
            state = {"terminated": {"exitCode": status if status >= 0 else 128 - status}}
        container = {
            "name": self.pod["spec"]["containers"][0]["name"],
            "ready": status is None,
            "state": state,
            "image": "i",
            "imageID": "i",
            "restartCount": 0,
        }
        return [{**self.pod, "status": {"phase": "Running", "containerStatuses": [container]}}]

    def _stream(self, request: Any) -> None:
        """The log as it grows, each line behind a time, until the container has ended."""
        assert self.process is not None
        request.send_response(200)
        request.send_header("Content-Type", "text/plain")
        request.end_headers()
        sent = 0
        while True:
            ended = self.process.poll() is not None
            whole = self.log.read_bytes()[sent:].rpartition(b"\n")
            for line in whole[0].splitlines() if whole[1] else ():
                stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}.{time.time_ns() % 10**9:09d}Z "
                request.wfile.write(stamp.encode() + line + b"\n")
                request.wfile.flush()
            sent += len(whole[0]) + len(whole[1])
            if ended:
                return
            time.sleep(0.05)
