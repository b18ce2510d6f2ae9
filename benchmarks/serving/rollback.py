"""How soon a rollback has reached users while many ask, and how many requests fail by it.

    python -m benchmarks.serving.rollback [--clients 50] [--rollbacks 5]

A gateway in a process of its own goes by real signed flags; clients ask for the line without a pause, and an officer
rolls back, as `sovereign adapters rollback` does without the registry. Then the newer adapter is in production again.
*Signed*: until the change lies on disk. *Reached*: until the last request was sent that still got the newer adapter.
"""

import argparse
import asyncio
import datetime
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import PROJECT_ROOT, machine_facts, say, trust_demonstration
from benchmarks.serving.proxies import NO_LIMITS, paced_source, started
from benchmarks.serving.sse import MODEL, Refused, RelayedEngine, Told, read_stream
from sovereign_pipeline.base.pages import listen
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.keys import read_key
from sovereign_pipeline.record.officers import pipeline_signer, trust_root
from sovereign_pipeline.serving.high_water_marks import HighWaterMarks
from sovereign_pipeline.serving.rollout.flag import (
    Flag,
    FlagAdapter,
    WayBack,
    changing,
    installed_evaluator,
    write_change,
)
from sovereign_pipeline.serving.rollout.in_force import Choice, Flags
from sovereign_pipeline.serving.rollout.rollback import rollback
from sovereign_pipeline_tests.serving.gateway.scripted import Bench, adapter

OLDER, NEWER = f"{MODEL}-1.0.0", f"{MODEL}-1.1.0"
TOKENS, RATE = 10, 25.0
SECONDS_BEFORE, SECONDS_AFTER = 1.5, 2.0


@dataclass
class Asked:
    """One request."""

    at: float
    adapter: str | None = None
    failed: str | None = None


@dataclass
class Load:
    """Clients that ask without a pause."""

    port: int
    token: str
    requests: list[Asked] = field(default_factory=list)
    is_over: bool = False

    async def client(self, after: float) -> None:
        await asyncio.sleep(after)  # else all would ask at the same moments
        while not self.is_over:
            asked, told = Asked(time.monotonic()), Told()
            self.requests.append(asked)
            try:
                async for _ in read_stream(self.port, self.token, TOKENS, told):
                    pass
                asked.failed = told.error or (None if told.finished else "it just ended")
            except (OSError, EOFError, Refused) as error:
                asked.failed = f"{type(error).__name__} {error}"
            asked.adapter = told.adapter


def measure(clients: int, rollbacks: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        settings = settings_in(directory)
        (directory / "data").mkdir()
        shutil.copy(PROJECT_ROOT / "data" / "institution.yaml", directory / "data" / "institution.yaml")
        trust_demonstration(settings)
        write_change(settings, pipeline_signer(settings, trust_root(settings)), _flag(1))
        command = [sys.executable, "-m", "benchmarks.serving.rollback", "--gateway", directory]
        with paced_source(RATE) as source, started([*command, str(source)]) as port:
            load = Load(port, (directory / "bench" / "token").read_text())
            found = asyncio.run(_run(settings, load, clients, rollbacks))
    return {"clients": clients, "rollbacks": rollbacks, **found}


async def _run(settings: Settings, load: Load, clients: int, rollbacks: int) -> dict[str, Any]:
    running = [asyncio.create_task(load.client(number * TOKENS / RATE / clients)) for number in range(clients)]
    officer, signer = read_key(settings.keys / "officer-1.key", lambda: ""), None
    signed: list[float] = []
    reached: list[float] = []
    for number in range(rollbacks):
        await asyncio.sleep(SECONDS_BEFORE)
        began = time.monotonic()
        flag = await asyncio.to_thread(rollback, settings, MODEL, None, officer, "It answers in verse.")
        signed.append(time.monotonic() - began)
        await asyncio.sleep(SECONDS_AFTER)
        late = [each.at - began for each in load.requests if each.at > began and each.adapter == NEWER]
        reached.append(max(late, default=0.0))
        say(f"rollback {number + 1}: signed after {signed[-1]:.3f} s, reached everybody after {reached[-1]:.3f} s")
        signer = signer or pipeline_signer(settings, trust_root(settings))
        with changing(settings, MODEL):
            write_change(settings, signer, _flag(flag.sequence + 1))
    load.is_over = True
    await asyncio.gather(*running)
    failed = [each.failed for each in load.requests if each.failed]
    return {
        "requests": len(load.requests),
        "failed": len(failed),
        "failures": sorted(set(failed)),
        "signed_seconds": [round(each, 3) for each in signed],
        "reached_seconds": [round(each, 3) for each in reached],
    }


def settings_in(directory: Path) -> Settings:
    return Settings(home=directory / "home", data=directory / "data")


def _flag(sequence: int) -> Flag:
    """The newer adapter for everybody, with the way back to the older one."""
    now = datetime.datetime.now(datetime.UTC)
    request = {
        "line": MODEL,
        "adapter": OLDER,
        "classification": "INTERNAL",
        "transition": "roll_back",
        "from": "superseded",
        "to": "production",
        "incumbent": NEWER,
        "evidence": {},
        "approvals": 0,
        "policy": {},
    }
    named = {
        each.adapter: FlagAdapter(digest=each.digest, record_manifest="0" * 64, classification="INTERNAL")
        for each in (adapter(MODEL, "1.0.0"), adapter(MODEL, "1.1.0"))
    }
    return Flag(
        line=MODEL,
        sequence=sequence,
        production=NEWER,
        staged=None,
        staged_by=None,
        share=0,
        groups=(),
        stopped=None,
        began=sequence,
        began_at=now,
        salt="0" * 64,
        evaluator=installed_evaluator(),
        cause="transition",
        reason="It is promoted.",
        at=now,
        adapters=named,
        back=(WayBack(adapter=OLDER, request=request),),
    )


def _serve_gateway(directory: Path, source: int, port: int) -> None:
    from sovereign_pipeline.serving.gateway.server import GatewayServer

    flags = Flags(settings_in(directory), marks=HighWaterMarks(directory / "marks.json"))

    class Flagged(Bench):
        """By the flag of the line."""

        def choose(self, line: str, user: str, groups: frozenset[str]) -> Choice | None:
            return flags.which(line, user, groups)

    bench = Flagged(directory / "bench", engine=RelayedEngine(source), limits=NO_LIMITS)  # type: ignore[arg-type]
    for version in ("1.0.0", "1.1.0"):
        bench.serve(adapter(MODEL, version))
    (directory / "bench").mkdir(exist_ok=True)
    (directory / "bench" / "token").write_text(bench.token())
    with listen(port, "") as held:
        GatewayServer(bench.app(), port, [], bench.engine.close).run(sockets=[held])


def told(result: Mapping[str, Any]) -> str:
    """In one line."""
    signed, reached = result["signed_seconds"], result["reached_seconds"]
    return (
        f"{result['rollbacks']} rollbacks while {result['clients']} clients ask: signed after "
        f"{statistics.median(signed):.2f} s (at most {max(signed):.2f}), reached everybody after "
        f"{statistics.median(reached):.2f} s (at most {max(reached):.2f}); {result['failed']} of "
        f"{result['requests']} requests failed."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--rollbacks", type=int, default=5)
    parser.add_argument("--gateway", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.gateway:
        _serve_gateway(Path(given.gateway[0]), int(given.gateway[1]), int(given.gateway[2]))
        return
    result = measure(given.clients, given.rollbacks)
    print(told(result))  # noqa: T201
    say(f"{result['failures']} {machine_facts()}")


if __name__ == "__main__":
    main()
