"""Take the README's pictures from the running UI: `.venv/bin/python docs/pictures/take.py [review]`.

Needs Debian's `chromium` and a line that was run (`make demo`). Starts the web server on a free port and stops it. With
`review`, the pictures of the review page alone: a review of the line is opened in a copy of the installation, so that
the registry keeps no trace of it.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.orchestration.instance import prepare_dagster_home
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline.registry.database import open_registry
from sovereign_pipeline.review.opening import open_review
from sovereign_pipeline.review.page import server_config
from sovereign_pipeline.settings import PROJECT_ROOT, Settings

HERE = Path(__file__).resolve().parent
PICTURES = {
    "asset-graph.png": ("/assets/registered_adapter?view=lineage&lineageScope=upstream&lineageDepth=9", "1500,760"),
    "sft-adapter.png": ("/assets/sft_adapter?view=overview", "1500,2600"),
    "evaluation-report.png": ("/assets/evaluation_report?view=overview", "1500,2600"),
}


REVIEWED_LINE = "permits-desk"


def main() -> None:
    chromium = shutil.which("chromium") or sys.exit("Install Debian's chromium first.")
    if sys.argv[1:] != ["review"]:
        take_dagster(chromium)
    with tempfile.TemporaryDirectory() as copy:
        take_review(chromium, Path(copy))


def take_dagster(chromium: str) -> None:
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
        for name, (path, size) in PICTURES.items():
            with tempfile.TemporaryDirectory() as profile:
                command = [
                    chromium,
                    "--headless",
                    "--no-sandbox",
                    "--disable-gpu",
                    "--disable-background-networking",
                    "--force-device-scale-factor=1.6",
                ]
                command += [f"--user-data-dir={profile}", f"--window-size={size}", "--virtual-time-budget=60000"]
                command += [f"--screenshot={HERE / name}", f"http://127.0.0.1:{port}{path}"]
                subprocess.run(command, check=True, timeout=120, stderr=subprocess.DEVNULL, env={**os.environ})
    finally:
        server.terminate()
        server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def take_review(chromium: str, copy: Path) -> None:
    """Open a review in a copy of the installation; the page in each language, on a letter of that language."""
    here = Settings.from_environment()
    settings = Settings(home=copy / "home", data=here.data, vault=copy / "vault")
    shutil.copytree(here.artifacts, settings.artifacts)
    shutil.copyfile(here.home / "registry.db", settings.home / "registry.db")
    settings.models.symlink_to(here.models)
    institution = load_institution(settings.data)
    workplace = Workplace(
        store=ArtifactStore(settings.artifacts),
        settings=settings,
        institution=institution,
        line=load_line(settings.data, REVIEWED_LINE, institution),
        progress=print_to_stderr,
        launch=lambda job: None,
    )
    opened = open_review(open_registry(settings), workplace, "pictures")
    photograph(chromium, settings, list(opened.links.values()))


def photograph(chromium: str, settings: Settings, tokens: Sequence[str]) -> None:
    """tokens: of two operators' links at least; each rates ties until a letter of the wanted language comes."""
    from playwright.sync_api import sync_playwright
    from uvicorn import Server

    port = free_port()
    server = Server(server_config(settings, open_registry(settings), port))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    wait_for(f"http://127.0.0.1:{port}/static/icon.svg")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for language, direction, token in (("en", "ltr", tokens[0]), ("ar", "rtl", tokens[1])):
            context = browser.new_context(
                locale=language, viewport={"width": 1200, "height": 760}, device_scale_factor=1.6
            )
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{port}/sign-in#{token}")
            page.keyboard.press("Enter")
            page.wait_for_selector("#ballot")
            while page.get_attribute(".letter .text", "dir") != direction:
                with page.expect_navigation():
                    page.keyboard.type("333333t")
                    page.keyboard.press("Enter")
            page.keyboard.type("54422")
            page.screenshot(path=HERE / f"review-page-{language}.png", full_page=True)
        browser.close()
    server.should_exit = True
    thread.join()


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
