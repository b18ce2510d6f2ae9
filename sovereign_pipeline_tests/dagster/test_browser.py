"""Asset pages in a real browser on Dagster's own web UI: one asset of each group, and each line's checks.

Screenshots are kept in the test's directory, for whoever changes a page to look at (`pytest --basetemp DIR`).
"""

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from playwright.sync_api import Browser, expect

from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.dagster.resources import open_instance, register_lines
from sovereign_pipeline.dagster.services import WORKSPACE
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.release.requests import BLIND_REVIEW
from sovereign_pipeline_tests.browser import chromium as chromium
from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.dagster.conftest import Line
from sovereign_pipeline_tests.waiting import SECONDS, free_port, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.slow]

MILLISECONDS = SECONDS * 1000
DIFFERENCE = {"reference": 0.5, "candidate": 0.75, "difference": 0.25, "low": 0.1, "high": 0.4, "rows": 150}

SHOWN = {
    "leakage_safe_split": ("corpus", ["verdict", "share held out", "rows held out", "rows for training"]),
    "base_model": ("training", ["verdict", "parameters"]),
    "capability_scores": ("evaluation", ["verdict", "rules accuracy", "rules accuracy, difference from the base"]),
    "blind_review": ("release", ["verdict", "net preference", "net preference, low end", "net preference, high end"]),
}
"""Asset -> its group and the rows that its table begins with."""


def planted(stage: Stage, files: dict[str, str], summary: dict[str, Any]) -> Stage:
    """A stage that gives the same at once, from nothing: its page is what is looked at."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        for name, content in files.items():
            (workspace / name).write_text(content, encoding="utf-8")
        return Built(summary=summary)

    return replace(
        stage,
        build=build,
        inputs=(),
        gates=(),
        external=lambda workplace: {},
    )


PLANTED = {
    "base_model": planted(
        BASE_MODEL,
        {"base_model.json": "{}"},
        {"parameters": 134_515_008, "name": "tiny", "digest": "0" * 64, "chat_template_sha256": "0" * 64},
    ),
    "capability_scores": planted(CAPABILITY_SCORES, {"scores.json": "{}"}, {"rules": {"base": DIFFERENCE}}),
    "blind_review": planted(
        BLIND_REVIEW,
        {"review.md": "# Review\n"},
        {"net_preference": {"mean": 0.2, "low": -0.1, "high": 0.5}, "ballots": 20, "operators": 5, "review": "0" * 64},
    ),
}


@dataclass
class Site:
    """A web UI over two lines."""

    address: str
    line: Line

    def ask(self, query: str) -> Any:
        """The data of a GraphQL answer."""
        body = json.dumps({"query": query}).encode()
        request = urllib.request.Request(f"{self.address}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            return json.loads(response.read())["data"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("site")
    institution = DemoInstitution(root, minimal_recipe(), [letter(number) for number in range(40)])
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DAGSTER_HOME", *institution.settings.to_environment()):
            patch.setenv(name, os.environ.get(name, ""))  # and is undone afterwards
        institution.write()
        open_instance(institution.settings)
        port = free_port()
        command = [str(Path(sys.executable).parent / "dagster-webserver"), "-h", "127.0.0.1", "-p", str(port)]
        log = (root / "webserver.log").open("wb")
        server = subprocess.Popen([*command, "-w", str(WORKSPACE)], stdout=log, stderr=log)
        try:
            with dg.DagsterInstance.get() as instance:
                site = Site(f"http://127.0.0.1:{port}", Line(institution, instance))
                made = ["raw_corpus", "classified_corpus", "scrubbed_corpus", "leakage_safe_split", *PLANTED]
                assert site.line.materialize(made, PLANTED).success
                institution.recipe["line"] = "lanterns"
                institution.rows = [letter(number) for number in range(12)]
                institution.write()
                register_lines(instance, institution.settings)
                assert site.line.materialize(made[:1]).success
                await_code_location(site, root / "webserver.log")
                yield site
        finally:
            server.terminate()
            server.wait(timeout=SECONDS)
            log.close()


def await_code_location(site: Site, log: Path) -> None:
    def is_loaded() -> bool:
        with suppress(OSError):  # nothing listens yet
            return bool(site.ask("{ assetNodes { id } }")["assetNodes"])
        return False

    wait_until(is_loaded, log.read_text)


def test_one_asset_of_each_group_shows_what_matters_first(site: Site, chromium: Browser, tmp_path: Path) -> None:
    context = chromium.new_context(viewport={"width": 1500, "height": 1300})
    outside: list[str] = []
    for asset, (group, first) in SHOWN.items():
        page = context.new_page()
        page.on("request", lambda request: outside.append(request.url) if site.address not in request.url else None)
        page.goto(f"{site.address}/assets/{asset}?view=overview")
        page.get_by_text("manifest", exact=True).wait_for(timeout=MILLISECONDS)
        table = page.locator("table").filter(has=page.get_by_text("verdict", exact=True)).first
        labels = table.evaluate("table => [...table.tBodies[0].rows].map(row => row.cells[0].innerText.trim())")
        assert labels[: len(first)] == first, asset
        assert labels.index("sha256") > labels.index("created at")
        expect(page.get_by_text("[Show JSON]").first).to_be_visible(timeout=MILLISECONDS)  # the manifest is folded
        expect(page.get_by_text("Materializing it")).to_be_visible(timeout=MILLISECONDS)
        page.screenshot(path=tmp_path / f"{group}-{asset}.png")
        page.close()
    assert [url for url in outside if not url.startswith(("data:", "blob:"))] == []
    assert len(list(tmp_path.glob("*.png"))) == len(SHOWN)


def test_plots_draw_the_figures_of_a_line(site: Site, chromium: Browser, tmp_path: Path) -> None:
    page = chromium.new_page(viewport={"width": 1500, "height": 1300})
    page.goto(f"{site.address}/assets/leakage_safe_split?view=overview")
    page.get_by_role("button", name="Plots").click(timeout=MILLISECONDS)
    page.get_by_role("button", name="Events").click(timeout=MILLISECONDS)
    page.get_by_text("lamps: share held out", exact=True).wait_for(timeout=MILLISECONDS)
    expect(page.locator("canvas")).to_have_count(3, timeout=MILLISECONDS)  # none of both lines
    page.screenshot(path=tmp_path / "plots.png")


@pytest.mark.parametrize(("line", "documents"), [("lamps", 40), ("lanterns", 12)])
def test_a_line_shows_the_results_of_its_own_checks(site: Site, line: str, documents: int) -> None:
    (execution,) = site.ask(
        '{ assetCheckExecutions(assetKey: {path: ["raw_corpus"]}, checkName: "rows_accounted_for", limit: 10, '
        f'partition: "{line}") '
        "{ status evaluation { partition metadataEntries { label ... on IntMetadataEntry { intValue } } } } }"
    )["assetCheckExecutions"]
    assert (execution["status"], execution["evaluation"]["partition"]) == ("SUCCEEDED", line)
    values = {each["label"]: each.get("intValue") for each in execution["evaluation"]["metadataEntries"]}
    assert values["documents"] == documents


def test_a_run_of_the_command_line_is_on_the_time_line(site: Site, chromium: Browser, tmp_path: Path) -> None:
    page = chromium.new_page(viewport={"width": 1500, "height": 900})
    command = [str(Path(sys.executable).with_name("sovereign")), "run", "lanterns", "--until", "classified_corpus"]
    assert (
        subprocess.run(
            command, check=False, env=os.environ | site.line.institution.settings.to_environment()
        ).returncode
        == 0
    )
    page.goto(f"{site.address}/overview/activity/timeline")
    expect(page.get_by_text("chain", exact=False).first).to_be_visible(timeout=MILLISECONDS)
    page.screenshot(path=tmp_path / "timeline.png")
    origin = "repositoryOrigin { repositoryLocationName repositoryName }"
    found = site.ask(f"{{ runsOrError {{ ... on Runs {{ results {{ {origin} }} }} }} }}")
    assert {"repositoryLocationName": "sovereign_pipeline", "repositoryName": "__repository__"} in [
        each["repositoryOrigin"] for each in found["runsOrError"]["results"]
    ]
