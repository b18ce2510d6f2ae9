"""The vLLM engine's own side, with a process in vLLM's place: what it is sent, and what is made of what it sends."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from sovereign_pipeline.base.errors import EngineLost, EngineRefused, InputError
from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.policy.serving import EngineChoice, Vllm
from sovereign_pipeline.serving.engines import engine as engine_module
from sovereign_pipeline.serving.engines import vllm, vllm_supervisor
from sovereign_pipeline.serving.engines.by_base import start_engine
from sovereign_pipeline.serving.engines.engine import Deployable, EngineRequest, Sampling
from sovereign_pipeline.serving.engines.vllm import VllmEngine
from sovereign_pipeline.serving.engines.vllm_server import VllmSettings
from sovereign_pipeline_tests.serving.engines.conformance import LoadingConformance, Running, forked, kill_fork, until
from sovereign_pipeline_tests.serving.tiny_adapters import TinyAdapters
from sovereign_pipeline_tests.waiting import processes_of, wait_until, wait_until_ended

pytestmark = pytest.mark.slow

MESSAGES = [{"role": "user", "content": "harbour lamp"}]
Noted = tuple[str, Any]


@dataclass
class Side:
    """An engine that runs, with one adapter."""

    engine: VllmEngine
    adapter: Deployable
    runner: asyncio.Runner
    noted: Path

    def asked(self, path: str) -> list[Any]:
        lines = [json.loads(line) for line in self.noted.read_text(encoding="utf-8").splitlines()]
        return [body for at, body in lines if at == path]

    def completions(self) -> list[Any]:
        return [body for body in self.asked("/v1/completions") if body.get("stream")]

    async def text(self, tokens: int = 8, group: str = "", **sampling: Any) -> str:
        asked = Sampling(max_tokens=tokens, **sampling)
        answer = await self.engine.answer(EngineRequest(self.adapter.digest, MESSAGES, asked, group))
        return "".join([piece.text async for piece in answer.pieces])

    def process(self) -> psutil.Process:
        return processes_of("vllm_supervisor")[0]


def settings(directory: Path, **options: Any) -> VllmSettings:
    """vLLM's interpreter is a script that runs the stand-in with the same arguments."""
    script = directory / "vllm-python"
    module = "sovereign_pipeline_tests.serving.engines.fake_vllm"
    command = f'exec {sys.executable} -m {module} {directory / "noted"} "$@"'
    script.write_text(f"#!/bin/sh\nPYTHONPATH={PROJECT_ROOT} {command}\n")
    script.chmod(0o700)
    given = Vllm(**{"precision": "float32", "adapters": 2, "rank": 8, **options})
    return VllmSettings(given, script, threads=1, hang_seconds=10, start_seconds=300)


@pytest.fixture(scope="module")
def side(tiny: TinyAdapters, runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    directory = tmp_path_factory.mktemp("side")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "SECONDS_BETWEEN_PROBES", 0.2)
        engine = runner.run(VllmEngine.start(tiny.base, settings(directory)))
        adapter = replace(tiny.adapter("lamps-1.0.0"), pinned=True)
        runner.run(engine.load(adapter))
        yield Side(engine, adapter, runner, directory / "noted")
        runner.run(engine.close())


def test_an_answer_is_relayed(side: Side) -> None:
    assert side.runner.run(side.text()) == "FGHI"
    body = side.completions()[-1]
    assert body["max_tokens"] == 8 and body["temperature"] == 0
    assert all(isinstance(each, int) for each in body["prompt"])


@pytest.mark.security_case(
    "A caller measures response times to learn prompts of callers with a higher clearance",
    "vLLM's prompt cache is separated by clearance with a secret salt",
)
def test_groups_share_no_cached_prompt(side: Side) -> None:
    for group in ("SECRET", "PUBLIC", "SECRET"):
        side.runner.run(side.text(group=group))
    secret, public, again = (body["cache_salt"] for body in side.completions()[-3:])
    assert secret == again != public
    assert len(secret.partition(":")[0]) == 64


def test_name_says_nothing_and_is_of_these_bytes_alone(side: Side, tiny: TinyAdapters) -> None:
    loads = side.asked("/v1/load_lora_adapter")
    assert [load["lora_name"] == "no-effect" for load in loads[:2]] == [True, False]
    assert loads[1]["lora_name"].startswith(side.adapter.digest) and "lamps" not in loads[1]["lora_path"]
    other = tiny.directory("other-bytes", seed=3)
    changed = replace(side.adapter, directory=other, files=tiny.deployable("x", other).files)
    side.runner.run(side.engine.load(changed))
    assert side.asked("/v1/load_lora_adapter")[-1]["lora_name"] != loads[1]["lora_name"]
    assert side.asked("/v1/unload_lora_adapter")[-1] == {"lora_name": loads[1]["lora_name"]}
    side.runner.run(side.engine.load(side.adapter))


def test_base_model_is_asked_for_once_before_there_is_an_adapter(side: Side) -> None:
    side.runner.run(side.text())
    arguments = side.asked("started")[0]["arguments"]
    base = arguments[arguments.index("--served-model-name") + 1]
    models = [body["model"] for body in side.asked("/v1/completions")]
    assert len(base) == 32 and models[0] == base and base not in models[1:]


def test_adapter_in_production_is_used_again_and_again(side: Side) -> None:
    def is_used() -> bool:
        probes = [body for body in side.asked("/v1/completions") if not body.get("stream")]
        return {body["model"][:9] for body in probes[-2:]} == {"no-effect", side.adapter.digest[:9]}

    side.runner.run(until(is_used))


@pytest.mark.security_case(
    "Another account sends requests directly to vLLM, bypassing clearances and states",
    "its socket is in a private directory of the gateway's account, and its API listens on no address",
)
def test_socket_lies_in_a_private_directory_and_the_process_has_no_key(side: Side) -> None:
    started = side.asked("started")[-1]
    socket = Path(started["arguments"][started["arguments"].index("--uds") + 1])
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    names = set(started["environment"])
    assert not [name for name in names if name.startswith("SOVEREIGN") or "proxy" in name.lower()]
    assert started["environment"]["HF_HUB_OFFLINE"] == "1"
    children = side.process().children(recursive=True)
    assert children and not [each for child in children for each in child.net_connections("inet")]


@pytest.mark.parametrize("tokens", [41, 42, 46], ids=["ends without a reason", "error event", "aborted"])
def test_a_stream_that_does_not_end_as_it_should_is_lost(side: Side, tokens: int) -> None:
    with pytest.raises(EngineLost):
        side.runner.run(side.text(tokens))


def test_given_up_answer_is_given_up_in_vllm(side: Side) -> None:
    async def give_up() -> None:
        answer = await side.engine.answer(EngineRequest(side.adapter.digest, MESSAGES, Sampling(max_tokens=44)))
        await anext(answer.pieces)
        await answer.pieces.aclose()
        await until(lambda: 44 in side.asked("given up"))

    side.runner.run(give_up())


@pytest.mark.parametrize(
    ("drawn", "sent"),
    [
        ({"temperature": 0.7, "top_p": 0.9, "seed": 5}, {"temperature": 0.7, "top_p": 0.9, "seed": 5, "top_k": 0}),
        ({"temperature": 1e-300, "seed": 5}, {"temperature": 0}),
        ({"temperature": 1.5, "top_p": 0.0}, {"temperature": 0}),
    ],
    ids=["drawn", "coldest", "narrowest"],
)
def test_how_tokens_are_drawn(side: Side, drawn: dict[str, Any], sent: dict[str, Any]) -> None:
    side.runner.run(side.text(**drawn))
    body = side.completions()[-1]
    assert {name: body[name] for name in ("temperature", "top_p", "top_k", "seed") if name in body} == sent


def test_stop_text_ends_the_answer_in_vllm_too(side: Side) -> None:
    assert side.runner.run(side.text(44, stop=("H",))) == "FG"
    side.runner.run(until(lambda: 44 in side.asked("given up")))


@pytest.mark.parametrize("tokens", [43, 45], ids=["dies", "hangs"])
def test_server_that_dies_or_hangs_is_replaced(side: Side, tokens: int) -> None:
    async def break_it() -> None:
        starts = side.engine.starts
        with pytest.raises(EngineLost):
            await side.text(tokens)
        await until(lambda: side.engine.starts == starts + 1 and len(side.engine.loaded()) == 1)
        assert await side.text() == "FGHI"
        assert await side.engine.is_well()

    side.runner.run(break_it())


def test_unloaded_adapter_is_unknown(side: Side, tiny: TinyAdapters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "SECONDS_TO_LEAVE", 0.1)
    extra = tiny.adapter("extra-1.0.0", seed=9)
    side.runner.run(side.engine.load(extra))
    side.runner.run(side.engine.unload(extra.digest))
    name = side.asked("/v1/unload_lora_adapter")[-1]["lora_name"]
    assert name.startswith(extra.digest)
    loaded_from = next(body["lora_path"] for body in side.asked("/v1/load_lora_adapter") if body["lora_name"] == name)
    wait_until(lambda: side.runner.run(asyncio.sleep(0.1)) or not Path(loaded_from).exists(), lambda: "a copy is there")
    with pytest.raises(EngineRefused, match="is not loaded"):
        side.runner.run(side.engine.answer(EngineRequest(extra.digest, MESSAGES, Sampling(max_tokens=1))))


class TestLoading(LoadingConformance):
    """Of every engine, with a server that computes nothing."""

    @pytest.fixture
    def running(self, side: Side) -> Running:
        return Running(side.engine, [side.adapter], side.runner)

    def test_rank_above_the_servers_is_refused(self, running: Running, tiny: TinyAdapters) -> None:
        assert "serving.vllm.rank" in running.refusal(tiny.adapter("odd-rank-1.0.0", r=16))


def test_interpreter_without_vllm_is_named(tiny: TinyAdapters, runner: asyncio.Runner, tmp_path: Path) -> None:
    given = replace(settings(tmp_path), python=Path(sys.executable))
    with pytest.raises(EngineRefused, match="No module named 'vllm'"):
        runner.run(VllmEngine.start(tiny.base, given))
    missing = replace(settings(tmp_path), python=tmp_path / "nothing")
    with pytest.raises(EngineRefused, match="No such file"):
        runner.run(VllmEngine.start(tiny.base, missing))
    with pytest.raises(EngineRefused, match="cannot be loaded"):
        runner.run(VllmEngine.start(tmp_path, given))


def test_institution_chooses_the_engine_and_the_administrator_names_its_interpreter(
    tiny: TinyAdapters, runner: asyncio.Runner, tmp_path: Path
) -> None:
    chosen = EngineChoice(engine="vllm", vllm=settings(tmp_path).options, threads=2)
    here = Settings(home=tmp_path / "home", data=tmp_path)
    with pytest.raises(InputError, match="SOVEREIGN_VLLM_PYTHON"):
        runner.run(start_engine(chosen, here, tiny.base, ""))
    named = replace(here, vllm_python=settings(tmp_path).python)
    engine = runner.run(start_engine(chosen, named, tiny.base, "", threads=3))
    try:
        assert isinstance(engine, VllmEngine) and runner.run(engine.is_well())
        started = json.loads((tmp_path / "noted").read_text(encoding="utf-8").splitlines()[0])[1]
        assert started["environment"]["OMP_NUM_THREADS"] == "3"
    finally:
        runner.run(engine.close())


@pytest.fixture
def gateway(
    tiny: TinyAdapters, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[int, list[psutil.Process]]]:
    """A fork with a server, and the processes under it: keeper, server, and the server's own."""
    temporary = tempfile.mkdtemp()  # short: sockets lie below
    monkeypatch.setattr(tempfile, "tempdir", temporary)
    gateway, children = forked(lambda: VllmEngine.start(tiny.base, settings(tmp_path)))
    assert len(children) == 3
    yield gateway, children
    for each in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    shutil.rmtree(temporary)


def _left_of(directory: Path) -> list[Path]:
    """What is there of copies of adapters, and of prompts."""
    started = json.loads((directory / "noted").read_text(encoding="utf-8").splitlines()[0])[1]
    return [path for path in (Path(started["environment"]["HOME"]), Path(started["shared"])) if path.exists()]


def test_all_processes_end_with_the_gateway(gateway: tuple[int, list[psutil.Process]], tmp_path: Path) -> None:
    number, children = gateway
    kill_fork(number)
    wait_until_ended(children)
    assert not _left_of(tmp_path)


@pytest.mark.security_case(
    ("Gateway and vLLM's supervisor are killed together, which leaves processes with prompts and copies of adapters"),
    "the next start removes them, and nothing of a running gateway",
)
def test_what_both_left_behind_is_removed_at_the_next_start(
    gateway: tuple[int, list[psutil.Process]], tmp_path: Path
) -> None:
    number, (keeper, *rest) = gateway
    vllm_supervisor.remove_left_behind()
    assert len(_left_of(tmp_path)) == 2 and all(each.is_running() for each in rest), "its gateway lives"
    os.kill(number, signal.SIGSTOP)
    keeper.kill()
    kill_fork(number)
    wait_until_ended([keeper, rest[0]])
    assert len(_left_of(tmp_path)) == 2 and rest[1].is_running()
    other = vllm_supervisor.HeldDirectory.make()
    vllm_supervisor.remove_left_behind()
    wait_until_ended(rest)
    assert not _left_of(tmp_path) and other.path.is_dir()
    other.let_go()
    vllm_supervisor.remove_left_behind()
    assert not other.path.exists()
