"""`make bench-serving`: gateway, rollback, local engine and soak in one run, as one page.

    python -m benchmarks.serving.run --out DIR [--rounds 3] [--soak-minutes 5] [--litellm PROGRAM]

Each part also runs alone: `streaming`, `rollback`, `local_engine`, `soak`. What belongs here: their order and the page.
What does not: any figure of theirs.
"""

import argparse
import asyncio
import os
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.harness import machine_facts, machine_line, say, spread, write_result
from benchmarks.serving import local_engine, rollback, soak, streaming

LIBRARIES = ("fastapi", "uvicorn", "torch", "transformers", "peft")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    streaming.add_arguments(parser)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rollbacks", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--soak-minutes", type=float, default=5.0)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": machine_facts(), "libraries": {each: version(each) for each in LIBRARIES}}
    say("streams")
    result["streaming"] = streaming.measure(
        given.streams, given.tokens, given.rate, given.rounds, given.without, given.litellm
    )
    say("rollback")
    result["rollback"] = rollback.measure(given.streams, given.rollbacks)
    say("local engine")
    with tempfile.TemporaryDirectory() as name:
        adapters = local_engine.make_adapters(Path(name))
        result["local_engine"] = asyncio.run(local_engine.measure(adapters, given.threads, given.rounds, 24))
    say("soak")
    result["soak"] = soak.measure(given.soak_minutes, 8, 40)
    result["load_after"] = os.getloadavg()[0]
    write_result(given.out, "serving", result, page(result))


def page(result: Mapping[str, Any]) -> str:
    """Everything, as Markdown."""
    told, engine = result["streaming"], result["local_engine"]
    left_out = f" Left out: {', '.join(told['left_out'])}." if told["left_out"] else ""
    rates = [f"| {name} | {spread(values)} |" for name, values in engine["rounds"].items()]
    return "\n".join(
        [
            f"{machine_line(result)} Load after the end {result['load_after']:.1f}.",
            "",
            f"{told['streams']} streams of {told['tokens']} tokens, {told['tokens_per_second']:g} a second each; "
            f"medians of {len(told['rounds'])} rounds (lowest to highest). {told['failed']} streams failed.{left_out}",
            "",
            streaming.table(told),
            "",
            rollback.told(result["rollback"]),
            "",
            "| local engine, tokens per second of the processor | |",
            "|---|---|",
            *rates,
            f"| 8 answers against `generate` with the same batch, times | {engine['batch_against_generate']} |",
            f"| 8 adapters against `generate` with `adapter_names`, times | {engine['mixed_against_adapter_names']} |",
            f"| 8 answers together against one by one, times | {engine['batch_against_one_by_one']} |",
            f"| 12 adapters interleaved against one, times | {engine['12_adapters_against_one']} |",
            f"| memory of an adapter, and of its weights, MiB | {engine['mib_per_adapter']}, "
            f"{engine['mib_of_its_weights']} |",
            "",
            f"Soak: {soak.told(result['soak'])}",
            "",
        ]
    )


if __name__ == "__main__":
    main()
