"""One engine for each base model behind one: who answers, and that nothing of one holds up the other."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import pytest

from sovereign_pipeline.base.errors import EngineLost, EngineRefused
from sovereign_pipeline.serving.engines import by_base
from sovereign_pipeline.serving.engines.by_base import Engines, Started
from sovereign_pipeline.serving.engines.engine import Deployable, EngineRequest, Sampling
from sovereign_pipeline_tests.serving.engines.conformance import until
from sovereign_pipeline_tests.serving.gateway.scripted import ScriptedEngine, adapter

pytestmark = pytest.mark.anyio

ONE, TWO = "1" * 64, "2" * 64
ASKED = [{"role": "user", "content": "harbour lamp"}]
LAMPS = replace(adapter("lamps"), base_model_digest=ONE)
BUOYS = replace(adapter("buoys"), base_model_digest=TWO)


@dataclass
class Stuck(ScriptedEngine):
    """Loads and unloads nothing until it is told to go on."""

    goes_on: asyncio.Event = field(default_factory=asyncio.Event)

    async def load(self, adapter: Deployable) -> None:
        await self.goes_on.wait()
        await super().load(adapter)

    async def unload(self, digest: str) -> None:
        await self.goes_on.wait()
        await super().unload(digest)


@dataclass
class Two:
    """Engines of two base models, whose starts wait until they are let."""

    made: dict[str, ScriptedEngine] = field(default_factory=lambda: {ONE: ScriptedEngine(), TWO: ScriptedEngine()})
    failing: dict[str, Exception] = field(default_factory=dict)
    closed: list[str] = field(default_factory=list)
    starts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.may_start = asyncio.Event()
        self.engines = Engines(self.start)

    async def start(self, digest: str) -> Started:
        self.starts.append(digest)
        if digest == TWO:
            await self.may_start.wait()
        if digest in self.failing:
            raise self.failing[digest]
        engine = self.made[digest]
        engine.close = lambda: self.close(digest)  # type: ignore[method-assign]
        return Started(engine, "local", f"base-{digest[0]}")

    async def close(self, digest: str) -> None:
        self.closed.append(digest)

    async def both(self) -> None:
        """Start both, each with its adapter."""
        await self.engines.begin(ONE)
        self.may_start.set()
        await self.engines.load(LAMPS)
        with pytest.raises(EngineLost, match="is being started"):
            await self.engines.load(BUOYS)
        await load_once_started(self.engines)


async def load_once_started(engines: Engines) -> None:
    """Load BUOYS, or raise why its engine does not start."""
    while True:
        with contextlib.suppress(EngineLost):
            return await engines.load(BUOYS)
        await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def _looks_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_base, "SECONDS_BETWEEN_LOOKS", 0.01)


async def told(engines: Engines, digest: str) -> str:
    answer = await engines.answer(EngineRequest(digest, ASKED, Sampling(max_tokens=8)))
    return "".join([piece.text async for piece in answer.pieces])


async def test_each_adapter_is_answered_by_the_engine_of_its_base_model() -> None:
    two = Two()
    await two.both()
    assert two.starts == [ONE, TWO]
    assert two.engines.loaded() == {LAMPS.digest: LAMPS.adapter, BUOYS.digest: BUOYS.adapter}
    for each, own, other in ((LAMPS, ONE, TWO), (BUOYS, TWO, ONE)):
        before = len(two.made[other].asked)
        await told(two.engines, each.digest)
        assert two.made[own].asked[-1].digest == each.digest and len(two.made[other].asked) == before
    assert [(each.base_model, each.computes, each.adapters) for each in await two.engines.states()] == [
        ("base-1", True, 1),
        ("base-2", True, 1),
    ]
    await two.engines.close()
    assert sorted(two.closed) == [ONE, TWO]


async def test_an_engine_that_is_being_started_holds_nothing_up() -> None:
    two = Two()
    await two.engines.begin(ONE)
    await two.engines.load(LAMPS)
    with pytest.raises(EngineLost, match="is being started"):
        await two.engines.load(BUOYS)
    assert await told(two.engines, LAMPS.digest)
    with pytest.raises(EngineRefused, match="is not loaded"):
        await told(two.engines, BUOYS.digest)
    assert [each.computes for each in await two.engines.states()] == [True, False]
    assert await two.engines.is_well()
    await two.engines.close()


async def test_an_engine_that_does_not_start_is_tried_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    two = Two()
    two.failing[TWO] = EngineRefused("No room for it.")
    two.may_start.set()
    await two.engines.begin(ONE)
    await two.engines.load(LAMPS)
    with pytest.raises(EngineLost):
        await two.engines.load(BUOYS)
    for _ in range(3):
        with pytest.raises(EngineRefused, match="No room"):
            await load_once_started(two.engines)
    assert two.starts == [ONE, TWO] and await told(two.engines, LAMPS.digest)
    assert [each.problem for each in await two.engines.states()] == ["", "No room for it."]
    monkeypatch.setattr(by_base, "SECONDS_BEFORE_ANOTHER_START", 0.0)
    del two.failing[TWO]
    with pytest.raises(EngineRefused, match="No room"):
        await two.engines.load(BUOYS)
    await load_once_started(two.engines)
    assert two.starts == [ONE, TWO, TWO]
    await two.engines.close()


@pytest.mark.parametrize("error", [EngineRefused("No room for it."), ValueError("planted")], ids=["refused", "a bug"])
async def test_an_engine_that_did_not_start_keeps_no_other_from_being_closed(error: Exception) -> None:
    two = Two()
    two.failing[TWO] = error
    two.may_start.set()
    await two.engines.begin(ONE)
    with pytest.raises(EngineLost):
        await two.engines.load(BUOYS)
    while (await two.engines.states())[1].problem == "The engine is being started.":
        await asyncio.sleep(0)
    await two.engines.close()
    assert two.closed == [ONE]


@dataclass
class Slow(ScriptedEngine):
    """While it says what it has loaded, the event loop goes on with something else."""

    meanwhile: Callable[[], None] = lambda: None

    def loaded(self) -> Mapping[str, str]:
        self.meanwhile()
        return super().loaded()


async def test_an_engine_may_be_begun_while_another_thread_asks_what_is_loaded() -> None:
    two = Two()
    two.made[ONE] = slow = Slow()
    await two.engines.begin(ONE)
    await two.engines.load(LAMPS)

    def begin_the_other() -> None:
        with pytest.raises(EngineLost, match="is being started"):
            two.engines.load(BUOYS).send(None)

    slow.meanwhile = begin_the_other
    assert two.engines.loaded() == {LAMPS.digest: LAMPS.adapter}
    assert await two.engines.states()
    await two.engines.close()


@pytest.mark.security_case(
    "An engine hangs while one of its adapters is withdrawn",
    "the adapter answers nobody any more, and adapters of other base models are still loaded and unloaded",
)
async def test_an_engine_that_hangs_holds_nothing_of_another_base_model_up() -> None:
    two = Two()
    two.made[TWO] = stuck = Stuck()
    stuck.goes_on.set()
    await two.both()
    stuck.goes_on.clear()
    stuck.well = False
    other = replace(adapter("buoys", "1.1.0"), base_model_digest=TWO)
    for doing in (two.engines.load(other), two.engines.unload(BUOYS.digest)):
        with pytest.raises(EngineLost, match="The engine hangs"):
            await doing
    assert BUOYS.digest in stuck.adapters and BUOYS.digest not in two.engines.loaded(), "nobody gets it any more"
    with pytest.raises(EngineRefused, match="is not loaded"):
        await told(two.engines, BUOYS.digest)
    await two.engines.unload(LAMPS.digest)
    await two.engines.load(LAMPS)
    assert await told(two.engines, LAMPS.digest) and await two.engines.is_well()
    stuck.well = True
    stuck.goes_on.set()
    await until(lambda: BUOYS.digest not in stuck.adapters)  # it is unloaded once the engine goes on
    await two.engines.close()


async def test_the_memory_of_an_engine_without_adapters_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_base, "SECONDS_WITHOUT_ADAPTERS", 0.5)
    two = Two()
    await two.both()
    await two.engines.unload(LAMPS.digest)
    await two.engines.load(LAMPS)
    await two.engines.unload(BUOYS.digest)
    await until(lambda: two.closed == [TWO])
    assert [each.base_model for each in await two.engines.states()] == ["base-1"]
    await two.engines.close()
