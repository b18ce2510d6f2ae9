"""A gateway before a scripted engine, asked in this process and over a real port."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sovereign_pipeline.base.pages import listen
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.serving.gateway.server import GatewayServer
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.serving.gateway.scripted import HERE, Bench, TryingOut, adapter
from sovereign_pipeline_tests.waiting import SECONDS, wait_until

Client = Callable[..., TestClient]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "serving")


@pytest.fixture
def trying(tmp_path: Path) -> TryingOut:
    bench = TryingOut(tmp_path / "serving")
    bench.serve(adapter("lamps"))
    bench.serve(adapter("lamps", "1.1.0"), in_production=False)
    return bench


@pytest.fixture
def client(bench: Bench) -> Client:
    """Made by a call with a token: a client of a gateway as the bench is then."""

    def make(token: str | None = None, **options: Any) -> TestClient:
        headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
        given = {"base_url": HERE, "client": ("127.0.0.1", 5000), "headers": headers, **options}
        return TestClient(bench.app(), raise_server_exceptions=False, **given)

    return make


@pytest.fixture
def registry(institution: DemoInstitution) -> Registry:
    institution.write()
    return open_registry(institution.settings)


@pytest.fixture
def caller(bench: Bench, client: Client) -> TestClient:
    """Who may use the line `lamps`, which is served, and read the metrics."""
    bench.serve(adapter("lamps"))
    return client(bench.token(metrics=True))


class Running:
    """A gateway on a free port of loopback, in a thread."""

    def __init__(self, bench: Bench) -> None:
        self.app = bench.app()
        self.ended: list[str] = []
        held = listen(0, "")
        self.port = held.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = GatewayServer(self.app, self.port, [], self._last)
        self._thread = threading.Thread(target=self.server.run, args=([held],), daemon=True)
        self._thread.start()
        wait_until(lambda: self.server.started, lambda: "the gateway did not start")

    async def _last(self) -> None:
        self.ended.append("last")

    def tell_to_end(self) -> None:
        self.server.should_exit = True

    def stop(self) -> None:
        self.tell_to_end()
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()


@pytest.fixture
def running(bench: Bench) -> Iterator[Callable[[], Running]]:
    """Made by a call: a gateway as the bench is then."""
    made: list[Running] = []

    def start() -> Running:
        made.append(Running(bench))
        return made[-1]

    yield start
    for each in made:
        each.stop()
