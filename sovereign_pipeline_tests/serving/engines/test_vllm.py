"""The vLLM engine with a real vLLM server: what every engine must do, and what becomes of its processes.

`make test-vllm` installs vLLM and runs these; the whole suite leaves them out, and says so.
"""

import asyncio
import os
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sovereign_pipeline.base.errors import EngineLost, EngineRefused
from sovereign_pipeline.base.settings import OFFLINE_ENVIRONMENT
from sovereign_pipeline.policy.serving import Vllm
from sovereign_pipeline.serving.engines.engine import EngineRequest, Sampling
from sovereign_pipeline.serving.engines.vllm import VllmEngine
from sovereign_pipeline.serving.engines.vllm_server import VllmSettings
from sovereign_pipeline_tests.conftest import VLLM_PYTHON
from sovereign_pipeline_tests.serving.engines.conformance import (
    LETTERS,
    EngineConformance,
    Running,
    until,
)
from sovereign_pipeline_tests.serving.tiny_adapters import TinyAdapters, other_base
from sovereign_pipeline_tests.waiting import processes_of, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.vllm]

ADAPTERS = 4


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyAdapters:
    return TinyAdapters(tmp_path_factory.mktemp("tiny"), heads=2)


def settings(**options: Any) -> VllmSettings:
    given = Vllm(**{"rank": 8, "cpu_cache_gib": 1, "adapters": ADAPTERS, "step_tokens": 512, **options})
    return VllmSettings(given, Path(os.environ[VLLM_PYTHON]), threads=1, hang_seconds=60)


@pytest.fixture(scope="module")
def running(tiny: TinyAdapters, runner: asyncio.Runner) -> Iterator[Running]:
    adapters = [tiny.adapter(f"lamps-1.0.{number}", seed=number) for number in range(3)]
    engine = runner.run(VllmEngine.start(tiny.base, settings()))
    for adapter in adapters:
        runner.run(engine.load(adapter))
    yield Running(engine, adapters, runner)
    runner.run(engine.close())


class TestConformance(EngineConformance):
    """Of every engine."""


def test_processes_have_no_key_and_listen_on_loopback_alone(running: Running) -> None:
    found = processes_of("VLLM::") + processes_of("api_server")
    assert len(found) >= 3
    for each in found:
        assert not [name for name in each.environ() if name.startswith("SOVEREIGN") or "proxy" in name.lower()]
        assert {connection.laddr.ip for connection in each.net_connections("inet")} <= {"127.0.0.1"}


def test_more_adapters_than_places_answer_as_each_alone(running: Running, tiny: TinyAdapters) -> None:
    many = [tiny.adapter(f"many-1.0.{number}", seed=20 + number) for number in range(2 * ADAPTERS)]
    for adapter in many:
        running.do(running.engine.load(adapter))
    asked = Running(running.engine, many, running.runner)
    alone = [asked.alone(number, LETTERS[0]).text for number in range(len(many))]
    assert len(set(alone)) > ADAPTERS
    mixed = asked.together(*(asked.ask(number, LETTERS[0]) for number in range(len(many))))
    assert [told.text for told in mixed] == alone
    for adapter in many:
        running.do(running.engine.unload(adapter.digest))


def test_base_rows_are_the_base_model_once_every_place_was_used(running: Running, tiny: TinyAdapters) -> None:
    """vLLM frees no place when it unloads, and gives a row of the base model the adapter of the last one."""
    marked = tiny.fingerprinted("after-1.0.0", 41)

    async def load_while_others_answer() -> None:
        asked = [asyncio.create_task(running.ask(n % 3, letter)) for n, letter in enumerate(LETTERS)]
        await running.engine.load(marked)
        await asyncio.gather(*asked)

    running.do(load_while_others_answer())
    assert marked.digest in running.engine.loaded()
    running.do(running.engine.unload(marked.digest))


@pytest.mark.parametrize(
    ("process", "fault"),
    [("VLLM::EngineCore", signal.SIGKILL), ("VLLM::Worker", signal.SIGSTOP)],
    ids=["dies", "hangs"],
)
def test_server_that_dies_or_hangs_is_replaced(running: Running, process: str, fault: signal.Signals) -> None:
    before = running.alone(0, LETTERS[0]).text

    async def break_it() -> None:
        starts = running.engine.starts  # type: ignore[attr-defined]
        messages = [{"role": "user", "content": LETTERS[0]}]
        answer = await running.engine.answer(
            EngineRequest(running.adapters[0].digest, messages, Sampling(max_tokens=400))
        )
        await anext(answer.pieces)
        for each in processes_of(process):
            each.send_signal(fault)
        with pytest.raises(EngineLost):
            async for _ in answer.pieces:
                pass

        def is_back() -> bool:
            return running.engine.starts > starts and len(running.engine.loaded()) == 3  # type: ignore[attr-defined]

        await until(is_back, 400)

    running.do(break_it())
    assert running.alone(0, LETTERS[0]).text == before
    assert len(processes_of(process)) == 1


@pytest.fixture
def server_of_others(tiny: TinyAdapters) -> Iterator[Path]:
    """The socket of a server that this test starts as an institution would, as `docs/how-to/engines.md` says."""
    with tempfile.TemporaryDirectory(prefix="vllm-of-others-") as name:
        api = Path(name, "api")
        options = {
            "model": tiny.base,
            "served-model-name": secrets.token_hex(16),
            "uds": api,
            "dtype": "float32",
            "max-loras": 3,
            "max-cpu-loras": 3,
            "max-lora-rank": 8,
            "max-model-len": 512,
            "max-num-seqs": 8,
            "max-num-batched-tokens": 512,
            "generation-config": "vllm",
        }
        given = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        process = subprocess.Popen(
            [os.environ[VLLM_PYTHON], "-m", "vllm.entrypoints.openai.api_server", "--enable-lora", *given],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd=name,
            env={
                "PATH": os.environ["PATH"],
                "HOME": name,
                **OFFLINE_ENVIRONMENT,
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_CPU_OMP_THREADS_BIND": "nobind",
                "OMP_NUM_THREADS": "1",
            },
        )
        try:
            wait_until(api.exists, lambda: f"vLLM is not there ({process.poll()})")
            yield api
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_server_that_others_started_is_reached(
    server_of_others: Path, tiny: TinyAdapters, runner: asyncio.Runner, tmp_path: Path
) -> None:
    given = VllmSettings(Vllm(url=f"unix:{server_of_others}", adapters=2, rank=8), records=tmp_path, hang_seconds=60)
    adapter, foreign = tiny.fingerprinted("reached-1.0.0", 61), tiny.directory("of-others", seed=62)

    async def listed(session: aiohttp.ClientSession) -> list[str]:
        async with session.get("http://vllm/v1/models") as response:
            return [each["id"] for each in (await response.json())["data"] if each["parent"]]

    async def reached() -> VllmEngine:
        try:
            return await VllmEngine.start(tiny.base, given)
        except EngineLost:  # it does not answer yet
            await asyncio.sleep(1)
            return await reached()

    async def use() -> None:
        connector = aiohttp.UnixConnector(str(server_of_others))
        async with asyncio.timeout(900), aiohttp.ClientSession(connector=connector) as session:
            engine = await reached()
            await engine.load(adapter)
            asked = Sampling(max_tokens=8)
            answer = await engine.answer(
                EngineRequest(adapter.digest, [{"role": "user", "content": LETTERS[0]}], asked)
            )
            assert sum([piece.tokens async for piece in answer.pieces]) == 8
            of_other_base = tiny.fingerprint(adapter, other_base(tiny, tmp_path))
            other = replace(adapter, digest="0" * 64, fingerprint=of_other_base)
            with pytest.raises(EngineRefused, match="the engine's base model differs"):
                await engine.load(other)
            body = {"lora_name": "of-others", "lora_path": str(foreign)}
            async with session.post("http://vllm/v1/load_lora_adapter", json=body) as response:
                assert response.status == 200
            await until(lambda: bool(engine.problem), 400)
            assert "did not load" in engine.problem and not engine.loaded()
            assert await listed(session) == ["of-others"]
            async with session.post("http://vllm/v1/unload_lora_adapter", json={"lora_name": "of-others"}) as response:
                assert response.status == 200
            await until(lambda: bool(engine.loaded()), 400)
            await engine.close()
            assert await listed(session) == []

    runner.run(use())
