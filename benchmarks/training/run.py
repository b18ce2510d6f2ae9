"""The trainer beside the stock TRL recipe in one run: tokens/s, peak memory, held-out loss; and what surrounds it.

    .venv/bin/python -m benchmarks.training.run --questions DIR --out DIR

DIR of --questions holds the two files of written questions that `benchmarks/parliament/run.py` takes. Each training is
a process of its own; the two arms alternate, and each round has its own seed. Both train a LoRA of rank 16 on all
linear layers of SmolLM2-135M-Instruct on the same rows once, with the same schedule and about the same number of rows
per step, in the precision in which stock TRL is faster on this machine: it trains a few rows in each before. The stock
recipe's arguments: `stock_trl.py`; the rows, and what is held out: `rows.py`. Tokens are those of the rows, without
padding, in both arms. The stock recipe with TRL's own defaults only (bfloat16, gradient checkpointing) runs once, on
few rows. `linear.py` measures the machine's limit first. Every training is kept under `training-cells/` of --out, so
that an interrupted benchmark measures what is missing; delete that directory to measure everything again. Method and
figures: docs/benchmarks/training.md.
"""

import argparse
import json
import random
import statistics
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks import harness
from benchmarks.harness import Cells, alternating, machine_facts, machine_line, ratios, say, spread
from benchmarks.training.task import Precision, Task, read_rows
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.record.stage import library_versions

HERE = Path(__file__).resolve().parent
MODEL = "smollm2-135m-instruct"
LIBRARIES = ("peft", "torch", "transformers", "trl")
PARTS = ("sft", "dpo", "overhead")
ARMS = {"ours": "ours.py", "stock": "stock_trl.py"}
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
MEASURING = (*ARMS.values(), "task.py", "rows.py", "held_out.py", "overhead.py", "linear.py")
RESAMPLES = 5_000

# Of each method, in both arms.
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
    parser.add_argument("--trial-rows", type=int, default=16, help="of stock TRL in each precision")
    parser.add_argument("--as-it-comes-rows", type=int, default=8, help="0: leave that out")
    parser.add_argument("--overhead-rows", type=int, default=500)
    arguments = parser.parse_args()
    model = harness.base_model(MODEL)
    scripts = [*(HERE / name for name in MEASURING), HERE.parent / "trainer_job.py"]
    cells = Cells(arguments.out / "training-cells", scripts, library_versions(LIBRARIES))
    cells.directory.mkdir(parents=True, exist_ok=True)
    for result in measure(arguments, model, cells):
        harness.write_result(arguments.out, "training", result, as_markdown(result))
        draw(result, arguments.out / "training.png")


def measure(arguments: argparse.Namespace, model: Path, cells: Cells) -> Iterator[dict[str, Any]]:
    """Yield the result after each part."""
    directory = cells.directory
    sizes = [arguments.rows, arguments.pairs, arguments.held_out, arguments.overhead_rows]
    named = zip(("--rows", "--pairs", "--held-out", "--overhead-rows"), map(str, sizes), strict=True)
    options = ["--questions", arguments.questions, "--model", model, "--out", directory]
    script("rows.py", *options, *(word for pair in named for word in pair))
    tokens = json.loads((directory / "tokens.json").read_bytes())
    result: dict[str, Any] = {
        "machine": machine_facts(),
        "libraries": library_versions(LIBRARIES),
        "kept_cells": cells.kept,
        "data": tokens,
        "linear": cells.result("linear", {}, linear),
    }
    if "sft" in arguments.parts:
        result["sft"] = compare(first_task("sft", model, directory), tokens["sft"], arguments, cells)
        yield result
    if "dpo" in arguments.parts:
        one_training("dpo/parent", "ours", first_task("sft", model, directory), cells)
        parent = directory / "dpo" / "parent" / "output" / "adapter"
        task = replace(first_task("dpo", model, directory), parent_adapter=str(parent))
        result["dpo"] = compare(task, tokens["dpo"], arguments, cells)
        yield result
    if "overhead" in arguments.parts:
        rows = directory / "overhead.jsonl"

        def stage_and_gates(place: Path) -> dict[str, Any]:
            card = harness.PROJECT_ROOT / "data" / "models" / f"{MODEL}.yaml"
            (place / "work").mkdir()
            paths = ["--model", model, "--card", card, "--rows", rows, "--work", place / "work"]
            script("overhead.py", *paths, "--answer", place / "answer.json")
            measured: dict[str, Any] = json.loads((place / "answer.json").read_bytes())
            return measured

        result["overhead"] = cells.result("overhead", {"rows": file_sha256(rows)}, stage_and_gates)
        yield result


def linear(place: Path) -> dict[str, Any]:
    """FLOP/s that matrix products reach on this machine; see `linear.py`."""
    script("linear.py", place / "answer.json")
    reached: dict[str, Any] = json.loads((place / "answer.json").read_bytes())
    return reached


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


def compare(task: Task, data: dict[str, int], arguments: argparse.Namespace, cells: Cells) -> dict[str, Any]:
    """Stock TRL in both precisions on few rows; rounds of both arms in its better one, and the held-out loss of every
    adapter; the stock recipe as it comes."""
    trials = {
        precision: few_rows(replace(task, precision=precision), arguments.trial_rows, f"trial-{precision}", data, cells)
        for precision in PRECISIONS
    }
    # By CPU time, because other work on the machine once made the slower precision look faster.
    task = replace(task, precision=min(PRECISIONS, key=lambda each: float(trials[each]["cpu_seconds"])))
    say(f"{task.method}: stock TRL is faster in {task.precision}, so the rounds are in it")
    rounds: list[dict[str, Any]] = []
    adapters: dict[str, Path] = {}
    steps = 0  # of a training here, which comes first in the first round
    for number, arms in alternating(arguments.rounds, tuple(ARMS)):
        answers: dict[str, Any] = {}
        for arm in arms:
            trained = replace(task, seed=number + 1)
            if arm == "stock":
                # About as many rows per step as the packs of the other arm hold on average.
                accumulation = max(1, round(data["rows"] / steps / task.batch_size))
                trained = replace(trained, accumulation=accumulation)
            name = f"{task.method}/{arm}-{number}"
            answers[arm] = rates(one_training(name, arm, trained, cells), data["tokens"])
            adapters[f"{arm}-{number}"] = cells.directory / name / "output" / "adapter"
            steps = answers["ours"]["steps"] if arm == "ours" else steps
        rounds.append(answers)
    losses = held_out_losses(task, adapters, cells)
    result = {
        "precision": task.precision,
        "trials": trials,
        "rounds": rounds,
        "ratios": ratios(rounds, "stock", "ours", ("loop_seconds", "whole_seconds", "cpu_seconds", "peak_bytes")),
        "held_out": held_out_summary(losses, arguments.rounds),
    }
    if arguments.as_it_comes_rows:
        as_it_comes = replace(task, as_it_comes=True, precision="float32")  # in which TRL loads a model
        result["as_it_comes"] = few_rows(as_it_comes, arguments.as_it_comes_rows, "as-it-comes", data, cells)
    return result


def few_rows(task: Task, rows: int, name: str, data: dict[str, int], cells: Cells) -> dict[str, Any]:
    """Stock TRL on the rows' share of the tokens, since only the rate is wanted."""
    few = cells.directory / f"{task.method}-{rows}.jsonl"
    chosen = read_rows(task.rows)[:rows]
    few.write_text("".join(json.dumps(row) + "\n" for row in chosen), encoding="utf-8")
    answer = one_training(f"{task.method}/{name}", "stock", replace(task, rows=str(few), seed=1), cells)
    return rates(answer, round(data["tokens"] * len(chosen) / data["rows"]))


def one_training(name: str, arm: str, task: Task, cells: Cells) -> dict[str, Any]:
    """One arm's training in its own process: its answer, and its time, CPU time and peak memory from outside."""

    def train(place: Path) -> dict[str, Any]:
        replace(task, output=str(place / "output")).write(place / "task.json")
        usage = script(ARMS[arm], place / "task.json", place / "answer.json")
        return {**json.loads((place / "answer.json").read_bytes()), **usage}

    facts = {"task": asdict(task), "rows": file_sha256(Path(task.rows))}
    if task.parent_adapter is not None:
        facts["parent"] = adapter_sha256(Path(task.parent_adapter))
    return cells.result(name, facts, train)


def adapter_sha256(adapter: Path) -> str:
    return file_sha256(adapter / "adapter_model.safetensors")


def script(name: str, *arguments: object) -> dict[str, float]:
    """Run a script of this directory; see `harness.run`."""
    return harness.run([HERE / name, *arguments])


def rates(answer: dict[str, Any], tokens: int) -> dict[str, Any]:
    return {
        **answer,
        "tokens": tokens,
        "loop_tokens_per_second": tokens / answer["loop_seconds"],
        "whole_tokens_per_second": tokens / answer["whole_seconds"],
    }


def held_out_losses(task: Task, adapters: dict[str, Path], cells: Cells) -> dict[str, list[list[float]]]:
    rows = cells.directory / f"{task.method}_held_out.jsonl"
    options = ["--model", task.model, "--rows", rows]
    if task.method == "dpo":
        options += ["--reference", task.parent_adapter, "--beta", task.beta]

    def measure(place: Path) -> dict[str, Any]:
        answer = place / "answer.json"
        script("held_out.py", *options, "--answer", answer, *(f"{name}={path}" for name, path in adapters.items()))
        losses: dict[str, Any] = json.loads(answer.read_bytes())
        return losses

    facts = {
        "rows": file_sha256(rows),
        "adapters": {name: adapter_sha256(path) for name, path in adapters.items()},
        "options": [str(each) for each in options],
    }
    return cells.result(f"{task.method}/held-out", facts, measure)


def held_out_summary(losses: dict[str, list[list[float]]], rounds: int) -> dict[str, Any]:
    """Mean loss per token, or per pair, of each arm over its rounds; and ours minus stock with its 95 % interval.

    The interval is that of a bootstrap over rows and rounds (percentiles; Efron & Tibshirani 1993, chapter 13): another
    seed is another order of the rows, and with it another adapter, in either arm.
    """
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
    arms = {arm: [by_round[f"{arm}-{number}"] for number in range(rounds)] for arm in ARMS}
    return {
        "rows": len(weights),
        "weight": total,
        **{arm: statistics.fmean(values) for arm, values in arms.items()},
        "between_rounds": {arm: statistics.stdev(values) if rounds > 1 else None for arm, values in arms.items()},
        "difference": statistics.fmean(arms["ours"]) - statistics.fmean(arms["stock"]),
        "interval": [resampled[round(RESAMPLES * 0.025)], resampled[round(RESAMPLES * 0.975) - 1]],
        "by_round": by_round,
    }


# --- what people read ---


def as_markdown(result: dict[str, Any]) -> str:
    lines = [machine_line(result), ""]
    for method in ("sft", "dpo"):
        if method in result:
            lines += comparison(method, result[method], result["data"][method], result["linear"]["flops_per_second"])
    if "overhead" in result:
        lines += overhead(result["overhead"], result["data"]["overhead"])
    return "\n".join(lines)


def comparison(method: str, measured: dict[str, Any], data: dict[str, int], limits: dict[str, float]) -> list[str]:
    unit = "rows" if method == "sft" else "pairs"
    lines = [
        f"### {method.upper()}: {data['rows']} {unit}, {data['tokens']:,} tokens a round",
        "",
        "| round | arm | steps | loop s | loop tokens/s | process s | CPU s | peak GB |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for number, each in enumerate(measured["rounds"], start=1):
        lines += [table_row(str(number), "here", each["ours"]), table_row(str(number), "stock TRL", each["stock"])]
    for precision, answer in measured["trials"].items():
        lines.append(table_row("", f"stock TRL, few {unit}, {precision}", answer))
    if "as_it_comes" in measured:
        lines.append(table_row("", "stock TRL as it comes", measured["as_it_comes"]))
    limit = limits[measured["precision"]]
    shares = [each["ours"]["flops"] / each["ours"]["loop_seconds"] / limit for each in measured["rounds"]]
    over = measured["ratios"]
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
        f"Stock over here, median of the rounds (lowest to highest): loop {spread(over['loop_seconds'])}, whole "
        f"process {spread(over['whole_seconds'])}, CPU time {spread(over['cpu_seconds'])}, peak memory "
        f"{spread(over['peak_bytes'])}. Both in {measured['precision']}, stock's faster one here; stock in "
        f"{stock_batch} padded rows, no gradient checkpointing.",
        "",
        f"`linear` reaches {' and '.join(f'{each / 1e9:.0f} GFLOP/s in {name}' for name, each in limits.items())}; of "
        f"that in {measured['precision']}, the loop here reaches a share of {spread(shares)}.",
        "",
        f"Held out, {held['rows']} {unit}: {name} {held['ours']:.4f} here, {held['stock']:.4f} stock{base}; here less "
        f"stock {held['difference']:+.4f} (95 % {low:+.4f} to {high:+.4f}).{between}",
        "",
    ]


def table_row(number: str, arm: str, answer: dict[str, Any]) -> str:
    return (
        f"| {number} | {arm} | {answer['steps']} | {answer['loop_seconds']:.1f} | "
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
        arms = {"this project": [each["ours"] for each in measured["rounds"]]}
        arms["stock TRL"] = [each["stock"] for each in measured["rounds"]]
        if "as_it_comes" in measured:
            arms["stock TRL as it comes"] = [measured["as_it_comes"]]
        for axis, (field, scale, label) in zip(axes[row], asked, strict=True):
            for place, answers in enumerate(arms.values()):
                values = [answer[field] * scale for answer in answers]
                axis.barh(place, statistics.median(values), color=f"C{place}", alpha=0.5)
                axis.plot(values, [place] * len(values), "o", color=f"C{place}", markersize=4)
            axis.set_yticks(range(len(arms)), list(arms))
            axis.invert_yaxis()
            axis.set_xlabel(f"{method.upper()}: {label}")
    figure.tight_layout()
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
