"""A soak: clients ask without a pause while the engine's process is killed again and again.

    python -m benchmarks.serving.soak [--minutes 20] [--clients 8] [--seconds-between-kills 40]

A gateway in a process of its own, with its local engine and three adapters of a tiny model. What must hold: every
request is answered whole, or its caller is told that it is not (an error event, or a status). *Lost without a word* is
a stream that just ends, or a connection that breaks. An engine that lived for fewer than 30 s is started again after a
pause that grows, and callers are refused meanwhile. Memory and open files are the gateway's: the median of each tenth
of the time. The first tenth is a start; growth is what the last has more than the second. Bounded by time, on loopback
alone.
"""

import argparse
import asyncio
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import machine_facts, say
from benchmarks.serving.proxies import NO_LIMITS, started
from benchmarks.serving.sse import Refused, Told, read_stream
from sovereign_pipeline.base.pages import listen
from sovereign_pipeline.serving.engines.local import LocalEngine, LocalSettings
from sovereign_pipeline.serving.gateway.server import GatewayServer
from sovereign_pipeline_tests.serving.gateway.scripted import Bench
from sovereign_pipeline_tests.serving.tiny_adapters import TinyAdapters

LINES = ("lamps", "piers", "boats")
TOKENS = 40
LONGEST_MINUTES = 60
TENTHS = 10
SECONDS_AFTER_A_REFUSAL = 0.2
LOST = "lost without a word"


class Soak:
    """What is asked, what came of it, and what the gateway used."""

    def __init__(self, port: int, token: str, gateway: psutil.Process, seconds: float) -> None:
        self._port, self._token, self._gateway = port, token, gateway
        self._until = time.monotonic() + seconds
        self.outcomes: Counter[str] = Counter()
        self.kills = 0
        self.resident: list[int] = []
        self.files: list[int] = []

    @property
    def goes_on(self) -> bool:
        return time.monotonic() < self._until

    async def run(self, clients: int, seconds_between_kills: float) -> None:
        await asyncio.gather(
            *(self._client(number) for number in range(clients)), self._kill(seconds_between_kills), self._sample()
        )

    async def _client(self, number: int) -> None:
        while self.goes_on:
            told = Told()
            try:
                async for _ in read_stream(self._port, self._token, TOKENS, told, LINES[number % len(LINES)]):
                    pass
                outcome = "complete" if told.finished else "error event" if told.error else LOST
            except Refused as refused:
                outcome = f"status {refused}"
                await asyncio.sleep(SECONDS_AFTER_A_REFUSAL)
            except (OSError, EOFError):
                outcome = LOST
            self.outcomes[outcome] += 1

    async def _kill(self, seconds: float) -> None:
        while self.goes_on:
            await asyncio.sleep(min(seconds, max(0.0, self._until - time.monotonic())))
            for child in self._gateway.children():
                if self.goes_on and any("local_child" in part for part in child.cmdline()):
                    child.send_signal(signal.SIGKILL)
                    self.kills += 1

    async def _sample(self) -> None:
        while self.goes_on:
            self.resident.append(self._gateway.memory_info().rss)
            self.files.append(self._gateway.num_fds())
            await asyncio.sleep(1)


def measure(minutes: float, clients: int, seconds_between_kills: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        say("making a tiny model and its adapters")
        _make(Path(name))
        command = [sys.executable, "-m", "benchmarks.serving.soak", "--gateway", name]
        with started(command) as port:
            listening = (each for each in psutil.Process().children() if name in each.cmdline())
            token = (Path(name) / "token").read_text()
            soak = Soak(port, token, next(listening), 60 * minutes)
            asyncio.run(soak.run(clients, seconds_between_kills))
    return {
        "minutes": minutes,
        "clients": clients,
        "kills": soak.kills,
        "outcomes": dict(sorted(soak.outcomes.items())),
        "requests": soak.outcomes.total(),
        "lost": soak.outcomes[LOST],
        "mib": [round(each / (1 << 20), 1) for each in _tenths(soak.resident)],
        "files": _tenths(soak.files),
    }


def _tenths(samples: Sequence[int]) -> list[float]:
    """The median of each tenth of the time; of fewer samples, each."""
    if len(samples) < TENTHS:
        return list(samples)
    ends = [round(len(samples) * number / TENTHS) for number in range(TENTHS + 1)]
    return [statistics.median(samples[begin:end]) for begin, end in pairwise(ends)]


def told(result: Mapping[str, Any]) -> str:
    """In one paragraph."""
    outcomes = ", ".join(f"{count} {outcome}" for outcome, count in result["outcomes"].items())
    return (
        f"{result['minutes']:g} minutes, {result['clients']} clients, {result['kills']} kills of the engine: "
        f"{result['requests']} requests ({outcomes}); {result['lost']} lost without a word. Each tenth of the time, "
        f"the gateway's memory: {_curve(result['mib'])} MiB; its open files: {_curve(result['files'])}."
    )


def _curve(medians: Sequence[float]) -> str:
    return ", ".join(f"{each:g}" for each in medians)


def _make(directory: Path) -> None:
    """Here, so that the gateway's memory holds nothing of training."""
    tiny = TinyAdapters(directory)
    for seed, line in enumerate(LINES):
        tiny.directory(f"{line}-1.0.0", seed)


async def _serve(directory: Path, port: int) -> None:
    tiny = TinyAdapters(directory)
    adapters = [tiny.deployable(f"{line}-1.0.0", directory / f"{line}-1.0.0") for line in LINES]
    engine = await LocalEngine.start(directory / "base", LocalSettings(threads=1))
    bench = Bench(directory, engine=engine, limits=NO_LIMITS)  # type: ignore[arg-type]
    for each in adapters:
        await engine.load(each)
        bench.served.append(replace(each, pinned=True))
    (directory / "token").write_text(bench.token())
    with listen(port, "") as held:
        await GatewayServer(bench.app(), port, [], engine.close).serve(sockets=[held])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seconds-between-kills", type=float, default=40)
    parser.add_argument("--gateway", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.gateway:
        asyncio.run(_serve(Path(given.gateway[0]), int(given.gateway[1])))
        return
    result = measure(min(given.minutes, LONGEST_MINUTES), given.clients, given.seconds_between_kills)
    print(told(result))  # noqa: T201
    say(str(machine_facts()))
    sys.exit(1 if result["lost"] else 0)


if __name__ == "__main__":
    main()
