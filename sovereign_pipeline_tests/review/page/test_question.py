"""What is shown: verified answers only, and nothing from which their positions could be told."""

import time

import pytest

from sovereign_pipeline.review.page.app import create_app
from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.review.page.client import PageClient


def test_an_answer_that_was_changed_on_disk_is_never_shown(reviews: ReviewBench) -> None:
    file = reviews.bench.store.path_of(reviews.review.plan_digest) / "answers.sealed"
    content = file.read_bytes()
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    browser = PageClient(create_app(reviews.bench.settings, reviews.registry), raise_server_exceptions=False)
    assert reviews.opened is not None
    browser.post("/sign-in", json={"token": reviews.opened.links["operator-1"]})
    page = browser.get("/")
    assert (page.status_code, "wording" in page.text) == (500, False)


def test_a_review_that_cannot_be_read_takes_the_page_from_nobody_else(
    reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOVEREIGN_REVIEW_USER_HEADER", "X-Remote-User")
    of_lamps = reviews.opened
    reviews.bench.recipe["line"] = "lanterns"
    reviews.bench.refs.clear()
    reviews.bench.register()
    damaged = reviews.open().review
    (reviews.bench.settings.review_secrets / f"{damaged}.seed").unlink()
    reviews.opened = of_lamps
    reviews.__dict__.pop("contents", None)
    app = create_app(reviews.bench.settings, reviews.registry)
    with PageClient(app, client=("127.0.0.1", 1), headers={"X-Remote-User": "operator-3"}) as browser:
        browser.see()
        assert browser.attribute("pair") in {each.pair for each in reviews.asked("operator-3")}


def test_neither_time_nor_length_depends_on_the_position(reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mann and Whitney's test, at a level that chance passes once in ten thousand; both answers are as long here.

    Processor time, and of each pair the least of five requests: on a busy machine, requests that follow each other are
    slow together, and the test takes its figures for independent.
    """
    from scipy.stats import mannwhitneyu

    monkeypatch.setenv("SOVEREIGN_REVIEW_USER_HEADER", "X-Remote-User")
    app = create_app(reviews.bench.settings, reviews.registry)
    seconds: dict[str, list[float]] = {"a": [], "b": []}
    overheads = set()
    with PageClient(app, client=("127.0.0.1", 1)) as browser:
        for number in range(4):
            for operator in reviews.operators:
                planned = reviews.asked(operator)[number]
                position = reviews.position_of(operator, planned.pair)
                seconds[position].append(float("inf"))
                for _ in range(5):
                    started = time.process_time()
                    page = browser.get("/", headers={"X-Remote-User": operator})
                    seconds[position][-1] = min(seconds[position][-1], time.process_time() - started)
                answers = reviews.answers[planned.prompt]
                shown = [reviews.contents.prompts[planned.prompt].text, answers.candidate, answers.opponent]
                overheads.add(int(page.headers["content-length"]) - sum(len(text.encode()) for text in shown))
                reviews.vote(operator, planned.pair, 0)
    assert len(seconds["a"]) == len(seconds["b"]) == 10
    assert mannwhitneyu(seconds["a"], seconds["b"]).pvalue > 1e-4
    assert len(overheads) == 1
