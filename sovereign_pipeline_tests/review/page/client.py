"""A client of the page over HTTP, without a browser."""

import re
from typing import Any

from starlette.testclient import TestClient

from sovereign_pipeline_tests.review.conftest import ReviewBench

HERE = "http://127.0.0.1:8600"


RATINGS = {f"{position}.{name}": 3 for position in "ab" for name in ("accuracy", "helpfulness", "tone")}


BALLOT = {"preference": "a", "ratings": RATINGS}


class PageClient(TestClient):
    """One operator's, that remembers the page it is on."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(app, **{"base_url": HERE, **options})

    def see(self) -> str:
        page = self.get("/")
        self.page = page.text
        return self.page

    def attribute(self, name: str) -> str:
        (found,) = re.findall(rf'data-{name}="([^"]*)"', self.page)
        return str(found)

    def submit(self, path: str, content: object, token: str | None = None) -> tuple[int, str]:
        headers = {"X-Form-Token": self.attribute("form-token") if token is None else token}
        answer = self.post(path, json=content, headers=headers)
        return answer.status_code, answer.json()["error"] if answer.content else ""


def signed_in(browser: PageClient, reviews: ReviewBench, operator: str = "operator-1") -> PageClient:
    assert reviews.opened is not None
    assert browser.post("/sign-in", json={"token": reviews.opened.links[operator]}).status_code == 204
    browser.see()
    return browser
