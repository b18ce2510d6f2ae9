"""A vLLM server that others started: what must hold of it before it is asked, and as long as it is."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from sovereign_pipeline.base.errors import EngineLost, EngineRefused
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.policy.serving import Vllm
from sovereign_pipeline.serving.engines import engine as engine_module
from sovereign_pipeline.serving.engines.engine import EngineRequest, Sampling
from sovereign_pipeline.serving.engines.vllm import VllmEngine
from sovereign_pipeline.serving.engines.vllm_server import VllmSettings
from sovereign_pipeline_tests.serving.engines.conformance import until
from sovereign_pipeline_tests.serving.tiny_adapters import TinyAdapters
from sovereign_pipeline_tests.waiting import SECONDS, free_port, wait_until

pytestmark = pytest.mark.slow

NAME = "0123456789abcdef" * 2
ASKED = [{"role": "user", "content": "harbour lamp"}]


class StandingServer:
    """A stand-in that somebody else runs, on a port of loopback."""

    def __init__(self, directory: Path, name: str = NAME, *options: str) -> None:
        self._noted = directory / "noted"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        module = "sovereign_pipeline_tests.serving.engines.fake_vllm"
        given = ["--served-model-name", name, "--port", str(self.port), *options]
        self.process = subprocess.Popen([sys.executable, "-m", module, str(self._noted), *given], cwd=PROJECT_ROOT)
        wait_until(self._answers, lambda: "the stand-in does not answer")

    def _answers(self) -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", self.port)) == 0

    def adapters(self) -> dict[str, str]:
        listed = json.loads(urllib.request.urlopen(f"{self.url}/v1/models").read())["data"]
        return {each["id"]: each["root"] for each in listed if each["parent"]}

    def post(self, path: str, **body: str) -> None:
        sent = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
        )
        urllib.request.urlopen(sent).read()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def standing(tmp_path: Path) -> Iterator[Callable[..., StandingServer]]:
    made: list[StandingServer] = []

    def start(*given: str) -> StandingServer:
        made.append(StandingServer(tmp_path, *given))
        return made[-1]

    yield start
    for each in made:
        each.end()


@pytest.fixture(autouse=True)
def _probes_are_frequent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "SECONDS_BETWEEN_PROBES", 0.1)
    monkeypatch.setattr(engine_module, "SECONDS_BETWEEN_LOOKS", 0.05)


def settings(directory: Path, url: str, **options: Any) -> VllmSettings:
    given = Vllm(url=url, adapters=2, rank=8, **options)
    return VllmSettings(given, records=directory / "records", hang_seconds=10)


async def told(engine: VllmEngine, digest: str) -> str:
    answer = await engine.answer(EngineRequest(digest, ASKED, Sampling(max_tokens=8)))
    return "".join([piece.text async for piece in answer.pieces])


def refusal(tiny: TinyAdapters, given: VllmSettings) -> str:
    with pytest.raises(EngineRefused) as refused:
        asyncio.run(VllmEngine.start(tiny.base, given))
    return refused.value.message


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.9:8000",
        "http://gpu1:8000",
        "http://localhost:8000",
        "https://gpu2.example:8000",
        "http://127.0.0.1:8000/elsewhere",
        "http://127.0.0.1:8000@gpu1:80",
        "http://user@127.0.0.1:8000",
        "http://127.0.0.1",
        "unix:run/api",
        "file:///etc/passwd",
    ],
)
@pytest.mark.security_case(
    "`serving.vllm.url` names another machine that is not in `hosts`",
    "institution.yaml is rejected",
)
def test_an_address_elsewhere_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match="url must be"):
        Vllm(url=url, hosts=("gpu1.example",))


def test_addresses_of_this_machine_and_named_ones_are_taken() -> None:
    for url in ("http://127.0.0.1:8000", "http://[::1]:8000/", "unix:/run/vllm/api", "https://gpu1.example:8000"):
        assert Vllm(url=url, hosts=("gpu1.example",)).url == url


@pytest.mark.anyio
async def test_it_is_given_adapters_and_left_without_them(
    tiny: TinyAdapters, tmp_path: Path, standing: Callable[..., StandingServer]
) -> None:
    server = standing()
    copies = tmp_path / "copies"
    copies.mkdir(mode=0o750)
    adapter = tiny.adapter("lamps-1.0.0")
    engine = await VllmEngine.start(tiny.base, settings(tmp_path, server.url, copies=str(copies)))
    await engine.load(adapter)
    held = server.adapters()
    assert len(held) == 2 and all(Path(path).is_relative_to(copies) for path in held.values())
    assert {Path(path).stat().st_mode & 0o777 for path in held.values()} == {0o750}
    assert await told(engine, adapter.digest) == "FGHI"
    with pytest.raises(EngineRefused, match="another gateway uses the same server"):
        await VllmEngine.start(tiny.base, settings(tmp_path, server.url))
    assert await told(engine, adapter.digest) == "FGHI"
    await engine.close()
    assert server.adapters() == {} and [*copies.iterdir()] == []
    assert server.process.poll() is None


@pytest.mark.security_case(
    "Someone else loads an adapter into a vLLM server that the gateway did not start",
    "the gateway does not start with it, and stops using it if this happens later",
)
def test_an_adapter_of_somebody_else_keeps_the_gateway_out(
    tiny: TinyAdapters, tmp_path: Path, standing: Callable[..., StandingServer]
) -> None:
    server = standing()
    foreign = tiny.directory("foreign", seed=7)
    adapter = tiny.adapter("lamps-1.0.0")

    async def use() -> None:
        engine = await VllmEngine.start(tiny.base, settings(tmp_path, server.url))
        await engine.load(adapter)
        server.post("/v1/load_lora_adapter", lora_name="foreign", lora_path=str(foreign))
        await until(lambda: bool(engine.problem))
        assert "did not load" in engine.problem and engine.loaded() == {} and not await engine.is_well()
        assert [*server.adapters()] == ["foreign"]
        server.post("/v1/unload_lora_adapter", lora_name="foreign")
        await until(lambda: bool(engine.loaded()))
        assert await told(engine, adapter.digest) == "FGHI" and not engine.problem
        # Under a name that this gateway uses, and from another place.
        name = next(each for each in server.adapters() if each.startswith(adapter.digest))
        server.post("/v1/unload_lora_adapter", lora_name=name)
        server.post("/v1/load_lora_adapter", lora_name=name, lora_path=str(foreign))
        await until(lambda: bool(engine.problem))
        await engine.close()

    asyncio.run(use())
    server.post("/v1/load_lora_adapter", lora_name="foreign", lora_path=str(foreign))
    assert "did not load" in refusal(tiny, settings(tmp_path, server.url))


def test_what_a_gateway_left_behind_is_taken_out_by_the_next_one(
    tiny: TinyAdapters, tmp_path: Path, standing: Callable[..., StandingServer]
) -> None:
    server = standing()
    adapter = tiny.adapter("lamps-1.0.0")

    given = settings(tmp_path, server.url)

    async def begin() -> None:
        engine = await VllmEngine.start(tiny.base, given)
        await engine.load(adapter)

    gateway = os.fork()  # nothing of it can clean up
    if gateway == 0:
        with contextlib.suppress(BaseException):
            asyncio.run(begin())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(gateway, 0)
    assert len(server.adapters()) == 2

    async def go_on() -> None:
        engine = await VllmEngine.start(tiny.base, given)
        assert server.adapters() == {}
        await engine.load(adapter)
        server.end()
        async with asyncio.timeout(SECONDS):
            while await engine.is_well():
                await asyncio.sleep(0.05)
        with pytest.raises(EngineLost):
            await told(engine, adapter.digest)
        await engine.close()

    asyncio.run(go_on())


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("base", (), "can be guessed"),
        (NAME, ("--version", "0.31.2"), "it is vLLM 0.31.2"),
        (NAME, ("--without-runtime-loading",), "cannot load adapters while it runs"),
        (NAME, ("--max-model-len", "64"), "64 tokens"),
    ],
    ids=["base name", "old", "no runtime loading", "short context"],
)
def test_a_server_that_does_not_fit_is_refused(
    tiny: TinyAdapters,
    tmp_path: Path,
    standing: Callable[..., StandingServer],
    name: str,
    options: tuple[str, ...],
    reason: str,
) -> None:
    server = standing(name, *options)
    assert reason in refusal(tiny, settings(tmp_path, server.url))


def test_nobody_there_and_a_socket_for_everybody(tiny: TinyAdapters, tmp_path: Path) -> None:
    with pytest.raises(EngineLost, match="No vLLM server answers"):
        asyncio.run(VllmEngine.start(tiny.base, settings(tmp_path, "http://127.0.0.1:9")))
    copies = tmp_path / "copies"
    copies.mkdir()
    copies.chmod(0o770)
    given = settings(tmp_path, "http://127.0.0.1:9", copies=str(copies))
    assert "accounts other than the gateway's can change" in refusal(tiny, given)
    with socket.socket(socket.AF_UNIX) as held:
        directory = Path("/dev/shm") / f"vllm-of-a-test-{tmp_path.name}"
        directory.mkdir()
        directory.chmod(0o755)  # whatever the umask is
        try:
            held.bind(str(directory / "api"))
            (directory / "api").chmod(0o777)
            assert "every account of this machine" in refusal(tiny, settings(tmp_path, f"unix:{directory}/api"))
        finally:
            (directory / "api").unlink()
            directory.rmdir()
