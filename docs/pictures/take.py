"""Take the pictures of README and docs: `.venv/bin/python docs/pictures/take.py [dagster] [report] [review]
[serving]`.

Without an argument it takes all. It needs Debian's `chromium` and lines that were run (`make demo`), and starts and
stops servers on free ports. The review is opened in a copy of the installation: the registry keeps no trace of it. The
gateway's pages need no line: a gateway of the tests replays an answer, and shows a rollout that was made up.
"""

import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

from uvicorn import Server

from sovereign_pipeline.ledger.database import open_registry
from sovereign_pipeline.ledger.signed_artifacts.sealing import open_store
from sovereign_pipeline.orchestration.instance import prepare_dagster_home
from sovereign_pipeline.review.opening import ReviewRequest, open_review
from sovereign_pipeline.review.page.server import server_config
from sovereign_pipeline.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.workplace import open_workplace
from sovereign_pipeline_tests.serving.gateway.conftest import Running
from sovereign_pipeline_tests.serving.gateway.pages.lamps import try_out
from sovereign_pipeline_tests.serving.gateway.scripted import Bench

HERE = Path(__file__).resolve().parent
LINE = "permits-desk"
LARGEST_PAIR = 1300  # pixels
QUESTION = "We ask for a permit to moor a barge at quay four from 3 to 9 June."
ANSWER = (
    "With reference to your letter of 28 May 2024, |the Department of Marine and Aviation advises as follows.\n|The "
    "permit is granted on 28 June 2024 at quay four. |The permit is to be carried out by a licensed vessel of the "
)
"""As docs/serving.md has it."""
REVIEWED = {"en": "permits-desk", "ar": "circulars-ar"}
ASSET_PAGES = {
    "asset-graph.png": ("/assets/registered_adapter?view=lineage&lineageScope=upstream&lineageDepth=9", 1500, 760),
    "sft-adapter.png": ("/assets/sft_adapter?view=overview", 1500, 1300),
}


def main() -> None:
    executable = shutil.which("chromium") or sys.exit("Install Debian's chromium first.")
    wanted = sys.argv[1:] or ["dagster", "report", "review", "serving"]
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as copy:
        browser = playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        if "dagster" in wanted:
            take_dagster(browser)
        if "report" in wanted:
            take_report(browser)
        if "review" in wanted:
            take_review(browser, Path(copy))
        if "serving" in wanted:
            take_serving(browser, Path(copy))
        browser.close()


def take_dagster(browser: Any) -> None:
    prepare_dagster_home(Settings.from_environment())
    port = free_port()
    webserver = Path(sys.executable).parent / "dagster-webserver"
    server = subprocess.Popen(
        [webserver, "-h", "127.0.0.1", "-p", str(port), "-w", PROJECT_ROOT / "workspace.yaml", "--read-only"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/server_info")
        for name, (path, width, height) in ASSET_PAGES.items():
            page = new_page(browser, width, height)
            page.goto(f"http://127.0.0.1:{port}{path}")
            page.wait_for_load_state("networkidle")
            page.wait_for_timeout(8_000)  # the graph moves into its place
            page.screenshot(path=HERE / name)
    finally:
        server.terminate()
        server.wait()


def take_report(browser: Any) -> None:
    """The top of the line's evaluation report: what was demanded, and the forest plot."""
    store = open_store(Settings.from_environment())
    ref = store.current(LINE, "evaluation_report") or sys.exit(f"Run the line first: sovereign run {LINE}.")
    page = new_page(browser, 1100, 1000)
    page.goto(store.open(ref).file("report.html").as_uri())
    bottom = page.locator("figure").first.bounding_box()
    height = int(bottom["y"] + bottom["height"]) + 24
    top = {"x": 0, "y": 0, "width": 1100, "height": height}
    page.screenshot(path=HERE / "evaluation-report.png", full_page=True, clip=top)


def new_page(browser: Any, width: int, height: int, **context: Any) -> Any:
    viewport = {"width": width, "height": height}
    return browser.new_context(viewport=viewport, device_scale_factor=1.6, **context).new_page()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def take_review(browser: Any, copy: Path) -> None:
    """Open a review of each line in a copy of the installation, and show the first operator's pair that is short."""
    here = Settings.from_environment()
    settings = Settings(home=copy / "home", data=here.data, vault=copy / "vault")
    shutil.copytree(here.artifacts, settings.artifacts)
    shutil.copyfile(here.home / "registry.db", settings.home / "registry.db")
    settings.models.symlink_to(here.models)
    engine, port = open_registry(settings), free_port()
    server = Server(server_config(settings, engine, port))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(f"http://127.0.0.1:{port}/static/icon.svg")
    for language, name in REVIEWED.items():
        workplace = open_workplace(settings, name, print_to_stderr)
        opened = open_review(engine, workplace, ReviewRequest(actor="pictures"))
        for link in opened.links.values():
            page = new_page(browser, 1200, 760, locale=language)
            page.goto(f"http://127.0.0.1:{port}/sign-in#{link}")
            page.keyboard.press("Enter")
            page.wait_for_selector("#ballot")
            if page.evaluate("document.documentElement.scrollHeight") < LARGEST_PAIR:
                break
        page.keyboard.type("33333")
        page.screenshot(path=HERE / f"review-page-{language}.png", full_page=True)
    server.should_exit = True
    thread.join()


def take_serving(browser: Any, directory: Path) -> None:
    """The chat page with the answer of docs/serving.md, and the overview with a hold that is open."""
    bench = Bench(directory / "serving")
    bench.engine.words = ANSWER.split("|")
    try_out(bench, LINE, staged_level="CONFIDENTIAL", level="CONFIDENTIAL")
    running = Running(bench)
    page = new_page(browser, 1100, 480, locale="en")
    sign_in(page, f"{running.url}/", bench.token("CONFIDENTIAL", admin=True))
    page.fill("#question", QUESTION)
    page.press("#question", "Enter")
    page.get_by_role("button", name="Bad answer").click()
    page.screenshot(path=HERE / "chat-page.png")
    sign_in(page, f"{running.url}/admin", bench.token("CONFIDENTIAL", admin=True))
    page.wait_for_selector("section")
    page.locator("body").screenshot(path=HERE / "admin-page.png")
    running.stop()


def sign_in(page: Any, url: str, token: str) -> None:
    page.goto(url)
    page.fill("#token", token)
    page.press("#token", "Enter")


def print_to_stderr(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(url).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


if __name__ == "__main__":
    main()
