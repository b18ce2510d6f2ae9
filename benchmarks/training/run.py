"""The trainer beside the stock TRL recipe in one run: tokens/s, peak memory, held-out loss; and what surrounds it.

    .venv/bin/python benchmarks/training/run.py --questions DIR --out DIR

DIR of --questions holds the two files of written questions that `benchmarks/parliament/run.py` takes. Each training is
a process of its own; the two sides take turns, and each round has a seed of its own. Both train a LoRA of rank 16 on
all linear layers of SmolLM2-135M-Instruct in float32 on the same rows once, with the same schedule and about the same
number of rows a step. What the stock recipe is told: `stock_trl.py`; what is held out and what the rows are: `rows.py`.
Tokens are those of the rows, without padding, on both sides. The stock recipe with nothing but TRL's own defaults
(bfloat16, gradient checkpointing) runs once, on few rows. Method and figures: docs/training-benchmark.md.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from task import Task, read_rows

from sovereign_pipeline.artifacts.making import library_versions
from sovereign_pipeline.settings import OFFLINE_ENVIRONMENT, PROJECT_ROOT, Settings

HERE = Path(__file__).resolve().parent
MODEL = "smollm2-135m-instruct"
LIBRARIES = ("peft", "torch", "transformers", "trl")
PARTS = ("sft", "dpo", "overhead")
ARMS = {"ours": "ours.py", "stock": "stock_trl.py"}
RESAMPLES = 5_000

# What each method is told, on both sides.
LEARNING_RATES = {"sft": 5e-4, "dpo": 5e-5}
PACKS_A_STEP = {"sft": 1, "dpo": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--pairs", type=int, default=24)
    parser.add_argument("--held-out", type=int, default=48)
    parser.add_argument("--as-it-comes-rows", type=int, default=8, help="0: leave that out")
    parser.add_argument("--overhead-rows", type=int, default=1000)
    arguments = parser.parse_args()
    model = Settings.from_environment().models / MODEL
    if not (model / "model.safetensors").is_file():
        sys.exit(f"{model}: the base model is not there. Run `sovereign models fetch {MODEL}`.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.out) as directory:
        for result in measure(arguments, model, Path(directory)):
            (arguments.out / "training.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            (arguments.out / "training.md").write_text(as_markdown(result), encoding="utf-8")
            draw(result, arguments.out / "training.png")


def measure(arguments: argparse.Namespace, model: Path, directory: Path) -> Iterator[dict[str, Any]]:
    """Yields what there is after each part, so that a later one that fails loses nothing."""
    sizes = [arguments.rows, arguments.pairs, arguments.held_out, arguments.overhead_rows]
    named = zip(("--rows", "--pairs", "--held-out", "--overhead-rows"), map(str, sizes), strict=True)
    options = ["--questions", arguments.questions, "--model", model, "--out", directory]
    run([HERE / "rows.py", *options, *(word for pair in named for word in pair)])
    tokens = json.loads((directory / "tokens.json").read_bytes())
    result: dict[str, Any] = {
        "machine": {
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "load_before": os.getloadavg()[0],
        },
        "libraries": library_versions(LIBRARIES),
        "data": tokens,
    }
    if "sft" in arguments.parts:
        result["sft"] = compare(first_task("sft", model, directory), tokens["sft"], arguments, directory)
        yield result
    if "dpo" in arguments.parts:
        say("dpo: the SFT adapter that both sides start from")
        start = replace(first_task("sft", model, directory), output=str(directory / "start" / "output"))
        one_training("ours", start)
        task = replace(first_task("dpo", model, directory), start_adapter=str(Path(start.output) / "adapter"))
        result["dpo"] = compare(task, tokens["dpo"], arguments, directory)
        yield result
    if "overhead" in arguments.parts:
        say("overhead: the stage sft_adapter and its gates")
        card = PROJECT_ROOT / "data" / "models" / f"{MODEL}.yaml"
        paths = ["--model", model, "--card", card, "--rows", directory / "overhead.jsonl"]
        (directory / "overhead").mkdir()
        work = ["--work", directory / "overhead", "--answer", directory / "overhead.json"]
        run([HERE / "overhead.py", *paths, *work])
        result["overhead"] = json.loads((directory / "overhead.json").read_bytes())
        yield result


def first_task(method: Literal["sft", "dpo"], model: Path, directory: Path) -> Task:
    return Task(
        method=method,
        model=str(model),
        rows=str(directory / f"{method}.jsonl"),
        output="",
        seed=0,
        learning_rate=LEARNING_RATES[method],
        packs_a_step=PACKS_A_STEP[method],
    )


def compare(task: Task, data: dict[str, int], arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Rounds of both sides, the held-out loss of every adapter, and the stock recipe as it comes."""
    rounds: list[dict[str, Any]] = []
    adapters: dict[str, Path] = {}
    steps = 0  # of a training here, which comes first in the first round
    for number in range(arguments.rounds):
        answers: dict[str, Any] = {}
        for side in ("ours", "stock") if number % 2 == 0 else ("stock", "ours"):
            say(f"{task.method}, round {number + 1} of {arguments.rounds}: {side}")
            output = directory / task.method / f"{side}-{number}" / "output"
            told = replace(task, seed=number + 1, output=str(output))
            if side == "stock":
                # About as many rows a step as the packs of the other side hold on average.
                accumulation = max(1, round(data["rows"] / steps / task.batch_size))
                told = replace(told, accumulation=accumulation)
            answers[side] = rates(one_training(side, told), data["tokens"])
            adapters[f"{side}-{number}"] = output / "adapter"
            steps = answers["ours"]["steps"] if side == "ours" else steps
        rounds.append(answers)
    say(f"{task.method}: held-out loss")
    losses = held_out_losses(task, adapters, directory)
    result = {
        "rounds": rounds,
        "ratios": {
            "loop_seconds": [each["stock"]["loop_seconds"] / each["ours"]["loop_seconds"] for each in rounds],
            "whole_seconds": [each["stock"]["whole_seconds"] / each["ours"]["whole_seconds"] for each in rounds],
            "cpu_seconds": [each["stock"]["cpu_seconds"] / each["ours"]["cpu_seconds"] for each in rounds],
            "peak_bytes": [each["stock"]["peak_bytes"] / each["ours"]["peak_bytes"] for each in rounds],
        },
        "held_out": held_out_summary(losses, arguments.rounds),
    }
    if arguments.as_it_comes_rows:
        say(f"{task.method}: the stock recipe as it comes, {arguments.as_it_comes_rows} rows")
        result["as_it_comes"] = stock_as_it_comes(task, arguments.as_it_comes_rows, data, directory)
    return result


def stock_as_it_comes(task: Task, rows: int, data: dict[str, int], directory: Path) -> dict[str, Any]:
    """On the rows' share of the tokens, since no more than the rate is asked for."""
    few = directory / f"{task.method}-few.jsonl"
    chosen = read_rows(task.rows)[:rows]
    few.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    place = directory / task.method / "as-it-comes"
    told = replace(task, rows=str(few), output=str(place / "output"), seed=1, as_it_comes=True)
    return rates(one_training("stock", told), round(data["tokens"] * len(chosen) / data["rows"]))


def one_training(side: str, task: Task) -> dict[str, Any]:
    """One side's training in its own process: what it answers, and time, CPU time and peak memory seen from outside."""
    place = Path(task.output).parent
    place.mkdir(parents=True, exist_ok=True)
    task.write(place / "task.json")
    outside = run([HERE / ARMS[side], place / "task.json", place / "answer.json"])
    return {**json.loads((place / "answer.json").read_bytes()), **outside}


def rates(answer: dict[str, Any], tokens: int) -> dict[str, Any]:
    return {
        **answer,
        "tokens": tokens,
        "loop_tokens_per_second": tokens / answer["loop_seconds"],
        "whole_tokens_per_second": tokens / answer["whole_seconds"],
    }


def run(command: Sequence[object]) -> dict[str, float]:
    """Run a script. Its output is dropped unless it fails. Peak: the highest resident memory of one process of it."""
    environment = {
        **os.environ,
        **OFFLINE_ENVIRONMENT,
        "OMP_WAIT_POLICY": "PASSIVE",  # as the trainer's process has it
        "PYTHONPATH": str(PROJECT_ROOT),
    }
    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.monotonic() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            output.seek(0)
            sys.stderr.write(output.read().decode(errors="replace")[-4000:])
            sys.exit(f"{command[0]} ended with status {process.returncode}.")
    return {
        "whole_seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024,
    }


def held_out_losses(task: Task, adapters: dict[str, Path], directory: Path) -> dict[str, list[list[float]]]:
    answer = directory / f"{task.method}-held-out.json"
    options = ["--model", task.model, "--rows", directory / f"{task.method}_held_out.jsonl", "--answer", answer]
    if task.method == "dpo":
        options += ["--reference", task.start_adapter, "--beta", task.beta]
    run([HERE / "held_out.py", *options, *(f"{name}={path}" for name, path in adapters.items())])
    losses: dict[str, list[list[float]]] = json.loads(answer.read_bytes())
    return losses


def held_out_summary(losses: dict[str, list[list[float]]], rounds: int) -> dict[str, Any]:
    """Mean loss a unit of weight (token, or pair) of each side over its rounds, and ours less stock with the 95 %
    interval of a bootstrap over the rows and the rounds (percentiles; Efron & Tibshirani 1993, chapter 13): another
    seed is another order of the rows and with it another adapter, on either side."""
    weights = [weight for _, weight in next(iter(losses.values()))]
    total = sum(weights)
    differences = [
        [mine - theirs for (mine, _), (theirs, _) in zip(losses[f"ours-{each}"], losses[f"stock-{each}"], strict=True)]
        for each in range(rounds)
    ]
    rng = random.Random(0)
    resampled = []
    for _ in range(RESAMPLES):
        drawn = rng.choices(range(len(weights)), k=len(weights))
        trained = rng.choices(differences, k=rounds)
        weight = sum(weights[place] for place in drawn)
        resampled.append(sum(each[place] for each in trained for place in drawn) / rounds / weight)
    resampled.sort()
    by_round = {name: sum(loss for loss, _ in rows) / total for name, rows in losses.items()}
    sides = {side: [by_round[f"{side}-{number}"] for number in range(rounds)] for side in ARMS}
    return {
        "rows": len(weights),
        "weight": total,
        **{side: statistics.fmean(values) for side, values in sides.items()},
        "between_rounds": {side: statistics.stdev(values) if rounds > 1 else None for side, values in sides.items()},
        "difference": statistics.fmean(sides["ours"]) - statistics.fmean(sides["stock"]),
        "interval": [resampled[round(RESAMPLES * 0.025)], resampled[round(RESAMPLES * 0.975) - 1]],
        "by_round": by_round,
    }


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def say(message: str) -> None:
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


# --- what people read ---


def as_markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["libraries"].items())
    lines = [
        f"{machine['processor']}, {machine['cores']} cores (load before the start {machine['load_before']:.1f}), "
        f"Python {machine['python']}; {versions}.",
        "",
    ]
    for method in ("sft", "dpo"):
        if method in result:
            lines += comparison(method, result[method], result["data"][method])
    if "overhead" in result:
        lines += overhead(result["overhead"], result["data"]["overhead"])
    return "\n".join(lines)


def comparison(method: str, measured: dict[str, Any], data: dict[str, int]) -> list[str]:
    unit = "rows" if method == "sft" else "pairs"
    lines = [
        f"### {method.upper()}: {data['rows']} {unit}, {data['tokens']:,} tokens a round",
        "",
        "| round | side | steps | loop s | loop tokens/s | process s | CPU s | peak GB |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for number, each in enumerate(measured["rounds"], start=1):
        lines += [table_row(str(number), "here", each["ours"]), table_row(str(number), "stock TRL", each["stock"])]
    if "as_it_comes" in measured:
        lines.append(table_row("", "stock TRL as it comes", measured["as_it_comes"]))
    ratios = measured["ratios"]
    held_as = measured["rounds"][0]["stock"]["held_as"]
    stock_batch = f"batches of {held_as['batch_size']} × {held_as['accumulation']}"
    held = measured["held_out"]
    name = "negative log likelihood a supervised token" if method == "sft" else "DPO loss a pair"
    low, high = held["interval"]
    base = f" (base {held['by_round']['base']:.4f})" if "base" in held["by_round"] else ""
    deviations = held["between_rounds"]
    between = (
        f" From round to round, so from seed to seed, it has a standard deviation of {deviations['ours']:.4f} here and "
        f"{deviations['stock']:.4f} stock."
        if deviations["stock"] is not None
        else ""
    )
    return [
        *lines,
        "",
        f"Stock over here, median of the rounds (lowest to highest): loop {spread(ratios['loop_seconds'])}, whole "
        f"process {spread(ratios['whole_seconds'])}, CPU time {spread(ratios['cpu_seconds'])}, peak memory "
        f"{spread(ratios['peak_bytes'])}. Stock in {stock_batch} padded rows, float32, no gradient checkpointing.",
        "",
        f"Held out, {held['rows']} {unit}: {name} {held['ours']:.4f} here, {held['stock']:.4f} stock{base}; here less "
        f"stock {held['difference']:+.4f} (95 % {low:+.4f} to {high:+.4f}).{between}",
        "",
    ]


def table_row(number: str, side: str, answer: dict[str, Any]) -> str:
    return (
        f"| {number} | {side} | {answer['steps']} | {answer['loop_seconds']:.1f} | "
        f"{answer['loop_tokens_per_second']:.1f} | {answer['whole_seconds']:.1f} | {answer['cpu_seconds']:.1f} | "
        f"{answer['peak_bytes'] / 1e9:.2f} |"
    )


def overhead(measured: dict[str, Any], data: dict[str, int]) -> list[str]:
    training = measured["training_seconds"]
    fixed = measured["stage_seconds"] - training
    parts = [f"| {name} | {seconds:.1f} | {seconds / training:.2%} |" for name, seconds in measured["parts"].items()]
    return [
        f"### Around the loop: {data['rows']} rows, {data['tokens']:,} tokens",
        "",
        "| part of the stage sft_adapter | s | of the loop |",
        "|---|---:|---:|",
        f"| training loop | {training:.1f} | |",
        *parts,
        f"| all but the loop | {fixed:.1f} | {measured['overhead_share']:.2%} |",
        "",
        f"The trainer's process with the same job and no rows: {measured['process_without_rows_seconds']:.1f} s. "
        f"The gates, apart: {measured['gates_seconds']:.1f} s "
        f"({'all passed' if measured['gates_passed'] else 'not all passed'}). What is not the loop is 3 % of a "
        f"training of {fixed / 0.03 / 60:.0f} minutes.",
        "",
    ]


def spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def draw(result: dict[str, Any], path: Path) -> None:
    """Tokens/s of the loop and peak memory: a bar for the median, a point for each round."""
    methods = [method for method in ("sft", "dpo") if method in result]
    if not methods:
        return
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    asked = (("loop_tokens_per_second", 1.0, "tokens/s in the loop"), ("peak_bytes", 1e-9, "peak memory, GB"))
    figure, axes = plt.subplots(len(methods), 2, figsize=(9, 2.2 * len(methods) + 0.4), squeeze=False)
    for row, method in enumerate(methods):
        measured = result[method]
        sides = {"this project": [each["ours"] for each in measured["rounds"]]}
        sides["stock TRL"] = [each["stock"] for each in measured["rounds"]]
        if "as_it_comes" in measured:
            sides["stock TRL as it comes"] = [measured["as_it_comes"]]
        for axis, (field, scale, label) in zip(axes[row], asked, strict=True):
            for place, answers in enumerate(sides.values()):
                values = [answer[field] * scale for answer in answers]
                axis.barh(place, statistics.median(values), color=f"C{place}", alpha=0.5)
                axis.plot(values, [place] * len(values), "o", color=f"C{place}", markersize=4)
            axis.set_yticks(range(len(sides)), list(sides))
            axis.invert_yaxis()
            axis.set_xlabel(f"{method.upper()}: {label}")
    figure.tight_layout()
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
