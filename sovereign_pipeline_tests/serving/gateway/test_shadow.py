"""The staged adapter answers requests too that the one in production has answered: nobody sees it, and nobody waits."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from starlette.testclient import TestClient

from sovereign_pipeline.errors import EngineLost, EngineRefused
from sovereign_pipeline.serving.engines.engine import Answer, Piece, Sampling
from sovereign_pipeline.serving.gateway.journal import read_hour
from sovereign_pipeline.serving.rollout import shadow
from sovereign_pipeline.serving.rollout.shadow import MOST_WAITING
from sovereign_pipeline.serving.rollout.shadow_counts import ShadowTally, figures, likeness, numbers
from sovereign_pipeline_tests.serving.gateway.scripted import HERE, PROMPT_TOKENS, ScriptedEngine, adapter
from sovereign_pipeline_tests.serving.gateway.trying_out import BEGAN, TryingOut
from sovereign_pipeline_tests.waiting import wait_until

PROMPT, UNSEEN = "zirconium zirconium", "palimpsest"
ASK: dict[str, Any] = {"model": "lamps", "messages": [{"role": "user", "content": PROMPT}]}
Fault = Literal["lost", "refused", "a bug", "no end", "hung"]


@dataclass
class TwoArms(ScriptedEngine):
    """The staged adapter answers with words of its own, or does harm."""

    staged: str = ""
    staged_words: Sequence[str] = (UNSEEN, " is", " unseen.")
    fault: Fault | None = None
    shadows: list[list[dict[str, str]]] = field(default_factory=list)
    """Messages of each shadow answer that was begun."""
    shadows_given_up: int = 0

    async def answer(
        self, digest: str, messages: Sequence[Mapping[str, str]], sampling: Sampling, cache_group: str = ""
    ) -> Answer:
        if digest != self.staged:
            return await super().answer(digest, messages, sampling, cache_group)
        self.shadows.append([dict(each) for each in messages])
        if self.fault == "refused":
            raise EngineRefused("planted")
        if self.fault == "a bug":
            raise ValueError(str(messages))
        return Answer(PROMPT_TOKENS, self._shadow())

    async def _shadow(self) -> AsyncIterator[Piece]:
        finished = False
        try:
            for number, word in enumerate(self.staged_words):
                if self.fault == "lost":
                    raise EngineLost("planted")
                if self.fault == "no end":
                    return
                if self.fault == "hung":
                    await asyncio.sleep(3600)
                finished = number == len(self.staged_words) - 1
                yield Piece(word, 1, "stop" if finished else None)
        finally:
            self.shadows_given_up += not finished


@dataclass
class Shadowing(TryingOut):
    engine: TwoArms = field(default_factory=TwoArms)

    @property
    def counted(self) -> ShadowTally:
        self.telemetry.shadow.write()
        files = list((self.directory / "rollout" / "lamps").glob(f"lamps-1.1.0-{BEGAN:08d}.shadow/*.json"))
        return ShadowTally.model_validate_json(files[0].read_bytes()) if files else ShadowTally()

    def settled(self) -> ShadowTally:
        """Once nothing waits any more."""

        def is_settled() -> bool:
            now = self.counted
            return now.drawn == now.shadow.answers + now.lost + now.dropped

        wait_until(is_settled, lambda: f"shadow answers are still under way: {self.counted}")
        return self.counted


@pytest.fixture
def bench(tmp_path: Path) -> Shadowing:
    bench = Shadowing(tmp_path / "serving", shadow_share=1.0)
    bench.limits = {"requests_per_minute": 1e6}
    bench.serve(adapter("lamps"))
    bench.engine.staged = bench.serve(adapter("lamps", "1.1.0"), in_production=False).digest
    return bench


@pytest.fixture
def caller(bench: Shadowing) -> Iterator[TestClient]:
    """Whose answers the adapter in production gives, of one gateway that goes on."""
    token = bench.callers_of_arms(metrics=True)["production"]
    with TestClient(bench.app(), base_url=HERE, headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


def ask(caller: TestClient, token: str | None = None, **changes: Any) -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    answered = caller.post("/v1/chat/completions", json={**ASK, **changes}, headers=headers)
    assert answered.status_code == 200, answered.text
    assert answered.headers["x-sovereign-adapter"] == "lamps-1.0.0" and UNSEEN not in answered.text
    return answered


@pytest.mark.parametrize("streamed", [False, True])
def test_both_are_counted_and_callers_ledger_and_hold_see_nothing_of_it(
    bench: Shadowing, caller: TestClient, streamed: bool
) -> None:
    for each in (1, 2):
        ask(caller, stream=streamed)
        assert bench.settled().drawn == each
    tally = bench.settled()
    assert numbers(tally) == "2 of 2 requests compared, 0 lost, 0 dropped"
    assert next((each.shadow, each.given) for each in figures(tally) if each.name == "tokens") == ("3", "5")
    assert likeness(tally) == "0 of 2 equal; 0% before the first other word"
    hold = bench.tally()
    assert hold.drawn["staged"] == {} and [each.answers for each in hold.drawn["production"].values()] == [2]
    (hour,) = bench.journal.glob("*.jsonl")
    assert [each.adapter for each in read_hour(hour)[0]] == ["lamps-1.0.0"] * 2
    page = caller.get("/metrics").text
    assert 'sovereign_gateway_shadow_total{adapter="lamps-1.1.0",line="lamps",outcome="compared"} 2.0' in page
    assert 'adapter="lamps-1.1.0",line="lamps",outcome="complete"' not in page


def test_only_answers_without_chance_can_be_alike(bench: Shadowing, caller: TestClient) -> None:
    bench.engine.staged_words = bench.engine.words
    ask(caller)
    assert likeness(bench.settled()) == "1 of 1 equal; 100% before the first other word"
    ask(caller, temperature=0.7)
    tally = bench.settled()
    assert (tally.shadow.answers, tally.likeliest, tally.equal) == (2, 1, 1)
    bench.engine.staged_words = ("The lamp ", "is ", "out.")
    ask(caller)
    assert likeness(bench.settled()) == "1 of 2 equal; 88% before the first other word"


def test_what_is_wrong_with_an_answer_is_counted_of_both(bench: Shadowing, caller: TestClient) -> None:
    for words in ((" ",), ("المصباح على الرصيف القديم مضاء.",), ("round and ",) * 20):
        bench.engine.staged_words = words
        ask(caller)
        bench.settled()
    told = {each.name: (each.shadow, each.given) for each in figures(bench.counted)}
    expected = ("33.3%", "0.0%")
    assert told["empty"] == told["looping"] == told["other_script"] == expected


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_share_is_that_of_requests(bench: Shadowing, caller: TestClient, share: float) -> None:
    bench.shadow_share = share
    for _ in range(100):
        ask(caller)
    drawn = bench.counted.drawn
    assert drawn == 100 * share if share in (0.0, 1.0) else 2 <= drawn <= 51  # six standard deviations are 26


@pytest.mark.security_case(
    "A request comes from a caller whose clearance does not reach the staged adapter that shadows its line",
    "the staged adapter is not asked",
)
def test_a_caller_who_might_not_use_it_is_not_shadowed(bench: Shadowing) -> None:
    bench.served[1] = replace(bench.served[1], classification="SECRET")
    tokens = {level: bench.callers_of_arms(clearance=level)["production"] for level in ("INTERNAL", "SECRET")}
    with TestClient(bench.app(), base_url=HERE) as client:
        for level, drawn in (("INTERNAL", 0), ("SECRET", 1)):
            ask(client, token=tokens[level])
            assert bench.settled().drawn == len(bench.engine.shadows) == drawn


def test_who_is_given_the_staged_one_or_names_a_version_is_not_shadowed(bench: Shadowing) -> None:
    token = bench.callers_of_arms(versions=True)["staged"]
    with TestClient(bench.app(), base_url=HERE, headers={"Authorization": f"Bearer {token}"}) as client:
        for model in ("lamps", "lamps-1.0.0"):
            assert client.post("/v1/chat/completions", json={**ASK, "model": model}).status_code == 200
    assert bench.counted.drawn == 0


def test_it_is_asked_with_its_own_instruction(bench: Shadowing, caller: TestClient) -> None:
    bench.served[1] = replace(bench.served[1], instruction="Answer letters.")
    ask(caller)
    assert bench.settled().given.other_script == 0
    assert bench.engine.shadows == [[{"role": "user", "content": f"Answer letters.\n\n{PROMPT}"}]]


@pytest.mark.parametrize("fault", ["lost", "refused", "a bug", "no end"])
def test_a_broken_one_is_lost_alone(
    bench: Shadowing, caller: TestClient, fault: Fault, caplog: pytest.LogCaptureFixture
) -> None:
    bench.engine.fault = fault
    for _ in range(2):
        ask(caller)
    assert (bench.settled().lost, bench.settled().shadow.answers) == (2, 0)
    assert "zirconium" not in caplog.text and (("ValueError at" in caplog.text) == (fault == "a bug"))
    assert not bench.tally().is_broken


def test_one_that_hangs_delays_nobody_and_holds_few_texts(bench: Shadowing, caller: TestClient) -> None:
    bench.engine.fault = "hung"
    began = time.monotonic()
    for _ in range(MOST_WAITING + 4):
        ask(caller)
    assert time.monotonic() - began < 5
    assert bench.counted.dropped >= 3, "more than wait are dropped at once"


def test_it_is_given_up_as_soon_as_a_caller_needs_the_engine(bench: Shadowing, caller: TestClient) -> None:
    bench.engine.fault = "hung"
    ask(caller)
    wait_until(lambda: len(bench.engine.shadows) == 1, lambda: "no shadow answer was begun")
    bench.engine.fault, bench.engine.seconds = None, 0.05
    ask(caller)
    tally = bench.settled()
    assert bench.engine.shadows_given_up == 1
    assert (tally.drawn, tally.dropped, tally.shadow.answers) == (2, 1, 1)


def test_it_waits_for_an_engine_that_callers_do_not_need_and_no_longer(
    bench: Shadowing, caller: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "SECONDS_TO_WAIT", 0.0)
    answering = caller.app.state.gateway.answering  # type: ignore[attr-defined]
    answering.places.running["buoys"] += 1
    ask(caller)
    assert bench.settled().dropped == 1 and not bench.engine.shadows
    del answering.places.running["buoys"]
    ask(caller)
    assert bench.settled().shadow.answers == 1


def test_what_was_taken_back_meanwhile_is_not_asked(bench: Shadowing, caller: TestClient) -> None:
    answering = caller.app.state.gateway.answering  # type: ignore[attr-defined]
    answering.places.running["buoys"] += 1
    ask(caller)
    bench.shadow_share = 0.0
    del answering.places.running["buoys"]
    assert bench.settled().dropped == 1 and not bench.engine.shadows


def test_a_gateway_that_ends_gives_it_up(bench: Shadowing, caller: TestClient) -> None:
    bench.engine.fault = "hung"
    ask(caller)
    wait_until(lambda: len(bench.engine.shadows) == 1, lambda: "no shadow answer was begun")
    assert caller.portal is not None
    caller.portal.call(caller.app.state.gateway.answering.end_within, 0.1)  # type: ignore[attr-defined]
    wait_until(lambda: bench.engine.shadows_given_up == 1, lambda: "it goes on")


@pytest.mark.security_case(
    "Texts of requests and of shadow answers are looked for in files, logs and metrics of the gateway", "none is there"
)
def test_no_text_is_kept(
    bench: Shadowing, caller: TestClient, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sovereign_pipeline")
    ask(caller)
    assert bench.settled().shadow.answers == 1
    written = [path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file()]
    written += [caplog.text, caller.get("/metrics").text]
    assert not [each for each in written if "zirconium" in each or UNSEEN in each]


def test_an_arabic_request_is_arabic_whatever_the_instruction_is(bench: Shadowing, caller: TestClient) -> None:
    """The hold counts it so, too: the answer that was given is in Latin letters."""
    instruction = "Answer in the voice of the harbour office, and quote the file number of the letter."
    bench.served = [replace(each, instruction=instruction) for each in bench.served]
    bench.engine.staged_words = ("المصباح على الرصيف القديم مضاء.",)
    ask(caller, messages=[{"role": "user", "content": "هل المصباح على الرصيف مضاء؟"}])
    tally = bench.settled()
    assert (tally.given.other_script, tally.shadow.other_script) == (1, 0)
    (counted,) = bench.tally().drawn["production"].values()
    assert counted.other_script == 1
