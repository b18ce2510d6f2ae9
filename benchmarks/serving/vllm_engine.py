"""The vLLM engine with a real vLLM server: what starting and loading take, how near the training side it computes, and
tokens of several adapters in one batch.

    python -m benchmarks.serving.vllm_engine --python .venv-vllm/bin/python [--threads 1] [--new-tokens 24]

The base model is the packaged one; adapters have rank 16 on all linear layers and random weights. Seconds of tokens are
those of the processor, of all of vLLM's processes together; others are the clock's.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import base_model, machine_facts, say
from benchmarks.serving.local_engine import MODEL, letter, make_adapters
from sovereign_pipeline.base.errors import EngineRefused
from sovereign_pipeline.policy.serving import Vllm
from sovereign_pipeline.serving.engines.engine import Deployable, EngineRequest, Sampling
from sovereign_pipeline.serving.engines.vllm import VllmEngine
from sovereign_pipeline.serving.engines.vllm_server import VllmSettings
from sovereign_pipeline.serving.fingerprints import Job, LogProbabilities, Precision, compute, conversations

ADAPTERS = 4
FINGERPRINTS = 2


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--new-tokens", type=int, default=24)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        say(f"making {ADAPTERS} adapters")
        adapters = make_adapters(Path(name))[:ADAPTERS]
        adapters[:FINGERPRINTS] = [fingerprinted(each) for each in adapters[:FINGERPRINTS]]
        result: dict[str, Any] = {"load_average": os.getloadavg()[0]}
        precisions: tuple[Precision, ...] = ("float32", "bfloat16")
        for precision in precisions:
            options = Vllm(
                precision=precision,
                adapters=ADAPTERS,
                context=1024,
                step_tokens=512,
            )
            settings = VllmSettings(options, arguments.python.absolute(), threads=arguments.threads)
            result[precision] = asyncio.run(measure(adapters, settings, arguments.new_tokens))
            say(f"{precision}: {json.dumps(result[precision])}")
    result["machine"] = machine_facts()
    print(json.dumps(result, indent=1))  # noqa: T201


def fingerprinted(adapter: Deployable) -> Deployable:
    say(f"{adapter.adapter}: its fingerprint on the training side")
    job = Job(base_model(MODEL), adapter.digest, adapter.directory, conversations(""))
    return replace(adapter, fingerprint=compute(job))


async def measure(adapters: Sequence[Deployable], settings: VllmSettings, new_tokens: int) -> dict[str, Any]:
    began = time.monotonic()
    engine = await VllmEngine.start(base_model(MODEL), settings)
    started = time.monotonic() - began
    loads: list[float] = []
    refused: list[str] = []
    for adapter in adapters:
        began = time.monotonic()
        try:
            await engine.load(adapter)
        except EngineRefused as error:
            refused.append(error.message)
            await engine.load(replace(adapter, fingerprint=None))
        loads.append(round(time.monotonic() - began, 2))
    distances = [await distances_of(engine, adapter) for adapter in adapters[:FINGERPRINTS]]
    rates = {
        f"8 answers, {held} adapters": round(await tokens_per_second(engine, adapters[:held], 8, new_tokens), 1)
        for held in (1, ADAPTERS)
    }
    memory = sum(each.memory_full_info().pss for each in processes())
    await engine.close()
    return {
        "start_seconds": round(started, 1),
        "load_seconds_with_fingerprint": loads[:FINGERPRINTS],
        "load_seconds": loads[FINGERPRINTS:],
        "refused": refused,
        "largest_difference_with_adapter": max(each[0] for each in distances),
        "largest_difference_of_the_base": max(each[1] for each in distances),
        "likeliest_tokens_equal": [each[2] for each in distances],
        "tokens_per_processor_second": rates,
        "mib": round(memory / (1 << 20)),
    }


async def distances_of(engine: VllmEngine, adapter: Deployable) -> tuple[float, float, str]:
    assert adapter.fingerprint is not None
    expected = adapter.fingerprint.marks
    server = engine._running()
    found = await engine._measure(server, server.names[adapter.digest], adapter.fingerprint)
    pairs = list(zip(expected, found, strict=True))
    with_adapter = max(_largest(mark.adapter, other.adapter) for mark, other in pairs)
    of_base = max(_largest(mark.base, other.base) for mark, other in pairs)
    tokens = [a == b for mark, other in pairs for a, b in zip(mark.tokens, other.tokens, strict=True)]
    return with_adapter, of_base, f"{sum(tokens)} of {len(tokens)}"


def _largest(one: LogProbabilities, other: LogProbabilities) -> float:
    return max(abs(a - b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


async def tokens_per_second(engine: VllmEngine, adapters: Sequence[Deployable], answers: int, new_tokens: int) -> float:
    async def one(number: int) -> int:
        messages = [{"role": "user", "content": letter(number)}]
        answer = await engine.answer(
            EngineRequest(adapters[number % len(adapters)].digest, messages, Sampling(new_tokens))
        )
        return sum([piece.tokens async for piece in answer.pieces])

    before = processor_seconds()
    counted = await asyncio.gather(*(one(number) for number in range(answers)))
    return sum(counted) / (processor_seconds() - before)


def processor_seconds() -> float:
    times = [each.cpu_times() for each in processes()]
    return sum(each.user + each.system for each in times)


def processes() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


if __name__ == "__main__":
    main()
