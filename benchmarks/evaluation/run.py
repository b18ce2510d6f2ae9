"""The evaluation beside the lm-eval command line in one run: time for base, incumbent and candidate, and their answers.

    .venv/bin/python -m benchmarks.evaluation.run --data DIR --out DIR

DIR of --data holds `mmlu/` and `gsm8k/`; see `prepare.py`, which makes the tasks and three random adapters. In each
round both sides score three models on the same items in the same words, and take turns in who goes first. lm-eval is
run as a user would: one process a model, `lm_eval run --model hf`, with `peft=` for the adapters. Here one process is
for the three, and begins with nothing kept; then another one, in which base and incumbent are kept and the candidate
is new. Same model, precision and processor; answers in batches of one size. Method and figures:
docs/benchmarks/evaluation.md.
"""

import argparse
import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import alternating, machine_facts, machine_line, ratios, say, spread
from sovereign_pipeline.record.stage import library_versions

HERE = Path(__file__).resolve().parent
MODEL = "smollm2-135m-instruct"
LIBRARIES = ("lm-eval", "peft", "torch", "transformers")
TASKS = ("mmlu", "own_suite", "gsm8k")
ARMS = {"base": None, "incumbent": "first", "candidate": "second"}
NEXT = "third"
"""The candidate of the second session, whose incumbent is the candidate of the first."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--questions", type=int, default=60, help="of MMLU")
    parser.add_argument("--problems", type=int, default=8, help="of GSM8K")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--batch-size", type=int, default=8)
    arguments = parser.parse_args()
    model = harness.base_model(MODEL)
    arguments.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.out) as directory:
        for result in measure(arguments, model, Path(directory)):
            harness.write_result(arguments.out, "evaluation", result, as_markdown(result))


def measure(arguments: argparse.Namespace, model: Path, directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the result after each round, so that a later failure loses nothing."""
    say("tasks and adapters")
    sizes = ["--questions", arguments.questions, "--problems", arguments.problems, "--new-tokens", arguments.new_tokens]
    paths = ["--model", model, "--data", arguments.data, "--out", directory]
    run([HERE / "prepare.py", *paths, *sizes], directory)
    result: dict[str, Any] = {
        "machine": machine_facts(),
        "libraries": library_versions(LIBRARIES),
        "items": {task: len(rows_of(directory, task)) for task in TASKS},
        "batch_size": arguments.batch_size,
        "new_tokens": arguments.new_tokens,
        "rounds": [],
    }
    for number, order in alternating(arguments.rounds, ("ours", "lm_eval")):
        place = directory / f"round-{number}"
        place.mkdir()
        answers: dict[str, Any] = {}
        for program in order:
            say(f"round {number + 1} of {arguments.rounds}: {program}")
            if program == "ours":
                answers["ours"] = here(arguments, model, directory, place, ARMS["incumbent"], ARMS["candidate"])
                say(f"round {number + 1} of {arguments.rounds}: ours, base and incumbent kept")
                answers["kept"] = here(arguments, model, directory, place, ARMS["candidate"], NEXT)
            else:
                runs = {each: command_line(arguments, model, directory, place, each) for each in ARMS}
                answers["lm_eval"] = {
                    "runs": runs,
                    **{field: sum(each[field] for each in runs.values()) for field in ("whole_seconds", "cpu_seconds")},
                    "peak_bytes": max(each["peak_bytes"] for each in runs.values()),
                }
        if number == 0:
            result["agreement"] = agreement(directory, place, answers["ours"])
        for each in ("ours", "kept"):
            answers[each].pop("given")
        result["rounds"].append(answers)
        result["ratios"] = {
            each: ratios(result["rounds"], "lm_eval", each, ("whole_seconds", "cpu_seconds", "peak_bytes"))
            for each in ("ours", "kept")
        }
        yield result


def here(
    arguments: argparse.Namespace, model: Path, tasks: Path, place: Path, incumbent: str | None, candidate: str | None
) -> dict[str, Any]:
    """One session on the store of this round, which the first session finds empty."""
    answer = place / "ours.json"
    paths = ["--model", model, "--tasks", tasks, "--home", place / "home", "--answer", answer]
    adapters = ["--incumbent", tasks / str(incumbent), "--candidate", tasks / str(candidate)]
    sizes = ["--batch-size", arguments.batch_size, "--new-tokens", arguments.new_tokens]
    usage = run([HERE / "ours.py", *paths, *adapters, *sizes], tasks)
    return {**json.loads(answer.read_bytes()), **usage}


def command_line(arguments: argparse.Namespace, model: Path, tasks: Path, place: Path, side: str) -> dict[str, float]:
    """One model by lm-eval's own command line, which leaves its samples in `place`."""
    adapter = ARMS[side]
    told = [f"pretrained={model}", "dtype=float32", *([f"peft={tasks / adapter}"] if adapter else [])]
    named = ",".join(f"bench_{task}" for task in TASKS)
    what = ["--model", "hf", "--model_args", ",".join(told), "--tasks", named, "--include_path", tasks]
    how = ["--batch_size", arguments.batch_size, "--device", "cpu", "--log_samples", "--output_path", place / side]
    return run(["-m", "lm_eval", "run", *what, *how], tasks)


def run(command: list[object], caches: Path) -> dict[str, float]:
    """See `harness.run`. caches: parent of the Hugging Face caches."""
    return harness.run(command, {"HF_HOME": str(caches / "caches")})


# --- whether both programs give the same ---


def agreement(tasks: Path, place: Path, ours: dict[str, Any]) -> dict[str, Any]:
    """Task -> side -> what `compare_choices` or `compare_texts` says."""
    compared: dict[str, Any] = {}
    for task in TASKS:
        rows = {row["id"]: row for row in rows_of(tasks, task)}
        compare = compare_choices if "choices" in next(iter(rows.values())) else compare_texts
        compared[task] = {
            side: compare(rows, ours["given"][task][side], samples_of(place / side, task)) for side in ARMS
        }
    return compared


def compare_choices(
    rows: dict[str, Any], ours: dict[str, list[float]], theirs: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """By both of lm-eval's counts: accuracy of either side, and the items of which another choice was chosen.

    furthest: the largest difference (nats) of a choice's log-likelihood from lm-eval's, less what is the same for all
    choices of the item. lm-eval moves the line break that ends the prompt in front of each choice, so that its
    log-likelihoods hold the same further term; acc does not see it, and acc_norm, which divides by the length, may.
    without_the_line_break: the items that are still different by acc_norm when that term is taken out.
    """
    said = {name: [float(pair[0]) for pair in sample["filtered_resps"]] for name, sample in theirs.items()}
    shared = {name: statistics.fmean(b - a for a, b in zip(ours[name], said[name], strict=True)) for name in rows}
    corrected = {name: [value - shared[name] for value in said[name]] for name in rows}
    result: dict[str, Any] = {
        "furthest": max(abs(b - a) for name in rows for a, b in zip(ours[name], corrected[name], strict=True)),
        "without_the_line_break": [
            name for name, row in rows.items() if best(ours[name], row, True) != best(corrected[name], row, True)
        ],
    }
    for metric, by_length in (("acc", False), ("acc_norm", True)):
        mine = {name: best(ours[name], row, by_length) for name, row in rows.items()}
        other = {name: best(said[name], row, by_length) for name, row in rows.items()}
        counted = {name: other[name] == row["answer"] for name, row in rows.items()}
        assert counted == {name: sample[metric] == 1 for name, sample in theirs.items()}, "lm-eval counts otherwise"
        result[metric] = {
            "ours": statistics.fmean(mine[name] == row["answer"] for name, row in rows.items()),
            "lm_eval": statistics.fmean(counted.values()),
            "differ": [name for name in rows if mine[name] != other[name]],
        }
    return result


def best(log_likelihoods: list[float], row: dict[str, Any], by_length: bool) -> int:
    lengths = [len(choice) if by_length else 1 for choice in row["choices"]]
    values = [total / length for total, length in zip(log_likelihoods, lengths, strict=True)]
    return values.index(max(values))


def compare_texts(rows: dict[str, Any], ours: dict[str, str], theirs: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The items of which another text was generated, white space at its ends aside."""
    said = {name: sample["resps"][0][0] for name, sample in theirs.items()}
    return {"differ": [name for name in rows if ours[name].strip() != said[name].strip()]}


def samples_of(directory: Path, task: str) -> dict[str, dict[str, Any]]:
    (file,) = directory.rglob(f"samples_bench_{task}_*.jsonl")
    samples = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {sample["doc"]["id"]: sample for sample in samples}


def rows_of(tasks: Path, task: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tasks / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()]


# --- what people read ---

NAMES = {"lm_eval": "lm-eval, three processes", "ours": "here, nothing kept", "kept": "here, base and incumbent kept"}


def as_markdown(result: dict[str, Any]) -> str:
    items = result["items"]
    lines = [
        machine_line(result),
        "",
        f"{items['mmlu']} questions of MMLU (letters), {items['own_suite']} of the own suite (texts), {items['gsm8k']} "
        f"problems of GSM8K ({result['new_tokens']} new tokens at most); batches of {result['batch_size']}, here for "
        f"answers alone; float32.",
        "",
        "| round | | whole, s | CPU, s | peak GB |",
        "|---|---|---:|---:|---:|",
    ]
    for number, each in enumerate(result["rounds"], start=1):
        lines += [
            f"| {number} | {name} | {each[side]['whole_seconds']:.1f} | {each[side]['cpu_seconds']:.1f} | "
            f"{each[side]['peak_bytes'] / 1e9:.2f} |"
            for side, name in NAMES.items()
        ]
    lines.append("")
    for side in ("ours", "kept"):
        over = result["ratios"][side]
        lines.append(
            f"lm-eval over {NAMES[side]}, median of the rounds (lowest to highest): time "
            f"{spread(over['whole_seconds'])}, CPU time {spread(over['cpu_seconds'])}.\n"
        )
    return "\n".join([*lines, *agreement_table(result["agreement"])])


def agreement_table(compared: dict[str, Any]) -> list[str]:
    lines = [
        "| task | model | count | here | lm-eval | items that differ |",
        "|---|---|---|---:|---:|---|",
    ]
    for task, sides in compared.items():
        for side, said in sides.items():
            if "acc" not in said:
                lines.append(f"| {task} | {side} | text | | | {listed(said['differ'])} |")
                continue
            lines += [
                f"| {task} | {side} | {metric} | {said[metric]['ours']:.3f} | {said[metric]['lm_eval']:.3f} | "
                f"{listed(said[metric]['differ'])} |"
                for metric in ("acc", "acc_norm")
            ]
    choices = [said for sides in compared.values() for said in sides.values() if "acc" in said]
    left = [name for said in choices for name in said["without_the_line_break"]]
    return [
        *lines,
        "",
        f"Log-likelihoods of an item's choices: {max(said['furthest'] for said in choices):.1e} nats apart at most, "
        f"less what is the same for all of them: lm-eval counts the line break that ends the prompt to each choice, "
        f"which acc_norm then divides by its length. Without it, differ by acc_norm: {listed(left)}.",
        "",
    ]


def listed(names: list[str]) -> str:
    return ", ".join(names) if names else "none"


if __name__ == "__main__":
    main()
