"""The auditor's Dagster behind nginx and Caddy, as `docs/proxies` sets them up, and asked past them."""

import asyncio
import json
import ssl
import stat
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Page
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from sovereign_pipeline.dagster.auditor import ONE_QUERY, PAGES, access_log_of
from sovereign_pipeline_tests.browser import open_browser
from sovereign_pipeline_tests.dagster.auditor.site import MESSAGE, NAME, SECRET, TEXT, Site, running_site
from sovereign_pipeline_tests.tracing import needs_strace
from sovereign_pipeline_tests.waiting import SECONDS, wait_until

pytestmark = pytest.mark.slow
MILLISECONDS = SECONDS * 1000
PROXIES = ("nginx", "caddy")
FROM_THE_PROXY = {"X-Remote-User": "layla", "X-Proxy-Secret": SECRET}
"""What a proxy sends: by it a test asks past the proxy."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.mark.parametrize("way", PROXIES)
def test_whom_the_provider_names_sees_pages_and_stands_in_both_logs(site: Site, way: str) -> None:
    for path in ("/", f"/assets/raw_corpus?view={way}", f"/runs/{site.run}"):
        status, content = site.ask(way, path)
        assert (status, "<html" in content) == (200, True), path
    for path in (*(f"/{page}" for page in PAGES), *(f"/{page}/x" for page in PAGES), "/asset-groups~x", "/favicon.svg"):
        assert site.ask(way, path)[0] == 200, path
    asked = f'query Seen_by_{way} {{ assetOrError(assetKey: {{path: ["raw_corpus"]}}) {{ ... on Asset {{ id }} }} }}'
    status, content = site.query(way, asked)
    assert status == 200 and json.loads(content)["data"]["assetOrError"]["id"]
    (look,) = [each for each in site.looks() if each.get("name") == f"Seen_by_{way}"]
    assert look | {"at": ""} == {
        "at": "",
        "who": "layla",
        "kind": "query",
        "name": f"Seen_by_{way}",
        "fields": ["assetOrError"],
        "assets": ["raw_corpus"],
    }
    assert {"who": "layla", "name": "/assets/raw_corpus"}.items() <= {
        (key, value) for each in site.looks() if each["kind"] == "page" for key, value in each.items()
    }
    wait_until(lambda: '"layla"' in site.proxy_log(way), lambda: site.proxy_log(way))
    of_the_proxy = [json.loads(line) for line in site.proxy_log(way).splitlines()]
    assert any("layla" in (each.get("who"), each.get("user_id")) for each in of_the_proxy)


@pytest.mark.security_case(
    "Someone whom the sign-in provider does not name sends a name, or the secret, to the auditor's proxy",
    "401, and nothing is shown",
)
@pytest.mark.parametrize("way", PROXIES)
@pytest.mark.parametrize("cookie", [None, "session=", "other=layla"], ids=["no cookie", "no name", "not signed in"])
def test_nobody_is_let_in_by_a_header_of_their_own(site: Site, way: str, cookie: str | None) -> None:
    own = {"X-Remote-User": "minister", "X-Auth-Request-User": "minister", "X-Proxy-Secret": SECRET}
    for spoofed in ({}, own, {name.lower(): value for name, value in own.items()}):
        assert site.ask(way, cookie=cookie, headers=spoofed)[0] == 401
        assert site.query(way, "{ version }", cookie=cookie, headers=spoofed)[0] == 401
    assert "minister" not in access_log_of(site.settings).read_text()


@pytest.mark.security_case(
    "An auditor sends the proxy a header with another person's name", "the auditor's own name is recorded"
)
@pytest.mark.parametrize("way", PROXIES)
def test_a_name_that_a_client_sends_is_not_believed(site: Site, way: str) -> None:
    asked = f"query Claimed_by_{way} {{ version }}"
    spoofed = {"X-Remote-User": "minister", "X-Auth-Request-User": "minister"}
    assert site.query(way, asked, headers=spoofed)[0] == 200
    assert [each["who"] for each in site.looks() if each.get("name") == f"Claimed_by_{way}"] == ["layla"]
    assert not any("minister" in each.values() for each in site.provider.asked)
    assert not any(SECRET in each.values() for each in site.provider.asked)


@pytest.mark.security_case(
    "A local program sends the user header directly to the auditor's Dagster",
    "401: it does not have the proxy's secret",
)
@pytest.mark.parametrize("secret", [{}, {"X-Proxy-Secret": "a guess"}], ids=["none", "guess"])
def test_past_the_proxy_nobody_is_believed(site: Site, secret: dict[str, str]) -> None:
    sent = {"X-Remote-User": "layla", **secret}
    assert site.ask("server", headers=sent)[0] == 401
    assert site.query("server", "{ version }", headers=sent)[0] == 401
    assert site.ask("server", headers=FROM_THE_PROXY)[0] == 200
    for nobody in ("", "{http.reverse_proxy.header.X-Auth-Request-User}", "x" * 201):
        assert site.ask("server", headers={**FROM_THE_PROXY, "X-Remote-User": nobody})[0] == 401


def changes(site: Site) -> dict[str, str]:
    """Mutations of Dagster's own schema."""
    place = '{repositoryLocationName: "sovereign_pipeline", repositoryName: "__repository__"'
    return {
        "launch": f'launchRun(executionParams: {{selector: {place}, jobName: "chain"}}}}) {{ __typename }}',
        "wipe": 'wipeAssets(assetPartitionRanges: [{assetKey: {path: ["raw_corpus"]}}]) { __typename }',
        "report": "reportRunlessAssetEvents(eventParams: {eventType: ASSET_MATERIALIZATION, "
        'assetKey: {path: ["raw_corpus"]}}) { __typename }',
        "reload": 'reloadRepositoryLocation(repositoryLocationName: "sovereign_pipeline") { __typename }',
        "partition": f'addDynamicPartition(repositorySelector: {place}}}, partitionsDefName: "line", '
        'partitionKey: "x") { __typename }',
        "delete": f'deletePipelineRun(runId: "{site.run}") {{ __typename }}',
        "terminate": f'terminateRun(runId: "{site.run}") {{ __typename }}',
        "first look": "setNuxSeen",
    }


@pytest.mark.security_case(
    "An auditor launches, wipes, reports, reloads, adds a partition, or deletes or ends a run.",
    "rejected by GraphQL, by HTTP and on the WebSocket, behind each proxy",
)
@pytest.mark.parametrize("way", ["server", *PROXIES])
def test_nothing_can_be_changed(site: Site, way: str) -> None:
    before = len(site.looks())
    for change in changes(site).values():
        status, content = site.query(way, f"mutation {{ {change} }}", headers=FROM_THE_PROXY)
        assert status == 400 and "accepts no changes" in content, change
        both = f"query A {{ version }} mutation B {{ {change} }}"
        body = {"query": both, "operationName": "B"}
        assert site.ask(way, "/graphql", method="POST", body=body, headers=FROM_THE_PROXY)[0] == 400, change
    for what in ("materialization", "check", "observation"):
        answer = site.ask(way, f"/report_asset_{what}/raw_corpus", method="POST", body={}, headers=FROM_THE_PROXY)
        assert answer[0] in (404, 405), what
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        for path in ("/", "/graphql", "/assets/raw_corpus"):
            assert site.ask(way, path, method=method, headers=FROM_THE_PROXY)[0] in (403, 404, 405), (method, path)
    asked = "{ permissions { permission value } }"
    permissions = json.loads(site.query(way, asked, headers=FROM_THE_PROXY)[1])["data"]["permissions"]
    assert permissions and not any(each["value"] for each in permissions)
    assert len(site.looks()) <= before + 1


@pytest.mark.security_case(
    "An auditor requests a step's output, a run's debug file, a notebook, or the instance's configuration",
    "rejected, or empty",
)
@pytest.mark.parametrize("way", ["server", *PROXIES])
def test_nothing_that_was_printed_is_given(site: Site, way: str) -> None:
    log = "/".join(site.log_key)
    for path in (
        *(f"/logs/{log}/out", f"/logs/{log}/err", f"/download_debug/{site.run}", f"//download_debug/{site.run}"),
        *(f"/assets/../download_debug/{site.run}", f"/assets/%2e%2e/logs/{log}/out", f"/Logs/{log}/out"),
        *("/notebook?path=x.ipynb&repoLocName=x", "/dagit/notebook?path=x.ipynb", "/server_info", "/dagit_info"),
        *("/graphql?query={version}", "/vendor/../logs/x.out", "/playground/setup-from-run/x"),
    ):
        status, content = site.ask(way, path, headers=FROM_THE_PROXY)
        assert TEXT not in content, path
        is_a_page = path.startswith("/assets") and way == "server"  # of an asset with an odd name: empty
        assert is_a_page or status in (400, 404, 405), path
    key = json.dumps(list(site.log_key))
    for query in (
        f"{{ capturedLogs(logKey: {key}) {{ stdout }} }}",
        f"{{ capturedLogsMetadata(logKey: {key}) {{ stdoutDownloadUrl }} }}",
        f'{{ runOrError(runId: "{site.run}") {{ ... on Run {{ capturedLogs(fileKey: "{site.log_key[2]}") '
        "{ stdout } } } }",
        "{ utilizedEnvVarsOrError { __typename } }",
    ):
        status, content = site.query(way, query, headers=FROM_THE_PROXY)
        assert status == 400 and TEXT not in content, query
    status, content = site.query(way, "{ instance { id info } }", headers=FROM_THE_PROXY)
    assert json.loads(content)["data"]["instance"] == {"id": "Instance", "info": None}


@pytest.mark.parametrize("way", ["server", *PROXIES])
def test_a_batch_of_queries_is_refused_with_a_sentence(site: Site, way: str) -> None:
    before = len(site.looks())
    bodies: tuple[Any, ...] = ([{"query": "{ version }"}], [], "{ version }", 5)
    for body in bodies:
        assert site.ask(way, "/graphql", method="POST", body=body, headers=FROM_THE_PROXY) == (400, ONE_QUERY), body
    assert len(site.looks()) == before


@pytest.mark.security_case("The auditor's proxy gets another host name, in the handshake or the request", "rejected")
@pytest.mark.parametrize("way", PROXIES)
def test_another_host_name_is_refused(site: Site, way: str) -> None:
    assert site.ask(way, headers={"Host": "rebound.example"})[0] == 421
    assert site.ask("server", headers={**FROM_THE_PROXY, "Host": "rebound.example"})[0] == 403
    assert site.ask(way, headers={"Origin": "https://rebound.example"})[0] == 403
    with pytest.raises(ssl.SSLError):
        site.ask(way, headers={"Host": "rebound.example"}, name="rebound.example")


def answers_on_the_socket(
    site: Site, way: str, query: str, cookie: str = "session=layla", **more: str
) -> list[dict[str, Any]]:
    """What comes on a WebSocket of its own until the first data, or the refusal.

    By asyncio: the client with threads reads and writes one TLS connection at the same time, which Python 3.11 does not
    guard, and its handshake hung now and then on a busy machine.
    """
    site.require(way)
    headers = {"Cookie": cookie, **(FROM_THE_PROXY if way == "server" else {}), **more}

    async def ask() -> list[dict[str, Any]]:
        scheme, tls = ("ws", None) if way == "server" else ("wss", site.trusted)
        async with connect(
            f"{scheme}://{NAME}/graphql",
            host="127.0.0.1",
            port=site.ports[way],
            ssl=tls,
            additional_headers=headers,
            subprotocols=["graphql-ws"],  # type: ignore[list-item]
            proxy=None,
            open_timeout=SECONDS,
        ) as connection:
            await connection.send(json.dumps({"type": "connection_init"}))
            await connection.send(json.dumps({"type": "start", "id": "1", "payload": {"query": query}}))
            answers: list[dict[str, Any]] = []
            while not answers or answers[-1]["type"] not in ("data", "error"):
                answers.append(json.loads(await asyncio.wait_for(connection.recv(), SECONDS)))
            return answers

    return asyncio.run(ask())


@pytest.mark.parametrize("way", PROXIES)
def test_the_events_of_a_run_come_by_the_websocket(site: Site, way: str) -> None:
    query = (
        f'subscription Events_{way} {{ pipelineRunLogs(runId: "{site.run}") {{ '
        "... on PipelineRunLogsSubscriptionSuccess { messages { ... on LogMessageEvent { message } } } } }"
    )
    ready, data = answers_on_the_socket(site, way, query)
    assert ready["type"] == "connection_ack"
    assert {"message": MESSAGE} in data["payload"]["data"]["pipelineRunLogs"]["messages"]
    (look,) = [each for each in site.looks() if each.get("name") == f"Events_{way}"]
    assert (look["who"], look["kind"], look["runs"]) == ("layla", "subscription", [site.run])


@pytest.mark.security_case("A step's output or a change is requested on the auditor's WebSocket", "rejected")
@pytest.mark.parametrize("way", ["server", *PROXIES])
def test_the_websocket_gives_and_changes_nothing_else(site: Site, way: str) -> None:
    for query in (
        f"subscription {{ capturedLogs(logKey: {json.dumps(list(site.log_key))}) {{ stdout }} }}",
        *(f"mutation {{ {change} }}" for change in changes(site).values()),
        "{ version }",
    ):
        *_, refused = answers_on_the_socket(site, way, query)
        assert refused["type"] == "error" and TEXT not in json.dumps(refused), query


@pytest.mark.security_case(
    "The auditor's WebSocket is opened without sign-in, or by another site", "the handshake is rejected"
)
@pytest.mark.parametrize("way", PROXIES)
def test_the_websocket_is_for_whom_the_provider_names_and_for_pages_here(site: Site, way: str) -> None:
    for given in ({"cookie": "other=layla"}, {"cookie": "session="}, {"Origin": "https://rebound.example"}):
        with pytest.raises(InvalidStatus) as refused:
            answers_on_the_socket(site, way, "{ version }", **given)
        assert refused.value.response.status_code in (401, 403), given


@pytest.mark.security_case("The auditor's access log cannot be written", "503, so that nothing is shown unlogged")
def test_what_is_not_on_record_is_not_shown(site: Site) -> None:
    path = access_log_of(site.settings)
    away = path.rename(path.with_suffix(".away"))
    path.mkdir()
    try:
        assert site.ask("server", "/overview/unseen", headers=FROM_THE_PROXY)[0] == 503
        assert site.query("server", "query Unseen { version }", headers=FROM_THE_PROXY)[0] == 503
        asked = f'subscription {{ pipelineRunLogs(runId: "{site.run}") {{ __typename }} }}'
        assert answers_on_the_socket(site, "server", asked)[-1]["type"] == "error"
    finally:
        path.rmdir()
        away.rename(path)


def test_no_log_holds_what_a_step_printed_or_the_secret(site: Site) -> None:
    assert stat.S_IMODE(access_log_of(site.settings).stat().st_mode) == 0o600
    logs = [*site.directory.glob("*.log"), *site.directory.glob("*.out"), access_log_of(site.settings)]
    for path in logs:
        content = path.read_text()
        assert TEXT not in content and SECRET not in content, path


@pytest.mark.browser
def test_a_browser_shows_assets_and_runs(site: Site) -> None:
    way = next((each for each in PROXIES if each in site.ports), PROXIES[0])
    site.require(way)
    with open_browser(f"--host-resolver-rules=MAP {NAME} 127.0.0.1") as browser:
        context = browser.new_context(viewport={"width": 1500, "height": 1100}, ignore_https_errors=True)
        address = f"https://{NAME}:{site.ports[way]}"
        context.add_cookies([{"name": "session", "value": "layla", "url": address}])
        page = context.new_page()
        failed = watch(page, address)
        page.goto(f"{address}/assets/raw_corpus?partition=lamps")
        page.get_by_text("documents", exact=True).first.wait_for(timeout=MILLISECONDS)
        page.goto(f"{address}/runs/{site.run}")
        page.get_by_text(MESSAGE).first.wait_for(timeout=MILLISECONDS)  # by the WebSocket
        assert failed == []


@pytest.mark.security_case(
    "The auditor's Dagster sends telemetry to its vendor",
    "all of its processes are traced, and all connections stay on this machine",
)
def test_it_connects_to_nothing_elsewhere(site: Site) -> None:
    needs_strace()
    assert site.ask("server", headers=FROM_THE_PROXY)[0] == 200
    assert site.trace is not None and site.trace.elsewhere == []
    assert site.trace.processes > 1 and site.trace.local["AF_UNIX"] > 0  # it asks its code location


def watch(page: Page, address: str) -> list[str]:
    """A list to which everything is added that fails, or that is asked for elsewhere."""
    failed: list[str] = []
    page.on("response", lambda each: failed.append(f"{each.status} {each.url}") if each.status >= 400 else None)
    page.on(
        "request", lambda each: None if each.url.startswith((address, "data:", "blob:")) else failed.append(each.url)
    )
    return failed
