"""The artifact pages: which files are served, verified, to whom, and with which policy."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from sovereign_pipeline.evaluation.stages import EVALUATION_REPORT
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Workplace
from sovereign_pipeline.web import routes
from sovereign_pipeline.web.routes import create_app
from sovereign_pipeline_tests.conftest import DemoInstitution

HTML = "<!doctype html><body><main><p>Passed</p><script>alert(1)</script></main></body>"
CARD = "# Card\n\n| what | rows |\n|---|---|\n| all | 3 |\n\n<script>alert(1)</script>\n"


@pytest.fixture
def client(institution: DemoInstitution) -> Iterator[TestClient]:
    with TestClient(create_app(institution.settings), base_url="http://127.0.0.1:8700") as client:
        yield client


def make(workplace: Workplace, kind: str, files: dict[str, str]) -> str:
    """An artifact of some kind with some files; its digest."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        for name, content in files.items():
            (workspace / name).write_text(content, encoding="utf-8")
        return Built(summary={"files": len(files), "outcome": "pass"})

    stage = replace(
        EVALUATION_REPORT,
        kind=kind,
        build=build,
        inputs=(),
        gates=(),
        config=lambda line: {},
        external=lambda workplace: {},
    )
    return produce(stage, workplace, {}).ref.digest


@pytest.fixture
def report(institution: DemoInstitution) -> str:
    return make(institution.workplace(), "evaluation_report", {"report.html": HTML, "report.json": "{}", "x.html": ""})


def test_a_report_is_marked_and_may_do_nothing(client: TestClient, report: str) -> None:
    answer = client.get(f"/{report}/report.html")
    assert answer.status_code == 200 and "<p>Passed</p>" in answer.text
    made = f"<code>{report}</code> · version {EVALUATION_REPORT.code_version} · made 20"
    assert "<bdi>PUBLIC</bdi></aside>" in answer.text and made in answer.text
    policy = answer.headers["content-security-policy"]
    assert (
        "default-src 'none'" in policy and "script-src" not in policy and policy.endswith("sandbox allow-same-origin")
    )
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert client.get(f"/{report}/report.json").headers["content-type"] == "application/json"


def test_markdown_is_shown_as_a_page_without_html_of_its_own(client: TestClient, institution: DemoInstitution) -> None:
    digest = make(institution.workplace(), "training_dataset", {"card.md": CARD, "card.json": json.dumps({"rows": 3})})
    answer = client.get(f"/{digest}/card.md")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "<h1>Card</h1>" in answer.text and "<td>all</td>" in answer.text
    assert "<script>" not in answer.text


def test_no_other_file_is_served(client: TestClient, institution: DemoInstitution, report: str) -> None:
    rows = make(institution.workplace(), "training_dataset", {"train.jsonl": "{}", "card.md": ""})
    (institution.settings.artifacts / report / "planted.html").write_text("planted")
    for path in (
        f"/{report}/x.html",  # of the artifact, and not of the kinds that are read
        f"/{report}/planted.html",
        f"/{report}/manifest.json",
        f"/{rows}/train.jsonl",
        f"/{report}/",
        f"/{report}",
        f"/{report}/..%2f..%2fregistry.db",
        f"/{report}/%2e%2e/{rows}/card.md",
        f"/{'0' * 64}/report.html",
        "/.current/report.html",
        "/redoc",
        "/openapi.json",
    ):
        assert client.get(path).status_code == 404, path
    assert client.post(f"/{report}/report.html").status_code == 405
    assert client.get("/", follow_redirects=False).headers["location"] == "/registry"


@pytest.mark.parametrize("name", ["report.html", "manifest.json"])
def test_changed_bytes_are_refused(client: TestClient, institution: DemoInstitution, report: str, name: str) -> None:
    path = institution.settings.artifacts / report / name
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1))
    answer = client.get(f"/{report}/report.html")
    assert answer.status_code == 409
    assert name in answer.text and "Passed" not in answer.text


def test_a_file_that_is_gone_or_a_link_is_refused(
    client: TestClient, institution: DemoInstitution, report: str
) -> None:
    path = institution.settings.artifacts / report / "report.html"
    elsewhere = institution.root / "elsewhere.html"
    path.rename(elsewhere)
    assert client.get(f"/{report}/report.html").status_code == 409
    path.symlink_to(elsewhere)
    assert client.get(f"/{report}/report.html").status_code == 409


@pytest.mark.parametrize(("host", "status"), [("localhost:8700", 200), ("pages.example:8700", 403), ("10.0.0.1", 403)])
def test_only_this_machine_is_answered(client: TestClient, report: str, host: str, status: int) -> None:
    assert client.get(f"/{report}/report.html", headers={"Host": host}).status_code == status


def test_the_documentation_is_served_and_loads_from_this_server_alone(
    institution: DemoInstitution, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<p>Start here", encoding="utf-8")
    monkeypatch.setattr(routes, "SITE", tmp_path / "site")
    with TestClient(create_app(institution.settings), base_url="http://127.0.0.1:8700") as client:
        page = client.get("/docs/")
        assert (page.status_code, page.text) == (200, "<p>Start here")
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        assert (
            client.get("/docs/../sitemap").status_code == client.get("/docs/%2e%2e/pyproject.toml").status_code == 404
        )
