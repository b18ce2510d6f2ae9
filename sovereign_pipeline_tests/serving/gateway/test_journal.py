"""What was answered, by the hour: in the files, and in the ledger, also after the registry was down."""

import datetime
import hashlib
import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.policy.serving import Transcripts
from sovereign_pipeline.record.audit_log import Parsed, entries
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.serving.engines.engine import Sampling
from sovereign_pipeline.serving.gateway.auth import Caller
from sovereign_pipeline.serving.gateway.parameters import CompletionRequest
from sovereign_pipeline.serving.gateway.request_handler import RoutedRequest
from sovereign_pipeline.serving.gateway.stores import Answered, Journal, digest_of_answer, read_hour
from sovereign_pipeline.serving.transcripts import TranscriptFiles
from sovereign_pipeline_tests.serving.gateway.conftest import Client
from sovereign_pipeline_tests.serving.gateway.scripted import (
    LINE,
    PROMPT_TOKENS,
    WORDS,
    Bench,
    adapter,
    answered_in,
    ask,
)

NINE = datetime.datetime(2026, 11, 26, 9, 30, tzinfo=datetime.UTC)
HOUR = datetime.timedelta(hours=1)


class Clock:
    def __init__(self) -> None:
        self.now = NINE

    def __call__(self) -> datetime.datetime:
        return self.now


def answered(number: int, line: str = "lamps", outcome: str = "complete") -> Answered:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return Answered.model_validate(
        {"line": line, "adapter": f"{line}-1.0.0", "outcome": outcome, "tokens": 10, "digest": digest}
    )


def hours(registry: Registry) -> list[Parsed]:
    """The entries about hours of answers, the oldest first."""
    return [entry for entry in entries(registry) if "hour" in entry.subjects or "unreadable" in entry.subjects]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(tmp_path: Path, clock: Clock) -> Journal:
    return Journal(tmp_path / "answers", clock)


def test_an_hour_that_is_over_is_one_entry_for_each_line(journal: Journal, registry: Registry, clock: Clock) -> None:
    given = [answered(1), answered(2, "buoys"), answered(3, outcome="lost")]
    for each in given:
        journal.note(each)
    assert journal.enter(registry) == 0, "the hour is not over"
    clock.now += HOUR / 2
    assert journal.enter(registry) == 0, "another process may still write"
    clock.now += HOUR / 2
    assert journal.enter(registry) == 2
    assert journal.enter(registry) == 0
    buoys, lamps = (entry.subjects for entry in hours(registry))
    assert (buoys["line"], buoys["answers"]) == ("buoys", 1)
    assert lamps == {
        "line": "lamps",
        "hour": "2026-11-26T09:00Z",
        "answers": 2,
        "by_adapter": {"lamps-1.0.0": 2},
        "by_outcome": {"complete": 1, "lost": 1},
        "tokens": 20,
        "digest": hashlib.sha256(f"{given[0].digest}\n{given[2].digest}".encode()).hexdigest(),
        "unreadable": 0,
    }


def test_hours_wait_while_the_registry_is_down(
    journal: Journal, registry: Registry, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(self: Registry) -> None:
        raise InputError("The registry cannot be opened (planted).", "Start it.")

    for number in range(3):
        journal.note(answered(number))
        clock.now += HOUR
    with monkeypatch.context() as planted:
        planted.setattr(Registry, "writing", down)
        with pytest.raises(InputError, match="planted"):
            journal.enter(registry)
    clock.now += HOUR
    assert journal.enter(registry) == 3
    assert [entry.subjects["hour"][11:13] for entry in hours(registry)] == ["09", "10", "11"]


def test_what_a_crash_left_is_entered_once_and_what_it_spoilt_is_counted(
    tmp_path: Path, journal: Journal, registry: Registry, clock: Clock
) -> None:
    journal.note(answered(1))
    file = tmp_path / "answers" / "2026-11-26T09.jsonl"
    with file.open("ab") as stream:
        stream.write(b'\n{"line": "lamps", "ada')
    journal.note(answered(2))
    assert read_hour(file) == ([answered(1), answered(2)], 1)
    before = file.read_bytes()
    clock.now += 2 * HOUR
    assert journal.enter(registry) == 1
    file.write_bytes(before)  # as if it had not been renamed after the commit
    assert journal.enter(registry) == 0
    assert hours(registry)[0].subjects["unreadable"] == 1


def test_what_a_clock_that_went_back_adds_is_an_entry_of_its_own(
    journal: Journal, registry: Registry, clock: Clock
) -> None:
    for number in (1, 2):
        clock.now = NINE
        journal.note(answered(number))
        clock.now += 2 * HOUR
        assert journal.enter(registry) == 1
    assert [entry.subjects["answers"] for entry in hours(registry)] == [1, 1]


def test_each_answer_is_noted_and_its_caller_can_show_it(bench: Bench, client: Client) -> None:
    bench.serve(adapter("lamps", level="SECRET"))
    caller = client(bench.token())
    messages = [{"role": "user", "content": "The lamp is out."}]
    answer = caller.post("/v1/chat/completions", json={"model": "lamps", "messages": messages}).json()
    caller.post("/v1/chat/completions", json={"model": "lamps", "messages": messages, "stream": True})
    (file,) = bench.journal.glob("*.jsonl")
    whole, streamed = answered_in(file)
    id = answer["id"].removeprefix("chatcmpl-")
    assert whole.digest == digest_of_answer(id, "lamps-1.0.0", messages, "".join(WORDS))
    assert whole.digest != streamed.digest, "one text, two ids: nobody can try texts"
    assert whole.tokens == streamed.tokens == PROMPT_TOKENS + len(WORDS)
    assert id not in file.read_text() and file.stat().st_mode & 0o777 == 0o600


def test_an_answer_whose_transcript_cannot_be_sealed_is_noted(bench: Bench, client: Client) -> None:
    bench.serve(adapter(LINE))
    bench.transcripts = TranscriptFiles(bench.directory / "transcripts", "no public key", {LINE: Transcripts()})
    answer = ask(client(bench.token()), stream=True)
    assert WORDS[-2] in answer.text and '"code":"internal_error"' in answer.text
    (file,) = bench.journal.glob("*.jsonl")
    (noted,) = answered_in(file)
    assert (noted.outcome, noted.transcript) == ("complete", None)


@pytest.mark.anyio
async def test_a_request_that_cannot_be_noted_reaches_no_engine(bench: Bench) -> None:
    served, handler = bench.serve(adapter(LINE)), bench.app().state.gateway.handler
    sent = CompletionRequest("chat", {"model": LINE}, [{"role": "user", "content": "\ud800"}])
    with pytest.raises(UnicodeEncodeError):
        async with handler.answer(RoutedRequest(Caller("layla", ()), served, sent, Sampling(max_tokens=9))):
            pass
    assert not bench.engine.asked


def test_where_answers_cannot_be_noted_none_is_given(
    bench: Bench, caller: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Journal, answered: Answered) -> None:
        raise OSError(28, "No space left on device")

    ask = {"model": "lamps", "messages": [{"role": "user", "content": "Out."}]}
    with monkeypatch.context() as planted:
        planted.setattr(Journal, "_append", full)
        assert caller.post("/v1/chat/completions", json=ask).status_code == 200, "nobody knew yet"
        refused = caller.post("/v1/chat/completions", json=ask)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "journal_full"
        assert caller.get("/readyz").status_code == 503
    assert caller.post("/v1/chat/completions", json=ask).status_code == 200
    (file,) = bench.journal.glob("*.jsonl")
    assert len(read_hour(file)[0]) == 2, "what was given while the disk was full is noted too"
    assert json.loads(caller.get("/readyz").text) == {"status": "ok"}
