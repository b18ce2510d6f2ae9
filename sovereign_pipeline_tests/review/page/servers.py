"""The page as it is served: in a thread that records every response, and in a process of its own."""

import contextlib
import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.base.pages import listen
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.tracing import Trace
from sovereign_pipeline_tests.waiting import SECONDS, free_port, wait_until


@dataclass(frozen=True)
class Sent:
    """One response as it left the application. headers: one a line."""

    path: str
    status: int
    headers: str
    body: str


class InThisProcess:
    """The page on a free port of loopback, in a thread. sent: every response to anybody."""

    def __init__(self, reviews: ReviewBench) -> None:
        import uvicorn

        from sovereign_pipeline.review.page.app import server_config

        held = listen(0, "")
        self.port = held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.sent: list[Sent] = []
        config = server_config(reviews.bench.settings, reviews.registry, self.port)
        config.app = self._recorded(config.app)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([held],), daemon=True)
        self._thread.start()
        wait_until(lambda: self._server.started, lambda: "the page did not start")

    def _recorded(self, app: Any) -> Any:
        async def recorded(scope: Any, receive: Any, send: Any) -> None:
            messages: list[Any] = []

            async def keep(message: Any) -> None:
                messages.append(message)
                await send(message)

            await app(scope, receive, keep)
            if scope["type"] == "http":
                headers = "\n".join(f"{name.decode()}: {value.decode()}" for name, value in messages[0]["headers"])
                body = b"".join(message.get("body", b"") for message in messages[1:])
                self.sent.append(Sent(scope["path"], messages[0]["status"], headers, body.decode()))

        return recorded

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(SECONDS)


class InItsOwnProcess:
    """`sovereign review serve`, as an administrator starts it."""

    def __init__(self, reviews: ReviewBench, port: int | None = None) -> None:
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        settings = reviews.bench.settings
        environment = {**os.environ, "SOVEREIGN_HOME": str(settings.home), "SOVEREIGN_DATA": str(settings.data)}
        program = "from sovereign_pipeline.cli.main import main; main()"
        command = [sys.executable, "-c", program, "review", "serve", "--port", str(self.port)]
        log = settings.home / "served.log"
        self.trace = Trace.where_possible(settings.home.with_name(f"trace-{self.port}.txt"))
        traced = self.trace.before if self.trace is not None else ()
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [*traced, *command], env=environment, cwd=PROJECT_ROOT, stdout=stream, stderr=stream
            )
        wait_until(self._answers, log.read_text)

    def _answers(self) -> bool:
        assert self._process.poll() is None
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def kill(self) -> None:
        """As a power failure would."""
        self._process.kill()
        self._process.wait()
        assert self.trace is None or self.trace.elsewhere == []
