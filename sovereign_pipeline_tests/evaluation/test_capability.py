"""Suites: reading them, asking them of every side, and what is made of the answers."""

import json
from pathlib import Path

import pytest

from sovereign_pipeline.errors import SourceError
from sovereign_pipeline.evaluation.capability import Question, capability_results, read_suite, score_suites
from sovereign_pipeline.evaluation.models import Models
from sovereign_pipeline.evaluation.records import CapabilitySample
from sovereign_pipeline.settings import PROJECT_ROOT

ROW = {"id": "Q1", "question": "Which is wet?", "choices": ["stone", "water"], "answer": 1, "language": "en"}


def question(number: int) -> Question:
    choices = (f"on day {number}", f"number {number} boat", f"the mill {number}")
    return Question(id=f"Q{number}", question=f"When? {number}", choices=choices, answer=number % 3, language="en")


def test_the_demonstration_suite_is_readable_and_balanced() -> None:
    rows = read_suite(PROJECT_ROOT / "data" / "suites" / "coastal_rules.jsonl")
    assert len(rows) == 48
    assert {row.answer for row in rows} == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{**ROW, "answer": 2}], "line 1"),
        ([ROW, {**ROW, "id": "Q2", "answr": 1}], r"line 2: not a Question \(answr\)"),
        ([ROW, ROW], "id Q1"),
        ([], "holds no row"),
    ],
)
def test_a_broken_suite_is_refused_with_its_place(rows: list[object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SourceError, match=message) as caught:
        read_suite(path)
    assert "wet" not in str(caught.value)


def test_the_answer_is_the_choice_with_the_highest_likelihood_per_character(better: Models) -> None:
    import torch

    questions = [question(number) for number in range(6)]
    samples, _ = score_suites(better, {"suite": questions})
    for asked, sample in zip(questions, samples, strict=True):
        turns = [{"role": "user", "content": asked.question}]
        prompt = better.tokenizer.apply_chat_template(turns, add_generation_prompt=True)["input_ids"]
        likelihoods = []
        for choice in asked.choices:
            ids = better.tokenizer(choice, add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = (
                    better.loaded["candidate"]
                    .model(input_ids=torch.tensor([prompt + ids]))
                    .logits[0, len(prompt) - 1 : -1]
                )
            total = logits.log_softmax(-1).gather(1, torch.tensor(ids)[:, None]).sum().item()
            likelihoods.append(total / len(choice))
        assert sample.correct["candidate"] == (likelihoods.index(max(likelihoods)) == asked.answer)


def test_every_side_answers_the_same_items_and_zeros_change_none(unchanged: Models) -> None:
    samples, scores = score_suites(unchanged, {"suite": [question(number) for number in range(9)]})
    assert all(sample.correct["base"] == sample.correct["candidate"] for sample in samples)
    assert scores.suites["suite"].accuracy["base"].difference == 0.0


def test_results_are_kept_apart_by_suite_and_language() -> None:
    samples = [
        CapabilitySample(suite=suite, id=f"{n}", language=language, correct={"base": True, "candidate": suite == "a"})
        for suite in "ab"
        for n, language in enumerate(["en", "en", "ar"])
    ]
    results = capability_results(samples)
    assert results["a"].accuracy["base"].difference == 0.0
    assert results["b"].accuracy["base"].candidate == 0.0
    assert results["b"].by_language["ar"]["base"].rows == 1
