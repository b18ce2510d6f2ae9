"""Take the pictures of README and docs: `.venv/bin/python docs/pictures/take.py [dagster] [report] [review]
[serving] [registry]`.

Without an argument it takes all. It needs Debian's `chromium` and lines that were run (`make demo`), and starts and
stops servers on free ports. The review is opened in a copy of the installation: the registry keeps no trace of it. The
gateway's pages need no line: a gateway of the tests replays an answer, and shows a rollout that was made up; nor do the
pages about an adapter, which show the tests' busy line. Every picture has few colours and at most 150 kB.
"""

import datetime
import io
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from uvicorn import Server

from sovereign_pipeline.base.pages import Language
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.dagster.plots import hold_png
from sovereign_pipeline.dagster.resources import open_instance
from sovereign_pipeline.dagster.rollout import bounds_of
from sovereign_pipeline.dagster.services import WORKSPACE
from sovereign_pipeline.policy.serving import Hold
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.review.opening import ReviewRequest, open_review
from sovereign_pipeline.review.page.app import server_config
from sovereign_pipeline.serving.rollout.flag import Flag
from sovereign_pipeline.serving.rollout.hold import judge
from sovereign_pipeline.serving.rollout.telemetry import Counted, Tally
from sovereign_pipeline.web.rendering import adapter_file
from sovereign_pipeline.web.views import adapter_view
from sovereign_pipeline.workplace import open_workplace
from sovereign_pipeline_tests.evidence.conftest import FIRST, busy_office
from sovereign_pipeline_tests.serving.gateway.conftest import Running
from sovereign_pipeline_tests.serving.gateway.scripted import Bench, try_out

HERE = Path(__file__).resolve().parent
LINE = "permits-desk"
LARGEST_PAIR = 1300  # pixels
QUESTION = "We ask for a permit to moor a barge at quay four from 3 to 9 June."
ANSWER = (
    "With reference to your letter of 28 May 2024, |the Department of Marine and Aviation advises as follows.\n|The "
    "permit is granted on 28 June 2024 at quay four. |The permit is to be carried out by a licensed vessel of the "
)
"""As docs/how-to/serve.md has it."""
ARABIC_LINE = "circulars-ar"
ARABIC_QUESTION = "متى يُعاد فتح الرصيف القديم أمام القوارب الصغيرة؟"
ARABIC_ANSWER = (
    "إشارةً إلى خطابكم، |يُعاد فتح الرصيف القديم أمام القوارب الصغيرة بعد انتهاء أعمال الصيانة. "
    "|يُرجى مراجعة إدارة الموانئ."
)
LARGEST_FILE = 150_000
LANGUAGES: tuple[Language, ...] = ("en", "ar")
REVIEWED = {"en": "permits-desk", "ar": "circulars-ar"}
ASSET_PAGES = {
    "asset-graph.png": ("/assets/registered_adapter?view=lineage&lineageScope=upstream&lineageDepth=9", 1500, 760),
    "sft-adapter.png": ("/assets/sft_adapter?view=overview", 1500, 1300),
}


def main() -> None:
    executable = shutil.which("chromium") or sys.exit("Install Debian's chromium first.")
    wanted = sys.argv[1:] or ["dagster", "report", "review", "serving", "registry"]
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
        if "registry" in wanted:
            take_registry(browser, Path(copy))
        browser.close()


def take_dagster(browser: Any) -> None:
    open_instance(Settings.from_environment()).dispose()
    port = free_port()
    webserver = Path(sys.executable).parent / "dagster-webserver"
    server = subprocess.Popen(
        [webserver, "-h", "127.0.0.1", "-p", str(port), "-w", WORKSPACE, "--read-only"],
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
            save(page.screenshot(), name)
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
    save(page.screenshot(full_page=True, clip=top), "evaluation-report.png")


def new_page(browser: Any, width: int, height: int, **context: Any) -> Any:
    viewport = {"width": width, "height": height}
    return browser.new_context(viewport=viewport, device_scale_factor=1.6, **context).new_page()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def take_review(browser: Any, copy: Path) -> None:
    """Open a review of each line in a copy of the installation, and show the first operator's pair that is short."""
    settings = copied(Settings.from_environment(), copy)
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
        save(page.screenshot(full_page=True), f"review-page-{language}.png")
    server.should_exit = True
    thread.join()


def copied(here: Settings, directory: Path) -> Settings:
    """An installation with the same lines and keys: opening a review signs, and enters people and acts."""
    settings = Settings(home=directory / "home", data=here.data, corpus=here.corpus)
    if not here.registry_url.startswith("sqlite"):
        sys.exit("The pictures of a review are taken with a registry in SQLite.")
    left = shutil.ignore_patterns("models", "dagster", "mlflow", "logs", "registry.db*")
    shutil.copytree(here.home, settings.home, ignore=left)
    shutil.copytree(here.keys, settings.keys)
    paths = [each.removeprefix("sqlite:///") for each in (here.registry_url, settings.registry_url)]
    with closing(sqlite3.connect(paths[0])) as source, closing(sqlite3.connect(paths[1])) as target:
        source.backup(target)
    settings.models.symlink_to(here.models)
    return settings


def take_serving(browser: Any, directory: Path) -> None:
    """The chat page with the answer of docs/how-to/serve.md, the overview with an open hold, and the hold's plot."""
    bench = Bench(directory / "serving")
    bench.engine.words = ANSWER.split("|")
    flag = try_out(bench, LINE, staged_level="CONFIDENTIAL", level="CONFIDENTIAL")
    running = Running(bench)
    page = new_page(browser, 1100, 480, locale="en")
    token = bench.token("CONFIDENTIAL", admin=True)
    chat(page, running.url, token, QUESTION, "Bad answer")
    save(page.screenshot(), "chat-page.png")
    sign_in(page, f"{running.url}/admin", token)
    page.wait_for_selector("section")
    save(page.locator("body").screenshot(), "admin-page.png")
    worse = "disliked: +11.1%, at most +16.8% (margin 2.0%)"
    stopped = flag.model_copy(update={"stopped": worse, "sequence": flag.sequence + 1})
    here = running.app.state.gateway
    running.app.state.gateway = replace(here, sources=replace(here.sources, flags=lambda: {LINE: stopped}))
    sign_in(page, f"{running.url}/admin", token)
    page.get_by_text(worse).wait_for()
    save(page.locator("section").screenshot(), "admin-taken-back.png")
    running.stop()
    save(hold_png(bounds_of(drawn_hold(flag))), "hold.png")

    arabic = Bench(directory / "serving-ar")
    arabic.engine.words = ARABIC_ANSWER.split("|")
    try_out(arabic, ARABIC_LINE)
    running = Running(arabic)
    page = new_page(browser, 1100, 480, locale="ar")
    chat(page, running.url, arabic.token("INTERNAL"), ARABIC_QUESTION, "جواب جيد")
    save(page.screenshot(), "chat-page-ar.png")
    running.stop()


def take_registry(browser: Any, directory: Path) -> None:
    """The top of the page about an adapter that was waived, reviewed blind and promoted."""
    office, _ = busy_office(directory)
    view = adapter_view(office.registry, office.bench.store, FIRST, datetime.datetime.now(datetime.UTC))
    for language in LANGUAGES:
        path = directory / f"{language}.html"
        path.write_text(adapter_file(view, language), encoding="utf-8")
        page = new_page(browser, 1000, 1150)
        page.goto(path.as_uri())
        save(page.screenshot(), f"adapter-page-{language}.png")


def chat(page: Any, url: str, token: str, question: str, thumb: str) -> None:
    sign_in(page, f"{url}/", token)
    page.fill("#question", question)
    page.press("#question", "Enter")
    page.get_by_role("button", name=thumb).click()


def drawn_hold(flag: Flag) -> Any:
    """After a week in which thirty users of each adapter asked thirty times: the staged one's answers are disliked."""
    draw = random.Random(7)

    def counted(disliked: float) -> Counted:
        total = Counted()
        for _ in range(30):
            total = total.plus(
                Counted(
                    answers=1,
                    complete=1,
                    looping=draw.random() < 0.01,
                    disliked=draw.random() < disliked,
                    log_seconds=draw.gauss(0.7, 0.4),
                    log_tokens=draw.gauss(4.2, 0.3),
                )
            )
        return total

    arms = {
        "production": {f"{number:064x}": counted(0.02) for number in range(30)},
        "staged": {f"{number:064x}": counted(0.025) for number in range(30, 60)},
    }
    week = flag.began_at + datetime.timedelta(days=7)
    return judge(flag, Tally.model_validate({"drawn": arms}), Hold(), week)


def save(picture: bytes, name: str) -> None:
    """With as many colours as fit."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    for colours in (256, 128, 64, 32):
        written = io.BytesIO()
        image.quantize(colours, dither=Image.Dither.NONE).save(written, "png", optimize=True)
        if len(written.getvalue()) <= LARGEST_FILE:
            (HERE / name).write_bytes(written.getvalue())
            return
    sys.exit(f"{name} has more than {LARGEST_FILE} bytes: make it smaller.")


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
