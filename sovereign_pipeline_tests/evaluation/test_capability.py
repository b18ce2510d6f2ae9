"""What counts as a right answer: lm-eval's own counts as reference, and the faults that each must not make."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import InputError, SandboxUnavailable, SourceError
from sovereign_pipeline.evaluation.arms.models import Answer, Models
from sovereign_pipeline.evaluation.capability import (
    asked_row,
    choice_item,
    chosen,
    holds_an_answer,
    is_right_number,
    run_reply,
    score_suites,
    span_f1,
)
from sovereign_pipeline.suites.cards import ChoiceTask, CodeTask, NumberTask, SpanTask
from sovereign_pipeline.suites.rows import OWN_TASK, Function, Passage, Problem, Question, Suite, read_items
from sovereign_pipeline_tests.evaluation.conftest import MAX_LENGTH
from sovereign_pipeline_tests.evaluation.published import FUNCTION

EXAMPLES = json.loads(Path(__file__).with_name("capability.json").read_text(encoding="utf-8"))


@given(st.lists(st.tuples(st.floats(-500, -0.01), st.text(min_size=1, max_size=40)), min_size=2, max_size=6))
def test_choices_are_counted_as_lm_eval_counts_them(scored: list[tuple[float, str]]) -> None:
    """lm-eval 0.4.13, ConfigurableTask.process_results: argmax of the sums, and of the sums over `len(choice)`."""
    import numpy as np

    totals, choices = [total for total, _ in scored], [choice for _, choice in scored]
    assert chosen(totals, choices, "acc") == int(np.argmax(totals))
    assert chosen(totals, choices, "acc_norm") == int(np.argmax(np.array(totals) / [len(each) for each in choices]))


def problem(number: str) -> Problem:
    return Problem(id="1", language="en", question="How many?", solution=f"Sum them: 3 + 4.\n#### {number}")


@pytest.mark.parametrize(("reply", "number", "right", "strictly"), EXAMPLES["numbers"])
def test_numbers_are_right_as_gsm8k_counts_them(reply: str, number: str, right: bool, strictly: bool) -> None:
    assert is_right_number(reply, problem(number)) is right
    assert is_right_number(reply, problem(number), strict=True) is strictly


def test_numbers_are_extracted_and_compared_as_the_bundled_task_says() -> None:
    import lm_eval
    import yaml

    from sovereign_pipeline.evaluation.capability import FLEXIBLE_NUMBER, IGNORED_IN_NUMBERS, STRICT_NUMBER

    config = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml").read_text())
    filters = {each["name"]: each["filter"][0] for each in config["filter_list"]}
    assert filters["strict-match"] == {"function": "regex", **STRICT_NUMBER}
    assert filters["flexible-extract"] == {"function": "regex", **FLEXIBLE_NUMBER}
    assert tuple(config["metric_list"][0]["regexes_to_ignore"]) == IGNORED_IN_NUMBERS


def passage(*answers: str) -> Passage:
    return Passage(id="1", language="ar", passage="…", question="؟", answers=answers)


@pytest.mark.parametrize(("reply", "answers", "right"), EXAMPLES["spans"])
def test_a_span_is_right_when_its_words_stand_in_the_reply(reply: str, answers: tuple[str, ...], right: bool) -> None:
    assert holds_an_answer(reply, passage(*answers)) is right


@pytest.mark.parametrize(("reply", "answers", "f1"), EXAMPLES["f1"])
def test_f1_is_squads(reply: str, answers: tuple[str, ...], f1: float) -> None:
    assert span_f1(reply, passage(*answers)) == pytest.approx(f1)


FUNCTION_ROW = Function(
    id="1", language="en", prompt=FUNCTION["prompt"], entry_point=FUNCTION["entry_point"], test=FUNCTION["test"]
)


@pytest.mark.parametrize(("reply", "ending"), EXAMPLES["code"])
def test_code_is_right_when_its_test_passes(reply: str, ending: str) -> None:
    assert run_reply(reply, FUNCTION_ROW) == ending


ROW = {"id": "Q1", "question": "Which is wet?", "choices": ["stone", "water"], "answer": 1, "language": "en"}


def question(number: int) -> Question:
    choices = (f"on day {number}", f"number {number} boat", f"the mill {number}")
    return Question(id=f"Q{number}", question=f"When? {number}", choices=choices, answer=number % 3, language="en")


def own_suite(questions: Sequence[Question]) -> Suite:
    return Suite("suite", OWN_TASK, tuple(questions), len(questions), {})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, {**ROW, "id": "Q2", "answer": 2}], "line 2"),
        ([{**ROW, "answr": 1}], r"line 1: wrong, missing or unknown: answr"),
        ([ROW, ROW], "id Q1"),
        ([], "has no rows"),
    ],
)
def test_a_broken_suite_is_refused_with_its_place(rows: list[object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(SourceError, match=message) as caught:
        read_items(path, Question)
    assert "wet" not in str(caught.value)


LETTERED = ChoiceTask(
    kind="choice",
    continuation="letter",
    metric="acc",
    instruction="About {subject}.",
    prompt="{question}\n{choices}\nAnswer:",
)


def lettered(examples: Sequence[Question], rows: Sequence[Question]) -> Suite:
    rows = [row.model_copy(update={"subject": "lamp_care"}) for row in rows]
    return Suite("lettered", LETTERED, tuple(rows), len(rows), {"lamp_care": list(examples)})


def test_letters_are_scored_behind_the_examples_in_the_users_turn(better: Models) -> None:
    import torch

    suite = lettered([question(8)], [question(number) for number in range(3)])
    samples = score_suites(better, [suite], batch_size=2).samples
    for row, sample in zip(suite.rows, samples, strict=True):
        assert isinstance(row, Question)
        asked = asked_row(better, suite, row)
        assert asked is not None and asked.shown == 1
        example = "When? 8\nA. on day 8\nB. number 8 boat\nC. the mill 8\nAnswer: C"
        assert asked.context.startswith("<|im_start|>user\nAbout lamp care.\n\n" + example + "\n\nWhen?")
        assert asked.context.endswith("\nAnswer:<|im_end|>\n<|im_start|>assistant\n")
        ids = better.tokenizer(asked.context, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = better.loaded["candidate"].model(input_ids=torch.tensor([ids])).logits[0, -1]
        letters = [better.tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "ABC"]
        assert sample.correct["candidate"] == (int(logits[letters].argmax()) == row.answer)
        assert set(sample.measures) == {"acc", "acc_norm"}
        assert sample.measures["acc"] == sample.measures["acc_norm"], "one character each"


def test_the_metric_of_the_card_is_what_counts(better: Models) -> None:
    rows = [
        question(number).model_copy(update={"choices": ("a", "on day 7 of the boat", "mill")}) for number in range(12)
    ]
    counted = {}
    for metric in ("acc", "acc_norm"):
        suite = replace(own_suite(rows), task=OWN_TASK.model_copy(update={"metric": metric}))
        samples = score_suites(better, [suite], batch_size=2).samples
        counted[metric] = samples
        assert all(sample.correct[arm] == sample.measures[metric][arm] for sample in samples for arm in better.arms)
    assert [each.measures for each in counted["acc"]] == [each.measures for each in counted["acc_norm"]]
    assert [each.correct for each in counted["acc"]] != [each.correct for each in counted["acc_norm"]]


WRITTEN = [
    Suite(
        "sums",
        NumberTask(kind="number", prompt="Q: {question}\nA:", max_new_tokens=12),
        (Problem(id="1", language="en", question="1 + 1?", solution="#### 2"),),
        1,
        {},
    ),
    Suite(
        "spans",
        SpanTask(kind="span", prompt="{passage}\n{question}", max_new_tokens=12),
        tuple(
            Passage(id=str(n), language="ar", passage="The mill. The boat.", question=f"{n}?", answers=("the mill",))
            for n in range(2)
        ),
        2,
        {},
    ),
    Suite(
        "code",
        CodeTask(kind="code", prompt="{prompt}", prefix="Here:\n{prompt}", max_new_tokens=12),
        (Function(id="1", language="en", prompt=FUNCTION["prompt"], entry_point="doubled", test=FUNCTION["test"]),),
        1,
        {},
    ),
]


def test_what_is_written_is_kept_with_its_length_and_judged_for_every_arm(better: Models) -> None:
    outcome = score_suites(better, WRITTEN, batch_size=2)
    assert [(each.suite, each.id) for each in outcome.answers] == [
        (suite.name, row.id) for suite in WRITTEN for row in suite.rows
    ]
    measured = {"sums": {"strict_match"}, "spans": {"f1"}, "code": {"timeout"}}
    for sample, answer in zip(outcome.samples, outcome.answers, strict=True):
        assert (
            set(sample.correct) == set(sample.tokens) == set(sample.stopped) == set(answer.answers) == set(better.arms)
        )
        assert set(sample.measures) == measured[sample.suite]
        assert all(0 < tokens <= 12 for tokens in sample.tokens.values())
        assert all(sample.stopped[arm] or sample.tokens[arm] == 12 for arm in better.arms)
    result = outcome.scores.suites["spans"]
    assert result.tokens["base"] == sum(each.tokens["base"] for each in outcome.samples[1:3]) / 2


class Says:
    """Models whose replies are given: what a reply is judged as does not depend on what wrote it."""

    def __init__(self, models: Models, texts: dict[str, str]) -> None:
        self._models = models
        self._texts = texts

    def __getattr__(self, name: str) -> object:
        return getattr(self._models, name)

    def answer(self, prompts: Sequence[str], arm: str, *limits: int) -> list[object]:
        return [Answer(self._texts[arm], 3, True) for _ in prompts]


@pytest.mark.parametrize(
    ("suite", "right", "wrong"),
    [
        (0, "  It is\n 2", "It is 3"),
        (1, "\nThe Mill.", "A boat."),
        (2, "    return [each for each in lamps for _ in range(2)]\n```\nDone.", "    return lamps\n"),
    ],
    ids=["number", "span", "code"],
)
def test_a_right_and_a_wrong_reply_are_told_apart(better: Models, suite: int, right: str, wrong: str) -> None:
    models = Says(better, {"base": wrong, "candidate": right})
    outcome = score_suites(models, [WRITTEN[suite]], batch_size=2)  # type: ignore[arg-type]
    assert all(sample.correct == {"base": False, "candidate": True} for sample in outcome.samples)
    accuracy = outcome.scores.suites[WRITTEN[suite].name].accuracy["base"]
    assert (accuracy.reference, accuracy.candidate, accuracy.difference) == (0.0, 1.0, 1.0)
    if suite == 1:  # questions about one passage are one cluster
        assert (len({sample.cluster for sample in outcome.samples}), accuracy.rows) == (1, 2)


def test_what_stands_behind_a_stop_word_is_neither_judged_nor_kept(better: Models) -> None:
    task = NumberTask(kind="number", prompt="{question}", max_new_tokens=12, stop=("Q:",))
    models = Says(better, {"base": "2\nQ: 3", "candidate": "3\nQ: 2"})
    outcome = score_suites(models, [replace(WRITTEN[0], task=task)], batch_size=2)  # type: ignore[arg-type]
    assert outcome.samples[0].correct == {"base": True, "candidate": False}
    assert outcome.answers[0].answers == {"base": "2\n", "candidate": "3\n"}


def test_examples_are_left_out_from_the_last_before_a_row_is(better: Models) -> None:
    """MAX_LENGTH tokens hold two examples of this length and the question."""
    long = [question(number).model_copy(update={"question": f"{number} " + "boat mill " * 20}) for number in range(6)]
    suite = lettered(long[:4], [long[5]])
    asked = asked_row(better, suite, suite.rows[0])
    assert asked is not None and 0 < asked.shown < 4
    assert "0 boat" in asked.context and f"{asked.shown} boat" not in asked.context
    item = choice_item(better, suite, asked)
    assert sum(len(ids) for ids in better.token_ids(item)) <= MAX_LENGTH
    outcome = score_suites(better, [suite], batch_size=2)
    assert outcome.scores.selections["lettered"].fewer_examples == 1


def test_a_row_that_the_model_cannot_take_is_named_and_the_others_are_asked(better: Models) -> None:
    too_long = question(1).model_copy(update={"id": "long", "question": "boat " * MAX_LENGTH})
    outcome = score_suites(better, [own_suite([question(0), too_long])], batch_size=2)
    selection = outcome.scores.selections["suite"]
    assert (selection.rows, selection.asked, selection.too_long) == (2, 1, ("long",))
    assert [sample.id for sample in outcome.samples] == ["Q0"]
    with pytest.raises(InputError, match="No row of the suite 'suite' fits the model") as caught:
        score_suites(better, [own_suite([too_long])], batch_size=2)
    assert "boat" not in str(caught.value)


def test_nothing_is_asked_when_code_could_not_be_run(better: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sovereign_pipeline.base.sandbox.python_parts", lambda: ["/dev/null/nowhere"])
    monkeypatch.setattr(Models, "score", lambda *arguments: pytest.fail("a suite was asked"))
    with pytest.raises(SandboxUnavailable):
        score_suites(better, [own_suite([question(0)]), WRITTEN[2]], batch_size=2)
