"""Rows for the training benchmark out of the written questions, with their lengths in tokens. The data is not part of
this project.

    python rows.py --questions DIR --model DIR --out DIR --rows N --pairs N --held-out N --overhead-rows N

Whole answers only, each once (questions that were answered together share one), in the order of a hash, none longer
than a pack. The first are trained on, the last held out. A pair's rejected reply is the answer of the next row that
another department gave. Writes `sft.jsonl`, `dpo.jsonl`, `sft_held_out.jsonl`, `dpo_held_out.jsonl`, `overhead.jsonl`
and `tokens.json`: of each file, rows and tokens (prompt and reply as trained on, nothing padded).
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from bs4 import BeautifulSoup

FILES = ("wq_2023-12.jsonl.gz", "wq_2024-07.jsonl.gz")
INSTRUCTION = "Answer this written question for the department."
LONGEST = 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    for name in ("--rows", "--pairs", "--held-out", "--overhead-rows"):
        parser.add_argument(name, type=int, required=True)
    arguments = parser.parse_args()
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(arguments.model)

    def tokens(row: dict[str, str]) -> int:
        prompt = f"{row['instruction']}\n\n{row['input']}" if "input" in row else row["prompt"]
        replies = [row["output"]] if "output" in row else [row["chosen"], row["rejected"]]
        turns = [[{"role": "user", "content": prompt}, {"role": "assistant", "content": reply}] for reply in replies]
        return sum(len(ids) for ids in tokenizer.apply_chat_template(turns, return_dict=False))

    answered = [row for row in whole_rows(arguments.questions) if tokens(sft_row(row)) <= LONGEST]
    pairs = [row for row in map(pair, answered, following(answered)) if tokens(row) <= LONGEST]
    rows = [sft_row(row) for row in answered]
    held_out = arguments.held_out
    wanted = {
        "sft": rows[: arguments.rows],
        "dpo": pairs[: arguments.pairs],
        "sft_held_out": rows[-held_out:],
        "dpo_held_out": pairs[-held_out:],
        "overhead": rows[: min(arguments.overhead_rows, len(rows) - held_out)],
    }
    counts = {}
    for name, chosen in wanted.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen)
        (arguments.out / f"{name}.jsonl").write_text(text, encoding="utf-8")
        counts[name] = {"rows": len(chosen), "tokens": sum(map(tokens, chosen))}
    (arguments.out / "tokens.json").write_text(json.dumps(counts), encoding="utf-8")


def whole_rows(questions: Path) -> list[dict[str, Any]]:
    seen: dict[str, dict[str, Any]] = {}
    for row in all_rows(questions):
        if row["answerClipped"] or row["questionClipped"] or not row["answerText"]:
            continue
        answer = BeautifulSoup(row["answerText"], "html.parser").get_text(" ", strip=True)
        seen.setdefault(answer, {**row, "answerText": answer})
    return sorted(seen.values(), key=lambda row: sha256(str(row["id"]).encode()).hexdigest())


def all_rows(questions: Path) -> Iterator[dict[str, Any]]:
    for name in FILES:
        with gzip.open(questions / name, "rt", encoding="utf-8") as stream:
            yield from map(json.loads, stream)


def sft_row(row: dict[str, Any]) -> dict[str, str]:
    question = "\n\n".join(part for part in (row["heading"], row["questionText"]) if part)
    return {"id": str(row["id"]), "instruction": INSTRUCTION, "input": question, "output": row["answerText"]}


def following(rows: list[dict[str, Any]]) -> list[str]:
    """For each row, the answer of the next one (round the end) of another department."""
    return [
        next(
            other["answerText"]
            for other in rows[place + 1 :] + rows[:place]
            if other["answeringBodyName"] != row["answeringBodyName"]
        )
        for place, row in enumerate(rows)
    ]


def pair(row: dict[str, Any], rejected: str) -> dict[str, str]:
    sft = sft_row(row)
    return {
        "id": sft["id"],
        "prompt": f"{sft['instruction']}\n\n{sft['input']}",
        "chosen": sft["output"],
        "rejected": rejected,
    }


if __name__ == "__main__":
    main()
