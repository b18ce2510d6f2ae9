"""A staged adapter that fails, answers nothing or is slow: taken back through a real gateway and a tiny engine."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import httpx2
import pytest

from sovereign_pipeline.base.errors import EngineLost
from sovereign_pipeline.policy.institution import ClassificationLadder
from sovereign_pipeline.policy.serving import Limits
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.catalog import FLAG_CHANGED
from sovereign_pipeline.serving.engines.engine import Answer, Deployable, Engine, Piece, Sampling
from sovereign_pipeline.serving.engines.local import LocalEngine, LocalSettings
from sovereign_pipeline.serving.gateway import server
from sovereign_pipeline.serving.gateway.app import create_gateway
from sovereign_pipeline.serving.gateway.auth import Callers, Tokens
from sovereign_pipeline.serving.gateway.journal import Journal
from sovereign_pipeline.serving.gateway.request_handler import Catalog, RequestHandler
from sovereign_pipeline.serving.gateway.stores import FeedbackStore
from sovereign_pipeline_tests.conftest import LADDER
from sovereign_pipeline_tests.serving.flags.conftest import LINE
from sovereign_pipeline_tests.serving.flags.conftest import desk as desk
from sovereign_pipeline_tests.serving.flags.conftest import office as office
from sovereign_pipeline_tests.serving.gateway.scripted import HERE, HOSTS, Bench
from sovereign_pipeline_tests.serving.rollout.traffic import Traffic
from sovereign_pipeline_tests.serving.rollout.traffic import look_always as look_always
from sovereign_pipeline_tests.serving.rollout.traffic import traffic as traffic
from sovereign_pipeline_tests.serving.tiny_adapters import TinyAdapters

pytestmark = pytest.mark.slow

Fault = Literal["failing", "empty", "slow"]
USERS = 40
NO_LIMITS = {"concurrent_per_caller": 1000, "waiting_per_line": 1000, "requests_per_minute": 1e6, "concurrent": 1000}


@dataclass
class Faulty:
    """An engine in which one adapter does harm, once a fault is planted."""

    engine: Engine
    digest: str = ""
    fault: Fault | None = None

    async def load(self, adapter: Deployable) -> None:
        await self.engine.load(adapter)

    async def unload(self, digest: str) -> None:
        await self.engine.unload(digest)

    def loaded(self) -> Mapping[str, str]:
        return self.engine.loaded()

    async def answer(
        self, digest: str, messages: Sequence[Mapping[str, str]], sampling: Sampling, cache_group: str = ""
    ) -> Answer:
        answer = await self.engine.answer(digest, messages, sampling, cache_group)
        return answer if digest != self.digest else replace(answer, pieces=self._harmed(answer))

    async def _harmed(self, answer: Answer) -> AsyncIterator[Piece]:
        async for piece in answer.pieces:
            if self.fault == "failing":
                raise EngineLost("planted")
            if self.fault == "slow":
                await asyncio.sleep(0.4)
            yield piece if self.fault != "empty" else replace(piece, text="")

    async def is_well(self) -> bool:
        return True

    async def close(self) -> None:
        await self.engine.close()


@pytest.fixture(scope="module")
def faulty(tiny: TinyAdapters, runner: asyncio.Runner) -> Iterator[Faulty]:
    faulty = Faulty(runner.run(LocalEngine.start(tiny.base, LocalSettings(threads=1))))
    yield faulty
    runner.run(faulty.close())


class Gateway:
    """The real application, with the traffic's flags and counts, and users who ask through it."""

    def __init__(
        self, traffic: Traffic, faulty: Faulty, tiny: TinyAdapters, runner: asyncio.Runner, home: Path
    ) -> None:
        self.traffic, self.faulty, self._runner = traffic, faulty, runner
        flag = traffic.flag
        assert flag.staged is not None
        self.staged = flag.staged
        directory = tiny.directory("harm")
        served = [
            replace(tiny.deployable(adapter, directory), digest=named.digest, line=LINE, pinned=True)
            for adapter, named in flag.adapters.items()
        ]
        for each in served:
            runner.run(faulty.load(each))
        faulty.digest, faulty.fault = flag.adapters[self.staged].digest, None
        bench = Bench(home)
        self._token = bench.token(users=True)
        ladder = ClassificationLadder(tuple(LADDER))
        handler = RequestHandler(
            Catalog(faulty, lambda: served, ladder, traffic.flags.which, bench.quota.counts),
            Limits.model_validate(NO_LIMITS),
            Journal(bench.journal),
            traffic.telemetry,
            FeedbackStore(home / "given-answers.db"),
        )
        self._app = create_gateway(handler, Callers(Tokens(home / "tokens.json")), HOSTS)

    def ask_all(self) -> list[str | None]:
        """Every user asks once. Returns which adapter answered; None where there was an error."""
        return self._runner.run(self._ask_all())

    async def _ask_all(self) -> list[str | None]:
        transport = httpx2.ASGITransport(self._app, client=("127.0.0.1", 5000))
        headers = {"Authorization": f"Bearer {self._token}"}
        async with httpx2.AsyncClient(transport=transport, base_url=HERE, headers=headers, timeout=120) as client:

            async def one(user: int) -> str | None:
                asked: dict[str, Any] = {"model": LINE, "max_tokens": 3, "user": f"user-{user}"}
                asked["messages"] = [{"role": "user", "content": "harbour lamp"}]
                answer = await client.post("/v1/chat/completions", json=asked)
                return answer.headers["x-sovereign-adapter"] if answer.status_code == 200 else None

            return await asyncio.gather(*(one(user) for user in range(USERS)))


@pytest.mark.parametrize(("fault", "because"), [("failing", "broken"), ("empty", "broken"), ("slow", "slower: +")])
def test_it_is_taken_back_at_the_next_look_and_says_why(
    traffic: Traffic,
    faulty: Faulty,
    tiny: TinyAdapters,
    runner: asyncio.Runner,
    tmp_path: Path,
    fault: Fault,
    because: str,
) -> None:
    gateway = Gateway(traffic, faulty, tiny, runner, tmp_path / "serving")
    assert {*gateway.ask_all()} == {*traffic.flag.adapters}
    traffic.watcher.look()
    assert traffic.flag.is_rolling_out, traffic.flag.in_words()
    faulty.fault = fault
    for _ in range(2):
        gateway.ask_all()
    traffic.watcher.look()
    assert {*gateway.ask_all()} == {traffic.flag.production}, "the same user, the same moment"
    assert because in (traffic.flag.stopped or "")
    traffic.desk.follow()
    last = [each.subjects for each in entries(traffic.desk.office.registry) if each.action == FLAG_CHANGED][-1]
    assert (last["cause"], last["reason"]) == ("regression", traffic.flag.stopped)
    assert traffic.said == [f"{gateway.staged} is taken back: {traffic.flag.stopped}"]


def test_holds_are_looked_at_so_often_that_a_minute_is_enough() -> None:
    assert server.SECONDS_BETWEEN_HOLDS < 60
