"""PPO and the other algorithms of the recipe, TRL's GRPO and DPO on the same reward, in the same time by the clock.

    .venv/bin/python -m benchmarks.rlhf.run --out DIR [--minutes 3] [--seeds 3] [--arms ppo trl-grpo]

All start from one SFT adapter of SmolLM2-135M-Instruct, made of the demonstration's letters about permits, and are paid
by the demonstration's tools. The time is that of learning, without loading. So that learning rates fall to zero at its
end, an arm's number of steps is decided before: a training of three steps is timed first, and the others do as many as
fit the minutes. Each training and each measurement is a process of its own and is kept under `rlhf-cells/` of --out, so
that an interrupted benchmark does what is missing; delete that directory to measure everything again. Method and
figures: docs/benchmarks/rlhf.md.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from benchmarks import harness
from benchmarks.harness import Cells, alternating, machine_facts, machine_line
from benchmarks.rlhf.task import PACE_STEPS, Prepared, Task
from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.base.intervals import clustered_interval
from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.record.stage import library_versions

HERE = Path(__file__).resolve().parent
MODEL = "smollm2-135m-instruct"
LIBRARIES = ("peft", "torch", "transformers", "trl")
STOCK, PAIRS, PARENT = "trl-grpo", "dpo", "parent"
PACE_PROMPTS = 8
"""Prompts of the sampling that dpo's number of prompts is reckoned from."""


def main() -> None:
    arms = (*algorithms(), STOCK, PAIRS)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=arms, default=arms)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    scripts = [each for each in sorted(HERE.glob("*.py")) if each.name != "run.py"] + [HERE.parent / "trainer_job.py"]
    cells = Cells(arguments.out / "rlhf-cells", scripts, library_versions(LIBRARIES))
    for result in measure(arguments, cells):
        harness.write_result(arguments.out, "rlhf", result, as_markdown(result))
        draw(result, arguments.out / "rlhf.png")


def algorithms() -> tuple[str, ...]:
    """Those that the recipe takes."""
    names: tuple[str, ...] = get_args(Rlhf.model_fields["algorithm"].annotation)
    return names


def measure(arguments: argparse.Namespace, cells: Cells) -> Iterator[dict[str, Any]]:
    """Yield the result after each seed."""
    prepared, identity = prepare(cells)
    parent = judge(PARENT, Path(prepared.facts["parent"]), prepared, identity, cells)
    result: dict[str, Any] = {
        "machine": machine_facts(),
        "libraries": library_versions(LIBRARIES),
        "kept_cells": cells.kept,
        "minutes": arguments.minutes,
        "precision": prepared.facts["sft"]["precision"],
        "parent": parent,
        "arms": {},
    }
    every = Rlhf.model_validate(prepared.facts["rlhf"]).measure_every
    paces = {arm: pace(arm, prepared, identity, cells) for arm in arguments.arms}
    trained: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arguments.arms}
    for number, arms in alternating(arguments.seeds, tuple(arguments.arms)):
        for arm in arms:
            steps = steps_within(arm, paces[arm], 60 * arguments.minutes, every)
            name = f"{arm}-{number + 1}"
            answer = train(name, Task(arm, number + 1, steps, str(prepared.directory), ""), identity, cells)
            # What found nothing better, or failed, leaves the parent adapter.
            adapter = cells.directory / name / "output" / "adapter"
            judged = judge(name, adapter, prepared, identity, cells) if answer["failed"] is None else parent
            trained[arm].append({**answer, "judged": judged})
        result["arms"] = {arm: summary(parent, runs) for arm, runs in trained.items()}
        yield result


def prepare(cells: Cells) -> tuple[Prepared, str]:
    """What all arms start from, and its digest."""
    data = harness.PROJECT_ROOT / "data"
    model = harness.base_model(MODEL)
    files = [file for name in ("lines", "models", "privacy", "rewards", "sources") for file in (data / name).rglob("*")]

    def run(place: Path) -> dict[str, Any]:
        return script("prepare.py", "--model", model, "--out", place)

    facts = {str(file.relative_to(data)): file_sha256(file) for file in sorted(files) if file.is_file()}
    cells.result("prepared", {"data": facts}, run)
    prepared = Prepared(cells.directory / "prepared")
    parent = weights_of(Path(prepared.facts["parent"]))
    made = (prepared.directory / "facts.json", prepared.prompts, prepared.held_out, prepared.judged, parent)
    return prepared, digest_of({file.name: file_sha256(file) for file in made})


def pace(arm: str, prepared: Prepared, identity: str, cells: Cells) -> dict[str, Any]:
    """A short training, timed. One that failed before it could be timed ends the program, and is not kept."""
    steps = PACE_PROMPTS if arm == PAIRS else PACE_STEPS
    task = Task(arm, 0, steps, str(prepared.directory), "")
    return train(f"{arm}-pace", task, identity, cells, refuse_untimed)


def refuse_untimed(arm: str, answer: Mapping[str, Any]) -> None:
    is_timed = answer["pairs"] and answer["steps"] if arm == PAIRS else len(answer["step_seconds"]) > 1
    if not is_timed:
        raise SystemExit(f"{arm}: {answer['failed']}")


def train(
    name: str,
    task: Task,
    identity: str,
    cells: Cells,
    check: Callable[[str, Mapping[str, Any]], None] = lambda arm, answer: None,
) -> dict[str, Any]:
    """The answer of an arm's script, with its usage. check: raises for one that is not to be kept."""
    arm_script = {STOCK: "stock_grpo.py", PAIRS: "dpo.py"}.get(task.arm, "ours.py")

    def run(place: Path) -> dict[str, Any]:
        Task(**{**asdict(task), "output": str(place / "output")}).write(place / "task.json")
        usage = script(arm_script, place / "task.json", place / "answer.json")
        answer = json.loads((place / "answer.json").read_bytes())
        check(task.arm, answer)
        return {**answer, **usage}

    return cells.result(name, {"task": asdict(task), "prepared": identity}, run)


def steps_within(arm: str, pace: Mapping[str, Any], seconds: float, measure_every: int) -> int:
    """Steps that fit the time, at the pace of the short training; one at least.

    The last of the short training's steps measures held-out prompts too where the algorithm does that. For dpo:
    prompts, each with its share of the sampling and of the learning from the pairs they give.
    """
    if arm == PAIRS:
        each: float = (pace["sampling_seconds"] + pace["learning_seconds"]) / pace["prompts"]
        return max(1, math.floor(seconds / each))
    if arm == STOCK:
        return max(1, math.floor(seconds / fmean(pace["step_seconds"][1:])))
    plain, last = pace["step_seconds"][0], pace["step_seconds"][-1]
    measuring = max(0.0, last - plain)
    steps = 1
    while (steps + 1) * plain + math.ceil((steps + 1) / measure_every) * measuring <= seconds:
        steps += 1
    return steps


def judge(name: str, adapter: Path, prepared: Prepared, identity: str, cells: Cells) -> dict[str, Any]:
    def run(place: Path) -> dict[str, Any]:
        paths = ["--prepared", prepared.directory, "--adapter", adapter]
        script("held_out.py", *paths, "--answer", place / "answer.json")
        found: dict[str, Any] = json.loads((place / "answer.json").read_bytes())
        return found

    return cells.result(f"held-out/{name}", {"adapter": file_sha256(weights_of(adapter)), "prepared": identity}, run)


def weights_of(adapter: Path) -> Path:
    return adapter / "adapter_model.safetensors"


def script(name: str, *arguments: object) -> dict[str, float]:
    """Run a script of this directory; see `harness.run`."""
    return harness.run([HERE / name, *arguments])


def summary(parent: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of one arm: the mean reward over seeds, and its difference from the parent's on the same prompts.

    The interval is over case files, of each prompt's mean over the seeds: it says what other letters would change. What
    other seeds would is `between_seeds`. A prompt for which any judged adapter has no reward is left out.
    """
    before = parent["prompts"]
    each = [run["judged"]["prompts"] for run in runs]
    names = [name for name in before if all(prompts[name]["reward"] is not None for prompts in (before, *each))]
    differences = [fmean(prompts[name]["reward"] for prompts in each) - before[name]["reward"] for name in names]
    of_seeds = [fmean(prompts[name]["reward"] for name in names) for prompts in each]
    low, high = clustered_interval(differences, [before[name]["case"] for name in names], seed=0)
    return {
        "runs": runs,
        "prompts": len(names),
        "cases": len({before[name]["case"] for name in names}),
        "reward": fmean(of_seeds),
        "difference": fmean(differences),
        "interval": [low, high],
        "rewards": of_seeds,
        "between_seeds": statistics.stdev(of_seeds) if len(runs) > 1 else None,
    }


# --- what people read ---


def as_markdown(result: Mapping[str, Any]) -> str:
    before = [each["reward"] for each in result["parent"]["prompts"].values() if each["reward"] is not None]
    lines = [
        machine_line(result),
        "",
        f"{result['minutes']:g} minutes of learning an arm and seed, in {result['precision']}. The parent adapter's "
        f"reward on {len(before)} held-out prompts is {fmean(before):.3f}.",
        "",
        "| arm | seeds | held-out reward | less the parent's (95 %) | between seeds | KL, nats a reply | steps "
        "| learning s | process s | peak GB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    notes = []
    for arm, measured in result["arms"].items():
        runs = measured["runs"]
        low, high = measured["interval"]
        deviation = "" if measured["between_seeds"] is None else f"{measured['between_seeds']:.3f}"
        lines.append(
            f"| {arm} | {len(runs)} | {measured['reward']:.3f} | {measured['difference']:+.3f} ({low:+.3f} to "
            f"{high:+.3f}) | {deviation} | {fmean(run['judged']['divergence'] for run in runs):.2f} | "
            f"{between(run['steps'] for run in runs)} | {between(run.get('loop_seconds', 0) for run in runs)} | "
            f"{between(run['whole_seconds'] for run in runs)} | {max(run['peak_bytes'] for run in runs) / 1e9:.2f} |"
        )
        for seed, run in enumerate(runs, start=1):
            why = run["failed"] or run.get("stopped")
            if why:
                notes.append(f"- {arm}, seed {seed}, {'kept the parent' if run['failed'] else 'ended early'}: {why}")
    return "\n".join([*lines, "", *notes, ""])


def between(values: Iterable[float]) -> str:
    """The lowest and the highest, in whole numbers."""
    found = sorted(values)
    low, high = f"{found[0]:.0f}", f"{found[-1]:.0f}"
    return low if low == high else f"{low} to {high}"


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Held-out reward of each arm, a point for each seed; and the same over the divergence."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    parent = fmean(each["reward"] for each in result["parent"]["prompts"].values() if each["reward"] is not None)
    figure, (bars, frontier) = plt.subplots(1, 2, figsize=(10, 0.5 * len(result["arms"]) + 2))
    for place, (arm, measured) in enumerate(result["arms"].items()):
        bars.barh(place, measured["reward"], color=f"C{place}", alpha=0.5)
        bars.plot(measured["rewards"], [place] * len(measured["rewards"]), "o", color=f"C{place}", markersize=4)
        far = [run["judged"]["divergence"] for run in measured["runs"]]
        frontier.plot(far, measured["rewards"], "o", color=f"C{place}", label=arm)
    bars.set_yticks(range(len(result["arms"])), list(result["arms"]))
    bars.invert_yaxis()
    bars.set_xlabel(f"held-out reward after {result['minutes']:g} minutes; line: parent adapter")
    bars.axvline(parent, color="black", linestyle=":")
    frontier.axhline(parent, color="black", linestyle=":")
    frontier.set_xlabel("KL from the parent adapter, nats a reply")
    frontier.set_ylabel("held-out reward")
    frontier.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
