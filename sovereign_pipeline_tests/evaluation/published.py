"""An invented mirror: every published suite that has a card in this repository, in its own format, a few rows each."""

import csv
import gzip
import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.settings import PROJECT_ROOT

SUBJECTS = ("harbour_law", "lamp_care")
MMLU_HEADER = ["question", "choice0", "choice1", "choice2", "choice3", "answer"]


def copy_cards(data: Path) -> None:
    """The cards of this repository, into a data root."""
    (data / "suites").mkdir(parents=True, exist_ok=True)
    for card in (PROJECT_ROOT / "data" / "suites").glob("*.yaml"):
        shutil.copy(card, data / "suites")


def write_mirror(root: Path) -> Path:
    """Rows of every kind under `root`; the number of test rows of a suite is in ROWS."""
    for name, answer, header in (("mmlu", str, MMLU_HEADER), ("mmlu_ar", lambda index: "ABCD"[index], None)):
        for subject in SUBJECTS:
            for split, rows in (("dev", 3), ("test", 6)):
                path = root / name / split / f"{subject}_{split}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("w", newline="", encoding="utf-8") as stream:
                    writer = csv.writer(stream)
                    writer.writerows([header] if header else [])
                    for number in range(rows):
                        choices = [f"{subject} {split} {number} is {word}" for word in ("wet", "dry", "lit", "shut")]
                        question = f'Which of "{subject}",\n{split} {number}\x85 holds? '
                        writer.writerow([question, *choices, answer(number % 4)])
    write_jsonl(root / "gsm8k" / "test.jsonl", map(sum_of_lamps, (3, 40, 700)))
    write_jsonl(root / "gsm8k" / "train.jsonl.gz", map(sum_of_lamps, (5, 60, 900)))
    write_jsonl(root / "humaneval" / "HumanEval.jsonl.gz", [FUNCTION, OTHER_FUNCTION])
    choice = {"query": "Question: What floats?", "choices": ["a stone", "a boat", "an anchor"], "gold": 1}
    write_jsonl(root / "arc_challenge" / "arc_challenge.jsonl", [choice, {**choice, "query": "Question: What sails?"}])
    asked = {"query": "Passage: Boats float.\nQuestion: do boats float?", "choices": ["no", "yes"], "gold": 1}
    write_jsonl(root / "boolq" / "boolq.jsonl.gz", [asked])
    write_jsonl(
        root / "arabic_culture" / "statements.jsonl",
        [
            {"id": "A-1", "question": "السفينة تطفو.", "answer": "نعم"},
            {"id": "A-2", "question": "الحجر يطفو.", "answer": "لا"},
        ],
    )
    paragraph = {
        "context": "بُنيت المنارةُ عام ١٩٢٠ في صور.",
        "qas": [
            {"id": "1", "question": "متى بنيت المنارة؟", "answers": [{"text": "١٩٢٠", "answer_start": 17}]},
            {"id": "2", "question": "أين بنيت المنارة؟", "answers": [{"text": "في صور", "answer_start": 22}]},
        ],
    }
    write_text(
        root / "arabic_reading" / "arcd-test.json",
        json.dumps({"data": [{"title": "منارة", "paragraphs": [paragraph]}]}),
    )
    for task, column, answers in (
        ("definition_classification", "text", ("Yes", "No")),
        ("international_citizenship_questions", "question", ("Yes", "No")),
        ("function_of_decision_section", "Paragraph", ("Facts", "Procedural History", "Decree")),
    ):
        lines = [f"index\tCitation\t{column}\tanswer"]
        lines += [
            f"{number}\t1 L.R. 2\tThe \u201clamp\u201d is lit \x85 {number}.\t{each}"
            for number, each in enumerate(answers)
        ]
        write_text(root / "legalbench" / task / "train.tsv", "\n".join(lines) + "\n")
    return root


ROWS = {
    "arabic_culture": 2,
    "arabic_reading": 2,
    "arc_challenge": 2,
    "boolq": 1,
    "gsm8k": 3,
    "humaneval": 2,
    "legalbench_definition_classification": 2,
    "legalbench_function_of_decision_section": 3,
    "legalbench_international_citizenship_questions": 2,
    "mmlu": 12,
    "mmlu_ar": 12,
}

FUNCTION = {
    "task_id": "Invented/0",
    "prompt": 'def doubled(lamps: list) -> list:\n    """Every lamp twice."""\n',
    "entry_point": "doubled",
    "canonical_solution": "    return [lamp for lamp in lamps for _ in range(2)]\n",
    "test": "\n\ndef check(candidate):\n    assert candidate([1, 2]) == [1, 1, 2, 2]\n    assert candidate([]) == []\n",
}


OTHER_FUNCTION = {
    "task_id": "Invented/1",
    "prompt": 'def lit(lamps: dict) -> int:\n    """How many of the lamps are lit."""\n',
    "entry_point": "lit",
    "canonical_solution": "    return sum(lamps.values())\n",
    "test": "\n\ndef check(candidate):\n    assert candidate({'harbour': True, 'quay': False}) == 1\n",
}


def sum_of_lamps(n: int) -> dict[str, str]:
    return {
        "question": f"Salma lights {n} lamps, then {n} more. How many?",
        "answer": f"{n}+{n}=<<{n}+{n}={2 * n}>>{2 * n}\n#### {2 * n:,}",
    }


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_bytes(text.encode())
