"""What counts as a right answer: lm-eval's own counts as reference, and the faults that each must not make."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.evaluation.capability.suite_answers import (
    chosen,
    holds_an_answer,
    is_right_number,
    program_of,
    run_reply,
    span_f1,
    until,
)
from sovereign_pipeline.suites.rows import Function, Passage, Problem
from sovereign_pipeline_tests.evaluation.published import FUNCTION


def test_the_most_likely_choice_and_the_most_likely_per_character_differ() -> None:
    choices = ("a boat", "a very long and slow boat")
    assert chosen((-6.0, -12.0), choices, "acc") == 0
    assert chosen((-6.0, -12.0), choices, "acc_norm") == 1
    assert chosen((-2.0, -2.0), ("yes", "no!"), "acc") == 0


@given(st.lists(st.tuples(st.floats(-500, -0.01), st.text(min_size=1, max_size=40)), min_size=2, max_size=6))
def test_choices_are_counted_as_lm_eval_counts_them(scored: list[tuple[float, str]]) -> None:
    """lm-eval 0.4.13, ConfigurableTask.process_results: argmax of the sums, and of the sums over `len(choice)`."""
    import numpy as np

    totals, choices = [total for total, _ in scored], [choice for _, choice in scored]
    assert chosen(totals, choices, "acc") == int(np.argmax(totals))
    assert chosen(totals, choices, "acc_norm") == int(np.argmax(np.array(totals) / [len(each) for each in choices]))


def test_what_stands_behind_a_stop_word_is_not_looked_at() -> None:
    assert until("12\nQuestion: and more? 13", ("Question:",)) == "12\n"
    assert until("one\ntwo\nthree", ("three", "\n")) == "one"
    assert until("one", ()) == "one"


def problem(number: str) -> Problem:
    return Problem(id="1", language="en", question="How many?", solution=f"Sum them: 3 + 4.\n#### {number}")


@pytest.mark.parametrize(
    ("reply", "number", "right", "strictly"),
    [
        ("3 + 4 = 7\n#### 7", "7", True, True),
        ("There are 7.", "7", True, False),
        ("There are 7 lamps, not 8.", "7", False, False),
        ("It costs $1,400.", "1400", True, False),
        ("#### 1,400", "1400", True, True),
        ("#### 7 or is it 9?", "7", False, True),
        ("-5", "-5", True, False),
        ("5", "-5", False, False),
        ("seven", "7", False, False),
        ("", "7", False, False),
        ("70", "7", False, False),
    ],
)
def test_numbers_are_right_as_gsm8k_counts_them(reply: str, number: str, right: bool, strictly: bool) -> None:
    assert is_right_number(reply, problem(number)) is right
    assert is_right_number(reply, problem(number), strict=True) is strictly


def test_numbers_are_extracted_and_compared_as_the_bundled_task_says() -> None:
    from pathlib import Path

    import lm_eval
    import yaml

    from sovereign_pipeline.evaluation.capability.suite_answers import (
        FLEXIBLE_NUMBER,
        IGNORED_IN_NUMBERS,
        STRICT_NUMBER,
    )

    config = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / "gsm8k" / "gsm8k.yaml").read_text())
    filters = {each["name"]: each["filter"][0] for each in config["filter_list"]}
    assert filters["strict-match"] == {"function": "regex", **STRICT_NUMBER}
    assert filters["flexible-extract"] == {"function": "regex", **FLEXIBLE_NUMBER}
    assert tuple(config["metric_list"][0]["regexes_to_ignore"]) == IGNORED_IN_NUMBERS


def passage(*answers: str) -> Passage:
    return Passage(id="1", language="ar", passage="…", question="؟", answers=answers)


@pytest.mark.parametrize(
    ("reply", "answers", "right"),
    [
        ("بُنيت المنارة عام 1920.", ("١٩٢٠",), True),
        ("بُنيت عام 19200", ("١٩٢٠",), False),
        ("في مدينـة صُور", ("مدينة صور",), True),
        ("هو الصحفي", ("صحفي",), True),
        ("هو صحفي", ("الصحفي",), True),
        ("صحفيون", ("صحفي",), False),
        ("It was the old Harbour.", ("harbour",), True),
        ("It was the old harbourmaster.", ("harbour",), False),
        ("صور أو صيدا", ("بيروت", "صيدا"), True),
        ("", ("صور",), False),
        ("شيء", ("…",), False),
    ],
)
def test_a_span_is_right_when_its_words_stand_in_the_reply(reply: str, answers: tuple[str, ...], right: bool) -> None:
    assert holds_an_answer(reply, passage(*answers)) is right


@pytest.mark.parametrize(
    ("reply", "answers", "f1"),
    [
        ("in Tyre", ("Tyre",), 2 / 3),  # precision 1/2, recall 1
        ("the harbour of Tyre", ("Tyre harbour",), 0.8),  # precision 2/3 without the article, recall 1
        ("Sidon", ("Tyre", "Sidon"), 1.0),
        ("Beirut", ("Tyre",), 0.0),
        ("", ("Tyre",), 0.0),
        ("Tyre Tyre", ("Tyre",), 2 / 3),
        ("المدينةُ القديمة", ("مدينة قديمة",), 1.0),
    ],
)
def test_f1_is_squads(reply: str, answers: tuple[str, ...], f1: float) -> None:
    assert span_f1(reply, passage(*answers)) == pytest.approx(f1)


FUNCTION_ROW = Function(
    id="1", language="en", prompt=FUNCTION["prompt"], entry_point=FUNCTION["entry_point"], test=FUNCTION["test"]
)


@pytest.mark.parametrize(
    ("reply", "ending"),
    [
        (FUNCTION["canonical_solution"], "passed"),
        (FUNCTION["canonical_solution"] + "```\nThis doubles every lamp.", "passed"),
        ("    return lamps\n", "failed"),
        ("    return", "failed"),
        ("", "failed"),
        ("return lamps", "failed"),
        ("    return lamps\n\nimport os\nos._exit(0)\n", "failed"),
        ("    return lamps\n\nraise SystemExit\n", "failed"),
        ("    return lamps\n\nprint('passed')\n", "failed"),
    ],
)
def test_code_is_right_when_its_test_passes(reply: str, ending: str) -> None:
    assert run_reply(reply, FUNCTION_ROW) == ending


def test_the_test_is_called_after_the_code_and_cannot_be_closed_off_by_it() -> None:
    program = program_of("    return 1\n", FUNCTION_ROW)
    assert program.index("return 1") < program.index("def check") < program.index("check(doubled)")
