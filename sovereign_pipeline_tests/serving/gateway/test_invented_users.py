"""One caller invents users, to choose its adapter or to sway a rollout's hold: it stays one user."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest
from starlette.testclient import TestClient

from sovereign_pipeline.serving.engines.engine import Sampling
from sovereign_pipeline.serving.gateway.auth import Caller
from sovereign_pipeline.serving.gateway.messages import Refusal
from sovereign_pipeline.serving.gateway.request_handler import RoutedRequest
from sovereign_pipeline.serving.gateway.stores import SECONDS_OF_A_DAY, UserQuota
from sovereign_pipeline.serving.rollout.telemetry import LAST
from sovereign_pipeline_tests.serving.gateway.scripted import Bench, adapter, grant
from sovereign_pipeline_tests.serving.gateway.trying_out import TryingOut
from sovereign_pipeline_tests.serving.gateway.trying_out import trying as trying

ASK: dict[str, Any] = {"model": "lamps", "messages": [{"role": "user", "content": "Out."}]}
INVENTED = [f"invented-{number}" for number in range(30)]


@pytest.fixture(autouse=True)
def no_rates(trying: TryingOut) -> None:
    trying.limits = {"requests_per_minute": 1e6}


def ask(caller: TestClient, user: str | None, **changes: Any) -> Any:
    answered = caller.post("/v1/chat/completions", json={**ASK, **changes, **({"user": user} if user else {})})
    assert answered.status_code == 200, answered.text
    return answered.json()


def drawn(trying: TryingOut) -> dict[str, int]:
    """Hashed user -> how many of its answers are compared."""
    return {user: of.answers for arm in trying.tally().drawn.values() for user, of in arm.items()}


@pytest.mark.security_case(
    "A token that stands for one caller sends another `user` with each request",
    "it is one user: it gets one adapter, and counts once in the rollout",
)
def test_a_token_is_one_user_whatever_users_it_names(trying: TryingOut) -> None:
    for arm, token in trying.callers_of_arms(versions=True).items():
        caller = trying.client(token)
        got = {ask(caller, user)["system_fingerprint"] for user in (None, "", *INVENTED)}
        assert got == {"lamps-1.1.0" if arm == "staged" else "lamps-1.0.0"}
    assert sorted(drawn(trying).values()) == [len(INVENTED) + 2] * 2


def test_one_that_speaks_for_several_has_each_of_them_counted(trying: TryingOut) -> None:
    caller = trying.client(trying.token(users=True))
    first = {user: ask(caller, user)["system_fingerprint"] for user in INVENTED}
    assert {*first.values()} == {"lamps-1.0.0", "lamps-1.1.0"}
    assert {user: ask(caller, user)["system_fingerprint"] for user in INVENTED} == first, "each keeps one adapter"
    assert [*drawn(trying).values()] == [2] * len(INVENTED)


def test_the_right_holds_for_the_lines_beside_it() -> None:
    caller = Caller("one", (grant("SECRET", "lamps"), replace(grant("PUBLIC", "buoys"), users=True)))
    assert [caller.speaks_for_users(line) for line in ("lamps", "buoys")] == [False, True]


@pytest.mark.security_case(
    "A token that speaks for several callers invents more users than it may bring in on a day, and reports the worst "
    "for each of them",
    "those beyond the bound are answered and not compared; their reports are one report",
)
def test_users_beyond_the_bound_of_a_day_are_answered_and_not_compared(trying: TryingOut) -> None:
    trying.limits |= {"new_users_per_day": 5}
    caller = trying.client(trying.token(users=True))
    answered = {user: ask(caller, user) for user in INVENTED}
    assert {*drawn(trying).values()} == {1} and len(drawn(trying)) == 5
    assert {each["system_fingerprint"] for each in answered.values()} == {"lamps-1.0.0", "lamps-1.1.0"}
    for each in list(answered.values())[5:]:
        said = {"id": each["id"], "thumb": "down", "severity": 1}
        assert caller.post("/v1/feedback", json=said).status_code == 200
    tally = trying.tally()
    assert tally.severe == 1
    assert sum(each.rated for arm in tally.drawn.values() for each in arm.values()) == 0
    ask(caller, INVENTED[0])
    assert max(drawn(trying).values()) == 2, "who was brought in stays"


@pytest.mark.security_case(
    "One caller asks for nothing but empty answers, so that the staged adapter looks broken",
    "it is not taken back: answers that are empty must be of several users, or lost by the engine",
)
def test_one_caller_cannot_make_an_adapter_look_broken(trying: TryingOut) -> None:
    tokens = trying.callers_of_arms()
    trying.engine.words = [" "]
    caller = trying.client(tokens["staged"])
    for _ in range(LAST + 1):
        ask(caller, None, stop=["."])
    assert not trying.tally().is_broken
    other = next(token for token in iter(lambda: trying.callers_of_arms()["staged"], None) if token)
    ask(trying.client(other), None)
    assert trying.tally().is_broken, "it is empty for others too"


def test_an_engine_that_loses_every_answer_of_one_user_is_broken(trying: TryingOut) -> None:
    trying.engine.lost_after = 0
    caller = trying.client(trying.callers_of_arms()["staged"])
    for _ in range(LAST):
        assert caller.post("/v1/chat/completions", json=ASK).status_code == 503
    assert trying.tally().is_broken


@pytest.mark.security_case(
    "A caller begins streams and takes nothing of them, so that they count as lost by the staged adapter",
    "they count as given up by their caller",
)
def test_an_answer_that_its_caller_does_not_take_is_not_lost(trying: TryingOut) -> None:
    trying.limits |= {"first_token_seconds": 0.05}
    trying.callers_of_arms()
    answering = trying.app().state.gateway.handler
    choice = trying.choose("lamps", f"token {trying.tokens[-1].sha256}", frozenset())
    caller = Caller(f"token {trying.tokens[-1].sha256}", ())
    served = next(each for each in trying.served if choice is not None and each.digest == choice.digest)

    async def begin() -> None:
        asked = RoutedRequest(caller, served, ASK["messages"], Sampling(max_tokens=9), choice)
        async with answering.exchange(asked) as exchange, aclosing(exchange.pieces()) as pieces:
            async for _ in pieces:
                await asyncio.sleep(5)  # as a connection whose other end does not read

    with pytest.raises(Refusal):
        asyncio.run(begin())
    (counted,) = (each for arm in trying.tally().drawn.values() for each in arm.values())
    assert (counted.given_up, counted.lost) == (1, 0)


def test_a_new_day_takes_in_more_and_a_restart_forgets_nobody(tmp_path: Any) -> None:
    now, path = [0.0], tmp_path / "spoken-for.db"

    def counted(caller: str, *users: str) -> list[bool]:
        spoken_for = UserQuota(path, 2, lambda: now[0])  # as after a restart, or of another gateway
        return [spoken_for.counts(caller, user) for user in users]

    assert counted("one", "a", "b", "c", "a") == [True, True, False, True]
    assert counted("other", "a", "c") == [True, True]
    assert counted("one", "c", "b") == [False, True]
    now[0] = SECONDS_OF_A_DAY
    assert counted("one", "a", "c", "d", "e") == [True, True, True, False]
    assert b"one\na" not in path.read_bytes() and path.stat().st_mode & 0o777 == 0o600
    path = tmp_path / "damaged.db"
    path.write_bytes(b"no database" * 1000)
    assert counted("one", "a") == [False], "what cannot be noted is not compared"


def test_a_user_that_is_no_text_is_refused(bench: Bench, client: Any) -> None:
    bench.serve(adapter("lamps"))
    body = b'{"model": "lamps", "messages": [{"role": "user", "content": "Out."}], "user": "\\ud800"}'
    headers = {"Content-Type": "application/json"}
    assert (
        client(bench.token(users=True)).post("/v1/chat/completions", content=body, headers=headers).status_code == 400
    )
