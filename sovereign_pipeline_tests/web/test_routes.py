"""The pages by HTTP: who is let in, and who sees what."""

import datetime
import re

import pytest

from sovereign_pipeline.serving.gateway.auth import read_tokens, revoke_token, sha256_of
from sovereign_pipeline.web import routes
from sovereign_pipeline_tests.evidence.conftest import FIRST, SECOND
from sovereign_pipeline_tests.web.conftest import HERE, HOSTILE, THIRD, Site, changed

pytestmark = pytest.mark.slow


def test_nobody_reads_without_a_token_that_lets_them(site: Site) -> None:
    nobody = site.client()
    for path in ("/registry", f"/registry/{FIRST}", "/registry/lamps-9.0.0", "/registry/lines/lamps"):
        answer = nobody.get(path)
        assert answer.status_code == 401 and 'name="token"' in answer.text and "lamps" not in answer.text
    for wrong in ("", "sk-sov-nothing", site.token("SECRET", admin=False), "x" * 5_000):
        refused = nobody.post("/registry/sign-in", data={"token": wrong})
        assert refused.status_code == 401 and "set-cookie" not in refused.headers
    assert nobody.get("/registry").status_code == 401


@pytest.mark.security_case(
    "A reader of the registry's pages requests an adapter above their clearance, or of another line",
    "the lists only count adapters of that level; a page about one, or about another line, is a 404",
)
def test_a_reader_sees_what_the_grant_reaches_and_no_name_beyond(site: Site) -> None:
    reader = site.client(site.token("INTERNAL"))
    for path in ("/registry", "/registry/lines/lamps"):
        page = reader.get(path)
        assert page.status_code == 200 and FIRST in page.text and SECOND in page.text
        assert THIRD not in page.text and "withheld" in page.text and "SECRET" in page.text
    assert "open requests: 1<" in reader.get("/registry").text  # the other one is about the third adapter
    beyond, unknown = reader.get(f"/registry/{THIRD}"), reader.get("/registry/lamps-9.0.0")
    assert beyond.status_code == unknown.status_code == 404 and beyond.text == unknown.text
    assert reader.get(f"/registry/{FIRST}").status_code == 200

    auditor = site.client(site.token("SECRET"))
    assert THIRD in auditor.get("/registry/lines/lamps").text and auditor.get(f"/registry/{THIRD}").status_code == 200
    elsewhere = site.client(site.token("SECRET", lines=frozenset({"quays"})))
    assert "lamps" not in elsewhere.get("/registry").text
    beyond, unknown = (elsewhere.get(f"/registry/lines/{line}") for line in ("lamps", "quays"))
    assert beyond.status_code == unknown.status_code == 404 and beyond.text == unknown.text
    assert elsewhere.get(f"/registry/{FIRST}").status_code == 404


def test_an_auditor_finds_what_waits_and_the_reports(site: Site) -> None:
    reader = site.client(site.token("SECRET"))
    page = reader.get("/registry").text
    assert "open requests: 2<" in page and "adapters under a recall: 1<" in page
    assert 'href="/registry/lines/lamps"' in page
    page = reader.get("/registry/lines/lamps").text
    assert "more approvals of request" in page and "not due" in page
    assert f"{SECOND} is under recall-1" in page
    assert HOSTILE not in page
    links = re.findall(r'href="(/[0-9a-f]{64}/[^"]+)"', reader.get(f"/registry/{FIRST}").text)
    assert {link.rpartition("/")[2] for link in links} >= {"report.html", "card.md", "record.json", "sources.json"}
    assert {reader.get(link).status_code for link in links} == {200}


@pytest.mark.security_case(
    ("A token is revoked, or added to the file without the ledger, while a reader uses it for the registry's pages"),
    "its session ends with the next request; a token without a ledger entry grants no access",
)
def test_a_session_lasts_as_long_as_its_token(site: Site) -> None:
    token = site.token("SECRET")
    reader = site.client(token)
    assert reader.get("/registry").status_code == 200
    revoke_token(site.settings, site.registry, sha256_of(token), "somebody")
    assert reader.get("/registry").status_code == 401
    assert all(sha256_of(each) != token for each in reader.cookies.values())

    path, planted = site.settings.serving / "tokens.json", "sk-sov-planted"
    last = read_tokens(path)[-1].model_copy(update={"sha256": sha256_of(planted), "revoked_at": None})
    with changed(path, lambda _: b'{"tokens": [' + last.model_dump_json().encode() + b"]}"):
        assert site.client().post("/registry/sign-in", data={"token": planted}).status_code == 401


def test_a_session_ends_by_itself_and_by_leaving(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = site.client(site.token("SECRET"))
    value = reader.cookies["registry_reader"]
    assert reader.post("/registry/sign-out").status_code == 401
    reader.cookies.set("registry_reader", value)
    assert reader.get("/registry").status_code == 401

    reader = site.client(site.token("SECRET"))
    assert reader.get("/registry").status_code == 200
    later = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=routes.HOURS, seconds=1)
    monkeypatch.setattr(routes, "_now", lambda: later)
    assert "registry_reader" in reader.cookies and reader.get("/registry").status_code == 401


@pytest.mark.security_case(
    "Another site posts a form to the registry's pages or frames one, or a page's text contains a script",
    "the form is rejected; the content policy blocks scripts, frames and external resources",
)
def test_a_page_may_load_nothing_and_is_used_from_here_alone(site: Site) -> None:
    client, token = site.client(), site.token("SECRET")
    for origin in ("https://evil.example", "null"):
        answer = client.post("/registry/sign-in", data={"token": token}, headers={"Origin": origin})
        assert answer.status_code == 403
    assert client.post("/registry/sign-in", data={"token": token}, headers={"Origin": HERE}).status_code == 200
    answer = client.get(f"/registry/{FIRST}")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "script-src" not in policy
    assert "frame-ancestors 'none'" in policy and "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store" and answer.headers["referrer-policy"] == "same-origin"
    assert HOSTILE not in answer.text and "<script" not in answer.text
    cookie = client.post("/registry/sign-in", data={"token": token}, follow_redirects=False).headers["set-cookie"]
    for part in ("HttpOnly", "SameSite=strict", "Path=/registry"):
        assert part in cookie
    assert token not in cookie


def test_the_language_is_chosen_by_a_link_and_kept(site: Site) -> None:
    reader = site.client(site.token("SECRET"), headers={"Accept-Language": "ar,en;q=0.5"})
    assert 'dir="rtl"' in reader.get("/registry").text
    english = reader.get(f"/registry/{FIRST}?language=en")
    assert 'dir="ltr"' in english.text and "Time line" in english.text
    assert 'dir="ltr"' in reader.get("/registry").text


def test_what_was_changed_is_told_to_the_log_and_not_to_the_reader(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """A page about an adapter shows nothing, nor one whose next step rests on what was changed."""
    reader, store = site.client(site.token("SECRET")), site.office.bench.store
    review = store.current("lamps", "blind_review")
    assert review is not None
    for page, digest in ((FIRST, site.view(FIRST).nodes[0].sha256), ("lines/lamps", review.digest)):
        path = site.settings.artifacts / digest / "manifest.json"
        with changed(path, lambda whole: whole[:-10]):
            answer = reader.get(f"/registry/{page}")
        assert answer.status_code == 409 and "Tell the administrator" in answer.text
        assert page == FIRST or FIRST not in answer.text
        assert str(path) not in answer.text and str(path) in caplog.text


def test_the_institutions_proxy_names_a_reader(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = site.settings.home / "proxy.secret"
    secret.write_text("s" * 40)
    secret.chmod(0o600)
    rules = b"serving: {roles: {auditors: {clearance: INTERNAL, admin: true}, desk: {clearance: SECRET}}}\n"
    monkeypatch.setenv("SOVEREIGN_SERVING_USER_HEADER", "X-User")
    monkeypatch.setenv("SOVEREIGN_SERVING_PROXY_SECRET", str(secret))
    with changed(site.settings.data / "institution.yaml", lambda whole: whole + rules):
        client, roles = site.client(), site.settings.serving_roles_header
        named = {"X-User": "Nadia", "X-Proxy-Secret": "s" * 40}
        assert client.get("/registry", headers={**named, roles: "auditors"}).status_code == 200
        assert client.get("/registry", headers={**named, roles: "desk"}).status_code == 401
        assert client.get("/registry", headers={"X-User": "Nadia", roles: "auditors"}).status_code == 401
