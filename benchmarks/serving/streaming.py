"""What the gateway adds to a stream, beside nginx as a plain proxy and LiteLLM's proxy.

    python -m benchmarks.serving.streaming [--streams 50] [--tokens 50] [--rate 25] [--rounds 3] [--litellm PROGRAM]

A source sends each stream's tokens at a steady pace, and each token is the moment at which it was sent. Streams are
read through nothing, nginx, the gateway and LiteLLM, one after another in alternating order; a round is all of them.
*Together*: all streams at once, from the second token on: how long a token was under way. *First token*: streams begin
one after another while as many go on: from the request to the first token. *Idle*: one stream at a time, and nothing
else. What is added is the difference to nothing in the same round.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.harness import alternating, machine_facts, say
from benchmarks.serving.proxies import gateway, litellm, nginx, paced_source
from benchmarks.serving.sse import Told, read_stream

DIRECT = "nothing"
FIGURES = ("token_median", "token_99th", "first_median", "first_99th", "idle_token_median", "idle_first_median")
IDLE_STREAMS, IDLE_TOKENS = 20, 10


def measure(
    streams: int,
    tokens: int,
    rate: float,
    rounds: int,
    without: Sequence[str] = (),
    litellm_program: Path | None = None,
) -> dict[str, Any]:
    """The figures of every round in milliseconds, and what each adds to nothing."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        source = stack.enter_context(paced_source(rate))
        ports = {DIRECT: (source, "none")}
        if "nginx" not in without:
            ports["nginx"] = stack.enter_context(nginx(source, directory))
        ports["gateway"] = stack.enter_context(gateway(source, directory / "gateway"))
        if litellm_program is not None:
            say("starting LiteLLM's proxy")
            ports["LiteLLM"] = stack.enter_context(litellm(source, directory, litellm_program))
        for port, token in ports.values():
            asyncio.run(_together(port, token, 5, 10))  # what is done once
        found: list[dict[str, dict[str, float]]] = []
        for number, arms in alternating(rounds, list(ports)):
            say(f"round {number + 1}")
            found.append({arm: asyncio.run(_figures(*ports[arm], streams, tokens, rate)) for arm in arms})
    return {
        "streams": streams,
        "tokens": tokens,
        "tokens_per_second": rate,
        "rounds": found,
        "added": {
            arm: {figure: [round(each[arm][figure] - each[DIRECT][figure], 3) for each in found] for figure in FIGURES}
            for arm in ports
            if arm != DIRECT
        },
        "failed": sum(each[arm]["failed"] for each in found for arm in ports),
        "left_out": [
            name for name, there in (("nginx", "nginx" in ports), ("LiteLLM", "LiteLLM" in ports)) if not there
        ],
    }


async def _figures(port: int, token: str, streams: int, tokens: int, rate: float) -> dict[str, float]:
    under_way, failed = await _together(port, token, streams, tokens)
    firsts, failed_too = await _staggered(port, token, streams, tokens, rate)
    alone = [await _one(port, token, IDLE_TOKENS) for _ in range(IDLE_STREAMS)]
    return {
        **_quantiles("token", under_way),
        **_quantiles("first", firsts),
        **_quantiles("idle_token", [late for _, lates, _ in alone for late in lates[1:]]),
        **_quantiles("idle_first", [first for first, *_ in alone]),
        "failed": failed + failed_too + sum(not finished for *_, finished in alone),
    }


def _quantiles(name: str, seconds: Sequence[float]) -> dict[str, float]:
    hundredths = statistics.quantiles(seconds, n=100)
    return {f"{name}_median": 1000 * hundredths[49], f"{name}_99th": 1000 * hundredths[98]}


async def _together(port: int, token: str, streams: int, tokens: int) -> tuple[list[float], int]:
    """How long each token but the first was under way, and how many streams failed."""
    told = await asyncio.gather(*(_one(port, token, tokens) for _ in range(streams)))
    return [late for _, lates, _ in told for late in lates[1:]], sum(not finished for *_, finished in told)


async def _staggered(port: int, token: str, streams: int, tokens: int, rate: float) -> tuple[list[float], int]:
    """Seconds to the first token of streams that begin one after another, and how many failed."""
    apart = tokens / rate / streams

    async def later(number: int) -> tuple[float, list[float], bool]:
        await asyncio.sleep(number * apart)
        return await _one(port, token, tokens)

    told = await asyncio.gather(*(later(number) for number in range(2 * streams)))
    return [first for first, _, _ in told], sum(not finished for *_, finished in told)


async def _one(port: int, token: str, tokens: int) -> tuple[float, list[float], bool]:
    """Seconds to the first token, how long each was under way, and whether the stream is whole."""
    asked, told = time.monotonic(), Told()
    first, lates = 0.0, []
    async for text in read_stream(port, token, tokens, told):
        now = time.monotonic()
        first = first or now - asked
        lates.append(now - float(text.split()[-1]))
    return first, lates, told.finished and len(lates) == tokens


def table(result: Mapping[str, Any]) -> str:
    """What each adds, as a table of medians over rounds with the spread."""
    names = {
        "token_median": "token, median",
        "token_99th": "token, 99th percentile",
        "first_median": "first token, median",
        "first_99th": "first token, 99th percentile",
        "idle_token_median": "idle: token, median",
        "idle_first_median": "idle: first token, median",
    }
    arms = list(result["added"])
    rows = [
        f"| ms | asked directly | added by {' | added by '.join(arms)} |",
        f"|---|---|{'---|' * len(arms)}",
    ]
    for figure, name in names.items():
        direct = _spread([each[DIRECT][figure] for each in result["rounds"]])
        cells = [_spread(result["added"][arm][figure]) for arm in arms]
        rows.append(f"| {name} | {direct} | {' | '.join(cells)} |")
    medians = {arm: result["added"][arm]["token_median"] for arm in arms}
    cells = [_against(medians["gateway"], medians[arm]) if arm != "gateway" else "" for arm in arms]
    rows.append(f"| what the gateway adds against it, token at the median | | {' | '.join(cells)} |")
    return "\n".join(rows)


def _against(one: Sequence[float], other: Sequence[float]) -> str:
    """How many times as much, in each round; a proxy that added nothing measurable in a round is left out of it."""
    found = [a / b for a, b in zip(one, other, strict=True) if b > 0]
    return f"{_spread(found)} times" if found else "–"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--rate", type=float, default=25.0)
    parser.add_argument("--without", nargs="*", default=(), choices=["nginx"])
    parser.add_argument("--litellm", type=Path, help="`litellm` of a virtual environment of its own")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    result = measure(given.streams, given.tokens, given.rate, given.rounds, given.without, given.litellm)
    print(table(result))  # noqa: T201
    say(f"failed streams: {result['failed']}; {machine_facts()}")


if __name__ == "__main__":
    main()
