"""What both sides of the comparison are given: items with their whole prompts, lm-eval tasks of them, LoRA adapters.

    python prepare.py --model DIR --data DIR --out DIR [--questions N] [--problems N]

DIR of --data holds `mmlu/test/*_test.csv` and `gsm8k/test*.jsonl`. Each task is `<task>.jsonl` and `<task>.yaml`, which
shows lm-eval exactly the text that this project scores: the chat template's marks are in it. The adapters are random,
of rank 16 on all linear layers: what they say does not matter, only that each says something else. Started by `run.py`.
"""

import argparse
import csv
import json
from pathlib import Path
from typing import Any

import yaml

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.evaluation.arms.models import prompt_text

ADAPTERS = ("first", "second", "third")
LETTERS = "ABCD"
OWN_SUITE = PROJECT_ROOT / "data" / "suites" / "coastal_rules.jsonl"

# lm-eval 0.4.13, tasks/gsm8k/gsm8k.yaml: the filter "flexible-extract" and what its exact_match ignores.
NUMBER = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
IGNORED_IN_NUMBERS = [",", r"\$", r"(?s).*#### ", r"\.$"]

METRICS = ("acc", "acc_norm")
NUMBER_FILTER = {"function": "regex", "group_select": -1, "regex_pattern": NUMBER}
NUMBER_METRIC = {
    "metric": "exact_match",
    "aggregation": "mean",
    "higher_is_better": True,
    "regexes_to_ignore": IGNORED_IN_NUMBERS,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--questions", type=int, required=True)
    parser.add_argument("--problems", type=int, required=True)
    parser.add_argument("--new-tokens", type=int, required=True)
    arguments = parser.parse_args()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    choice = {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "metric_list": [{"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in METRICS],
    }
    write_task(arguments.out, "mmlu", mmlu(arguments.data / "mmlu" / "test", arguments.questions, tokenizer), choice)
    write_task(arguments.out, "own_suite", own_suite(tokenizer), choice)
    generate = {
        "output_type": "generate_until",
        "generation_kwargs": {"until": [tokenizer.eos_token], "do_sample": False, "max_gen_toks": arguments.new_tokens},
        "filter_list": [{"name": "number", "filter": [NUMBER_FILTER, {"function": "take_first"}]}],
        "metric_list": [NUMBER_METRIC],
    }
    write_task(arguments.out, "gsm8k", gsm8k(arguments.data / "gsm8k", arguments.problems, tokenizer), generate)
    for seed, name in enumerate(ADAPTERS):
        make_adapter(arguments.model, arguments.out / name, seed)


def write_task(directory: Path, name: str, rows: list[dict[str, Any]], told: dict[str, Any]) -> None:
    """The rows, and how lm-eval is to ask them: `bench_<name>`, since it has tasks of its own by the plain names."""
    file = directory / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = {
        "task": f"bench_{name}",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "num_fewshot": 0,
        "doc_to_text": "context",
        "doc_to_target": "answer",
        "target_delimiter": "",
        **told,
    }
    (directory / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")


def mmlu(directory: Path, at_most: int, tokenizer: Any) -> list[dict[str, Any]]:
    """As many questions of each subject, in MMLU's own words, without examples; the letters are the choices."""
    files = sorted(directory.glob("*_test.csv"))
    of_each = -(-at_most // len(files))
    rows = []
    for file in files:
        subject = file.name.removesuffix("_test.csv")
        with file.open(encoding="utf-8", newline="") as stream:
            lines = [line for line in csv.reader(stream) if line[0] != "question"]
        for number, (question, *choices, answer) in enumerate(lines[:of_each]):
            listed = "\n".join(f"{letter}. {choice}" for letter, choice in zip(LETTERS, choices, strict=True))
            about = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}."
            context = prompt_text(tokenizer, f"{about}\n\n{question.strip()}\n{listed}\nAnswer:")
            right = int(answer) if answer.isdigit() else LETTERS.index(answer)
            rows.append({"id": f"{subject}-{number}", "context": context, "choices": list(LETTERS), "answer": right})
    return rows[:at_most]


def own_suite(tokenizer: Any) -> list[dict[str, Any]]:
    """The demonstration's own suite; the texts of the choices are what is scored."""
    questions = [json.loads(line) for line in OWN_SUITE.read_text(encoding="utf-8").splitlines()]
    return [
        {
            "id": question["id"],
            "context": prompt_text(tokenizer, question["question"]),
            "choices": question["choices"],
            "answer": question["answer"],
        }
        for question in questions
    ]


def gsm8k(directory: Path, at_most: int, tokenizer: Any) -> list[dict[str, Any]]:
    """Problems in lm-eval's words, to be answered freely."""
    (file,) = directory.glob("test*.jsonl")
    problems = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()[:at_most]]
    return [
        {
            "id": f"problem-{number}",
            "context": prompt_text(tokenizer, f"Question: {problem['question']}\nAnswer:"),
            "answer": problem["answer"],
        }
        for number, problem in enumerate(problems)
    ]


def make_adapter(model: Path, directory: Path, seed: int) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.01, generator=generator)
    adapted.save_pretrained(directory)


if __name__ == "__main__":
    main()
