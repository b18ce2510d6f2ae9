"""One busy line with an adapter above the others' level, made once for all tests of the room, and its pages."""

import datetime
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from uvicorn import Config, Server

from sovereign_pipeline.base.pages import listen
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.serving import Role
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.release.acts import add_issue
from sovereign_pipeline.release.recall import waive_recall
from sovereign_pipeline.serving.gateway.auth import add_token
from sovereign_pipeline.web.rendering import AdapterView
from sovereign_pipeline.web.routes import create_app
from sovereign_pipeline.web.views import adapter_view
from sovereign_pipeline_tests.browser import chromium as chromium
from sovereign_pipeline_tests.browser import pictures as pictures
from sovereign_pipeline_tests.browser import visitor as visitor
from sovereign_pipeline_tests.conftest import letter
from sovereign_pipeline_tests.evidence.conftest import FIRST, SECOND, busy_office, one_more_adapter
from sovereign_pipeline_tests.release.conftest import Office
from sovereign_pipeline_tests.waiting import SECONDS, wait_until

HERE = "http://127.0.0.1:8700"
HOSTILE = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
THIRD = "lamps-1.2.0"
"""Of the level SECRET; the others are PUBLIC."""


@contextmanager
def changed(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    """Change a file of the site, and put it back."""
    whole = path.read_bytes()
    path.write_bytes(change(whole))
    try:
        yield
    finally:
        path.write_bytes(whole)


@dataclass
class Site:
    """An institution whose registry is shown."""

    office: Office

    @property
    def settings(self) -> Settings:
        return self.office.bench.settings

    @property
    def registry(self) -> Registry:
        return self.office.registry

    def view(self, adapter_id: str) -> AdapterView:
        return adapter_view(self.registry, self.office.bench.store, adapter_id, datetime.datetime.now(datetime.UTC))

    def token(self, clearance: str, *, admin: bool = True, lines: frozenset[str] | None = None) -> str:
        grant = Role(clearance=clearance, lines=tuple(lines) if lines is not None else None, admin=admin)
        text, _ = add_token(self.settings, self.registry, "an auditor", grant, 1, "somebody")
        return text

    def client(self, token: str | None = None, **options: Any) -> TestClient:
        """A browser of the pages, signed in where a token is given."""
        given = {"base_url": HERE, "client": ("127.0.0.1", 5000), **options}
        client = TestClient(create_app(self.settings), raise_server_exceptions=False, **given)
        if token is not None:
            assert client.post("/registry/sign-in", data={"token": token}).status_code == 200
        return client


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    office, bench = busy_office(tmp_path_factory.mktemp("pages"), purpose=f"Answer letters. {HOSTILE}")
    add_issue(office.registry, FIRST, f"It takes candles for lamps. {HOSTILE}", office.officers["layla"])
    bench.institution.rows.append(letter(97, classification="SECRET"))
    third = one_more_adapter(office, bench)
    assert (third.id, third.classification) == (THIRD, "SECRET")
    waive_recall(office.registry, "recall-1", THIRD, office.officers["ines"], "It is asked for again.")
    office.ask("approve", third)
    assert office.states() == {FIRST: "production", SECOND: "staged", THIRD: "registered"}
    yield Site(office)
    office.registry.engine.dispose()


@pytest.fixture
def served(site: Site) -> Iterator[Callable[[], str]]:
    """Made by a call: the address of the pages on a free port of loopback."""
    running: list[tuple[Server, threading.Thread]] = []

    def start() -> str:
        held = listen(0, "")
        config = Config(create_app(site.settings), access_log=False, log_level="warning", proxy_headers=False)
        server = Server(config)
        thread = threading.Thread(target=server.run, args=([held],), daemon=True)
        thread.start()
        running.append((server, thread))
        wait_until(lambda: server.started, lambda: "the pages did not start")
        return f"http://127.0.0.1:{held.getsockname()[1]}"

    yield start
    for server, thread in running:
        server.should_exit = True
        thread.join(SECONDS)
