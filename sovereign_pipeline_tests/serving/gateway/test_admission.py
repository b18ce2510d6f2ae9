"""Rates, places and fairness: who is let in when."""

import asyncio
from collections import Counter
from typing import Any

import pytest

from sovereign_pipeline.policy.serving import FrontEnd, Limits, Role
from sovereign_pipeline.serving.gateway.admission import Places, Rates
from sovereign_pipeline.serving.gateway.auth import Caller
from sovereign_pipeline.serving.gateway.messages import Refusal
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import PROMPT_TOKENS, WORDS, Bench, adapter, ask

pytestmark = pytest.mark.anyio
LAYLA, OMAR = Caller("layla", ()), Caller("omar", ())


def limits(**changes: Any) -> Limits:
    return Limits.model_validate(changes)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a_rate_flows_back_and_each_caller_has_its_own() -> None:
    clock = Clock()
    rates = Rates(limits(requests_per_minute=2, tokens_per_minute=600), clock)

    async def once(caller: Caller) -> None:
        async with rates.request(caller):
            pass

    await once(LAYLA)
    await once(LAYLA)
    with pytest.raises(Refusal) as refused:
        await once(LAYLA)
    assert refused.value.status == 429 and refused.value.headers["Retry-After"] == "30"
    await once(OMAR)
    clock.now += 30
    await once(LAYLA)
    clock.now += 60
    rates.charge(LAYLA, 1199)  # of an answer that was longer than what was left
    with pytest.raises(Refusal) as spent:
        await once(LAYLA)
    assert spent.value.headers["Retry-After"] == "60"
    clock.now += 61
    await once(LAYLA)
    clock.now -= 1_000_000  # a clock that went back neither gives nor takes
    await once(LAYLA)


async def test_a_front_end_has_limits_of_its_own_and_so_has_each_of_its_people() -> None:
    """Beside an ordinary grant, which neither narrows its limits nor widens those of its people."""
    rules = FrontEnd(concurrent=5, per_minute=6, user_concurrent=2, user_per_minute=3)
    granted = Role(clearance="SECRET", users=True, front_end=rules)
    caller = Caller("front end", (Role(clearance="SECRET"), granted))
    clock = Clock()
    rates = Rates(limits(concurrent_per_caller=1, requests_per_minute=2, tokens_per_minute=200), clock)
    async with rates.request(caller, "a"), rates.request(caller, "a"), rates.request(caller, "b"):
        with pytest.raises(Refusal, match="This person"):
            await rates.request(caller, "a").__aenter__()
        async with rates.request(caller, "b"), rates.request(caller, "c"):
            with pytest.raises(Refusal, match="You have"):
                await rates.request(caller, "d").__aenter__()
    async with rates.request(caller, "a"):  # the sixth in this minute: what was refused did not count
        pass
    clock.now += 10
    with pytest.raises(Refusal, match="This person"):
        await rates.request(caller, "a").__aenter__()
    async with rates.request(caller, "d"):
        pass
    clock.now += 60
    rates.charge(caller, 301, "a")  # a person's share of tokens is 3/2 of a caller's
    with pytest.raises(Refusal, match="This person"):
        await rates.request(caller, "a").__aenter__()
    async with rates.request(caller, "b"), rates.request(LAYLA):
        with pytest.raises(Refusal):
            await rates.request(LAYLA).__aenter__()


class Crowd:
    """Requests of several lines for one set of places; each holds its place until it is told."""

    def __init__(self, **changes: Any) -> None:
        self.places = Places(limits(**changes), lambda: {"lamps", "buoys"})
        self.order: list[str] = []
        self._ends: list[tuple[str, asyncio.Event]] = []

    async def ask(self, line: str) -> "asyncio.Task[None]":
        async def hold() -> None:
            async with self.places.place(line):
                self.order.append(line)
                end = asyncio.Event()
                self._ends.append((line, end))
                await end.wait()

        task = asyncio.create_task(hold())
        await settle()
        return task

    async def end_oldest(self) -> None:
        _, end = self._ends.pop(0)
        end.set()
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.security_case(
    "One line sends far more requests than can run at once",
    "a slot is reserved for each other line, and turns are fair",
)
async def test_a_busy_line_keeps_no_other_waiting() -> None:
    crowd = Crowd(concurrent=4, waiting_per_line=100)
    for _ in range(50):
        await crowd.ask("lamps")
    assert crowd.order == ["lamps"] * 3, "one place is kept for the other line"
    await crowd.ask("buoys")
    assert crowd.order[-1] == "buoys"
    for _ in range(4):
        await crowd.ask("buoys")
    for _ in range(8):
        await crowd.end_oldest()
    assert Counter(crowd.order[3:]) == {"buoys": 5, "lamps": 4}, crowd.order


async def test_one_line_too_many_waiting_and_a_wait_that_is_too_long_are_refused() -> None:
    crowd = Crowd(concurrent=1, waiting_per_line=1, waiting_seconds=0.5)
    await crowd.ask("lamps")
    waiting = await crowd.ask("lamps")
    full = await crowd.ask("lamps")
    with pytest.raises(Refusal) as refused:
        await full
    assert refused.value.status == 429 and "Retry-After" in refused.value.headers
    with pytest.raises(Refusal):
        await waiting
    assert crowd.places.waiting == {} and crowd.places.running == {"lamps": 1}
    crowd = Crowd(concurrent=1, waiting_per_line=0)
    await crowd.ask("lamps")
    with pytest.raises(Refusal):
        await (await crowd.ask("lamps"))


async def test_whoever_goes_away_while_waiting_leaves_no_place_taken() -> None:
    crowd = Crowd(concurrent=1)
    await crowd.ask("lamps")
    waiting = [await crowd.ask(line) for line in ("lamps", "buoys", "lamps")]
    waiting[0].cancel()  # not told yet when the place becomes free
    waiting[1].cancel()
    _, end = crowd._ends.pop(0)
    end.set()
    await settle()
    assert crowd.order == ["lamps", "lamps"] and crowd.places.running == {"lamps": 1}
    await crowd.end_oldest()
    assert crowd.places.running == {} and crowd.places.waiting == {}
    late, taken = await crowd.ask("buoys"), await crowd.ask("buoys")
    assert crowd.order[-1] == "buoys"
    await crowd.end_oldest()
    taken.cancel()  # after the place came, before it was told
    await settle()
    assert crowd.places.running == {} and late.done()


def test_tokens_of_prompts_and_answers_count(bench: Bench, client: Client) -> None:
    bench.limits = {"tokens_per_minute": PROMPT_TOKENS + len(WORDS)}
    bench.serve(adapter("lamps"))
    caller = client(bench.token())
    assert ask(caller).status_code == 200
    refused = ask(caller)
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) > 0
    assert refused.json()["error"]["type"] == "rate_limit_error"


def test_the_engine_gets_no_more_than_its_places(bench: Bench, client: Client) -> None:
    from concurrent.futures import ThreadPoolExecutor

    bench.limits = {"concurrent": 3, "concurrent_per_caller": 100, "waiting_per_line": 100}
    bench.engine.seconds = 0.01
    bench.serve(adapter("lamps"))
    with client(bench.token()) as caller, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: ask(caller).status_code, range(12)))
    assert answers == [200] * 12 and bench.engine.most_running == 3
