"""What a caller may say of an answer, of whose answers, and what follows of it."""

import asyncio
import sqlite3
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sovereign_pipeline.base.errors import EngineRefused
from sovereign_pipeline.policy.serving import FrontEnd
from sovereign_pipeline.serving.engines.engine import Sampling
from sovereign_pipeline.serving.gateway import stores
from sovereign_pipeline.serving.gateway.auth import Caller
from sovereign_pipeline.serving.gateway.messages import Refusal
from sovereign_pipeline.serving.gateway.parameters import read_request
from sovereign_pipeline.serving.gateway.request_handler import RoutedRequest
from sovereign_pipeline.serving.gateway.stores import DAYS, SECONDS_OF_A_DAY, FeedbackStore, UserQuota
from sovereign_pipeline.serving.rollout.telemetry import LAST, Feedback
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import USER, Bench, TryingOut, adapter, ask, grant

DOWN = {"thumb": "down", "reason": "invented", "severity": 2}


def answer(caller: TestClient, **changes: Any) -> str:
    """The id of a new answer."""
    return str(ask(caller, **changes).json()["id"])


def say(caller: TestClient, id: str, **said: Any) -> Any:
    return caller.post("/v1/feedback", json={"id": id, **said})


@pytest.mark.security_case(
    "A caller sends feedback on another caller's answer, or on one that does not exist",
    "the same 404 for both, and nothing is counted",
)
def test_only_who_got_an_answer_may_say_something_of_it(bench: Bench, client: Client) -> None:
    bench.serve(adapter("lamps"))
    own, other = client(bench.token(metrics=True)), client(bench.token())
    id = answer(own)
    refused, unknown = say(other, id, **DOWN), say(own, f"chatcmpl-{'0' * 32}", **DOWN)
    assert refused.status_code == unknown.status_code == 404 and refused.content == unknown.content
    assert refused.json()["error"]["code"] == "answer_not_found"
    assert "sovereign_gateway_feedback_total{" not in own.get("/metrics").text
    taken = say(own, id, **DOWN)
    assert (taken.status_code, taken.json()) == (200, {"id": id, "object": "feedback"})
    labels = 'adapter="lamps-1.0.0",line="lamps",reason="invented",severity="2",thumb="down"'
    assert f"sovereign_gateway_feedback_total{{{labels}}} 1.0" in own.get("/metrics").text


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("kind", ["chat/completions", "completions"])
def test_an_answer_of_each_kind_takes_feedback_also_when_it_was_cut_short(
    bench: Bench, caller: TestClient, streamed: bool, kind: str
) -> None:
    if streamed:
        bench.engine.lost_after = 2
    asked = {"messages": [USER]} if kind == "chat/completions" else {"prompt": "Out."}
    text = caller.post(f"/v1/{kind}", json={"model": "lamps", **asked, "stream": streamed}).text
    id = text.partition('"id":"')[2].partition('"')[0]
    assert say(caller, id, thumb="up").status_code == 200


@pytest.mark.parametrize("said", examples(__file__, "not_on_the_lists"), ids=str)
def test_what_is_not_on_the_lists_is_refused_and_not_repeated(caller: TestClient, said: Any) -> None:
    refused = say(caller, answer(caller), **said)
    assert refused.status_code == 400 and refused.json()["error"]["type"] == "invalid_request_error"
    assert "zirconium" not in refused.text and "rhymes" not in refused.text


def test_feedback_is_as_limited_as_any_request(bench: Bench, client: Client) -> None:
    bench.limits = {"requests_per_minute": 3}
    bench.serve(adapter("lamps"))
    caller = client(bench.token())
    id = answer(caller)
    assert [say(caller, id, thumb="up").status_code for _ in range(3)] == [200, 200, 429]


def test_a_rollout_counts_it_by_arm_and_the_last_word_stands(trying: TryingOut) -> None:
    for token in trying.callers_of_arms().values():
        caller = trying.client(token)
        ids = [answer(caller) for _ in range(3)]
        assert say(caller, ids[0], **DOWN).status_code == say(caller, ids[1], thumb="up").status_code == 200
        say(caller, ids[0], thumb="up")
        say(caller, ids[0], thumb="down")
        say(caller, ids[1], thumb="down")
    tally = trying.tally()
    for arm in ("staged", "production"):
        (counted,) = tally.drawn[arm].values()
        assert (counted.answers, counted.rated, counted.disliked) == (3, 2, 2)
    assert trying.reports() == 0


@pytest.mark.parametrize("drawn", [True, False])
def test_a_report_of_the_worst_counts_whoever_asked_and_stays(trying: TryingOut, drawn: bool) -> None:
    """Also from a member of a group, and from an officer who names the version: neither is compared."""
    trying.drawn = drawn
    counted: list[int] = []

    async def enter() -> None:
        counted.append(trying.reports())

    trying.on_severe_report = enter
    tokens = trying.callers_of_arms(versions=True)
    caller = trying.client(tokens["production"])
    of_production, of_staged = answer(caller), answer(caller, model="lamps-1.1.0")
    for id in (of_production, of_staged):
        assert say(caller, id, thumb="down", severity=1).status_code == 200
    assert say(caller, of_staged, thumb="up").status_code == 200
    assert trying.reports() == trying.reports("lamps-1.0.0") == 1
    assert counted == [0, 1], "each is entered before it is confirmed"
    assert {*trying.tally().drawn["staged"]} == set(), "who names a version is not drawn"


def test_a_report_about_a_version_that_no_flag_gives_counts_too(
    trying: TryingOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trying, "choose", lambda *_: None)
    caller = trying.client(trying.token(versions=True))
    assert say(caller, answer(caller, model="lamps-1.1.0"), thumb="down", severity=1).status_code == 200
    assert trying.reports() == 1


def test_answers_are_known_to_another_gateway_and_after_a_restart(bench: Bench, client: Client) -> None:
    bench.serve(adapter("lamps"))
    token = bench.token()
    first, other = client(token), client(token)  # each with an application of its own
    assert say(other, answer(first), thumb="up").status_code == 200


def test_what_is_kept_of_answers_is_bounded_and_names_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MOST_ANSWERS", 5)
    monkeypatch.setattr(stores, "BETWEEN_REMOVALS", 1)
    now = [0.0]
    given = FeedbackStore(tmp_path / "given.db", lambda: now[0])
    caller, up = Caller("proxy layla", ()), Feedback(thumb="up")
    ids = [f"{number:032x}" for number in range(8)]
    for id in ids:
        given.remember(id, caller, "lamps", "lamps-1.0.0", None)
    assert [given.take(id, caller, up) is not None for id in ids] == [False] * 3 + [True] * 5
    now[0] = DAYS * 86_400 + 1.0
    assert given.take(ids[-1], caller, up) is None
    given.remember("f" * 32, caller, "lamps", "lamps-1.0.0", None)
    with sqlite3.connect(tmp_path / "given.db") as connection:
        assert connection.execute("SELECT count(*) FROM answer").fetchone() == (1,)
    written = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"layla" not in written and not any(id.encode() in written for id in ids)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_a_damaged_file_takes_no_feedback_and_hinders_no_answer(
    bench: Bench, caller: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    path = bench.directory / "given-answers.db"
    path.write_bytes(b"no database" * 1000)
    ids = [answer(caller) for _ in range(2)]
    refused = say(caller, ids[0], thumb="up")
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "feedback_not_noted"
    assert caplog.text.count("answers cannot be stored") == 1
    path.unlink()
    assert say(caller, answer(caller), thumb="up").status_code == 200


NOBODY: list[Any] = [None, "", [], {}]
INVENTED = [f"invented-{number}" for number in range(30)]


@pytest.fixture(autouse=True)
def no_rates(trying: TryingOut) -> None:
    trying.limits = {"requests_per_minute": 1e6}


def ask_for(caller: TestClient, user: str | None, **changes: Any) -> Any:
    answered = ask(caller, **changes, **({"user": user} if user else {}))
    assert answered.status_code == 200, answered.text
    return answered.json()


def drawn(trying: TryingOut) -> dict[str, int]:
    """Hashed user -> how many of its answers are compared."""
    return {user: of.answers for arm in trying.tally().drawn.values() for user, of in arm.items()}


@pytest.mark.security_case(
    "A token of a single caller sends another `user` with each request",
    "it counts as one user, gets one adapter, and counts once in the rollout",
)
def test_a_token_is_one_user_whatever_users_it_names(trying: TryingOut) -> None:
    for arm, token in trying.callers_of_arms(versions=True).items():
        caller = trying.client(token)
        got = {ask_for(caller, user)["system_fingerprint"] for user in (None, "", *INVENTED)}
        assert got == {"lamps-1.1.0" if arm == "staged" else "lamps-1.0.0"}
    assert sorted(drawn(trying).values()) == [len(INVENTED) + 2] * 2


def test_one_that_speaks_for_several_has_each_of_them_counted(trying: TryingOut) -> None:
    caller = trying.client(trying.token(users=True))
    first = {user: ask_for(caller, user)["system_fingerprint"] for user in INVENTED}
    assert {*first.values()} == {"lamps-1.0.0", "lamps-1.1.0"}
    assert {user: ask_for(caller, user)["system_fingerprint"] for user in INVENTED} == first, "each keeps one adapter"
    assert [*drawn(trying).values()] == [2] * len(INVENTED)


def test_the_right_holds_for_the_lines_beside_it() -> None:
    caller = Caller("one", (grant("SECRET", "lamps"), grant("PUBLIC", "buoys").model_copy(update={"users": True})))
    assert [caller.user_for(line, "layla") is not None for line in ("lamps", "buoys")] == [False, True]


def test_any_json_value_names_a_user_by_its_hash() -> None:
    caller = Caller("one", (grant("SECRET").model_copy(update={"users": True}),))
    values: list[Any] = ["layla", "\ud800", 0, 5, 1.5, False, ["layla"], {"id": "5d2a", "name": "Layla"}, "x" * 100_000]
    people = [caller.user_for("lamps", value) for value in values]
    assert len({*people}) == len(values) and all(each is not None and len(each) == 64 for each in people)
    assert caller.user_for("lamps", {"name": "Layla", "id": "5d2a"}) == people[-2], "the order of keys says nothing"
    assert [caller.user_for("lamps", nobody) for nobody in NOBODY] == [None] * 4


@pytest.mark.security_case(
    "A person sends another `user` through a front end whose token names users by a header",
    "the header is used; `user` is ignored and reported",
)
def test_a_header_names_the_user_where_the_token_says_so(trying: TryingOut) -> None:
    by_header = trying.client(trying.token(users=True, front_end=FrontEnd(user_header="X-OpenWebUI-User-Id")))
    untrusted = trying.client(trying.token())
    got = set()
    for person in INVENTED:
        for user in (None, *INVENTED[:3]):
            answer = ask(by_header, user=user, headers={"X-OpenWebUI-User-Id": person})
            assert ("user" in answer.headers.get("x-sovereign-ignored", "")) == (user is not None)
        got.add(answer.json()["system_fingerprint"])
        ask(untrusted, headers={"X-OpenWebUI-User-Id": person})
    assert got == {"lamps-1.0.0", "lamps-1.1.0"}
    assert sorted(drawn(trying).values()) == [4] * len(INVENTED) + [len(INVENTED)]
    ask(by_header, user="layla")
    ask(by_header, user="omar")
    assert sorted(drawn(trying).values())[:2] == [2, 4], "without the header it is the front end itself"


@pytest.mark.parametrize("messages", [messages for messages, is_task in examples(__file__, "tasks") if is_task])
def test_what_a_front_end_asks_for_itself_does_not_count_in_a_trial(trying: TryingOut, messages: Any) -> None:
    caller = trying.client(trying.token(users=True))
    for user in INVENTED:
        assert ask(caller, messages=messages, user=user).status_code == 200
    ask(caller, user=INVENTED[0])
    assert [*drawn(trying).values()] == [1]


@pytest.mark.parametrize("messages", [messages for messages, is_task in examples(__file__, "tasks") if not is_task])
def test_what_a_person_asks_counts(trying: TryingOut, messages: Any) -> None:
    ask(trying.client(trying.token()), messages=messages)
    assert [*drawn(trying).values()] == [1]


@pytest.mark.security_case(
    ("A token of several callers invents more users than its daily limit, and reports the worst severity for each"),
    "users beyond the limit get answers but are not compared; their reports count as one",
)
def test_users_beyond_the_bound_of_a_day_are_answered_and_not_compared(trying: TryingOut) -> None:
    trying.limits |= {"new_users_per_day": 5}
    caller = trying.client(trying.token(users=True))
    answered = {user: ask_for(caller, user) for user in INVENTED}
    assert {*drawn(trying).values()} == {1} and len(drawn(trying)) == 5
    assert {each["system_fingerprint"] for each in answered.values()} == {"lamps-1.0.0", "lamps-1.1.0"}
    for each in list(answered.values())[5:]:
        said = {"id": each["id"], "thumb": "down", "severity": 1}
        assert caller.post("/v1/feedback", json=said).status_code == 200
    tally = trying.tally()
    assert trying.reports() == trying.reports("lamps-1.0.0") == 1
    assert sum(each.rated for arm in tally.drawn.values() for each in arm.values()) == 0
    ask_for(caller, INVENTED[0])
    assert max(drawn(trying).values()) == 2, "who was brought in stays"


@pytest.mark.security_case(
    "One caller requests only empty answers, so that the staged adapter seems broken",
    "it is not withdrawn: empty answers must come from several users, or be lost by the engine",
)
def test_one_caller_cannot_make_an_adapter_look_broken(trying: TryingOut) -> None:
    tokens = trying.callers_of_arms()
    trying.engine.words = [" "]
    caller = trying.client(tokens["staged"])
    for _ in range(LAST + 1):
        ask_for(caller, None, stop=["."])
    assert not trying.tally().is_broken
    other = next(token for token in iter(lambda: trying.callers_of_arms()["staged"], None) if token)
    ask_for(trying.client(other), None)
    assert trying.tally().is_broken, "it is empty for others too"


def test_a_form_that_becomes_too_complex_breaks_no_adapter(trying: TryingOut) -> None:
    trying.engine.lost_after, trying.engine.lost_by = 0, EngineRefused("planted")
    caller = trying.client(trying.callers_of_arms()["staged"])
    assert {ask(caller).status_code for _ in range(LAST)} == {400}
    tally = trying.tally()
    assert not tally.is_broken and [each.given_up for each in tally.drawn["staged"].values()] == [LAST]


def test_an_engine_that_loses_every_answer_of_one_user_is_broken(trying: TryingOut) -> None:
    trying.engine.lost_after = 0
    caller = trying.client(trying.callers_of_arms()["staged"])
    for _ in range(LAST):
        assert ask(caller).status_code == 503
    assert trying.tally().is_broken


@pytest.mark.security_case(
    "A caller starts streams and never reads them, so that the staged adapter seems to lose answers",
    "they count as aborted by the caller",
)
def test_an_answer_that_its_caller_does_not_take_is_not_lost(trying: TryingOut) -> None:
    trying.limits |= {"pause_seconds": 1}
    trying.callers_of_arms()
    handler = trying.app().state.gateway.handler
    choice = trying.choose("lamps", f"token {trying.tokens[-1].sha256}", frozenset())
    caller = Caller(f"token {trying.tokens[-1].sha256}", ())
    served = next(each for each in trying.served if choice is not None and each.digest == choice.digest)

    async def begin() -> None:
        sent = read_request(
            "chat", "application/json", b'{"model": "lamps", "messages": [{"role": "user", "content": "x"}]}'
        )
        request = RoutedRequest(caller, served, sent, Sampling(max_tokens=9), choice)
        async with handler.answer(request) as answer, aclosing(answer.pieces()) as pieces:
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
