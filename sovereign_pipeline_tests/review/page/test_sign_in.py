"""Who gets in: one-time links, sessions, and whom a proxy names."""

import base64

import pytest

from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.tables import Ballot
from sovereign_pipeline.review.ballots import issue_another_link
from sovereign_pipeline.review.page.app import create_app
from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.review.page.client import BALLOT, PageClient, signed_in


def test_a_link_is_exchanged_for_a_session_that_scripts_and_other_sites_cannot_use(
    browser: PageClient, reviews: ReviewBench
) -> None:
    assert reviews.opened is not None
    page = browser.get("/")
    assert (page.status_code, "wording" in page.text) == (401, False)
    assert browser.post(f"/pairs/{reviews.asked('operator-1')[0].pair}", json=BALLOT).status_code == 401
    token = reviews.opened.links["operator-1"]
    answer = browser.post("/sign-in", json={"token": token})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Secure" not in cookie
    assert browser.get("/").status_code == 200
    again = browser.post("/sign-in", json={"token": token})
    assert (again.status_code, "used already" in again.json()["error"]) == (401, True)


def test_a_session_that_was_changed_is_refused(browser: PageClient, reviews: ReviewBench) -> None:
    signed_in(browser, reviews)
    cookie = browser.cookies["session"]
    content, *signature = cookie.split(".")
    named = base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)).decode()
    assert "operator-1" in named
    other = base64.urlsafe_b64encode(named.replace("operator-1", "operator-2").encode()).decode().rstrip("=")
    of_another = ".".join([other, *signature])
    for changed in (cookie[:-2] + ("AA" if cookie[-2:] != "AA" else "BB"), "x" + cookie, "", ".", of_another):
        browser.cookies.clear()
        browser.cookies.set("session", changed)
        assert browser.get("/").status_code == 401


@pytest.mark.security_case("An operator loses a signed-in device", "a new link ends its session")
def test_a_new_link_ends_the_session_of_a_lost_device_and_the_links_before_it(
    browser: PageClient, reviews: ReviewBench
) -> None:
    lost = signed_in(browser, reviews)
    other = signed_in(PageClient(browser.app), reviews, "operator-2")
    pair = lost.attribute("pair")
    workplace = reviews.bench.workplace()
    unused, newest = (issue_another_link(reviews.registry, workplace, "operator-1", "clerk") for _ in range(2))
    page = lost.get("/")
    assert (page.status_code, "A newer link has ended this session." in page.text) == (401, True)
    assert lost.submit(f"/pairs/{pair}", BALLOT)[0] == 401
    again = PageClient(browser.app)
    refused = again.post("/sign-in", json={"token": unused})
    assert (refused.status_code, "There is a newer link" in refused.json()["error"]) == (401, True)
    assert again.post("/sign-in", json={"token": newest}).status_code == 204
    again.see()
    assert again.submit(f"/pairs/{again.attribute('pair')}", BALLOT) == (204, "")
    assert lost.get("/").status_code == 401
    assert other.submit(f"/pairs/{other.attribute('pair')}", BALLOT) == (204, "")


@pytest.mark.security_case("An unsigned entry is inserted to sign an operator out", "it is ignored")
def test_an_inserted_entry_ends_no_session(browser: PageClient, reviews: ReviewBench) -> None:
    signed_in(browser, reviews)
    with reviews.registry.writing() as session:
        said = {"review": reviews.review.id, "operator": "operator-1", "link": "a" * 64, "act": 99, "act_before": "b"}
        append(session, "clerk", "sign-in link issued", said)
    assert browser.get("/").status_code == 200


def test_no_header_is_trusted_unless_it_is_named_and_comes_from_the_proxy(
    reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(peer: str, times: int = 1) -> int:
        app = create_app(reviews.bench.settings, reviews.registry)
        with PageClient(app, client=(peer, 1)) as browser:
            return browser.get("/", headers=[("X-Remote-User", "operator-3")] * times).status_code

    assert ask("127.0.0.1") == 401
    monkeypatch.setenv("SOVEREIGN_REVIEW_USER_HEADER", "X-Remote-User")
    assert ask("127.0.0.1") == 200
    assert ask("127.0.0.1", times=2) == 401, "a proxy that adds the header to a client's own has not dropped that one"
    assert ask("10.0.0.9") == 401
    app = create_app(reviews.bench.settings, reviews.registry)
    with PageClient(app, client=("127.0.0.1", 1), headers={"X-Remote-User": "operator-3"}) as browser:
        browser.see()
        assert browser.attribute("pair") == reviews.asked("operator-3")[0].pair
        assert browser.submit(f"/pairs/{browser.attribute('pair')}", BALLOT) == (204, "")
        assert browser.get("/", headers={"X-Remote-User": "stranger"}).status_code == 401
    monkeypatch.setenv("SOVEREIGN_REVIEW_PROXIES", "10.0.0.9")
    assert (ask("10.0.0.9"), ask("127.0.0.1")) == (200, 401)


ELSEWHERE = "http://rebound.example:8600"


@pytest.mark.security_case(
    "Another site's host name resolves to the review page, and it sends the proxy's header", "403, and no ballot"
)
def test_a_page_elsewhere_rates_nothing_as_an_operator(reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOVEREIGN_REVIEW_USER_HEADER", "X-Remote-User")
    app = create_app(reviews.bench.settings, reviews.registry)
    with PageClient(app, client=("127.0.0.1", 1), headers={"X-Remote-User": "operator-3"}) as browser:
        browser.see()
        path, token = f"/pairs/{browser.attribute('pair')}", browser.attribute("form-token")
        for sent in (
            {"Host": "rebound.example:8600", "Origin": ELSEWHERE, "Sec-Fetch-Site": "same-origin"},
            {"Origin": ELSEWHERE, "Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        ):
            assert browser.get("/", headers=sent).status_code == 403
            assert browser.post(path, json=BALLOT, headers={"X-Form-Token": token, **sent}).status_code == 403
    with reviews.registry.reading() as session:
        assert session.query(Ballot).count() == 0


def test_the_page_answers_the_name_that_the_proxy_serves(reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOVEREIGN_UI_HOSTS", "review.institution.example")
    app = create_app(reviews.bench.settings, reviews.registry)
    with PageClient(app, base_url="https://review.institution.example") as browser:
        signed_in(browser, reviews)
        origin = {"Origin": "https://review.institution.example", "Sec-Fetch-Site": "same-origin"}
        assert browser.get("/", headers=origin).status_code == 200
        assert browser.get("/", headers={"Host": "127.0.0.1:8600"}).status_code == 403


def test_behind_tls_the_cookie_is_secure(reviews: ReviewBench) -> None:
    assert reviews.opened is not None
    app = create_app(reviews.bench.settings, reviews.registry)
    for operator, peer, header, secure in (
        ("operator-1", "127.0.0.1", "https", True),
        ("operator-2", "10.0.0.9", "https", False),
        ("operator-3", "127.0.0.1", "http", False),
    ):
        with PageClient(app, client=(peer, 1)) as browser:
            answer = browser.post(
                "/sign-in", json={"token": reviews.opened.links[operator]}, headers={"X-Forwarded-Proto": header}
            )
            assert ("Secure" in answer.headers["set-cookie"]) == secure
