"""Suites as task files of lm-eval's own command line: the same user turns, choices and right answers, row by row.

    lm_eval run --model hf --model_args pretrained=MODEL,dtype=float32 --include_path DIR --tasks sovereign_mmlu \
        --apply_chat_template --batch_size 4

What is compared with it: the prompts are those of `suite_prompts.py`, and the chat template is put around them by
either side. Suites of the kinds choice and number; HumanEval's task in lm-eval fetches its scorer from a hub, and spans
are counted in this project's own way.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from sovereign_pipeline.evaluation.capability import FLEXIBLE_NUMBER, IGNORED_IN_NUMBERS, STRICT_NUMBER
from sovereign_pipeline.suites.cards import ChoiceTask, NumberTask
from sovereign_pipeline.suites.rows import AnyRow, Problem, Question, Suite, continuations_of, user_turn


def write_lm_eval_task(suite: Suite, directory: Path) -> str:
    """Write the suite's rows and its task file into a directory; the task's name. Raises ValueError for other kinds."""
    name = f"sovereign_{suite.name}"
    rows = directory.absolute() / f"{name}.jsonl"
    task: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "doc_to_text": "turn",
        "target_delimiter": "",
        "num_fewshot": 0,  # the examples are in the turn
        **_kind(suite),
    }
    rows.write_text("".join(json.dumps(_doc(suite, row), ensure_ascii=False) + "\n" for row in suite.rows))
    (directory / f"{name}.yaml").write_text(yaml.safe_dump(task, sort_keys=False, allow_unicode=True))
    return name


def _kind(suite: Suite) -> dict[str, Any]:
    if isinstance(suite.task, ChoiceTask):
        metrics = [
            {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
        ]
        return {
            "output_type": "multiple_choice",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": metrics,
        }
    if isinstance(suite.task, NumberTask):
        filters = {"strict-match": STRICT_NUMBER, "flexible-extract": FLEXIBLE_NUMBER}
        return {
            "output_type": "generate_until",
            "doc_to_target": "solution",
            "generation_kwargs": {
                "until": list(suite.task.stop),
                "do_sample": False,
                "max_gen_toks": suite.task.max_new_tokens,
            },
            "filter_list": [
                {"name": each, "filter": [{"function": "regex", **settings}, {"function": "take_first"}]}
                for each, settings in filters.items()
            ],
            "metric_list": [
                {
                    "metric": "exact_match",
                    "aggregation": "mean",
                    "higher_is_better": True,
                    "ignore_case": True,
                    "regexes_to_ignore": list(IGNORED_IN_NUMBERS),
                }
            ],
        }
    raise ValueError(f"the suite '{suite.name}' is of a kind that lm-eval's command line does not score as we do")


def _doc(suite: Suite, row: AnyRow) -> dict[str, Any]:
    doc = {"id": row.id, "turn": user_turn(suite.task, row, suite.examples.get(row.subject, ()))}
    if isinstance(row, Question):
        return {**doc, "choices": list(continuations_of(suite.task, row)), "answer": row.answer}
    assert isinstance(row, Problem)
    return {**doc, "solution": row.solution}
