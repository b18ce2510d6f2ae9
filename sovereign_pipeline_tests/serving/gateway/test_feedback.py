"""What a caller may say of an answer, of whose answers, and what follows of it."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from sovereign_pipeline.serving.gateway import stores
from sovereign_pipeline.serving.gateway.auth import Caller
from sovereign_pipeline.serving.gateway.stores import DAYS, FeedbackStore
from sovereign_pipeline.serving.rollout.telemetry import Feedback
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import Bench, adapter
from sovereign_pipeline_tests.serving.gateway.trying_out import TryingOut
from sovereign_pipeline_tests.serving.gateway.trying_out import trying as trying

ASK: dict[str, Any] = {"model": "lamps", "messages": [{"role": "user", "content": "Out."}]}
DOWN = {"thumb": "down", "reason": "invented", "severity": 2}


def answer(caller: TestClient, **changes: Any) -> str:
    """The id of a new answer."""
    return str(caller.post("/v1/chat/completions", json={**ASK, **changes}).json()["id"])


def say(caller: TestClient, id: str, **said: Any) -> Any:
    return caller.post("/v1/feedback", json={"id": id, **said})


@pytest.mark.security_case(
    "A caller sends feedback about an answer of another caller, or about one that was never given",
    "404, the same for both, and nothing is counted",
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
    bench: Bench, client: Client, streamed: bool, kind: str
) -> None:
    bench.serve(adapter("lamps"))
    caller = client(bench.token())
    if streamed:
        bench.engine.lost_after = 2
    asked = ASK if kind == "chat/completions" else {"model": "lamps", "prompt": "Out."}
    text = caller.post(f"/v1/{kind}", json={**asked, "stream": streamed}).text
    id = text.partition('"id":"')[2].partition('"')[0]
    assert say(caller, id, thumb="up").status_code == 200


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"thumb": "sideways"},
        {"thumb": "down", "reason": "it rhymes"},
        {"thumb": "down", "severity": 4},
        {"thumb": "down", "severity": -1},
        {"thumb": "down", "severity": "1"},
        {"thumb": "down", "severity": True},
        {"thumb": "up", "severity": 1},
        {"thumb": "up", "reason": "tone"},
        {"thumb": "down", "comment": "zirconium"},
    ],
    ids=str,
)
def test_what_is_not_on_the_lists_is_refused_and_not_repeated(bench: Bench, client: Client, said: Any) -> None:
    bench.serve(adapter("lamps"))
    caller = client(bench.token())
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
    assert tally.severe == 0


@pytest.mark.parametrize("drawn", [True, False])
def test_a_report_of_the_worst_counts_whoever_asked_and_stays(trying: TryingOut, drawn: bool) -> None:
    """Also from a member of a group, and from an officer who names the version: neither is compared."""
    trying.drawn = drawn
    tokens = trying.callers_of_arms(versions=True)
    caller = trying.client(tokens["production"])
    of_production, of_staged = answer(caller), answer(caller, model="lamps-1.1.0")
    for id in (of_production, of_staged):
        assert say(caller, id, thumb="down", severity=1).status_code == 200
    assert say(caller, of_staged, thumb="up").status_code == 200
    tally = trying.tally()
    assert tally.severe == 1
    assert {*tally.drawn["staged"]} == set(), "who names a version is not drawn"


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
    bench: Bench, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    bench.serve(adapter("lamps"))
    path = bench.directory / "given-answers.db"
    caller = client(bench.token())
    path.write_bytes(b"no database" * 1000)
    ids = [answer(caller) for _ in range(2)]
    refused = say(caller, ids[0], thumb="up")
    assert refused.status_code == 503 and refused.json()["error"]["code"] == "feedback_not_noted"
    assert caplog.text.count("answers cannot be remembered") == 1
    path.unlink()
    assert say(caller, answer(caller), thumb="up").status_code == 200
