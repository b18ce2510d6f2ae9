"""The life of adapters among people, in a browser and by client: who got which one at each moment.

Staged, tried by two groups, held, promoted; the next one broken in three ways and taken back each time; a rollback by
an officer, and a retirement. Flags, ledger, officers, gateway, client and browser are real; an engine that answers from
a script stands in for the model, so that it can be broken.
"""

import asyncio
import datetime
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Literal

import pytest
from openai import InternalServerError, NotFoundError, OpenAI
from playwright.sync_api import Page, expect

from sovereign_pipeline.base.errors import EngineLost, GateRefused
from sovereign_pipeline.policy.serving import Role
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.serving.engines.engine import Answer, Piece, Sampling
from sovereign_pipeline.serving.gateway.admin import AdminSources
from sovereign_pipeline.serving.rollout import in_force
from sovereign_pipeline.serving.rollout.hold import Watcher, state_of
from sovereign_pipeline.serving.rollout.in_force import Choice, Flags
from sovereign_pipeline.serving.rollout.rollback import rollback
from sovereign_pipeline_tests.browser import open_browser
from sovereign_pipeline_tests.serving.gateway.conftest import Running
from sovereign_pipeline_tests.serving.gateway.scripted import LINE, PROMPT_TOKENS, Bench, ScriptedEngine, adapter, named
from sovereign_pipeline_tests.serving.rollout.conftest import Desk
from sovereign_pipeline_tests.waiting import SECONDS

pytestmark = [pytest.mark.slow, pytest.mark.browser]

Fault = Literal["failing", "empty", "slow"]
CLERKS = [f"clerk-{number}" for number in range(40)]
PILOTS = ["pilot-1", "pilot-2"]


@dataclass
class Breakable(ScriptedEngine):
    """An engine in which one adapter can be broken."""

    seconds: float = 0.02
    broken: str | None = None
    """Digest of the adapter."""
    fault: Fault | None = None

    async def answer(
        self,
        digest: str,
        messages: Sequence[Mapping[str, str]],
        sampling: Sampling,
        cache_group: str = "",
        shared: int = 0,
    ) -> Answer:
        pieces = self._harmed(self.fault) if digest == self.broken and self.fault is not None else self._pieces()
        return Answer(PROMPT_TOKENS, pieces)

    async def _harmed(self, fault: Fault) -> AsyncGenerator[Piece, None]:
        async for piece in self._pieces():
            if fault == "failing":
                raise EngineLost("planted")
            if fault == "slow":
                await asyncio.sleep(0.1)
            yield piece if fault != "empty" else Piece("", piece.tokens, piece.finish)


@dataclass
class Gateway(Bench):
    """It goes by the flags of the line."""

    engine: Breakable = field(default_factory=Breakable)
    flags: Flags | None = None

    def choose(self, line: str, user: str, groups: frozenset[str]) -> Choice | None:
        assert self.flags is not None
        return self.flags.which(line, user, groups)


class Story:
    """A line, its officers, and everybody who asks it."""

    def __init__(self, desk: Desk, directory: Path) -> None:
        self.desk, self.office = desk, desk.office
        self.flags = desk.gateway()
        roles = {role: Role(clearance="SECRET") for role in ("clerk", "pilot-desk")}
        roles["overseer"] = Role(clearance="SECRET", versions=True, admin=True)
        self.gateway = Gateway(directory, flags=self.flags)
        self.gateway.behind_proxy("127.0.0.1", **roles)
        self.gateway.limits = {"requests_per_minute": 1e6, "tokens_per_minute": 1e9}
        self.institution = self.office.bench.workplace().institution
        telemetry = self.gateway.telemetry
        self.gateway.admin = AdminSources(
            flags=self.flags.flags,
            hold=lambda flag: state_of(self.desk.settings, telemetry.directory, flag, self.institution),
        )
        self.said: list[str] = []
        self.watcher = Watcher(desk.settings, self.institution, self.flags, telemetry, self.said.append)
        self.running = Running(self.gateway)

    def serve(self, row: Adapter) -> Adapter:
        made = adapter(LINE, row.version, row.classification)
        self.gateway.serve(replace(made, digest=row.adapter_digest))
        return row

    def ask(self, user: str, role: str, model: str = LINE) -> str | None:
        """Which adapter answered somebody; None where the engine failed."""
        headers = named(user, role)
        url = f"{self.running.url}/v1"
        with OpenAI(base_url=url, api_key="-", default_headers=headers, max_retries=0, timeout=60) as client:
            try:
                answer = client.chat.completions.create(
                    model=model, messages=[{"role": "user", "content": "Is it lit?"}]
                )
            except InternalServerError:
                return None
            return answer.system_fingerprint

    def everybody(self) -> dict[str, str | None]:
        """Everybody asks once. User -> which adapter answered."""
        people = [(each, "clerk") for each in CLERKS] + [(each, "pilot-desk") for each in PILOTS]
        with ThreadPoolExecutor(8) as pool:
            answered = pool.map(lambda person: self.ask(*person), people)
            return dict(zip([user for user, _ in people], answered, strict=True))

    def look(self) -> None:
        """As a gateway does every half minute, and the ledger follows."""
        self.watcher.look()
        self.desk.follow()

    def days_later(self, days: int, monkeypatch: pytest.MonkeyPatch) -> None:
        flag = self.flags.flag(LINE)
        assert flag is not None
        earlier = flag.model_copy(update={"began_at": flag.began_at - datetime.timedelta(days=days)})
        with monkeypatch.context() as patch:
            patch.setattr(self.flags, "flags", lambda: {LINE: earlier})
            self.watcher.look()
        self.desk.follow()


@pytest.fixture
def story(desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Story]:
    monkeypatch.setattr(in_force, "SECONDS_BETWEEN_LOOKS", 0.0)
    rules = desk.office.bench.institution.rules
    rules["release"] = {"blind_review": "not_required"}
    few = dict.fromkeys(("lost", "empty", "disliked"), 0.05)  # none of 80 answers may still be one in 30
    hold = {"days": 1, "users": 10, "answers": 50, "slower": 1.0, **few}
    rules["rollout"] = {"share": 0.5, "groups": ["pilot-desk"], "hold": hold}
    story = Story(desk, tmp_path / "serving")
    yield story
    story.running.stop()


@pytest.fixture
def page(story: Story) -> Iterator[Callable[[str, str], Page]]:
    """Made by a call: the browser of somebody whom the proxy names."""
    expect.set_options(timeout=SECONDS * 1000)
    with open_browser() as browser:

        def opened(user: str, role: str) -> Page:
            return browser.new_context(locale="en", extra_http_headers=named(user, role)).new_page()

        yield opened


def answered_in(page: Page, url: str) -> str:
    """Which adapter answers who tries the line on the page."""
    page.goto(url)
    expect(page.locator("#model option")).to_have_text([LINE])
    page.fill("#question", "Is it lit?")
    page.press("#question", "Enter")
    expect(page.get_by_role("button", name="Good answer")).to_be_visible()
    return page.locator(".answered bdi").inner_text()


def test_who_got_which_adapter_at_each_moment(
    story: Story, page: Callable[[str, str], Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    desk, office = story.desk, story.office
    first = story.serve(desk.in_production())
    assert {*story.everybody().values()} == {first.id}
    pilot, overseer = page("pilot-1", "pilot-desk"), page("root", "overseer")
    assert answered_in(pilot, story.running.url) == first.id

    # Staged: the group gets it, and half of the clerks, each the same one throughout.
    second = story.serve(desk.staged())
    tried = story.everybody()
    assert {tried[each] for each in PILOTS} == {second.id}
    assert {tried[each] for each in CLERKS} == {first.id, second.id}
    assert answered_in(pilot, story.running.url) == second.id
    overseer.goto(f"{story.running.url}/admin")
    expect(overseer.get_by_role("heading", name="Hold of the staged adapter")).to_contain_text("open")

    # Held: not promoted until a week of answers was judged as good.
    with pytest.raises(GateRefused, match="its trial is open"):
        office.ask("promote", second)
    for _ in range(5):
        assert story.everybody() == tried
    story.days_later(7, monkeypatch)
    office.move("promote", second)
    desk.follow()
    assert {*story.everybody().values()} == {second.id}
    assert answered_in(page("clerk-1", "clerk"), story.running.url) == second.id

    # The next one is broken in three ways, and taken back by itself; who had the other one noticed nothing.
    third = story.serve(desk.staged())
    story.gateway.engine.broken = third.adapter_digest
    faults: dict[Fault, str] = {"failing": "broken", "empty": "broken", "slow": "slower"}
    for fault, because in faults.items():
        story.gateway.engine.fault = None
        tried = story.everybody()
        assert {*tried.values()} == {second.id, third.id}
        story.gateway.engine.fault = fault
        for _ in range(3):
            got = story.everybody()
            assert all(got[user] == second.id for user, had in tried.items() if had == second.id)
        story.look()
        assert {*story.everybody().values()} == {second.id}
        flag = story.flags.flag(LINE)
        assert flag is not None and because in (flag.stopped or "")
        last = desk.told()[-1]
        assert (last["cause"], last["reason"]) == ("regression", flag.stopped)
        assert story.said[-1] == f"{third.id} is taken back: {flag.stopped}"
        with pytest.raises(GateRefused, match="was withdrawn"):
            office.ask("promote", third)
        for transition in ("unstage", "stage"):
            office.move(transition, third)
            desk.follow()
    office.move("unstage", third)
    desk.follow()

    # An officer goes back, and what was gone back from is retired.
    rollback(desk.settings, LINE, None, office.officers["omar"], "It answers in verse.")
    assert {*story.everybody().values()} == {first.id}
    assert answered_in(pilot, story.running.url) == first.id
    desk.follow()
    assert office.states() == {first.id: "production", second.id: "superseded", third.id: "approved"}
    assert story.ask("root", "overseer", second.id) == second.id
    office.move("retire", second)
    desk.follow()
    story.gateway.served = [each for each in story.gateway.served if each.digest != second.adapter_digest]
    with pytest.raises(NotFoundError):
        story.ask("root", "overseer", second.id)
    assert {*story.everybody().values()} == {first.id}
    overseer.reload()
    expect(overseer.locator("main")).not_to_contain_text(second.id)

    moments = [(each["production"], each["staged"], bool(each["staged"] and each["stopped"])) for each in desk.told()]
    until_promotion = [(first.id, None, False), (first.id, second.id, False), (second.id, None, False)]
    each_fault = [(second.id, third.id, False), (second.id, third.id, True), (second.id, None, False)]
    after = [(second.id, third.id, False), (second.id, None, False), (first.id, None, False)]
    assert [moment for moment, _ in groupby(moments)] == [*until_promotion, *each_fault * 3, *after]
