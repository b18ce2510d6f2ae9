"""The documents of the two pages: nothing from elsewhere, nothing that could run beside them, and two languages."""

import json
import re

import pytest

from sovereign_pipeline.serving.gateway.admin import HERE
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import Bench, adapter

NO_SENTENCES = {
    *("Content-Type", "AbortError", "English", "Enter", "POST", "T"),
    *("badge good", "badge bad", "asked text", "report row", "use strict"),
}
"""What looks like a sentence to `sentences` and is none."""


def sentences() -> set[str]:
    """Every text that a page shows by itself."""
    html = "".join(file.read_text() for file in HERE.glob("*.html"))
    script = "".join(re.sub(r"^\s*//.*$", "", file.read_text(), flags=re.M) for file in HERE.glob("*.js"))
    written = {*re.findall(r'"((?:[A-Z(]|\d:|[a-z]+ )[^"\n]*)"', script)}
    named = re.findall(r'\("([A-Z][^"]+)", state\.', (HERE.parent / "admin.py").read_text())
    refusals = re.findall(r'Refusal\(\s*\d+,\s*"([A-Z][^"{]+\.)"', (HERE.parent / "messages.py").read_text())
    shown = {*re.findall(r'data-(?:say|hint|name)="([^"]+)"', html), *written, *named, *refusals}
    assert "Days" in shown and "There is no such page here." in shown
    return shown - NO_SENTENCES


def test_every_sentence_has_its_arabic_and_no_other_is_there() -> None:
    arabic = json.loads((HERE / "arabic.json").read_text())
    assert sentences() - arabic.keys() == set()
    python = "".join(
        (HERE.parent / file).read_text() for file in ("messages.py", "admission.py", "answering.py", "admin.py")
    )
    everywhere = "".join(file.read_text() for file in HERE.iterdir() if file.suffix in (".html", ".js")) + python
    assert [sentence for sentence in arabic if sentence not in everywhere] == []
    assert all(re.search("[\u0600-\u06ff]", each) for each in arabic.values())


@pytest.mark.parametrize("path", ["/", "/admin"])
@pytest.mark.security_case(
    "A page of the gateway is searched for what could run or load beside it",
    "its content policy allows its own scripts and styles by their hashes, and nothing else; no text becomes markup",
)
def test_a_page_says_nothing_of_anybody_and_lets_nothing_else_run(bench: Bench, client: Client, path: str) -> None:
    bench.serve(adapter("lamps"))
    page = client().get(path)
    assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
    (policy,) = page.headers.get_list("content-security-policy")
    assert "unsafe" not in policy and "default-src 'none'" in policy and "require-trusted-types-for 'script'" in policy
    assert policy.count("'sha256-") == 3 and "frame-ancestors 'none'" in policy
    assert page.headers["cache-control"] == "no-store" and page.headers["x-content-type-options"] == "nosniff"
    assert "lamps" not in page.text
    assert (
        re.findall(r"https?://|\bon[a-z]+=|innerHTML|insertAdjacent|document\.write|eval\(|localStorage", page.text)
        == []
    )
    assert client().post(path).status_code == 405
