"""The wording of published suites is lm-eval's: held to its own task files, filled in by its own task class."""

from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.suites.cards import SuiteCard, load_suite_card
from sovereign_pipeline.suites.rows import (
    AnyRow,
    Function,
    Problem,
    Question,
    continuations_of,
    expected_answer,
    prefix_of,
    read_asked,
    read_examples,
    text_of,
    user_turn,
)
from sovereign_pipeline_tests.evaluation.published import copy_cards, write_mirror


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    root = tmp_path_factory.mktemp("published")
    copy_cards(root / "data")
    write_mirror(root / "home" / "suites")
    return Settings.from_environment({"SOVEREIGN_HOME": str(root / "home"), "SOVEREIGN_DATA": str(root / "data")})


def card_and_rows(settings: Settings, name: str) -> tuple[SuiteCard, list[AnyRow]]:
    card = load_suite_card(settings, name)
    return card, read_asked(settings, card)


def lm_eval_task(file: str, docs: list[dict[str, Any]], examples: list[dict[str, Any]]) -> Any:
    """lm-eval's ConfigurableTask of one of its bundled files, with documents in memory in place of the hub's."""
    import lm_eval
    import yaml
    from datasets import Dataset
    from lm_eval.api.task import ConfigurableTask

    class Loader(yaml.SafeLoader):
        """For `!function`, which no field that is used here holds."""

    Loader.add_constructor("!function", lambda loader, node: None)
    path = Path(lm_eval.__file__).parent / "tasks" / file
    config = yaml.load(path.read_text(), Loader)
    if "include" in config:
        config = {**yaml.load((path.parent / config["include"]).read_text(), Loader), **config}
    kept = ("doc_to_text", "doc_to_choice", "doc_to_target", "output_type", "gen_prefix", "generation_kwargs")
    named = {name: config[name] for name in kept if name in config}
    return ConfigurableTask(
        config={
            **named,
            "task": "own",
            "test_split": "test",
            "fewshot_split": "dev",
            "fewshot_config": {"sampler": "first_n"},
            "custom_dataset": lambda **kwargs: {"test": Dataset.from_list(docs), "dev": Dataset.from_list(examples)},
        }
    )


def as_turn(task: Any, doc: dict[str, Any], shots: int) -> str:
    """The user's turn as lm-eval writes it for a chat template, examples in one turn."""
    seen: list[str] = []

    def template(turns: list[dict[str, str]], **kwargs: Any) -> str:
        assert [turn["role"] for turn in turns if turn["role"] != "assistant"] == ["user"]
        seen.append(turns[0]["content"])
        return ""

    task.fewshot_context(doc, shots, apply_chat_template=True, fewshot_as_multiturn=False, chat_template=template)
    return seen[0]


def in_hub_form(row: AnyRow) -> dict[str, Any]:
    match row:
        case Question():
            return {"question": row.question, "choices": list(row.choices), "answer": row.answer}
        case Problem():
            return {"question": row.question, "answer": row.solution}
        case Function():
            return {"prompt": row.prompt, "entry_point": row.entry_point, "test": row.test}
    raise AssertionError(row)


@pytest.mark.parametrize("shots", [0, 3])
@pytest.mark.parametrize(
    ("name", "file"), [("mmlu", "mmlu/default/_default_template_yaml"), ("gsm8k", "gsm8k/gsm8k.yaml")]
)
def test_a_turn_is_word_for_word_lm_evals_but_for_the_instruction(
    settings: Settings, name: str, file: str, shots: int
) -> None:
    card, rows = card_and_rows(settings, name)
    examples = read_examples(settings, card)[rows[0].subject][:shots]
    docs = [in_hub_form(row) for row in rows]
    task = lm_eval_task(file, docs, [in_hub_form(row) for row in read_examples(settings, card)[rows[0].subject]])
    task_without = card.task.model_copy(update={"instruction": ""})
    for row, doc in list(zip(rows, docs, strict=True))[:3]:
        assert user_turn(task_without, row, examples) == as_turn(task, doc, shots)


def test_humaneval_asks_and_begins_as_lm_eval_does(settings: Settings) -> None:
    card, rows = card_and_rows(settings, "humaneval")
    doc = in_hub_form(rows[0])
    task = lm_eval_task("humaneval/humaneval_instruct.yaml", [doc], [doc])
    assert user_turn(card.task, rows[0], []) == as_turn(task, doc, 0)
    import jinja2

    begins = jinja2.Environment(keep_trailing_newline=True).from_string(task.config.gen_prefix).render(**doc)
    assert prefix_of(card.task, rows[0]) == begins


def test_the_limits_of_generation_are_lm_evals(settings: Settings) -> None:
    import lm_eval
    import yaml

    tasks = Path(lm_eval.__file__).parent / "tasks"
    gsm8k = yaml.safe_load((tasks / "gsm8k" / "gsm8k.yaml").read_text())
    # "</s>" and "<|im_end|>" end a turn, and generation ends there by itself.
    assert set(gsm8k["generation_kwargs"]["until"]) - {"</s>", "<|im_end|>"} == set(stop_of(settings, "gsm8k"))
    humaneval = (tasks / "humaneval" / "humaneval.yaml").read_text().replace("!function ", "")
    assert yaml.safe_load(humaneval)["generation_kwargs"]["until"] == list(stop_of(settings, "humaneval"))


def stop_of(settings: Settings, name: str) -> tuple[str, ...]:
    task = load_suite_card(settings, name).task
    assert task.kind in ("number", "code")
    return task.stop


def test_what_is_scored_is_the_letter_or_the_text(settings: Settings) -> None:
    card, rows = card_and_rows(settings, "mmlu")
    assert isinstance(rows[1], Question)
    assert continuations_of(card.task, rows[1]) == ("A", "B", "C", "D")
    assert expected_answer(card.task, rows[1]) == "B"
    card, rows = card_and_rows(settings, "arc_challenge")
    assert isinstance(rows[0], Question)
    assert continuations_of(card.task, rows[0]) == ("a stone", "a boat", "an anchor")
    assert expected_answer(card.task, rows[0]) == "a boat"


def test_braces_in_a_row_are_text(settings: Settings) -> None:
    card, rows = card_and_rows(settings, "humaneval")
    assert isinstance(rows[0], Function)
    row = rows[0].model_copy(update={"prompt": "def f():\n    return {'a': {0}}\n"})
    assert row.prompt in user_turn(card.task, row, []) and row.prompt in prefix_of(card.task, row)


def test_what_a_training_row_must_not_hold_is_all_that_is_shown_or_told(settings: Settings) -> None:
    for name, parts in {
        "mmlu": ("holds?", "is shut"),
        "gsm8k": ("How many?", "#### 6"),
        "arabic_reading": ("متى بنيت المنارة؟", "عام ١٩٢٠"),
        "humaneval": ("Every lamp twice.", "def check"),
    }.items():
        question, text = text_of(card_and_rows(settings, name)[1][0])
        assert parts[0] in question and all(part in text for part in parts)
