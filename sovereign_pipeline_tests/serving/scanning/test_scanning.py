"""Nothing passes unsearched: the process that searches hangs, is killed, or is busy."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import NotFoundError, ScannerLost
from sovereign_pipeline.policy.institution import Institution, load_institution
from sovereign_pipeline.serving import scanning
from sovereign_pipeline.serving.scanning import Scanner
from sovereign_pipeline.serving.screening import SentTexts, start_screens
from sovereign_pipeline_tests.conftest import LADDER
from sovereign_pipeline_tests.serving.gateway.scripted import LINE, USER, TryingOut, adapter
from sovereign_pipeline_tests.serving.rollout.conftest import Desk
from sovereign_pipeline_tests.serving.scanning.conftest import (
    FILLER,
    NAME,
    Screening,
    Searched,
    in_pieces,
    say,
    text_of,
)
from sovereign_pipeline_tests.waiting import SECONDS


def worker_of(scanner: Scanner) -> Any:
    assert scanner._pool is not None
    (worker,) = scanner._pool._pool._processes.values()
    return worker


@pytest.mark.security_case(
    "The process that searches for personal data hangs",
    (
        "503 if texts are replaced or stopped, and no engine gets the request; if they are only "
        "counted, the request passes"
    ),
)
def test_what_cannot_be_searched_does_not_pass(
    gateway: Searched, scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = gateway.searching("replace", "stop")
    with monkeypatch.context() as patch:
        patch.setattr(scanning, "SECONDS_TO_SEARCH", 0.5)
        patch.setattr(scanner, "_watch", lambda pool, begun: None)  # or it would be ended and started again
        os.kill(worker_of(scanner).pid, signal.SIGSTOP)
        caller = gateway.caller()
        for stream in (False, True):
            refused = say(caller, stream=stream)
            assert refused.status_code == 503 and refused.json()["error"]["code"] == "scanner_lost"
            assert "Retry-After" in refused.headers
        assert not bench.engine.asked
        gateway.searching("report", "report")
        counting = gateway.caller()
        assert text_of(say(counting), False) == "The lamp is mended."
        page = counting.get("/metrics").text
        assert 'sovereign_gateway_unsearched_total{adapter="lamps-1.0.0",line="lamps"} 2.0' in page

    os.kill(worker_of(scanner).pid, signal.SIGCONT)
    assert gateway.say(content="Is it lit?").status_code == 200


def test_log_probabilities_would_show_what_is_replaced(gateway: Searched) -> None:
    rules: list[tuple[Any, Any, int]] = [("replace", None, 400), (None, "stop", 400), ("report", "report", 200)]
    for requests, answers, status in rules:
        gateway.searching(requests, answers)
        assert gateway.say(logprobs=True).status_code == status


def test_waiting_for_a_search_is_no_fault_of_the_adapter(
    tmp_path: Path, screening: Screening, scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = TryingOut(tmp_path / "serving", limits={"answer_seconds": 2})
    bench.serve(adapter(LINE))
    bench.serve(adapter(LINE, "1.1.0"), in_production=False)
    bench.screens = screening("replace", None)
    caller = bench.client(bench.callers_of_arms()["staged"])

    async def hang(*_: Any) -> Any:
        await asyncio.sleep(5)

    with monkeypatch.context() as patch:
        patch.setattr(scanner, "find", hang)
        assert say(caller).json()["error"]["code"] == "answer_timeout"
    bench.engine.silent_after = 0
    assert say(caller).json()["error"]["code"] == "answer_timeout"
    (counted,) = bench.tally().drawn["staged"].values()
    assert (counted.answers, counted.lost) == (1, 1)


def test_a_process_that_hangs_is_ended_and_started_again(scanner: Scanner, monkeypatch: pytest.MonkeyPatch) -> None:
    hung = worker_of(scanner)
    os.kill(hung.pid, signal.SIGSTOP)

    async def until_it_is_ended() -> None:
        with pytest.raises(ScannerLost):
            await scanner.find(LINE, ["Is it lit?"])
        while scanner._pool is not None:
            await asyncio.sleep(0.05)

    with monkeypatch.context() as patch:
        patch.setattr(scanning, "SECONDS_TO_SEARCH", 0.5)
        asyncio.run(asyncio.wait_for(until_it_is_ended(), SECONDS))
    scanner.start()
    assert worker_of(scanner).pid != hung.pid


def test_short_texts_do_not_wait_behind_many_long_ones(scanner: Scanner) -> None:
    ended: list[str] = []

    async def find(name: str, text: str) -> None:
        await scanner.find(LINE, [text])
        ended.append(name)

    async def all_of_them() -> None:
        long_ones = [asyncio.create_task(find("long", FILLER * 150)) for _ in range(4)]
        await asyncio.sleep(0)
        await find("short", FILLER)
        await asyncio.gather(*long_ones)

    asyncio.run(all_of_them())
    assert ended.index("short") <= 1 and len(ended) == 5


@pytest.mark.security_case(
    "The process that searches for personal data is killed during a stream", "an error event, and no unsearched text"
)
def test_a_stream_ends_where_searching_ended(
    gateway: Searched, scanner: Scanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = gateway.searching(None, "replace")
    bench.engine.words = in_pieces(f"{FILLER * 6}Ms {NAME}.")
    find, searched = scanner.find, 0

    async def find_once(*asked: Any) -> Any:
        nonlocal searched
        if searched:
            worker_of(scanner).kill()
        searched += 1
        return await find(*asked)

    monkeypatch.setattr(scanner, "find", find_once)
    answer = gateway.say(stream=True, content="Who?")
    assert (
        answer.text.rstrip()
        .rpartition("data: ")[2]
        .startswith('{"error":{"message":"The search for personal data does not work')
    )
    assert "[DONE]" not in answer.text and 0 < len(text_of(answer, True)) < len(FILLER) * 3


def test_a_line_is_searched_by_its_recipe_policy_and_word_lists_and_needs_a_recipe(desk: Desk) -> None:
    bench = desk.office.bench
    bench.recipe["privacy"] = {"name_models": {}, "patterns_only": ["en"]}
    bench.institution.rules["sensitive"] = {"PHONE": "keep"}
    bench.institution.rules["serving"] = {"lines": {LINE: {"privacy": {"requests": "replace"}}}}
    bench.workplace()
    lists = desk.settings.data / "privacy" / f"{LINE}.yaml"
    lists.parent.mkdir(exist_ok=True)
    lists.write_text("always: [{value: Blue Lantern, kind: NAME}]\n")
    screens = start_screens(desk.settings, load_institution(desk.settings.data), print)
    try:
        screen = screens.of(LINE, SentTexts([{**USER, "content": "Blue Lantern, phone 9234 1187, a@coast.example"}]))
        assert asyncio.run(screen.take_request())
        assert screen.sent.messages[0]["content"] == "NAME_1, phone 9234 1187, EMAIL_1"
        other: Any = screens.of("buoys", SentTexts([{**USER, "content": "Blue Lantern"}]))
        assert asyncio.run(other.take_request()) and other.sent.messages[0]["content"] == "Blue Lantern"
    finally:
        screens.close()
    given = {"lines": {"buoys": {"privacy": {"answers": "report"}}}}
    without = Institution.model_validate({"name": "Office", "classification": tuple(LADDER), "serving": given})
    with pytest.raises(NotFoundError):
        start_screens(desk.settings, without, print)
