"""The web UIs answer the host names of this installation, and pages of these names, and nobody else."""

from collections.abc import Iterator

import dagster as dg
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from sovereign_pipeline.base.pages import for_hosts
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.dagster.dagster_ui import dagster_app, loaded_workspace
from sovereign_pipeline_tests.examples import examples

HERE = "http://127.0.0.1:3000"
OURS = {"127.0.0.1", "localhost", "dagster.institution.example"}


@pytest.fixture
def client() -> TestClient:
    async def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse("inside")

    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    app = Starlette(routes=[Route("/{path:path}", page, methods=["GET", "POST"]), WebSocketRoute("/socket", socket)])
    return TestClient(for_hosts(app, OURS), base_url=HERE)


@pytest.mark.security_case("Another site's host name resolves to 127.0.0.1 (DNS rebinding)", "403, and no answer")
@pytest.mark.security_case("Another site sends a request or a query to a UI on loopback", "403, and no answer")
@pytest.mark.parametrize("sent", examples(__file__, "foreign"), ids=str)
def test_what_is_foreign_is_not_answered(client: TestClient, sent: dict[str, str]) -> None:
    headers = {name: value for name, value in sent.items() if name != "path"}
    for ask in (client.get, client.post):
        answer = ask(sent.get("path", "/"), headers=headers)
        assert answer.status_code == 403 and "inside" not in answer.text
    with (
        pytest.raises((WebSocketDisconnect, WebSocketDenialResponse)),
        client.websocket_connect("/socket", headers=headers),
    ):
        pass


@pytest.mark.parametrize("sent", examples(__file__, "known"), ids=str)
def test_what_is_ours_is_answered(client: TestClient, sent: dict[str, str]) -> None:
    headers = {name: value for name, value in sent.items() if name != "path"}
    assert client.get(sent.get("path", "/"), headers=headers).text == "inside"


def test_two_hosts_are_none(client: TestClient) -> None:
    assert client.get("/", headers=[("Host", "127.0.0.1"), ("Host", "rebound.example")]).status_code == 403


@pytest.fixture(scope="module")
def dagster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    settings = Settings(home=tmp_path_factory.mktemp("home"), data=tmp_path_factory.mktemp("data"))
    with dg.instance_for_test() as instance, loaded_workspace(instance, read_only=True) as context:
        yield TestClient(dagster_app(settings, context), base_url=HERE)


@pytest.mark.slow
@pytest.mark.security_case(
    "Dagster's UI gets a request for another host name, or a GraphQL query by a link on another site",
    "403, and no answer",
)
def test_dagsters_own_application_is_guarded(dagster: TestClient) -> None:
    query = {"query": "{ version }"}
    assert "version" in dagster.post("/graphql", json=query).json()["data"]
    assert "<html" in dagster.get("/").text
    assert dagster.post("/graphql", json=query, headers={"Host": "rebound.example"}).status_code == 403
    elsewhere = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert dagster.get("/graphql", params=query, headers=elsewhere).status_code == 403


@pytest.mark.slow
@pytest.mark.security_case("Another site shows Dagster's UI in a frame", "browsers do not show it")
@pytest.mark.security_case("A link's URL contains a GraphQL query or mutation for Dagster", "405, and it is not run")
def test_dagster_is_not_framed_and_runs_no_query_from_an_address(dagster: TestClient) -> None:
    page = dagster.get("/")
    assert page.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    for path in ("/graphql", "/graphql/"):
        for name in ("query", "%71uery", "q%75ery"):
            assert dagster.get(f"{path}?{name}=mutation {{ setNuxSeen }}").status_code == 405
    assert dagster.get("/graphql", headers={"Accept": "text/html"}).status_code == 200
